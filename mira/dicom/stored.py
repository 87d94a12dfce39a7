"""Values of a derived series as 16-bit integers with a rescale that loses nothing that matters.

CT: one power-of-two slope for the series, fine enough for an eighth of a HU where the range allows it, and an integer
    intercept, so that integer HU come back exactly.
PET: intercept 0 as the standard demands, and a slope per slice that spends all 16 bits on its maximum: the error is
    below 1/65000 of the slice's maximum.
MR: the classic image has no rescale. Where the source has none either and its intensities are fine-grained, values are
    rounded to integers on the source's own scale, as the scanner did: intensities stay comparable with other series,
    and viewers need no rescale that this kind of image does not foresee. Otherwise a power-of-two slope is written,
    as scanners that rescale MR do.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.valuerep import format_number_as_ds

from mira.dicom import headers as h
from mira.dicom.volume import SeriesVolume
from mira.errors import DataRejected
from mira.tasks import Modality

FINEST_HU = 0.125
STEPS = 65535
COARSE_MR_SCALE = 200.0  # below it, rounding to integers would be off by more than 0.25 % of the intensity scale


@dataclass(frozen=True)
class Stored:
    """Stored values of one slice.

    Attributes:
        pixels: uint16 or int16 [rows, columns].
        slope: rescale slope as DICOM text; None for no rescale.
        intercept: rescale intercept as DICOM text; None for no rescale.
    """

    pixels: NDArray[Any]
    slope: str | None
    intercept: str | None

    @property
    def values(self) -> NDArray[np.float64]:
        """What a reader will make of the pixels."""
        if self.slope is None or self.intercept is None:
            return self.pixels.astype(np.float64)
        return self.pixels * float(self.slope) + float(self.intercept)


def encode(source: SeriesVolume, voxels: NDArray[np.float32]) -> list[Stored]:
    """Stored values of all slices.

    Args:
        source: the series that the voxels were made from.
        voxels: [slices, rows, columns] in its unit.

    Raises:
        DataRejected: when values cannot be stored in 16 bits.
    """
    if source.modality is Modality.PET:
        return [_pet(plane.astype(np.float64) / source.suv_factor) for plane in voxels]
    low, high = float(voxels.min()), float(voxels.max())
    if source.modality is Modality.CT:
        return _linear(voxels, _power_of_two(low, high, FINEST_HU), low)
    rescaled = any(h.number(header, "RescaleSlope") is not None for header in source.headers)
    if not rescaled and (source.mr_scale or high) >= COARSE_MR_SCALE and low >= -32768 and high <= STEPS:
        kind = np.int16 if low < -0.5 and high <= 32767 else np.uint16
        if kind is np.uint16 and low < -0.5:
            return _linear(voxels, _power_of_two(low, high, 2.0**-20), low)
        return [Stored(np.rint(plane).astype(kind), None, None) for plane in voxels]
    return _linear(voxels, _power_of_two(low, high, 2.0**-20), low)


def _power_of_two(low: float, high: float, finest: float) -> float:
    """The finest power-of-two slope, not below `finest`, whose 65536 steps span the range."""
    slope = finest
    while (high - low) / slope > STEPS - 2 / slope - 2:
        slope *= 2
        if slope > 2.0**40:
            raise DataRejected("The values span too wide a range to be stored in 16 bits. Look at the input's scale.")
    return slope


def _linear(voxels: NDArray[np.float32], slope: float, low: float) -> list[Stored]:
    """Unsigned values with one slope and one intercept, a multiple of the slope and an integer where slope is fine."""
    intercept = float(np.floor(low)) if slope <= 1 else float(np.floor(low / slope) * slope)
    texts = format_number_as_ds(slope), format_number_as_ds(intercept)
    slope, intercept = float(texts[0]), float(texts[1])
    planes = [np.rint((plane.astype(np.float64) - intercept) / slope) for plane in voxels]
    return [Stored(np.clip(plane, 0, STEPS).astype(np.uint16), *texts) for plane in planes]


def _pet(plane: NDArray[np.float64]) -> Stored:
    """One slice in BQML (or whatever the source's unit is): intercept 0, a slope of its own, signed where needed."""
    low, high = float(plane.min()), float(plane.max())
    signed = low < 0
    needed = max(high / 32767, -low / 32768) if signed else high / STEPS
    text = format_number_as_ds(needed * (1 + 1e-9)) if needed > 0 else "1"
    slope = float(text)
    limits = (-32768, 32767) if signed else (0, STEPS)
    pixels = np.clip(np.rint(plane / slope), *limits)
    return Stored(pixels.astype(np.int16 if signed else np.uint16), text, "0")
