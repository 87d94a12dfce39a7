"""Degrading NIfTI files slice by slice, in memory that does not grow with their length."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from mira.cases import CaseRecord
from mira.degrade.interface import Plan, plan
from mira.degrade.options import OptionValue
from mira.errors import DataRejected
from mira.pairs import Physics
from mira.progress import track
from mira.storage import atomic_file
from mira.tasks import Task
from mira.volume import LPS_TO_RAS, Volume, read_nifti

COPIED = 16  # slices copied at a time


def write_batches(
    path: Path, shape: tuple[int, int, int], affine: NDArray[np.float64], batches: Iterable[NDArray[np.float32]]
) -> None:
    """Write an uncompressed float32 NIfTI-1 file as its slices come; the same bytes as `mira.volume.write_nifti`.

    Args:
        path: file to write, ending in .nii; it appears complete or not at all.
        shape: (slices, rows, columns).
        affine: as `Volume.affine`.
        batches: slices [n, rows, columns], `shape[0]` in all.

    Raises:
        DataRejected: when the batches do not fill the shape.
    """
    header = nib.Nifti1Header()
    header.set_data_dtype("<f4")
    header.set_data_shape(shape[::-1])
    header.set_xyzt_units("mm")
    ras = LPS_TO_RAS @ affine
    header.set_sform(ras, code="aligned")
    header.set_qform(ras, code="unknown")
    header["magic"] = b"n+1"
    header.set_data_offset(352)
    header.set_slope_inter(1, 0)
    written = 0
    with atomic_file(path) as temporary:
        with temporary.open("wb") as stream:
            header.write_to(stream)
            stream.write(b"\0" * (352 - stream.tell()))
            for batch in batches:
                if batch.shape[1:] != shape[1:]:
                    raise DataRejected(f"A batch of slices {batch.shape[1:]} does not fit the volume {shape}.")
                stream.write(np.ascontiguousarray(batch, dtype="<f4").data)
                written += len(batch)
        if written != shape[0]:
            raise DataRejected(f"{written} slices came for a volume of {shape[0]}.")


@contextmanager
def mapped(path: Path) -> Iterator[Volume]:
    """A NIfTI file as a volume with memory-mapped voxels.

    Plain float32 files are mapped as they are; compressed or scaled ones are unpacked into a temporary file first,
    slice by slice.

    Raises:
        DataRejected: when the file cannot be read as a volume.
    """
    try:
        image = nib.load(path)
    except (OSError, ImageFileError) as error:
        raise DataRejected(f"{path} is not a readable NIfTI file: {type(error).__name__}. Check the path.") from error
    plain = image.get_data_dtype() == np.float32 and path.suffix != ".gz" and image.header.get_slope_inter()[0] is None
    if plain or len(image.shape) != 3:
        yield read_nifti(path)
        return
    with tempfile.TemporaryDirectory(prefix="mira-") as scratch:
        columns, rows, count = image.shape
        spool = np.memmap(Path(scratch) / "voxels", dtype=np.float32, mode="w+", shape=(count, rows, columns))
        for start in range(0, count, COPIED):
            part = np.asarray(image.dataobj[..., start : start + COPIED], dtype=np.float32)
            spool[start : start + COPIED] = part.transpose(2, 1, 0)
        spool.flush()
        del spool
        voxels = np.memmap(Path(scratch) / "voxels", dtype=np.float32, mode="r", shape=(count, rows, columns))
        yield Volume(voxels, LPS_TO_RAS @ image.affine)


def degrade_file(
    path: Path,
    out: Path,
    task: Task,
    level: float,
    seed: int,
    record: CaseRecord | None = None,
    options: Mapping[str, OptionValue] | None = None,
    progress: bool = False,
) -> Physics:
    """Degrade a NIfTI file into `out/degraded.nii`, and write the scan itself beside it as `out/reference.nii`.

    Arguments and errors are those of `mira.degrade.interface.plan`.
    """
    with mapped(path) as volume:
        made = plan(volume, task, level, seed, record, options)
        write_plan(out / "degraded.nii", made, progress)
        write_batches(out / "reference.nii", volume.voxels.shape, volume.affine, _pieces(volume.voxels))
    return made.physics


def write_plan(path: Path, made: Plan, progress: bool = False) -> None:
    """Run a plan into a NIfTI file."""
    batches = made.batches()
    write_batches(
        path, made.shape, made.affine, track(batches, made.physics.model, unit="batch") if progress else batches
    )


def _pieces(voxels: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(voxels), COPIED):
        yield voxels[start : start + COPIED]
