"""A volume: voxels in physical units with their geometry, and its NIfTI file."""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from mira.errors import DataRejected
from mira.storage import atomic_file

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Volume:
    """Voxels with geometry.

    Attributes:
        voxels: float32 array of shape [slices, rows, columns], in the unit that the case's record names.
        affine: 4x4 matrix from (column, row, slice, 1) indices to DICOM patient coordinates (LPS) in mm.
    """

    voxels: NDArray[np.float32]
    affine: NDArray[np.float64]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distances in mm between (slices, rows, columns)."""
        column, row, slice_ = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(slice_), float(row), float(column)


def write_nifti(path: Path, volume: Volume) -> None:
    """Write an uncompressed float32 NIfTI-1 file; each slice is contiguous in it."""
    image = nib.Nifti1Image(volume.voxels.transpose(2, 1, 0), LPS_TO_RAS @ volume.affine)
    image.header.set_xyzt_units("mm")
    with atomic_file(path) as temporary:
        image.to_filename(temporary)


def read_nifti(path: Path) -> Volume:
    """Read a 3-D NIfTI file (2-D becomes one slice); uncompressed voxels are memory-mapped.

    Raises:
        DataRejected: when the file is missing, is not NIfTI or is not 2-D or 3-D.
    """
    try:
        image = nib.load(path)
    except (OSError, ImageFileError) as error:
        raise DataRejected(f"{path} is not a readable NIfTI file: {type(error).__name__}. Check the path.") from error
    voxels = np.asanyarray(image.dataobj)
    if voxels.ndim == 2:
        voxels = voxels[..., None]
    if voxels.ndim != 3:
        raise DataRejected(f"{path} has {voxels.ndim} dimensions; a volume has 3. Split it into volumes first.")
    return Volume(np.asarray(voxels, dtype=np.float32).transpose(2, 1, 0), LPS_TO_RAS @ image.affine)
