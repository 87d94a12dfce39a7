"""From one file to its slices: header without pixels, stored values, and values after the rescale."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from mira.dicom import headers as h
from mira.dicom.reasons import Reason, Refused
from mira.dicom.triage import is_enhanced, triage
from mira.dicom.units import hounsfield_check
from mira.tasks import Modality

AIR_HU = -1024.0
PADDING_HU_AT_MOST = -900.0
PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


@dataclass(frozen=True)
class Slice:
    """One slice as stored.

    Attributes:
        header: the dataset without pixels; flattened from the functional groups for a frame of an enhanced image.
        stored: [rows, columns] integers, before the rescale.
        file: where it came from.
    """

    header: Dataset
    stored: NDArray[Any]
    file: Path


def read_slices(path: Path) -> list[Slice]:
    """Read a file: one slice, or a slice per frame of an enhanced image.

    Raises:
        Refused: when it is not an acquired slice, or its pixels cannot be decoded as the header declares.
    """
    try:
        dataset = dcmread(path, force=True)
    except Exception as error:
        raise Refused(Reason.UNREADABLE) from error
    triage(dataset)
    if "PixelData" not in dataset:
        raise Refused(Reason.NO_PIXELS)
    try:
        stored = np.asarray(dataset.pixel_array)
    except Exception as error:
        raise Refused(Reason.UNDECODABLE) from error
    for keyword in PIXEL_KEYWORDS:
        if keyword in dataset:
            delattr(dataset, keyword)
    if not is_enhanced(dataset):
        return [Slice(dataset, stored, path)]
    frames = stored if stored.ndim == 3 else stored[None]
    headers = flatten_frames(dataset)
    if len(headers) != len(frames):
        raise Refused(Reason.NO_GEOMETRY, f"{len(frames)} frames, {len(headers)} functional groups")
    return [Slice(header, frame, path) for header, frame in zip(headers, frames, strict=True)]


def flatten_frames(dataset: Dataset) -> list[Dataset]:
    """Header of each frame of an enhanced image, as a classic image would have it.

    The attributes of the shared functional groups and then of the frame's own are lifted to the top.
    """
    shared = h.items(dataset, GROUPS[0])
    base = Dataset()
    base.update({element.tag: element for element in dataset if element.keyword not in GROUPS})
    for group in shared[:1]:
        _lift(group, base)
    result = []
    for number, group in enumerate(h.items(dataset, GROUPS[1]), start=1):
        header = Dataset()
        header.update(base)
        header.file_meta = dataset.file_meta
        _lift(group, header)
        header.InstanceNumber = number
        if "FrameType" in header:
            header.ImageType = header.FrameType
        if "EffectiveEchoTime" in header and "EchoTime" not in header:
            header.EchoTime = header.EffectiveEchoTime
        triage(header)
        result.append(header)
    return result


def _lift(group: Dataset, header: Dataset) -> None:
    for element in group:
        if element.VR == "SQ" and not element.tag.is_private and element.value:
            header.update({inner.tag: inner for inner in element.value[0] if not inner.tag.is_private})


def rescale(piece: Slice, modality: Modality, out: NDArray[np.float32]) -> set[str]:
    """Write a slice's values after its own rescale and padding into `out`.

    Args:
        piece: the slice.
        modality: its modality; CT needs a rescale to HU and PET one to activity, MR may go without.
        out: [rows, columns], overwritten.

    Returns:
        Codes of what was odd.

    Raises:
        Refused: when the scale is not known.
    """
    slope, intercept = h.number(piece.header, "RescaleSlope"), h.number(piece.header, "RescaleIntercept")
    if modality is Modality.CT:
        hounsfield_check(piece.header)
    elif (modality is Modality.PET and slope is None) or slope == 0:
        raise Refused(Reason.NO_RESCALE)
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    # in double precision, so that every value is the nearest float32 to what the header says
    out[...] = piece.stored if (slope, intercept) == (1.0, 0.0) else piece.stored * slope + intercept
    return _clear_padding(piece, modality, slope, intercept, out)


def _clear_padding(
    piece: Slice, modality: Modality, slope: float, intercept: float, out: NDArray[np.float32]
) -> set[str]:
    """CT: padding and everything below air becomes air. PET and MR: padding becomes zero."""
    warnings = set()
    padding = _padding_range(piece)
    if padding is not None:
        inside = (piece.stored >= padding[0]) & (piece.stored <= padding[1])
        if inside.any():
            top = padding[1] * slope + intercept
            if modality is not Modality.CT:
                out[inside] = 0.0
                warnings.add("padding-set-to-zero")
            elif top <= PADDING_HU_AT_MOST:
                out[inside] = AIR_HU
                warnings.add("padding-set-to-air")
            else:
                warnings.add("padding-value-is-tissue")  # a declared padding that real tissue has too: left alone
    if modality is Modality.CT:
        below = out < AIR_HU
        if below.any():
            out[below] = AIR_HU
            warnings.add("below-air-set-to-air")
    return warnings


def _padding_range(piece: Slice) -> tuple[float, float] | None:
    """Stored values that mean "no measurement", lowest and highest."""
    value = h.number(piece.header, "PixelPaddingValue")
    if value is None:
        return None
    limit = h.number(piece.header, "PixelPaddingRangeLimit")
    ends = [value, value if limit is None else limit]
    bits = h.number(piece.header, "BitsAllocated") or 16
    if h.number(piece.header, "PixelRepresentation") == 1:  # written as unsigned by some for signed pixels
        ends = [end - 2**bits if end >= 2 ** (bits - 1) else end for end in ends]
    return min(ends), max(ends)
