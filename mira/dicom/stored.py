"""Values of a derived series as 16-bit integers with a rescale that loses nothing that matters.

CT: one power-of-two slope for the series, fine enough for an eighth of a HU where the range allows it, and an intercept
    that is an integer where there is room, and else a multiple of the slope: integer HU come back exactly.
PET: intercept 0 as the standard demands, and a slope per slice: the source slice's own, times the power of two that is
    the finest to hold the slice's values in 16 bits. So what the network left alone lies on the source's own steps and
    comes back as it was, to the digits of a DICOM decimal (a slope that spends all 16 bits on the maximum would put it
    up to half a step off), and rounding moves the others by less than 1/65000 of the slice's largest magnitude (1/32000
    where values or padding below zero take the sign bit). Where the source slice has no positive slope, or an
    intercept, there are no such steps, and the slope is the one that spends all 16 bits.
MR: the classic image has no rescale. Where the source has none either and its intensities are fine-grained, values are
    rounded to integers on the source's own scale, as the scanner did: intensities stay comparable with other series,
    and viewers need no rescale that this kind of image does not foresee. Otherwise a power-of-two slope is written,
    as scanners that rescale MR do.
CT values below air that the network was never shown are the source's own again, rounded as the others are.
Padding keeps its value where that costs the measured pixels no precision; otherwise it becomes the lowest stored value,
which no measured pixel then has.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from mira.dicom import headers as h
from mira.dicom.padding import Padding, paddings
from mira.dicom.pixels import AIR_HU
from mira.dicom.volume import SeriesVolume
from mira.errors import DataRejected
from mira.tasks import Modality

FINEST_HU = 0.125
FINEST = 2.0**-40  # of everything else
STEPS = 65535
NEARLY_HALF = 0.49  # of a step: a value that little beyond the outermost step is rounded to it
COARSE_MR_SCALE = 200.0  # below it, rounding to integers would be off by more than 0.25 % of the intensity scale


@dataclass(frozen=True)
class Stored:
    """Stored values of one slice.

    Attributes:
        pixels: uint16 or int16 [rows, columns].
        slope: rescale slope as DICOM text; None for no rescale.
        intercept: rescale intercept as DICOM text; None for no rescale.
        padding: stored value of the pixels that hold no measurement, where the source declares one; the lowest of them
            where there are several.
        padding_limit: the highest, where there are several.
    """

    pixels: NDArray[Any]
    slope: str | None
    intercept: str | None
    padding: int | None = None
    padding_limit: int | None = None

    @property
    def values(self) -> NDArray[np.float64]:
        """What a reader will make of the pixels."""
        if self.slope is None or self.intercept is None:
            return self.pixels.astype(np.float64)
        return self.pixels * float(self.slope) + float(self.intercept)


def encode(source: SeriesVolume, voxels: NDArray[np.float32], unseen: bool = False) -> list[Stored]:
    """Stored values of all slices; pixels that are padding in the source's files are padding again.

    Args:
        source: the series that the voxels were made from.
        voxels: [slices, rows, columns] in its unit.
        unseen: whether CT values below air, which the reader made air, are the source's own again.

    Raises:
        DataRejected: when values cannot be stored in 16 bits, or a source file with padding is gone.
    """
    found = paddings(source)
    if not any(found):
        return _encode(source, voxels, found, None)
    measured = voxels.copy()
    for plane, padding in zip(measured, found, strict=True):
        if padding is not None:  # as the reader does it: a value inside the range of the measured pixels
            plane[padding.where] = AIR_HU if source.modality is Modality.CT else 0.0
            if unseen:
                plane[padding.clipped] = padding.values[padding.clipped]
    lows = [padding.lowest for padding in found if padding is not None and padding.lowest is not None]
    stored = _encode(source, measured, found, min(lows, default=None))
    return [one if padding is None else _pad(one, padding) for one, padding in zip(stored, found, strict=True)]


def encode_error(source: SeriesVolume, error: NDArray[np.float32]) -> list[Stored]:
    """Stored values of an expected error: from zero on, zero where the source holds padding, as fine as 16 bits allow.

    Args:
        source: the series whose restoration's error it is.
        error: [slices, rows, columns] in its unit, not below zero.
    """
    measured = error.copy()
    for plane, padding in zip(measured, paddings(source), strict=True):
        if padding is not None:
            plane[padding.where] = 0.0
    if source.modality is Modality.PET:
        return [_pet(plane.astype(np.float64) / source.suv_factor, None, False) for plane in measured]
    return _linear(measured, _power_of_two(0.0, float(measured.max()), FINEST), 0.0)


def _pad(stored: Stored, padding: Padding) -> Stored:
    """Write the padding's own values, or the lowest stored value where they cannot be written.

    Padding of several values is declared as their range; where a measured pixel has come to lie in it, the padding
    becomes one value, so that no pixel is taken for padding that is none.
    """
    if padding.lowest is None:
        return stored
    wanted = np.rint((padding.values[padding.where] - float(stored.intercept or 0)) / float(stored.slope or 1))
    limits = np.iinfo(stored.pixels.dtype)
    fits = limits.min <= wanted.min() and wanted.max() <= limits.max
    pixels = stored.pixels.copy()
    pixels[padding.where] = wanted if fits else limits.min
    if not padding.declared:
        return replace(stored, pixels=pixels)
    lowest, highest = int(pixels[padding.where].min()), int(pixels[padding.where].max())
    measured = stored.pixels[~padding.where]
    if lowest < highest and ((measured >= lowest) & (measured <= highest)).any():
        pixels[padding.where] = highest = lowest
    return replace(stored, pixels=pixels, padding=lowest, padding_limit=highest if lowest < highest else None)


def _encode(
    source: SeriesVolume, voxels: NDArray[np.float32], found: list[Padding | None], padding: float | None
) -> list[Stored]:
    """Stored values of the measured pixels, with room for the lowest padding value below them."""
    if source.modality is Modality.PET:
        below_zero = [one is not None and one.lowest is not None and one.lowest < 0 for one in found]
        planes = zip(voxels, source.headers, below_zero, strict=True)
        return [
            _pet(plane.astype(np.float64) / source.suv_factor, _step(header), below) for plane, header, below in planes
        ]
    low, high = float(voxels.min()), float(voxels.max())
    finest = FINEST_HU if source.modality is Modality.CT else FINEST
    if source.modality is Modality.MR:
        rescaled = any(h.number(header, "RescaleSlope") is not None for header in source.headers)
        least = low if padding is None else min(low, padding)
        kind = np.int16 if least < -0.5 else np.uint16
        fits = least >= -32768 and high <= np.iinfo(kind).max
        if not rescaled and (source.mr_scale or high) >= COARSE_MR_SCALE and fits:
            return [Stored(np.rint(plane).astype(kind), None, None) for plane in voxels]
    start = low if padding is None else _below(padding, low, high, finest)
    return _linear(voxels, _power_of_two(start, high, finest), start)


def _below(padding: float, low: float, high: float, finest: float) -> float:
    """Where the stored values begin: at the padding, unless that costs precision; then one step below the lowest."""
    slope = _power_of_two(low, high, finest)
    if _power_of_two(min(low, padding), high, finest) == slope:
        return min(low, padding)
    return low - 2 * slope  # the room that this takes may make the slope twice as coarse


def _power_of_two(low: float, high: float, finest: float) -> float:
    """The finest power-of-two slope, not below `finest`, whose 65536 steps span the range and leave two free."""
    slope = finest
    while (high - low) / slope > STEPS - 2:
        slope *= 2
        if slope > 2.0**40:
            raise DataRejected("The values span too wide a range to be stored in 16 bits. Look at the input's scale.")
    return slope


def _linear(voxels: NDArray[np.float32], slope: float, low: float) -> list[Stored]:
    """Unsigned values with one slope and one intercept, a multiple of the slope and an integer where there is room."""
    intercept = float(np.floor(low))
    if slope > 1 or (float(voxels.max()) - intercept) / slope > STEPS:
        intercept = float(np.floor(low / slope) * slope)
    texts = format_number_as_ds(slope), format_number_as_ds(intercept)
    slope, intercept = float(texts[0]), float(texts[1])
    planes = [np.rint((plane.astype(np.float64) - intercept) / slope) for plane in voxels]
    return [Stored(np.clip(plane, 0, STEPS).astype(np.uint16), *texts) for plane in planes]


def _step(header: Dataset) -> float | None:
    """The distance of a PET slice's rescaled values, where they are its multiples; None where they are not."""
    slope = h.number(header, "RescaleSlope")
    return None if slope is None or slope <= 0 or h.number(header, "RescaleIntercept") else slope


def _pet(plane: NDArray[np.float64], step: float | None, below_zero: bool) -> Stored:
    """One slice in BQML (or whatever the source's unit is): intercept 0, a slope of its own, signed where needed.

    Args:
        plane: the values.
        step: the slope is this times a power of two; None for a slope that spends all 16 bits.
        below_zero: whether there is padding below zero; -32768 is left free for it then.
    """
    low, high = float(plane.min()), float(plane.max())
    signed = low < 0 or below_zero
    limits = (-32767 if below_zero else -32768, 32767) if signed else (0, STEPS)
    spare = 0.0 if step is None else NEARLY_HALF  # float32 voxels of a full range lie a little beside its ends
    slope = max(high / (limits[1] + spare), low / (limits[0] - spare) if signed else 0.0)
    if slope > 0:
        slope = slope * (1 + 1e-9) if step is None else math.ldexp(step, math.ceil(math.log2(slope / step)))
    text = format_number_as_ds(slope or step or 1.0)
    pixels = np.clip(np.rint(plane / float(text)), *limits)
    return Stored(pixels.astype(np.int16 if signed else np.uint16), text, "0")
