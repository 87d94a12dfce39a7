"""A volume: voxels in physical units with their geometry, and its NIfTI file."""

import gzip
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from mira.errors import DataRejected
from mira.storage import atomic_file

HEADER_BYTES = 352
DAMAGED = (
    OSError, EOFError, zlib.error, ValueError, TypeError, OverflowError, ImageFileError, HeaderDataError,
    WrapStructError,
)  # fmt: skip
"""What nibabel, gzip and numpy raise on a file that is none, is cut off, or holds something else than it says."""
GZIPPED = {".gz", ".mgz"}
NUMBERS = "iuf"
"""Kinds of voxels that a volume may have: whole numbers with and without sign, and fractions."""
CHUNK_BYTES = 2**20
GEOMETRY = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z",
)  # fmt: skip
"""Header fields that say where voxels lie and in which space, beside the first of `pixdim` and the unit of length."""
SPATIAL_UNIT = 0x07  # of `xyzt_units`
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Volume:
    """Voxels with geometry.

    Attributes:
        voxels: float32 array of shape [slices, rows, columns], in the unit that the case's record names; on the way
            from a reader to a file whole numbers may be int16.
        affine: 4x4 matrix from (column, row, slice, 1) indices to DICOM patient coordinates (LPS) in mm.
    """

    voxels: NDArray[np.float32]
    affine: NDArray[np.float64]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distances in mm between (slices, rows, columns)."""
        column, row, slice_ = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(slice_), float(row), float(column)


def write_nifti(
    path: Path,
    volume: Volume,
    *,
    compact: bool = False,
    description: str = "",
    geometry: Mapping[str, Any] | None = None,
) -> None:
    """Write a NIfTI-1 file; each slice is contiguous in it. It is compressed when its name ends in .gz.

    Args:
        path: the file.
        volume: what to write.
        compact: store whole numbers, such as most HU, in 16 bits when every voxel fits; no value changes, and the file
            is half as long. Otherwise, for everything else, and in a compressed file, voxels are stored as float32.
        description: plain ASCII for the header's `descrip`; what is beyond its 79 characters is cut off.
        geometry: of the file that the volume was read from (`nifti_geometry`), to be written as it is in place of the
            volume's affine, so that both forms, their codes and the unit stay the same to the bit.
    """
    header = _header(volume, description, geometry)
    single = np.dtype("<f4")
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        if path.suffix.lower() == ".gz":
            with gzip.GzipFile("", "wb", fileobj=stream, mtime=0) as packed:
                _write_as(packed, volume, single, header)
        elif not (compact and _write_as(stream, volume, np.dtype("<i2"), header)):
            stream.seek(0)
            stream.truncate()
            _write_as(stream, volume, single, header)


def _header(volume: Volume, description: str, geometry: Mapping[str, Any] | None) -> nib.Nifti1Header:
    """The header of a volume, but for the type of its voxels."""
    header = nib.Nifti1Header()
    header.set_data_shape(volume.voxels.shape[::-1])
    header.set_xyzt_units("mm")
    if geometry:
        header["pixdim"][:4] = geometry["pixdim"]
        header["xyzt_units"] = geometry["xyzt_units"]
        for name in GEOMETRY:
            header[name] = geometry[name]
    else:
        affine = LPS_TO_RAS @ volume.affine
        header.set_sform(affine, code="aligned")
        header.set_qform(affine, code="unknown")
    header["descrip"] = description.encode("ascii", "replace")[:79]
    header["vox_offset"] = HEADER_BYTES
    header["magic"] = b"n+1"
    return header


def _write_as(stream: BinaryIO | gzip.GzipFile, volume: Volume, dtype: np.dtype[Any], header: nib.Nifti1Header) -> bool:
    """Write header and voxels; False, with the file unfinished, when a voxel is not the same as that type."""
    header.set_data_dtype(dtype)
    # with its room taken at once a file is written sooner, and a full disk tells before
    if not isinstance(stream, gzip.GzipFile) and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(stream.fileno(), 0, HEADER_BYTES + volume.voxels.size * dtype.itemsize)
    stream.write(header.binaryblock.ljust(HEADER_BYTES, b"\0"))
    stored = np.empty(volume.voxels.shape[1:], dtype)
    for values in volume.voxels:
        if values.dtype == dtype and values.flags.c_contiguous:
            stream.write(values.data)
            continue
        with np.errstate(invalid="ignore"):  # a NaN in 16 bits is found below
            np.copyto(stored, values, casting="unsafe")
        if dtype.kind == "i" and not (stored == values).all():
            return False
        stream.write(stored.data)
    return True


def nifti_description(path: Path) -> str:
    """The header's `descrip` of a NIfTI file.

    Raises:
        DataRejected: when the file is missing or is not NIfTI.
    """
    with _damage_named(path):
        header = nib.load(path).header
        return bytes(header["descrip"].tobytes()).decode("ascii", "replace").strip(" \0") if "descrip" in header else ""


def nifti_geometry(path: Path) -> dict[str, Any]:
    """What a NIfTI file's header says of where its voxels lie, for `write_nifti`; {} for another kind of file.

    Raises:
        DataRejected: when the file is missing or is not NIfTI.
    """
    with _damage_named(path):
        header = nib.load(path).header
        if not isinstance(header, nib.Nifti1Header):
            return {}
        unit = int(header["xyzt_units"]) & SPATIAL_UNIT
        return {name: header[name] for name in GEOMETRY} | {"pixdim": header["pixdim"][:4], "xyzt_units": unit}


def read_nifti(path: Path) -> Volume:
    """Read a 3-D NIfTI file of numbers (2-D becomes one slice); uncompressed voxels are memory-mapped.

    A compressed file is unpacked once, and to its end: its checksum is there, and a flipped bit shows nowhere else.

    Raises:
        DataRejected: when the file is missing, damaged, cut off or not NIfTI, is not 2-D or 3-D, or its voxels are
            colours or complex numbers.
    """
    with _damage_named(path):
        image = nib.load(path)
        content = image.file_map["image"]
        if Path(content.filename).suffix.lower() not in GZIPPED:
            return _volume(path, image)
        with gzip.open(content.filename) as stream:
            content.fileobj = stream
            volume = _volume(path, type(image).from_file_map(image.file_map))
            while stream.read(CHUNK_BYTES):
                pass
        return volume


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        why = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
        raise DataRejected(
            f"{path} is not a readable NIfTI file ({why}): it is missing, damaged or cut off. Check the path, or copy "
            "the file again from where it came."
        ) from error


def _volume(path: Path, image: Any) -> Volume:
    """The voxels and geometry of a loaded image; nothing is read of one that is no volume of numbers."""
    if len(image.shape) not in (2, 3):
        raise DataRejected(f"{path} has {len(image.shape)} dimensions; a volume has 3. Split it into volumes first.")
    kind = image.get_data_dtype().kind
    if kind not in NUMBERS:
        what = "complex numbers; write their magnitude" if kind == "c" else "colours; write grey values"
        raise DataRejected(f"The voxels of {path} are {what}, as integers or floats, into a NIfTI file and use that.")
    voxels = np.asanyarray(image.dataobj)
    if voxels.ndim == 2:
        voxels = voxels[..., None]
    return Volume(np.asarray(voxels, dtype=np.float32).transpose(2, 1, 0), LPS_TO_RAS @ image.affine)
