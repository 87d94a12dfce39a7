"""Restore: one series of each modality from the local sites, through Triton, into a derived DICOM series.

With `simulate_low_dose` the routine scan is degraded first, so that the result can be measured against it. DICOM that
carries the patient goes below `delivered` only; `out` holds figures and pictures without patient data.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from components.restore.pictures import EXPECTED_ERROR
from mira import __version__
from mira.cases import CaseRecord, Record
from mira.client.arrays import RestorationClient
from mira.client.series import restore_series
from mira.degrade.interface import degrade
from mira.dicom.archive import opened
from mira.dicom.derive import simulated_by, write_derived
from mira.dicom.facts import protocol_facts, scanner_facts
from mira.dicom.fitness import offered, tasks_of
from mira.dicom.headers import tolerant
from mira.dicom.pixels import AIR_HU
from mira.dicom.scan import FoundSeries, scan
from mira.dicom.triage import modality as modality_of
from mira.dicom.volume import SeriesVolume, read_series, read_volumes
from mira.errors import ConfigurationError, DataRejected
from mira.pairs import Physics
from mira.quality.metrics import Summary, measure_slices, summarise
from mira.sites import Site, load_sites
from mira.storage import atomic_folder, write_json
from mira.tasks import TASKS, Modality, Task, task_of
from mira.volume import Volume

SOFTWARE = f"mira-net {__version__}"


class RestoreConfig(Record):
    """Parameters of the step."""

    server: str = Field("localhost:8001", description="HOST:PORT of Triton")
    model: str = Field("mira_net", description="served model")
    simulate_low_dose: bool = Field(
        True,
        description="degrade the routine scan first and measure the result against it; false restores the scan itself",
    )
    levels: dict[Task, float] = Field(
        {task: spec.levels[-1] for task, spec in TASKS.items()},
        description="dose fraction, count fraction and resolution factor of the simulation, by task",
    )
    seed: int = Field(7, ge=0, description="seed of the simulation's noise")
    profile: str = Field("amir", description="metric profile of PSNR, SSIM and RMSE")
    deadline_s: float = Field(300.0, gt=0, description="longest time for one request")
    confidence: bool = Field(
        True, description="deliver the expected error as a second series, where the network gives it"
    )


class RestoredItem(Record):
    """One delivered series; everything that the report shows is a plain value.

    Attributes:
        site: id of the local site.
        modality: CT, PET or MR.
        task: its task.
        slices: number of slices.
        seconds: from the first request to the last file.
        model: name and version of the network that answered.
        degradation: mean of the network's estimate, 0 to 1.
        simulated: level of the simulation; None for the scan itself.
        profile: metric profile of the figures.
        input_psnr_db, restored_psnr_db, gain_db: against the routine scan, mean over slices.
        input_ssim, restored_ssim, input_rmse, restored_rmse: likewise.
        expected_error: mean over the volume of the expected error that was delivered, in the unit of the task.
        warnings: what a user should know, joined by semicolons.
    """

    site: str
    modality: Modality
    task: Task
    slices: int
    seconds: float
    model: str
    degradation: float
    simulated: float | None = None
    profile: str = ""
    input_psnr_db: float | None = None
    restored_psnr_db: float | None = None
    gain_db: float | None = None
    input_ssim: float | None = None
    restored_ssim: float | None = None
    input_rmse: float | None = None
    restored_rmse: float | None = None
    expected_error: float | None = None
    warnings: str = ""


class RestoreSummary(Record):
    """What the step delivered.

    Attributes:
        series: every delivered series.
        missing: modalities without a usable series in a local site, with the reason.
    """

    series: list[RestoredItem]
    missing: dict[str, str]


@dataclass(frozen=True)
class Chosen:
    """The series that was chosen for a modality."""

    site: Site
    volume: SeriesVolume


def restore(sites_file: Path, out: Path, delivered: Path, config: RestoreConfig) -> RestoreSummary:
    """Restore one series per modality of the local sites.

    Args:
        sites_file: sites.yaml.
        out: folder of `restore.json` and `pictures`, free of patient data.
        delivered: folder of the derived DICOM series, which carry the patient; what it holds of an earlier run is
            replaced, series by series, each when its new one is complete.
        config: parameters.

    Raises:
        ConfigurationError: when sites.yaml is wrong or has no local site.
        DataRejected: when no local site has a usable series.
        ServingFailed: when Triton cannot be reached or refuses.
    """
    sites = [site for site in load_sites(sites_file).sites if site.role == "local"]
    if not sites:
        raise ConfigurationError(
            f"{sites_file} has no site of the role `local`, so there is no held-out series to restore."
        )
    items: list[RestoredItem] = []
    missing: dict[str, str] = {}
    pictures: list[dict[str, str]] = []
    with RestorationClient(config.server, config.model, deadline_s=config.deadline_s) as client:
        for modality in Modality:
            with ExitStack() as held:
                chosen, why = choose(sites, modality, held)
                if chosen is None:
                    missing[str(modality)] = why
                    continue
                with atomic_folder(delivered / chosen.site.id / modality.lower()) as folder:
                    item, planes = _restore_one(client, chosen, folder, config)
            items.append(item)
            name = f"{chosen.site.id}-{modality.lower()}.png"
            pictures.append({"file": name, "caption": _caption(item)})
            _draw(out / "pictures" / name, planes, chosen.volume)
    if not items:
        raise DataRejected(f"No local site has a series that can be restored: {'; '.join(missing.values())}.")
    summary = RestoreSummary(series=items, missing=missing)
    write_json(out / "restore.json", {**summary.model_dump(mode="json"), "pictures": pictures, "server": config.server})
    return summary


def choose(sites: list[Site], modality: Modality, held: ExitStack) -> tuple[Chosen | None, str]:
    """The first usable series of a modality: sites in the order of sites.yaml, series from most to fewest files.

    Args:
        sites: where to look.
        modality: what to look for.
        held: keeps the files of the chosen series, which may come out of a zip, until it is closed.

    Returns:
        The series, or None with the reason.
    """
    reasons: list[str] = []
    for site in sites:
        with ExitStack() as opening:
            found = opening.enter_context(opened(site.path))
            for series in _candidates(site, scan(found).series, modality):
                try:
                    result = read_volumes(series.files)
                except DataRejected as error:
                    reasons.append(str(error))
                    continue
                for volume in sorted(result.volumes, key=lambda v: (-len(v.files), v.source_sha256)):
                    tasks, refusals = tasks_of(volume)
                    if tasks:
                        held.push(opening.pop_all())
                        return Chosen(site, volume), ""
                    reasons += refusals.values()
                reasons += [refusal.reason.text for refusal in result.refusals]
    known = "; ".join(dict.fromkeys(reasons))
    return None, f"no usable {modality} series in a local site" + (f" ({known})" if known else "")


def _candidates(site: Site, series: list[FoundSeries], modality: Modality) -> Iterator[FoundSeries]:
    wanted = {Modality.PET: "PT"}.get(modality, str(modality))
    for found in sorted(series, key=lambda s: (-len(s.files), s.series_uid, s.group)):
        if modality_of(found.header) == wanted and offered(site, found.header):
            yield found


def _restore_one(
    client: RestorationClient, chosen: Chosen, folder: Path, config: RestoreConfig
) -> tuple[RestoredItem, dict[str, Volume]]:
    """Deliver the restored series of one scan; returns its figures and the volumes for the picture."""
    scan_volume = chosen.volume
    spec = task_of(scan_volume.modality)
    source, physics = scan_volume, None
    if config.simulate_low_dose:
        source, physics = _simulate(scan_volume, chosen.site.id, spec.task, folder / "simulated", config)
    begin = time.monotonic()
    confidence = config.confidence and client.engine.error_map
    result = restore_series(client, source, folder / "restored", progress=True, confidence=confidence)
    seconds = time.monotonic() - begin
    # what is measured is what was delivered: the files, read again
    restored = read_back(result.files, source)
    error = read_back(result.error_files, source) if result.error_files else None
    item = RestoredItem(
        site=chosen.site.id,
        modality=scan_volume.modality,
        task=spec.task,
        slices=result.slices,
        seconds=round(seconds, 2),
        model=result.model,
        degradation=round(result.degradation, 4),
        simulated=physics.level if physics else None,
        expected_error=round(float(error.voxels.mean()), 4) if error else None,
        warnings="; ".join(result.warnings),
        **(_figures(scan_volume, source, restored, config.profile) if physics else {}),
    )
    planes = {"input": source.volume, "restored": restored}
    planes |= {EXPECTED_ERROR: error} if error else {}
    return item, planes | ({"routine scan": scan_volume.volume} if physics else {})


def _simulate(
    volume: SeriesVolume, site: str, task: Task, folder: Path, config: RestoreConfig
) -> tuple[SeriesVolume, Physics]:
    """Degrade a scan, write it as a derived series, and read that series back: it is what the client is given."""
    header = volume.headers[0]
    record = CaseRecord(
        case_id="restore", site=site, role="local", patient="-", study="-", series="-",
        modality=volume.modality, unit=volume.unit, shape=volume.volume.voxels.shape, spacing_mm=volume.volume.spacing,
        scanner=scanner_facts(header), protocol=protocol_facts(header), pet_dose=volume.pet_dose,
        mr_scale=volume.mr_scale, tasks=[task],
        source_sha256=volume.source_sha256, source_files=len(volume.files), software=SOFTWARE,
    )  # fmt: skip
    level = config.levels.get(task, TASKS[task].levels[-1])
    low, physics = degrade(volume.volume, task, level, config.seed, record, progress=True)
    what = f"{TASKS[task].level_name} {level:g}"
    files = write_derived(volume, low.voxels, folder, simulated_by(physics.model, what))
    return read_series(files), physics


def read_back(files: list[Path], source: SeriesVolume) -> Volume:
    """Voxels of a delivered series, read from its files with the source's geometry and units.

    The reader refuses what this software restored, so the stored values are decoded here; a CT is air where it is
    below, as the reader gives the source.
    """
    from pydicom import dcmread

    planes = []
    with tolerant():
        for path in files:
            dataset = dcmread(path)
            slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
            values = (dataset.pixel_array * slope + intercept) * source.suv_factor
            planes.append(np.maximum(values, AIR_HU) if source.modality is Modality.CT else values)
    return Volume(np.stack(planes).astype(np.float32), source.volume.affine)


def _figures(scan_volume: SeriesVolume, source: SeriesVolume, restored: Volume, profile: str) -> dict[str, Any]:
    """PSNR, SSIM and RMSE of the input and of the result against the routine scan."""

    def measure(test: Volume) -> Summary:
        reference = scan_volume.volume.voxels
        return summarise(measure_slices(reference, test.voxels, scan_volume.modality, profile, scan_volume.mr_scale))

    before, after = measure(source.volume), measure(restored)
    both = before.psnr_db is not None and after.psnr_db is not None
    gain = after.psnr_db - before.psnr_db if both else None  # type: ignore[operator]
    figures = {
        "input_psnr_db": before.psnr_db, "restored_psnr_db": after.psnr_db, "gain_db": gain,
        "input_ssim": before.ssim, "restored_ssim": after.ssim, "input_rmse": before.rmse, "restored_rmse": after.rmse,
    }  # fmt: skip
    return {"profile": profile, **{key: None if value is None else round(value, 4) for key, value in figures.items()}}


def _caption(item: RestoredItem) -> str:
    text = f"{item.modality} of {item.site}, middle slice, restored by {item.model}"
    if item.simulated is None:
        return text
    level = f"{TASKS[item.task].level_name} {item.simulated:g}, simulated"
    if item.input_psnr_db is None or item.restored_psnr_db is None:
        return f"{text}; {level}"
    return f"{text}; {level}: {item.input_psnr_db:.2f} dB before, {item.restored_psnr_db:.2f} dB after ({item.profile})"


def _draw(path: Path, planes: dict[str, Volume], source: SeriesVolume) -> None:
    from components.restore.pictures import draw

    draw(path, planes, task_of(source.modality), source.mr_scale)
