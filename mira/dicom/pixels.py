"""From one file to its slices: header without pixels, stored values, and values after the rescale."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from mira.dicom import headers as h
from mira.dicom.archive import PASSING
from mira.dicom.elements import Fetched, fetch, pixel_digest
from mira.dicom.frames import frame_headers
from mira.dicom.limits import check_inflated, check_sizes
from mira.dicom.reasons import Reason, Refused
from mira.dicom.remembered import remembered
from mira.dicom.syntaxes import check_decoder, name_syntax, plugin
from mira.dicom.triage import is_enhanced, triage
from mira.dicom.units import hounsfield_check
from mira.tasks import Modality

AIR_HU = -1024.0
PADDING_HU_AT_MOST = -900.0
LIMITS = np.iinfo(np.int16)
PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
PIXEL_DATA_TAG = b"\xe0\x7f\x10\x00"
"""In a file whose pixels are cut off, the reader gives no pixel data at all, but the tag is there."""


@dataclass(frozen=True)
class Slice:
    """One slice as stored.

    Attributes:
        header: the dataset without pixels; flattened from the functional groups for a frame of an enhanced image.
        stored: [rows, columns] integers, before the rescale.
        file: where it came from.
        digest: BLAKE3 of the stored values as little-endian bytes; the same for every lossless transfer syntax.
        bounds: no stored value lies outside these two.
    """

    header: Dataset
    stored: NDArray[Any]
    file: Path
    digest: bytes
    bounds: tuple[int, int]


@dataclass(frozen=True)
class Content:
    """What a file holds: its slices, and why some of its frames are none.

    Attributes:
        slices: one, or one per frame of an enhanced image that is an acquired slice.
        refused: for each frame that is not, why.
    """

    slices: list[Slice]
    refused: list[Refused]


def read_slices(path: Path, fetched: Fetched | None = None) -> Content:
    """Read a file: one slice, or a slice per frame of an enhanced image.

    Args:
        path: the file.
        fetched: its content, when the caller has read it already.

    Raises:
        Refused: when it is no acquired image, or its pixels cannot be decoded as the header declares.
        OSError: when disk or network fail, which is no property of the file.
    """
    try:
        fetched = fetched or fetch(path)
    except OSError as error:
        if error.errno in PASSING:
            raise
        raise Refused(Reason.UNREADABLE) from error
    native = fetched.native
    if native is not None and not is_enhanced(native.header):
        triage(native.header)
        return Content([Slice(native.header, native.stored, path, fetched.pixels, native.bounds)], [])
    check_inflated(path)
    try:
        dataset = dcmread(path, force=True)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in PASSING:
            raise
        raise Refused(Reason.UNREADABLE) from error
    triage(dataset)
    if not _has_pixels(dataset):
        raise Refused(Reason.UNDECODABLE if PIXEL_DATA_TAG in path.read_bytes() else Reason.NO_PIXELS)
    stored = decoded(dataset)
    for keyword in PIXEL_KEYWORDS:
        if keyword in dataset:
            delattr(dataset, keyword)
    if not is_enhanced(dataset):
        return Content([_decoded_slice(dataset, stored, path)], [])
    images = stored if stored.ndim == 3 else stored[None]
    headers = list(frame_headers(dataset))
    if len(headers) != len(images):
        raise Refused(Reason.NO_GEOMETRY, f"{len(images)} frames, {len(headers)} functional groups")
    pairs = list(zip(headers, images, strict=True))
    slices = [_decoded_slice(header, image, path) for header, image in pairs if isinstance(header, Dataset)]
    return Content(slices, [header for header in headers if isinstance(header, Refused)])


def decoded(dataset: Dataset) -> NDArray[Any]:
    """Stored values of an image with its pixel data, [rows, columns] or [frames, rows, columns].

    Raises:
        Refused: when no codec for them is installed, or they cannot be decoded, or cannot be what the header declares;
            no memory is taken for them.
    """
    name_syntax(dataset)
    check_sizes(dataset)
    check_decoder(dataset)
    try:
        dataset.pixel_array_options(decoding_plugin=plugin(dataset))
        return np.asarray(dataset.pixel_array)
    except Exception as error:
        raise Refused(Reason.UNDECODABLE) from error


def _decoded_slice(header: Dataset, stored: NDArray[Any], path: Path) -> Slice:
    return Slice(header, stored, path, pixel_digest(stored), (int(stored.min()), int(stored.max())))


def _has_pixels(dataset: Dataset) -> bool:
    try:
        return isinstance(dataset.get("PixelData"), bytes) and len(dataset.PixelData) > 0
    except Exception:  # an element that cannot be converted is none
        return False


def is_whole(piece: Slice) -> bool:
    """Whether every value of a slice is a whole number of 16 bits after a rescale that only shifts it."""
    try:
        slope, intercept = _shift(*stated_rescale(piece.header))
    except Refused:
        return False
    if not _is_exact(piece, slope, intercept):
        return False
    return any(
        LIMITS.min <= lowest + intercept and highest + intercept <= LIMITS.max for lowest, highest in _bounds(piece)
    )


def _bounds(piece: Slice) -> Iterator[tuple[int, int]]:
    """What the values lie between: first what is known, then what they are."""
    yield piece.bounds
    yield int(piece.stored.min()), int(piece.stored.max())


def rescale(piece: Slice, modality: Modality, out: NDArray[np.float32] | NDArray[np.int16]) -> set[str]:
    """Write a slice's values after its own rescale and padding into `out`.

    Args:
        piece: the slice.
        modality: its modality; CT needs a rescale to HU and PET one to activity, MR may go without.
        out: [rows, columns], overwritten; it may be int16 for a slice that `is_whole`.

    Returns:
        Codes of what was odd.

    Raises:
        Refused: when the scale is not known.
    """
    stated = stated_rescale(piece.header)
    if modality is Modality.CT:
        hounsfield_check(piece.header)
    elif (modality is Modality.PET and stated[0] is None) or stated[0] == 0:
        raise Refused(Reason.NO_RESCALE)
    slope, intercept = _shift(*stated)
    if out.dtype == np.int16:  # the sum fits, so it is right modulo 2**16 as well
        np.add(_as_int16(piece.stored), np.int64(intercept).astype(np.int16), out=out)
    elif _is_exact(piece, slope, intercept):
        out[...] = piece.stored
        out += np.float32(intercept)
    else:  # in double precision, so that every value is the nearest float32 to what the header says
        out[...] = piece.stored * slope + intercept
    return _clear_padding(piece, modality, slope, intercept, out)


def _as_int16(stored: NDArray[Any]) -> NDArray[np.int16]:
    """The values modulo 2**16; the same memory where it is laid out so."""
    if stored.dtype.itemsize == 2 and stored.dtype.isnative:
        return stored.view(np.int16)
    return stored.astype(np.int16)


@remembered("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence")
def stated_rescale(header: Dataset) -> tuple[float | None, float | None]:
    """Slope and intercept of a header, None for one that is absent.

    Raises:
        Refused: when one is there and is no number, or the values go through a table.
    """
    slope, intercept = (_stated(header, keyword) for keyword in ("RescaleSlope", "RescaleIntercept"))
    if h.items(header, "ModalityLUTSequence"):
        raise Refused(Reason.NO_RESCALE, "the values go through a look-up table")
    return slope, intercept


def _stated(header: Dataset, keyword: str) -> float | None:
    """A number of the rescale, None when it is absent; one that is there and is none must not pass for absent."""
    number = h.number(header, keyword)
    if number is None and h.text(header, keyword):
        raise Refused(Reason.NO_RESCALE, f"{keyword} is no number")
    return number


def _shift(slope: float | None, intercept: float | None) -> tuple[float, float]:
    """The rescale that is meant."""
    return 1.0 if slope is None else slope, intercept or 0.0


def _is_exact(piece: Slice, slope: float, intercept: float) -> bool:
    """Whether a rescale gives whole numbers that float32 holds."""
    plain = piece.stored.dtype.kind in "iu" and piece.stored.dtype.itemsize <= 2
    return plain and slope == 1.0 and intercept.is_integer() and abs(intercept) < 2**23


def _clear_padding(
    piece: Slice, modality: Modality, slope: float, intercept: float, out: NDArray[np.float32] | NDArray[np.int16]
) -> set[str]:
    """CT: padding and everything below air becomes air. PET and MR: padding becomes zero."""
    warnings = set()
    padding = padding_range(piece)
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
    if modality is Modality.CT and min(bound * slope + intercept for bound in piece.bounds) < AIR_HU:
        below = out < AIR_HU
        if below.any():
            out[below] = AIR_HU
            warnings.add("below-air-set-to-air")
    return warnings


def padding_range(piece: Slice) -> tuple[float, float] | None:
    """Stored values that mean "no measurement", lowest and highest."""
    return _declared_padding(piece.header)


@remembered("PixelPaddingValue", "PixelPaddingRangeLimit", "BitsAllocated", "PixelRepresentation")
def _declared_padding(header: Dataset) -> tuple[float, float] | None:
    value = h.number(header, "PixelPaddingValue")
    if value is None:
        return None
    limit = h.number(header, "PixelPaddingRangeLimit")
    ends = [value, value if limit is None else limit]
    bits = h.number(header, "BitsAllocated") or 16
    if h.number(header, "PixelRepresentation") == 1:  # written as unsigned by some for signed pixels
        ends = [end - 2**bits if end >= 2 ** (bits - 1) else end for end in ends]
    return min(ends), max(ends)
