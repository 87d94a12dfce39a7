"""Values straight from the bytes of a header, for the plain kinds of value: the words of pydicom, much sooner."""

from functools import cache

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

PLAIN_VRS = {"CS", "UI", "DS", "LO", "SH"}
"""Text of one line that has no meaning of its own for pydicom but the separator."""
ESCAPE = b"\x1b"


def raw_text(header: Dataset, keyword: str) -> str | None:
    """The value of a code, UID, decimal string, short or line of ASCII that pydicom has not converted yet.

    Args:
        header: where to look.
        keyword: the attribute.

    Returns:
        The text with its separators, "" when the attribute is absent or empty, None when pydicom has to tell.
    """
    tag, vr = _known(keyword)
    if tag is None:
        return None
    try:
        element = header.get_item(tag)
    except Exception:  # pydicom converts some at once, and raises many types on a bad one
        return None
    if element is None:
        return ""
    if not isinstance(element, RawDataElement) or (element.VR or vr) != vr:
        return None
    value = element.value or b""
    if vr == "US" and len(value) == 2:
        return str(int.from_bytes(value, "little" if element.is_little_endian else "big"))
    if vr not in PLAIN_VRS or not value.isascii() or ESCAPE in value:
        return None  # another character set
    return value.decode("ascii").rstrip(" \0")


@cache
def _known(keyword: str) -> tuple[BaseTag | None, str]:
    number = tag_for_keyword(keyword)
    return (None, "") if number is None else (tag_of(number), dictionary_VR(number))


@cache
def tag_of(number: int) -> BaseTag:
    """A tag as pydicom has it; one object for each, which makes looking it up several times as fast."""
    return BaseTag(number)
