"""The matrix of an uncompressed grey-scale slice: what its header declares, and its values in the bytes of the file."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from mira.dicom import headers as h
from mira.dicom.limits import MOST_SLICE_PIXELS
from mira.dicom.remembered import remembered


@dataclass(frozen=True)
class Matrix:
    """How the pixels of an uncompressed grey-scale slice are stored.

    Attributes:
        rows: number of rows.
        columns: number of columns.
        dtype: type of the stored values.
        lowest: the lowest value that the used bits can hold.
        highest: the highest one.
        is_cut: whether there are bits above the used ones.
    """

    rows: int
    columns: int
    dtype: np.dtype[np.integer]
    lowest: int
    highest: int
    is_cut: bool


@remembered(
    "Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "NumberOfFrames", "SamplesPerPixel",
    "PhotometricInterpretation",
)  # fmt: skip
def matrix_of(header: Dataset) -> Matrix | None:
    """The matrix that a header declares; None when it is no uncompressed grey-scale slice of whole numbers."""
    rows, columns, allocated, used, sign = (
        h.number(header, keyword)
        for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation")
    )
    several = (h.number(header, "NumberOfFrames") or 1) != 1 or h.number(header, "SamplesPerPixel") != 1
    grey = h.text(header, "PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2")
    if several or not grey or not rows or not columns or allocated not in (8, 16, 32) or sign not in (0, 1) or not used:
        return None
    if rows * columns > MOST_SLICE_PIXELS or used > allocated:
        return None
    dtype = np.dtype(f"<{'i' if sign else 'u'}{int(allocated) // 8}")
    lowest, highest = (-(2 ** (used - 1)), 2 ** (used - 1) - 1) if sign else (0, 2**used - 1)
    return Matrix(int(rows), int(columns), dtype, math.ceil(lowest), math.floor(highest), used < allocated)


def stored_values(content: bytes, at: int, length: int, matrix: Matrix) -> NDArray[np.integer] | None:
    """[rows, columns] stored values as a view of a file's bytes, or None when they do not fit what the header declares.

    Args:
        content: the file.
        at: where the pixel data begins.
        length: its bytes.
        matrix: what the header declares.
    """
    pixels = matrix.rows * matrix.columns
    size = pixels * matrix.dtype.itemsize
    if length != size + size % 2:
        return None
    stored = np.frombuffer(content, matrix.dtype, pixels, at).reshape(matrix.rows, matrix.columns)
    if matrix.is_cut and (stored.max() > matrix.highest or (matrix.dtype.kind == "i" and stored.min() < matrix.lowest)):
        return None  # something lies in the bits above: pydicom cuts it off
    return stored
