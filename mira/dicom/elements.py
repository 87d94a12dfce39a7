"""A fast reader for what most files are: little endian, with a preamble, pixels as they are.

Attributes stay as raw bytes, for pydicom to convert when they are asked for, and the pixels are a view of the file's
bytes. pydicom builds the same data set, but spends longer on it than all the rest of ingest takes. Everything that is
unusual (big endian, deflated, no preamble, compressed pixels, a length that leads out of the file, a VR that does not
exist, unused bits that are used) gives None here, and is pydicom's.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import RawDataElement, empty_value_for_VR
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.filereader import data_element_generator
from pydicom.tag import BaseTag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR
from pydicom.values import convert_string

from mira.dicom import headers as h
from mira.dicom.matrix import matrix_of, stored_values
from mira.dicom.raw import tag_of

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
NOT_EXPLICIT_LITTLE = {"", IMPLICIT, "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"}
NATIVE = {IMPLICIT, EXPLICIT}
UNDEFINED = 0xFFFFFFFF
PIXEL_DATA, OTHER_PIXELS, CHARACTER_SET = 0x7FE00010, (0x7FE00008, 0x7FE00009), 0x00080005
META_END = 0x00030000
HIGHEST = 0xFFFFFFFF
SPECIAL = {PIXEL_DATA, CHARACTER_SET}
SHORT, LONG = Struct("<H").unpack_from, Struct("<L").unpack_from
VRS = {str(vr).encode(): (str(vr), vr in EXPLICIT_VR_LENGTH_32) for vr in VR if len(str(vr)) == 2}
"""For each VR as it is written: its name, and whether its length has four bytes."""

Elements = dict[BaseTag, RawDataElement]
START_BYTES = 8
"""Tag, VR and length of an element; of one with a length of four bytes and a VR, all but that length."""
LONG_LENGTH = -1
"""In the place of a length: it is in the next four bytes."""
Start = tuple[int, BaseTag, str | None, int, bytes | None, bool]
"""Tag as a number and as an object, VR where it is written, length, the value when it is empty, and whether the element
is one of `SPECIAL` or of undefined length."""
STARTS: dict[bool, dict[bytes, Start]] = {False: {}, True: {}}
"""What the first bytes of an element mean, with the VR written and without: made out once, and not once per file."""
MOST_STARTS = 65536
new_tuple = tuple.__new__


class _Unusual(Exception):
    """Leave it to pydicom."""


@dataclass(frozen=True)
class Native:
    """An uncompressed grey-scale slice.

    Attributes:
        header: data set without its pixel data.
        stored: [rows, columns] stored values, a read-only view of the file's bytes.
        begin: where they begin in the file.
        bounds: no stored value lies outside these two, by the bits that are used.
    """

    header: FileDataset
    stored: NDArray[np.integer]
    begin: int
    bounds: tuple[int, int]


@dataclass(frozen=True)
class Fetched:
    """A file that was read and hashed once.

    Attributes:
        content: SHA-256 in hexadecimal that tells the file's content from every other.
        native: what was in it, or None when pydicom has to read it.
        pixels: BLAKE3 of the stored values of `native`; b"" without it.
    """

    content: str
    native: Native | None
    pixels: bytes


def fetch(path: Path) -> Fetched:
    """Read a file once, and hash it as it is read.

    The pixels are most of a file and are hashed once only: the hash of the content is over the bytes before them,
    their hash, and the bytes behind them.

    Raises:
        OSError: when it cannot be read.
    """
    content = path.read_bytes()
    native = read_native(content)
    if native is None:
        return Fetched(hashlib.sha256(content).hexdigest(), None, b"")
    pixels = pixel_digest(native.stored)
    digest = hashlib.sha256(memoryview(content)[: native.begin])
    digest.update(pixels)
    digest.update(memoryview(content)[native.begin + native.stored.nbytes :])
    return Fetched(digest.hexdigest(), native, pixels)


def pixel_digest(stored: NDArray[Any]) -> bytes:
    """BLAKE3 of stored values, little endian; SHA-256 takes more than twice as long."""
    little = np.ascontiguousarray(stored, stored.dtype.newbyteorder("<"))
    return blake3(little.data.cast("B")).digest()


def read_header(start: bytes, last_tag: int) -> FileDataset | None:
    """Header of a file from its first bytes, up to an attribute.

    Args:
        start: the beginning of the file.
        last_tag: the last attribute that is wanted.

    Returns:
        The data set, or None when it is unusual or goes on behind `start`.
    """
    try:
        meta, at = _meta(start)
        syntax = h.uid(meta, "TransferSyntaxUID")
        if syntax in NOT_EXPLICIT_LITTLE - {IMPLICIT} or not syntax.startswith("1.2.840.10008."):
            return None
        found, _, end = _walk(start, at, syntax == IMPLICIT, last_tag)
    except _Unusual:
        return None
    return _dataset(start, found, meta, syntax == IMPLICIT) if end is not None else None


def read_native(content: bytes) -> Native | None:
    """An uncompressed grey-scale slice from the bytes of its file, or None when it is unusual."""
    try:
        meta, at = _meta(content)
        syntax = h.uid(meta, "TransferSyntaxUID")
        if syntax not in NATIVE:
            return None
        found, pixels, _ = _walk(content, at, syntax == IMPLICIT, None)
    except _Unusual:
        return None
    if pixels is None or any(BaseTag(tag) in found for tag in OTHER_PIXELS):
        return None
    dataset = _dataset(content, found, meta, syntax == IMPLICIT)
    matrix = matrix_of(dataset)
    stored = None if matrix is None else stored_values(content, *pixels, matrix)
    if matrix is None or stored is None:
        return None
    return Native(dataset, stored, pixels[0], (matrix.lowest, matrix.highest))


def _meta(content: bytes) -> tuple[FileMetaDataset, int]:
    """(file meta information, where the data set begins)."""
    if content[128:132] != b"DICM":
        raise _Unusual
    found, _, end = _walk(content, 132, False, META_END - 1)
    if end is None or not found or any(tag.group != 2 for tag in found):
        raise _Unusual
    return FileMetaDataset(found), end


def _walk(
    content: bytes, at: int, implicit: bool, last_tag: int | None
) -> tuple[Elements, tuple[int, int] | None, int | None]:
    """Collect elements.

    Returns:
        (elements by tag, begin and length of the pixel data, where an element behind `last_tag` begins).

    Raises:
        _Unusual: when something is not as it should be.
    """
    found: Elements = {}
    pixels: tuple[int, int] | None = None
    encoding, starts = default_encoding, STARTS[implicit]
    last, size = HIGHEST if last_tag is None else last_tag, len(content)
    if implicit and content[at + 4 : at + 6] in VRS:
        raise _Unusual  # the file says implicit, and is not
    while at < size:
        key = content[at : at + START_BYTES]
        start = starts.get(key)
        if start is None:
            if _number(key) > last:
                return found, pixels, at
            start = starts[key] = _learn(key, implicit, starts)
        number, tag, vr, length, empty, special = start
        if number > last:
            return found, pixels, at
        if size - at < 12:
            raise _Unusual
        begin = at
        if length == LONG_LENGTH:
            length = LONG(content, at + 8)[0]
            special = special or length == UNDEFINED
            at += 12
        else:
            at += 8
        if special and length == UNDEFINED:
            found[tag], at = _undefined(content, begin, implicit, encoding)
            continue
        end = at + length
        if end > size:
            raise _Unusual
        if special and number == PIXEL_DATA:
            pixels = at, length
        else:
            value = content[at:end] if length else empty
            found[tag] = new_tuple(RawDataElement, (tag, vr, length, value, at, implicit, True, True, False))
            if special:
                encoding = convert_string(value or b"", True)
        at = end
    return found, pixels, None


def _number(key: bytes) -> int:
    return (key[1] << 24 | key[0] << 16 | key[3] << 8 | key[2]) if len(key) >= 4 else 0


def _learn(key: bytes, implicit: bool, starts: dict[bytes, Start]) -> Start:
    """What the first bytes of an element mean.

    Raises:
        _Unusual: when there is no such VR, the element is a delimiter, or the file ends in it.
    """
    number = _number(key)
    if len(key) < START_BYTES or number >> 16 == 0xFFFE:
        raise _Unusual
    if implicit:
        vr, length = None, LONG(key, 4)[0]
    else:
        known = VRS.get(key[4:6])
        if known is None:
            raise _Unusual
        vr, length = known[0], LONG_LENGTH if known[1] else SHORT(key, 6)[0]
    if len(starts) > MOST_STARTS:
        starts.clear()
    special = number in SPECIAL or length == UNDEFINED
    return number, tag_of(number), vr, length, empty_value_for_VR(vr, raw=True), special


def _undefined(content: bytes, at: int, implicit: bool, encoding: str) -> tuple[RawDataElement, int]:
    """An element of undefined length, mostly a sequence, and where the next one begins; pydicom's own reading."""
    stream = BytesIO(content)  # shares the bytes
    stream.seek(at)
    try:
        element = next(data_element_generator(stream, implicit, True, encoding=encoding))
    except Exception as error:
        raise _Unusual from error
    return element, stream.tell()


def _dataset(content: bytes, found: Elements, meta: FileMetaDataset, implicit: bool) -> FileDataset:
    dataset = FileDataset("", found, content[:128], meta, implicit, True)
    names = found.get(BaseTag(CHARACTER_SET))
    dataset.set_original_encoding(implicit, True, _encodings((names.value or b"") if names else None))
    return dataset


@lru_cache(maxsize=64)
def _encodings(names: bytes | None) -> str | list[str]:
    """Python's names of the character sets."""
    found: str | list[str] = default_encoding if names is None else convert_encodings(convert_string(names, True))
    return found
