"""Restoring files: a whole DICOM series into a derived series of the same study, or a NIfTI file into another."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mira.client.arrays import Restorer
from mira.client.plan import Restored
from mira.client.targets import target_folders
from mira.dicom.archive import Opened, opened
from mira.dicom.derive import restored_by, write_derived
from mira.dicom.expected_error import UNITS, write_expected_error
from mira.dicom.headers import uid
from mira.dicom.reasons import Reason, Refused
from mira.dicom.scan import scan
from mira.dicom.triage import OWN_MARKS
from mira.dicom.volume import SeriesVolume, read_volumes
from mira.errors import DataRejected, ServerAway, ServingFailed
from mira.tasks import Modality, task_of
from mira.volume import Volume, nifti_description, read_nifti, write_nifti


@dataclass(frozen=True)
class Delivered:
    """One restored series or file; free of patient data but for `files`.

    Attributes:
        modality: CT, PET or MR.
        slices: number of slices.
        files: what was written.
        warnings: what a user should know.
        degradation: mean of the network's estimate, 0 to 1.
        model: name and version of the network.
        error_files: the expected error, where it was asked for.
    """

    modality: Modality
    slices: int
    files: list[Path]
    warnings: list[str]
    degradation: float
    model: str
    error_files: list[Path] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """For a report, without paths."""
        return {
            "modality": str(self.modality),
            "slices": self.slices,
            "files": len(self.files),
            "error_files": len(self.error_files),
            "warnings": self.warnings,
            "degradation": round(self.degradation, 4),
            "model": self.model,
        }


class RestorationIncomplete(ServingFailed):
    """Some series of a folder were not restored, since the network failed.

    Attributes:
        delivered: what was restored by this call.
        refusals: for what cannot be restored, the reason and how many files it concerns.
    """

    def __init__(self, message: str, delivered: list[Delivered], refusals: dict[str, int]) -> None:
        super().__init__(message)
        self.delivered = delivered
        self.refusals = refusals


def restore_volume(
    restorer: Restorer, source: SeriesVolume, progress: bool = False, confidence: bool = False
) -> Restored:
    """Restore the voxels of a series, with their expected error when `confidence` asks for it.

    Raises:
        DataRejected: when its voxels are not in the unit that the network knows.
    """
    unit = task_of(source.modality).unit
    if source.unit is not unit:
        why = source.unit_refusal or f"its voxels are in {source.unit}"
        raise DataRejected(f"This {source.modality} series cannot be restored faithfully: it is not in {unit} ({why}).")
    voxels, name = source.volume.voxels, uid(source.headers[0], "SeriesInstanceUID")
    return restorer.restore_slices(
        voxels, source.modality, mr_scale=source.mr_scale, progress=progress, series=name, want_error=confidence
    )


def restore_series(
    restorer: Restorer, source: Path | SeriesVolume, out: Path, progress: bool = False, confidence: bool = False
) -> Delivered:
    """Restore one DICOM series into a derived series.

    Args:
        restorer: `RestorationClient`, `LocalRestorer`, or a `Restorer` with any other engine.
        source: a folder, file, DICOMDIR or zip that holds one usable series, or a series that was read already.
        out: folder of the derived series, which must not exist yet.
        progress: whether to show progress bars on a terminal.
        confidence: whether to write the expected error as a second derived series, beside `out`, with `-error` added;
            that folder must not exist yet either. Both appear when both are complete, or none does.

    Raises:
        DataRejected: when a folder exists, or the source holds no usable series or several, or cannot be restored
            faithfully; nothing is written then.
        ServingFailed: when the network cannot be reached or refuses.
    """
    _check_free(out, confidence)  # before minutes of work
    if isinstance(source, SeriesVolume):
        restored = restore_volume(restorer, source, progress, confidence)
        files, errors = _write(source, restored, out, progress)
        warnings = [*source.warnings, *restored.warnings]
        model = f"{restored.model} {restored.version}".strip()
        degradation = float(restored.degradation.mean())
        return Delivered(source.modality, len(files), files, warnings, degradation, model, errors)
    with opened(source) as found:
        volumes, refusals = _read(found)
        if len(volumes) != 1:
            held = f"{len(volumes)} usable series" if volumes else f"no usable series ({_reasons(refusals)})"
            raise DataRejected(f"{source} holds {held}. Give one series, or use restore_all.")
        return restore_series(restorer, volumes[0], out, progress, confidence)


def _check_free(out: Path, confidence: bool) -> None:
    """Raise DataRejected when the folder of a series, or that of its expected error where it is wanted, is there."""
    beside = _beside(out)
    if confidence and out.exists() and not beside.exists():
        raise DataRejected(
            f"{out} exists already, without the expected error. Remove it, and the same command writes both."
        )
    for folder in (out, beside) if confidence else (out,):
        if folder.exists():
            raise DataRejected(f"{folder} exists already. Give another folder, or remove it first.")


def _beside(out: Path) -> Path:
    """Folder of the expected error of a series."""
    return out.parent / f"{out.name}-error"


def _write(source: SeriesVolume, restored: Restored, out: Path, progress: bool) -> tuple[list[Path], list[Path]]:
    """Files of a restored series and of its expected error, which take their places when both are complete."""
    network = restored.model, restored.version
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".partial-", dir=out.parent) as name:
        image, error = Path(name) / out.name, Path(name) / _beside(out).name
        files = write_derived(source, restored.voxels, image, restored_by(*network), progress)
        errors: list[Path] = []
        if restored.predicted_error is not None:
            errors = write_expected_error(source, restored.predicted_error, files, error, *network, progress)
        _check_free(out, bool(errors))  # another command may have written it meanwhile
        if errors:
            os.replace(error, _beside(out))  # first: the other one says that all is complete
        os.replace(image, out)
    return [out / path.name for path in files], [_beside(out) / path.name for path in errors]


def restore_all(
    restorer: Restorer, path: Path, out: Path, progress: bool = False, confidence: bool = False
) -> tuple[list[Delivered], dict[str, int]]:
    """Restore every usable DICOM series below a path, each into a folder of its own; `confidence` as for one series.

    A series that a folder below `out` holds already is left alone, whatever arrived since (`mira.client.targets`).

    Returns:
        What was delivered, and for everything else the reason and how many files it concerns.

    Raises:
        DataRejected: when nothing could be restored, with the reasons.
        RestorationIncomplete: when the network failed for a series; the others are restored all the same, unless the
            server does not answer at all. What is complete stays, and the same call tries the rest again.
    """
    delivered: list[Delivered] = []
    failed: list[str] = []
    with opened(path) as found:
        volumes, refusals = _read(found)
        targets = target_folders(out, volumes)
        for volume, target in zip(volumes, targets, strict=True):
            try:
                delivered.append(restore_series(restorer, volume, target, progress, confidence))
            except DataRejected as error:
                refusals[str(error)] = refusals.get(str(error), 0) + len(volume.files)
            except ServingFailed as error:
                failed.append(str(error))
                if isinstance(error, ServerAway):
                    break
    if failed:
        complete = sum(target.exists() for target in targets)
        raise RestorationIncomplete(
            f"{' '.join(dict.fromkeys(failed))} {complete} of {len(targets)} series are complete, in {out}; the same "
            "command tries the rest again.",
            delivered,
            refusals,
        )
    if not delivered:
        raise DataRejected(f"Nothing in {path} can be restored: {_reasons(refusals)}.")
    return delivered, refusals


def restore_nifti(
    restorer: Restorer,
    path: Path,
    out: Path,
    modality: Modality,
    mr_scale: float | None = None,
    progress: bool = False,
    confidence: bool = False,
    again: bool = False,
) -> Delivered:
    """Restore a NIfTI file in HU, SUVbw or MR a.u. into another with the same geometry.

    The header's `descrip` of the new file says by what it was restored.

    Args:
        restorer: `RestorationClient`, `LocalRestorer`, or a `Restorer` with any other engine.
        path: a NIfTI file of a 3-D volume.
        out: the file to write, ending in .nii or .nii.gz.
        modality: what it shows; NIfTI does not say.
        mr_scale: robust intensity scale of an MR volume; estimated when left out.
        progress: whether to show a progress bar on a terminal.
        confidence: whether to write the expected error (one standard deviation) as well, with `_error` in its name.
        again: restore also what this software restored before.

    Raises:
        DataRejected: when the file cannot be read or restored, or is marked as restored already, or a file that would
            be written exists.
    """
    stem, kind = (out.name[:-7], out.name[-7:]) if out.name.endswith(".nii.gz") else (out.stem, out.suffix)
    beside = out.with_name(f"{stem}_error{kind}")
    for file in (out, beside) if confidence else (out,):
        if file.exists():
            raise DataRejected(f"{file} exists already. Give another folder, or remove it first.")
    if not again and any(mark in nifti_description(path).upper() for mark in OWN_MARKS):
        raise DataRejected(
            f"{path} was {Reason.ALREADY_RESTORED.text.replace('series', 'file')}. Its header says so; --again does it "
            "all the same."
        )
    volume = read_nifti(path)
    restored = restorer.restore_slices(
        volume.voxels, modality, mr_scale=mr_scale, progress=progress, want_error=confidence
    )
    model = f"{restored.model} {restored.version}".strip()
    errors: list[Path] = []
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".partial-", dir=out.parent) as name:
        words = f"restored by MIRA-Net: {model}; research use"
        write_nifti(Path(name) / out.name, Volume(restored.voxels, volume.affine), description=words)
        if restored.predicted_error is not None:
            errors = [beside]
            words = f"expected error (1 SD), {UNITS[modality][0]}, of MIRA-Net: {model}"
            write_nifti(Path(name) / beside.name, Volume(restored.predicted_error, volume.affine), description=words)
            os.replace(Path(name) / beside.name, beside)
        os.replace(Path(name) / out.name, out)
    degradation = float(restored.degradation.mean())
    return Delivered(modality, len(restored.voxels), [out], restored.warnings, degradation, model, errors)


def _read(found: Opened) -> tuple[list[SeriesVolume], dict[str, int]]:
    """Usable volumes of all series, and for what is not usable the reason with its number of files."""
    result = scan(found)
    refusals: dict[str, int] = {}
    for rejected in result.rejected:
        refusals[rejected.reason.text] = refusals.get(rejected.reason.text, 0) + 1
    volumes: list[SeriesVolume] = []
    for series in result.series:
        try:
            read = read_volumes(series.files)
        except Refused as error:
            refusals[str(error)] = refusals.get(str(error), 0) + len(series.files)
            continue
        volumes += read.volumes
        for refusal in read.refusals:
            text = refusal.reason.text
            refusals[text] = refusals.get(text, 0) + len(refusal.files)
    return volumes, refusals


def _reasons(refusals: dict[str, int]) -> str:
    if not refusals:
        return "there are no files in it"
    listed = sorted(refusals.items(), key=lambda item: -item[1])
    return "; ".join(f"{text}: {count} files" for text, count in listed[:5])
