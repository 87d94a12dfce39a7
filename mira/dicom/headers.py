"""Reading values from headers that may be wrong: a bad value is a missing value, never a crash."""

import logging
import math
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone

from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from mira.dicom.raw import raw_text

CODE = re.compile(r"[A-Za-z0-9 ._+\-/&()]{1,64}")
"""No caret: it divides a person's name."""
UID = re.compile(r"[0-9]+(\.[0-9]+)+")
PLACEHOLDER = re.compile(r"[\s*?_.\-xX0]*|anonym(ous|ized|ised|e)?|unknown|none|n/?a", re.IGNORECASE)

FURTHEST_ZONE_MINUTES = 14 * 60
"""Offsets from UTC run from -12:00 to +14:00."""


class _Tolerance:
    """The settings of pydicom and of warnings, which a process has once: changed by the first user, back by the last.

    A thread that put them back on its own would let the others' readers speak, and might keep another's settings.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._former = ExitStack()

    def enter(self) -> None:
        with self._lock:
            if self._users == 0:
                logger, settings = logging.getLogger("pydicom"), config.settings
                self._former.enter_context(warnings.catch_warnings())
                self._former.callback(logger.setLevel, logger.level)
                self._former.callback(setattr, settings, "reading_validation_mode", settings.reading_validation_mode)
                warnings.simplefilter("ignore")
                logger.setLevel(logging.CRITICAL + 1)
                settings.reading_validation_mode = config.IGNORE
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._former.close()


_TOLERANCE = _Tolerance()


@contextmanager
def tolerant() -> Iterator[None]:
    """Let pydicom read invalid values without a word: its warnings quote them, and they may name a patient.

    It holds for the whole process, until the last of all threads that asked for it is done.
    """
    _TOLERANCE.enter()
    try:
        yield
    finally:
        _TOLERANCE.leave()


def elements(header: Dataset) -> Iterator[DataElement]:
    """The elements in the order of their tags, but for those that cannot be converted, such as a number of three bytes.

    What pydicom says of such a value quotes it, and it may be a patient's.
    """
    found = (_element(header, tag) for tag in sorted(header.keys()))
    yield from (element for element in found if element is not None)


def _element(header: Dataset, tag: BaseTag) -> DataElement | None:
    try:
        return header[tag]
    except Exception:  # pydicom raises many types on a bad value, and all mean: not known
        return None


def values(header: Dataset, keyword: str) -> list[str]:
    """All values of an attribute as stripped text; empty when absent, empty or not convertible."""
    raw = raw_text(header, keyword)
    if raw is not None:
        return [part.strip().strip("\0") for part in raw.split("\\")] if raw else []
    try:
        value = header.get(keyword)
        if value is None or isinstance(value, Sequence):
            return []
        items = value if isinstance(value, MultiValue | list | tuple) else [value]
        return [str(item).strip().strip("\0") for item in items if item is not None]
    except Exception:  # pydicom raises many types on a bad value, and all mean: not known
        return []


def text(header: Dataset, keyword: str) -> str:
    """The value as text, several values joined by a backslash as in DICOM; "" when absent."""
    raw = raw_text(header, keyword)
    if raw is not None and "\\" not in raw:
        return raw.strip().strip("\0")
    return "\\".join(values(header, keyword)).strip("\\")


def numbers(header: Dataset, keyword: str) -> list[float]:
    """The values as finite numbers; empty when absent or when any of them is no number."""
    result = []
    for value in values(header, keyword):
        try:
            number = float(value)
        except ValueError:
            return []
        if not math.isfinite(number):
            return []
        result.append(number)
    return result


def number(header: Dataset, keyword: str) -> float | None:
    """The first value as a finite number, or None."""
    found = numbers(header, keyword)
    return found[0] if found else None


def uid(header: Dataset, keyword: str) -> str:
    """The value when it is a UID; "" otherwise."""
    value = text(header, keyword)
    return value if UID.fullmatch(value) else ""


def code(header: Dataset, keyword: str, length: int = 64) -> str:
    """Coded words only: "" unless every character is in a narrow set and the value is short.

    Free text can carry a patient's name; what passes here is a vendor's code, a kernel, a sequence type.
    """
    value = "/".join(values(header, keyword))
    return value if CODE.fullmatch(value) and len(value) <= length else ""


def items(header: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; empty when absent or unreadable."""
    try:
        sequence = header.get(keyword)
        return [item for item in sequence if isinstance(item, Dataset)] if sequence is not None else []
    except Exception:  # an unreadable sequence is an absent one
        return []


def is_placeholder(value: str) -> bool:
    """Whether an identifier says nothing: empty, `***`, `0000`, `ANONYMIZED`."""
    return PLACEHOLDER.fullmatch(value) is not None


def moment(date: str, time: str) -> datetime | None:
    """A DICOM date (YYYYMMDD) and time (HHMMSS.FFFFFF, shortened at will) as one moment, or None."""
    day = re.fullmatch(r"(\d{4})[.\-]?(\d\d)[.\-]?(\d\d)", date)
    seconds = seconds_of_day(time)
    if day is None or seconds is None:
        return None
    try:
        return datetime(int(day[1]), int(day[2]), int(day[3])) + timedelta(seconds=seconds)
    except ValueError:
        return None


def seconds_of_day(time: str) -> float | None:
    """A DICOM time as seconds since midnight, or None."""
    match = re.fullmatch(r"(\d\d):?(\d\d)?:?(\d\d(?:\.\d{1,9})?)?", time)
    if match is None:
        return None
    hours, minutes, seconds = int(match[1]), int(match[2] or 0), float(match[3] or 0)
    return hours * 3600 + minutes * 60 + seconds if hours < 24 and minutes < 60 and seconds <= 60 else None


def date_time(value: str) -> datetime | None:
    """A DICOM date-time (YYYYMMDDHHMMSS.FFFFFF&ZZXX) as a moment in local time, or None."""
    match = re.fullmatch(r"(\d{8})(\d{2,6}(?:\.\d{1,9})?)(?:[+-]\d{4})?", value)
    return moment(match[1], match[2]) if match else None


def time_zone(header: Dataset) -> timezone | None:
    """The zone that a data set's times are in, by its Timezone Offset From UTC (&ZZXX); None when it names none."""
    match = re.fullmatch(r"([+-])(\d\d)([0-5]\d)", text(header, "TimezoneOffsetFromUTC"))
    if match is None:
        return None
    minutes = int(match[1] + "1") * (60 * int(match[2]) + int(match[3]))
    return timezone(timedelta(minutes=minutes)) if abs(minutes) <= FURTHEST_ZONE_MINUTES else None


def private(header: Dataset, group: int, creator: str, element: int) -> str:
    """A private value as stripped text, looked up in the block that its creator reserved; "" when absent."""
    try:
        return str(header.private_block(group, creator)[element].value).strip().strip("\0")
    except Exception:  # no such block or element, or a value that cannot be converted
        return ""
