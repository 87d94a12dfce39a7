"""What a file may ask for: sizes are checked against what the file really holds before any memory is taken.

A header of 200 bytes can claim 65535 x 65535 pixels in 10,000 frames, a compressed stream can claim another size than
the header does, and a deflated data set can unpack to a thousand times its length. Damaged files do all three.
"""

import zlib
from pathlib import Path
from typing import BinaryIO

from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments
from pydicom.uid import DeflatedExplicitVRLittleEndian

from mira.dicom import headers as h
from mira.dicom.reasons import Reason, Refused
from mira.dicom.syntaxes import is_compressed

MOST_SLICE_PIXELS = 8192 * 8192
MOST_COMPRESSION = 2000
"""Highest believable ratio of decoded to compressed bytes; a slice of air in JPEG 2000 reaches some hundred."""
SMALL_BYTES = 2**24
"""Below this size nothing needs to be believable: it fits anywhere."""
MOST_INFLATED_BYTES = 2**31
DEFLATED = DeflatedExplicitVRLittleEndian.encode()
JPEG_SIZE_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


def check_sizes(dataset: Dataset) -> None:
    """Make sure that the pixels which the header declares can be in the pixel data that is there.

    Raises:
        Refused: when they cannot, or when a slice is larger than any scanner makes.
    """
    rows, columns = h.number(dataset, "Rows") or 0, h.number(dataset, "Columns") or 0
    frames = h.number(dataset, "NumberOfFrames") or 1
    bits = h.number(dataset, "BitsAllocated") or 16
    if not (rows >= 1 and columns >= 1 and rows * columns <= MOST_SLICE_PIXELS and frames >= 1 and 1 <= bits <= 64):
        raise Refused(Reason.UNDECODABLE, "the declared matrix, bits or number of frames is not possible")
    declared = rows * columns * frames * bits / 8
    held = len(dataset.PixelData)
    if not is_compressed(dataset):
        if held < declared:
            raise Refused(Reason.UNDECODABLE, f"the header declares {declared:.0f} bytes of pixels, {held} are there")
    elif declared > SMALL_BYTES and declared > held * MOST_COMPRESSION:
        raise Refused(Reason.UNDECODABLE, f"{held} compressed bytes cannot hold the {declared:.0f} that are declared")
    else:
        _check_streams(dataset.PixelData, (rows, columns))


def _check_streams(pixel_data: bytes, declared: tuple[float, float]) -> None:
    try:
        sizes = [stream_size(fragment[:4096]) for fragment in generate_fragments(pixel_data)]
    except Exception as error:
        raise Refused(Reason.UNDECODABLE) from error
    if any(size is not None and size != declared for size in sizes):
        raise Refused(Reason.UNDECODABLE, "a compressed stream declares another matrix than the header")


def stream_size(start: bytes) -> tuple[int, int] | None:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 code stream declares; None when it is none of them.

    Args:
        start: the beginning of the stream.
    """
    codestream = start.find(b"\xff\x4f\xff\x51")  # start of code stream and SIZ marker, maybe after JP2 boxes
    if codestream >= 0:
        corners = [int.from_bytes(start[at : at + 4], "big") for at in range(codestream + 8, codestream + 24, 4)]
        return corners[1] - corners[3], corners[0] - corners[2]
    at = 2
    while start[:2] == b"\xff\xd8" and at + 9 <= len(start) and start[at] == 0xFF:
        if start[at + 1] in JPEG_SIZE_MARKERS:
            return int.from_bytes(start[at + 5 : at + 7], "big"), int.from_bytes(start[at + 7 : at + 9], "big")
        at += 2 + int.from_bytes(start[at + 2 : at + 4], "big")
    return None


def check_inflated(path: Path) -> None:
    """Make sure that a file in the deflated transfer syntax unpacks to a bearable size; others cost one small read.

    Raises:
        Refused: when it does not.
    """
    with path.open("rb") as stream:
        start = stream.read(1024)
        found = start.find(DEFLATED)
        if start[128:132] != b"DICM" or found < 0:
            return
        stream.seek(_end_of_meta(start))
        check_inflated_stream(stream)


def check_inflated_stream(stream: BinaryIO) -> None:
    """Make sure that a deflated data set unpacks to a bearable size.

    Args:
        stream: at the beginning of the data set.

    Raises:
        Refused: when it does not, or is damaged.
    """
    unpacker, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while chunk := stream.read(65536):
        while chunk:
            try:
                total += len(unpacker.decompress(chunk, 2**20))
            except zlib.error as error:
                raise Refused(Reason.UNREADABLE) from error
            if total > MOST_INFLATED_BYTES:
                raise Refused(Reason.UNREADABLE, "the deflated file unpacks to an unreasonable size")
            chunk = unpacker.unconsumed_tail


def _end_of_meta(start: bytes) -> int:
    """Where the data set begins: behind the last element of group 0002, which is always explicit little endian."""
    at = 132
    while start[at : at + 2] == b"\x02\x00":
        if start[at + 4 : at + 6] in (b"OB", b"UN"):
            at += 12 + int.from_bytes(start[at + 8 : at + 12], "little")
        else:
            at += 8 + int.from_bytes(start[at + 6 : at + 8], "little")
    return at
