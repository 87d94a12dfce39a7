"""What a few attributes of a header mean, made out once for all the headers that have the same bytes there.

The slices of a series differ in position, number and UIDs; size, orientation, rescale and kind are written a thousand
times alike. A function that reads those alone need not read them a thousand times.
"""

from collections.abc import Callable, Hashable
from functools import wraps
from typing import TypeVar

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import BaseTag

from mira.dicom.raw import tag_of

MOST_HEADERS = 512
"""Results that a function keeps; then it begins anew."""
LONGEST_VALUE = 1024
"""Bytes of a value that is worth keeping."""
ABSENT = 0

T = TypeVar("T")


def remembered(*keywords: str) -> Callable[[Callable[[Dataset], T]], Callable[[Dataset], T]]:
    """Call a function of a header once for all headers with the same bytes in the given attributes.

    The function gets a header of these attributes and no other, so that nothing else can decide what it returns. Its
    result is shared and must not be changed. What it raises is not kept: it is called again.

    Args:
        keywords: all attributes that the function reads; those of group 0002 are taken from the file meta header.
    """
    numbers = [tag_for_keyword(keyword) for keyword in ("SpecificCharacterSet", *keywords)]
    tags = [tag_of(number) for number in numbers if number is not None]
    if len(tags) != len(numbers):
        raise ValueError("not a DICOM keyword among " + ", ".join(keywords))
    own, meta = [tag for tag in tags if tag.group != 2], [tag for tag in tags if tag.group == 2]

    def decorate(function: Callable[[Dataset], T]) -> Callable[[Dataset], T]:
        known: dict[Hashable, T] = {}

        @wraps(function)
        def ask(header: Dataset) -> T:
            key = _written(header, own, meta)
            if key is None:
                return function(header)
            if key not in known:
                result = function(_only(header, own, meta))
                if len(known) >= MOST_HEADERS:
                    known.clear()
                known[key] = result
            return known[key]

        return ask

    return decorate


def _written(header: Dataset, own: list[BaseTag], meta: list[BaseTag]) -> Hashable | None:
    """The bytes of the attributes and how they are encoded, None when one has been converted already, or is long."""
    found: list[Hashable] = [*header.original_encoding]
    about = getattr(header, "file_meta", None) if meta else None
    for place, tags in ((header, own), (about, meta)):
        for tag in tags:
            try:
                element = None if place is None else place.get_item(tag)
            except Exception:  # pydicom converts some at once, and raises many types on a bad one
                return None
            if element is None:
                found.append(ABSENT)
            elif isinstance(element, RawDataElement) and len(element.value or b"") <= LONGEST_VALUE:
                found += element.VR, element.value, element.is_little_endian
            else:
                return None
    return tuple(found)


def _only(header: Dataset, own: list[BaseTag], meta: list[BaseTag]) -> Dataset:
    """A header of some attributes of another one."""
    part = Dataset({tag: header.get_item(tag) for tag in own if tag in header})
    part.set_original_encoding(*header.original_encoding, header.original_character_set)
    about = getattr(header, "file_meta", None) if meta else None
    if about is not None:
        part.file_meta = FileMetaDataset({tag: about.get_item(tag) for tag in meta if tag in about})
    return part
