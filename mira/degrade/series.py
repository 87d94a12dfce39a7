"""Degrading DICOM series into derived series of the same study, which any viewer shows beside the original."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mira import __version__
from mira.cases import CaseRecord
from mira.degrade import mr
from mira.degrade.interface import degrade
from mira.degrade.options import OptionValue
from mira.degrade.pet_attenuation import PairedCt
from mira.dicom import headers as h
from mira.dicom.archive import opened
from mira.dicom.derive import simulated_by, write_derived
from mira.dicom.facts import protocol_facts, scanner_facts
from mira.dicom.fitness import tasks_of
from mira.dicom.headers import tolerant
from mira.dicom.reasons import Refused
from mira.dicom.scan import scan
from mira.dicom.triage import modality
from mira.dicom.volume import SeriesVolume, read_volumes
from mira.errors import ConfigurationError, DataRejected
from mira.pairs import Physics
from mira.storage import write_json
from mira.tasks import TASKS, Modality, Task, task_of
from mira.volume import Volume, write_nifti


@dataclass(frozen=True)
class Simulated:
    """One degraded series.

    Attributes:
        folder: holds the DICOM files and nothing else.
        slices: number of slices.
        physics: the truth of the degradation, stored beside the folder as `<folder>.json`.
        warnings: codes of what was odd about the source.
    """

    folder: Path
    slices: int
    physics: Physics
    warnings: list[str]


def record_of(volume: SeriesVolume) -> CaseRecord:
    """What the simulators need to know of a series, without any pseudonym; it is not stored."""
    header = volume.headers[0]
    tasks, refusals = tasks_of(volume)
    with tolerant():
        scanner, protocol = scanner_facts(header), protocol_facts(header)
    slices, rows, columns = volume.volume.voxels.shape
    return CaseRecord(
        case_id="series",
        site="-",
        role="local",
        patient="-",
        study="-",
        series="-",
        modality=volume.modality,
        unit=volume.unit,
        shape=(slices, rows, columns),
        spacing_mm=volume.volume.spacing,
        scanner=scanner,
        protocol=protocol,
        pet_dose=volume.pet_dose,
        mr_scale=volume.mr_scale,
        tasks=tasks,
        task_refusals=refusals,
        source_sha256=volume.source_sha256,
        source_files=len(volume.files),
        warnings=volume.warnings,
        software=f"mira {__version__}",
    )


def read_of(path: Path, wanted: Modality) -> tuple[list[SeriesVolume], dict[str, int]]:
    """Every volume of a modality below a path, and for what is none the reason with its number of files."""
    volumes: list[SeriesVolume] = []
    refusals: Counter[str] = Counter()
    with opened(path) as found:
        result = scan(found)
        refusals.update(rejected.reason.text for rejected in result.rejected)
        for series in result.series:
            kind = modality(series.header)
            if Modality.from_dicom(kind) is not wanted:
                refusals[f"{kind} series, but {wanted} is wanted"] += len(series.files)
                continue
            try:
                read = read_volumes(series.files)
            except Refused as error:
                refusals[str(error)] += len(series.files)
                continue
            volumes += read.volumes
            for refusal in read.refusals:
                refusals[refusal.reason.text] += len(refusal.files)
    return volumes, dict(refusals)


def degrade_dicom(
    path: Path,
    out: Path,
    task: Task,
    level: float,
    seed: int,
    options: Mapping[str, OptionValue] | None = None,
    nifti: bool = False,
    progress: bool = False,
) -> tuple[list[Simulated], dict[str, int]]:
    """Degrade every DICOM series of a task's modality below a path, each into `out/<number>-<task>-<level>/`.

    A derived series belongs to its source's study and carries its patient; its description, derivation description and
    code say that it is simulated, and every reader of this project knows it by them.

    Args:
        path: DICOM file, folder, DICOMDIR or zip.
        out: folder to write below.
        task: the task whose degradation is wanted.
        level: dose fraction, count fraction or resolution factor.
        seed: seed of the noise.
        options: parameters of the simulator, see `mira.degrade.options`.
        nifti: also write `reference.nii` and `degraded.nii` into `<folder>-nifti`.
        progress: whether to show progress bars.

    Returns:
        What was written, and for everything else the reason with its number of files.

    Raises:
        ConfigurationError: for a level or options that are none.
        DataRejected: when no series could be degraded, with the reasons.
    """
    if options and options.get("mode") == "cropped":
        raise ConfigurationError(
            "A cropped matrix does not fit the grid of its source series, so that DICOM keeps the matrix: leave out "
            "mode=cropped, or give a NIfTI file."
        )
    volumes, refusals = read_of(path, TASKS[task].modality)
    companions = read_of(path, Modality.CT)[0] if task is Task.PET_SYNTHESIS and volumes else []
    made: list[Simulated] = []
    for source in volumes:
        folder = out / f"{len(made) + 1:03d}-{task}-{level:g}"
        try:
            low, physics = degrade(
                source.volume, task, level, seed, record_of(source), progress, options, paired_ct(source, companions)
            )
            made.append(_write(source, low, physics, folder, nifti, progress))
        except DataRejected as error:
            refusals[str(error)] = refusals.get(str(error), 0) + len(source.files)
    if not made:
        reasons = "; ".join(f"{text} ({count} files)" for text, count in refusals.items()) or "there is no image"
        raise DataRejected(f"Nothing in {path} can be degraded for {task}: {reasons}.")
    return made, refusals


def paired_ct(source: SeriesVolume, companions: Sequence[SeriesVolume]) -> PairedCt | None:
    """The CT in a PET's frame of reference, the longest where there are several; None without one."""
    frame = h.uid(source.headers[0], "FrameOfReferenceUID")
    fitting = [ct for ct in companions if frame and h.uid(ct.headers[0], "FrameOfReferenceUID") == frame]
    if not fitting:
        return None
    longest = max(fitting, key=lambda ct: len(ct.headers) * ct.volume.spacing[0])
    return PairedCt(longest.volume, record_of(longest).protocol.kvp)


def _write(source: SeriesVolume, low: Volume, physics: Physics, folder: Path, nifti: bool, progress: bool) -> Simulated:
    """The derived series, its physics beside it, and the pair as NIfTI where wanted."""
    what = f"{task_of(source.modality).level_name} {physics.level:g}"
    purpose = simulated_by(physics.model, what)
    files = write_derived(source, low.voxels, folder, purpose, progress)
    write_json(folder.with_name(f"{folder.name}.json"), physics.model_dump(mode="json"))
    if nifti:
        target = folder.with_name(f"{folder.name}-nifti")
        write_nifti(target / "degraded.nii", low)
        write_nifti(target / "reference.nii", source.volume)
    return Simulated(folder, len(files), physics, [*source.warnings, *mr.warnings_of(physics)])
