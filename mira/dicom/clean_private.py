"""Private attributes that may stay: what they hold is known, and they hold numbers of the acquisition or its moment."""

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from mira.dicom import clean_values as clean
from mira.dicom.confidentiality import Retain

SAFE: dict[tuple[str, int, int], str] = {
    # Philips PET: factors from counts to SUV and to Bq/ml, without which images in CNTS have no unit
    ("Philips PET Private Group", 0x7053, 0x00): "DS",
    ("Philips PET Private Group", 0x7053, 0x09): "DS",
    # GE PET: start of the scan, the reference of the decay correction
    ("GEMS_PETD_01", 0x0009, 0x0D): "DT",
    # b-value, and direction, of diffusion images
    ("GEMS_PARM_01", 0x0043, 0x39): "IS",
    ("SIEMENS MR HEADER", 0x0019, 0x0C): "IS",
    ("SIEMENS MR HEADER", 0x0019, 0x0E): "FD",
    ("SIEMENS MR HEADER", 0x0019, 0x27): "FD",
    ("Philips Imaging DD 001", 0x2001, 0x03): "FL",
    # Philips MR: slope and intercept to the floating-point values
    ("Philips MR Imaging DD 001", 0x2005, 0x0D): "FL",
    ("Philips MR Imaging DD 001", 0x2005, 0x0E): "FL",
}
"""(private creator, group, element) and the VR in which it is written; a part of Table E.3.10-1 of PS3.15."""


def copy_private(source: Dataset, target: Dataset, coded: clean.Coded, retain: frozenset[Retain], days: int) -> None:
    """Copy the private attributes of the allow-list from one dataset (not from its sequences) to another.

    Args:
        source: what was read.
        target: what is written; gets the creators of the blocks that it needs, at the places they had.
        coded: filter of the source object.
        retain: options; without PRIVATE nothing is copied.
        days: days by which dates move back.
    """
    if Retain.PRIVATE not in retain:
        return
    blocks = [(tag, _text(source, tag)) for tag in sorted(source.keys()) if tag.is_private_creator]
    for block, creator in blocks:
        for (wanted, group, offset), vr in SAFE.items():
            if (wanted, group) != (creator, block.group) or (vr == "DT" and Retain.DATES not in retain):
                continue
            tag = Tag(group, (block.element << 8) + offset)
            values = _values(source, tag, vr, coded, days)
            if values:
                target.add_new(block, "LO", creator)
                target.add_new(tag, vr, values if len(values) > 1 else values[0])


def _values(source: Dataset, tag: int, vr: str, coded: clean.Coded, days: int) -> list[str] | list[float]:
    """All values in a VR; empty when one of them is not what it should be."""
    if tag not in source:
        return []
    given = _element_values(source, tag)
    if vr in ("FL", "FD"):
        numbers = [coded.number(value, "DS") for value in given]
        return [float(value) for value in numbers if value is not None] if None not in numbers else []
    found = [clean.shifted_date_time(v, days) if vr == "DT" else coded.number(v, vr) for v in given]
    return [value for value in found if value is not None] if None not in found else []


def _element_values(source: Dataset, tag: int) -> list[str]:
    """Values as text; of an unknown VR (UN, in implicit files) the bytes are taken as text."""
    try:
        element: DataElement = source[tag]
    except Exception:  # an unreadable attribute is an absent one
        return []
    value = element.value
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace").strip("\0 ").split("\\")
    many = value if isinstance(value, list | tuple) or hasattr(value, "append") else [value]
    return [str(item).strip() for item in many if item is not None]


def _text(source: Dataset, tag: int) -> str:
    return "\\".join(_element_values(source, tag))
