"""What to do with an attribute: the Basic Profile's action code under the options that are switched on."""

from enum import StrEnum

from pydicom.datadict import tag_for_keyword
from pydicom.tag import BaseTag

from mira.dicom import confidentiality_table as table

EDITION = "PS3.15 2024b"


class Retain(StrEnum):
    """Options that keep something; each has its code in context group 7050.

    `suv` is the patient characteristics option for what a standardised uptake value needs, and for PET only.
    """

    DATES = "dates"
    DEVICE = "device"
    CHARACTERISTICS = "characteristics"
    SUV = "suv"
    DESCRIPTORS = "descriptors"
    PRIVATE = "private"
    UIDS = "uids"


DEFAULT = frozenset({Retain.DATES, Retain.SUV, Retain.PRIVATE})
"""Enough for SUV and for intervals between examinations, and nothing else."""

METHOD_CODES = {
    Retain.DATES: ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    Retain.DEVICE: ("113109", "Retain Device Identity Option"),
    Retain.CHARACTERISTICS: ("113108", "Retain Patient Characteristics Option"),
    Retain.SUV: ("113108", "Retain Patient Characteristics Option"),
    Retain.DESCRIPTORS: ("113105", "Clean Descriptors Option"),
    Retain.PRIVATE: ("113111", "Retain Safe Private Option"),
    Retain.UIDS: ("113110", "Retain UIDs Option"),
}
BASIC_CODE = ("113100", "Basic Application Confidentiality Profile")
MOMENTS = ("DA", "TM", "DT")


class Action(StrEnum):
    """What is done with one attribute."""

    REMOVE = "X"
    EMPTY = "Z"
    DUMMY = "D"
    REPLACE_UID = "U"
    KEEP = "K"
    CLEAN = "C"
    SHIFT = "C (dates)"
    RECURSE = "U*"
    UNLISTED = "not in the table"


CHOSEN = {
    "X": Action.REMOVE, "Z": Action.EMPTY, "D": Action.DUMMY, "U": Action.REPLACE_UID, "Z/D": Action.DUMMY,
    "X/Z": Action.EMPTY, "X/D": Action.DUMMY, "X/Z/D": Action.DUMMY, "X/Z/U*": Action.RECURSE,
}  # fmt: skip
"""Which part of a combined code is taken: the one that leaves the object valid whatever its IOD demands."""


def _tags(names: str) -> frozenset[int]:
    return frozenset(_tag(name) for name in names.split())


def _tag(name: str) -> int:
    tag: int | None = tag_for_keyword(name)
    if tag is None:
        raise KeyError(name)
    return tag


BASIC: dict[int, str] = {_tag(name): code for code, names in table.ACTIONS.items() for name in names.split()}
DEVICE = _tags(table.DEVICE)
CHARACTERISTICS = _tags(table.CHARACTERISTICS)
CHARACTERISTICS_CLEANED = _tags(table.CHARACTERISTICS_CLEANED)
DESCRIPTORS = _tags(table.DESCRIPTORS)
SUV = _tags("PatientWeight PatientSize PatientSex")
BIRTH = _tags("PatientBirthDate PatientBirthTime")
TIME_ZONE = _tag("TimezoneOffsetFromUTC")
NEVER_KEPT_UIDS = _tags("DigitalSignatureUID UID")


def action(tag: BaseTag, vr: str, retain: frozenset[Retain]) -> Action:
    """What the profile with these options does with a standard attribute.

    Args:
        tag: the attribute; private ones have their own allow-list (`mira.dicom.clean_private`).
        vr: its value representation.
        retain: the options that are switched on.
    """
    if is_curve_or_overlay(tag):
        return Action.REMOVE
    code = BASIC.get(int(tag))
    if code is None:
        return _unlisted(vr, retain)
    kept = _kept(int(tag), code, vr, retain)
    if kept is not None:
        return kept
    chosen = CHOSEN[code]
    return Action.REMOVE if vr == "SQ" and "X" in code and chosen is not Action.RECURSE else chosen


def _unlisted(vr: str, retain: frozenset[Retain]) -> Action:
    """Dates, times and UIDs that the table does not name are treated like those that it does."""
    if vr in MOMENTS:
        return Action.SHIFT if Retain.DATES in retain else Action.REMOVE
    if vr == "UI":
        return Action.KEEP if Retain.UIDS in retain else Action.REPLACE_UID
    return Action.UNLISTED


def _kept(tag: int, code: str, vr: str, retain: frozenset[Retain]) -> Action | None:
    """What an option makes of a listed attribute; None when no option that is on concerns it."""
    if Retain.DATES in retain and tag not in BIRTH and (vr in MOMENTS or tag == TIME_ZONE):
        return Action.SHIFT
    if Retain.DEVICE in retain and tag in DEVICE:
        return Action.KEEP
    if Retain.CHARACTERISTICS in retain and tag in CHARACTERISTICS:
        return Action.KEEP
    if Retain.SUV in retain and tag in SUV:
        return Action.KEEP
    if Retain.UIDS in retain and code == "U" and tag not in NEVER_KEPT_UIDS:
        return Action.KEEP
    described = Retain.DESCRIPTORS in retain and tag in DESCRIPTORS
    if described or (Retain.CHARACTERISTICS in retain and tag in CHARACTERISTICS_CLEANED):
        return Action.CLEAN
    return None


def is_curve_or_overlay(tag: BaseTag) -> bool:
    """Whether an attribute belongs to a repeating group of curves (50xx) or overlays (60xx)."""
    return tag.group >> 8 in (0x50, 0x60) and tag.group % 2 == 0


def method_codes(retain: frozenset[Retain]) -> list[tuple[str, str]]:
    """Value and meaning of the codes (DCM, context group 7050) that declare the profile and its options."""
    return [BASIC_CODE, *sorted({METHOD_CODES[option] for option in retain})]
