"""Restoring files: a whole DICOM series into a derived series of the same study, or a NIfTI file into another."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from mira.client.arrays import Restorer
from mira.client.nifti import restore_nifti
from mira.client.outcome import Delivered, Outcome, RestorationIncomplete, StorageFailed, writing
from mira.client.plan import Restored
from mira.client.targets import Targets
from mira.dicom.archive import opened
from mira.dicom.derive import restored_by, write_derived
from mira.dicom.expected_error import write_expected_error
from mira.dicom.faults import faults_refused, reading, why
from mira.dicom.headers import uid
from mira.dicom.scan import Scan, scan
from mira.dicom.volume import SeriesResult, SeriesVolume, read_volumes
from mira.errors import DataRejected, ServerAway, ServingFailed
from mira.tasks import task_of

__all__ = [
    "Delivered", "RestorationIncomplete", "StorageFailed", "restore_all", "restore_nifti", "restore_series",
    "restore_volume",
]  # fmt: skip


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
            faithfully, or its data have a fault that nobody foresaw; nothing is written then.
        ServingFailed: when the network cannot be reached or refuses.
        StorageFailed: when the derived series cannot be written.
        RetryableError: when disk or network fail while the source is read.
    """
    _check_free(out, confidence)  # before minutes of work
    if isinstance(source, SeriesVolume):
        restored = restore_volume(restorer, source, progress, confidence)
        files, errors = _write(source, restored, out, progress)
        warnings = [*source.warnings, *restored.warnings]
        model = f"{restored.model} {restored.version}".strip()
        degradation = float(restored.degradation.mean())
        return Delivered(source.modality, len(files), files, warnings, degradation, model, errors)
    with ExitStack() as held:
        found, outcome = _scan(source, held), Outcome()
        volumes = list(_each(found, outcome))
        if len(volumes) != 1:
            count = f"{len(volumes)} usable series" if volumes else f"no usable series ({outcome.reasons})"
            raise DataRejected(f"{source} holds {count}. Give one series, or use restore_all.")
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
    with writing(out.parent), faults_refused():
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
        StorageFailed: when the results cannot be written; what is complete stays.
        RetryableError: when disk or network fail before any series is read.
    """
    outcome = restore_folder(restorer, path, out, progress, confidence)
    if not outcome.delivered:
        raise outcome.nothing(path)
    return outcome.delivered, outcome.refusals


def restore_folder(
    restorer: Restorer, path: Path, out: Path, progress: bool = False, confidence: bool = False
) -> Outcome:
    """As `restore_all`, but what was restored before is told, and when that is all, it is no error.

    One series after the other is read, restored and let go of, so that the memory needed is that of the largest.
    """
    outcome, failed, full = Outcome(), list[str](), ""
    targets: list[Path] = []
    with ExitStack() as held:
        found = _scan(path, held)
        with writing(out):
            folders = Targets(out)
        away = False
        for volume in _each(found, outcome):
            targets.append(target := folders.of(volume))
            if target.exists():
                outcome.present += [folder for folder in (target, _beside(target)) if folder.exists()]
            try:
                if not away and not full:  # the others are counted
                    outcome.delivered.append(restore_series(restorer, volume, target, progress, confidence))
            except DataRejected as error:
                outcome.refuse(error, len(volume.files))
            except MemoryError:
                outcome.refuse("the memory of this machine does not hold it", len(volume.files))
            except ServingFailed as error:
                failed.append(str(error))
                away = isinstance(error, ServerAway)
            except StorageFailed as error:
                full = str(error)
            del volume  # or it would be there while the next one is read
    if failed or full:
        complete = sum(target.exists() for target in targets)
        message = (
            f"{' '.join(dict.fromkeys(filter(None, [*failed, full])))} {complete} of {len(targets)} series are "
            f"complete, in {out}; the same command tries the rest again."
        )
        raise RestorationIncomplete(message, outcome) if failed else StorageFailed(message, outcome)
    if not outcome.delivered and not outcome.present:
        raise outcome.nothing(path)
    return outcome


def _scan(path: Path, held: ExitStack) -> Scan:
    """The series below a path; its files are there until `held` is closed."""
    with reading(path):
        return scan(held.enter_context(opened(path)))


def _each(found: Scan, outcome: Outcome) -> Iterator[SeriesVolume]:
    """Usable volumes, series by series, not held here once given; the outcome says what is not usable, and why."""
    for rejected in found.rejected:
        outcome.refuse(rejected.reason.text, 1)
    for series in found.series:
        read = _volumes(series.files, outcome)
        for refusal in read.refusals:
            outcome.refuse(refusal.reason.text, len(refusal.files))
        while read.volumes:
            yield read.volumes.pop(0)


def _volumes(files: list[Path], outcome: Outcome) -> SeriesResult:
    """The volumes of one series; none where it cannot be read, and the outcome says why."""
    try:
        with faults_refused():
            return read_volumes(files)
    except DataRejected as error:
        outcome.refuse(error, len(files))
    except OSError as error:
        outcome.refuse(f"its files cannot be read ({why(error)}); the same command tries them again", len(files))
    return SeriesResult()
