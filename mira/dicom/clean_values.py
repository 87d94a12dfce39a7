"""Values that may stay: rebuilt from what they must look like, so that what looks otherwise cannot pass.

Every function takes one value as text and returns what is written in its place, or None when nothing of it may stay.
"""

import math
import re
from datetime import date, timedelta

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from mira.dicom import headers as h
from mira.dicom.facts import IDENTIFYING
from mira.dicom.vocabulary import IMAGING_WORDS, STANDARD_TERMS

CODE_STRING = re.compile(r"[A-Z0-9 _]{1,16}")
TEXT_LENGTH = {"SH": 16, "LO": 64, "AE": 16, "CS": 16}
DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
AGE = re.compile(r"(\d{3})([DWMY])")
OLDEST_YEARS = 89  # of older people the age alone singles out; US rule 45 CFR 164.514(b)(2)(i)(C)
DATE_TIME = re.compile(r"(\d{8})((?:\d{2}){0,3}(?:\.\d{1,6})?)([+-]\d{4})?")
LONG_DIGITS = 5
SERIAL_NUMBER = "DeviceSerialNumber"


def shifted_date(value: str, days_back: int) -> str | None:
    """A date (YYYYMMDD, or with the dots or dashes of old) moved into the past."""
    match = re.fullmatch(r"(\d{4})([.\-]?)(\d\d)\2(\d\d)", value)
    if match is None:
        return None
    try:
        moved = date(int(match[1]), int(match[3]), int(match[4])) - timedelta(days=days_back)
    except (ValueError, OverflowError):
        return None
    return f"{moved.year:04d}{moved.month:02d}{moved.day:02d}"


def shifted_date_time(value: str, days_back: int) -> str | None:
    """A date-time with its day moved into the past; the time of day and the zone stay, so that intervals do."""
    match = DATE_TIME.fullmatch(value)
    day = shifted_date(match[1], days_back) if match else None
    return f"{day}{match[2]}{match[3] or ''}" if match and day else None


def time_of_day(value: str) -> str | None:
    """A valid time, as it is."""
    return value if h.seconds_of_day(value) is not None else None


def capped_age(value: str) -> str | None:
    """An age in days, weeks, months or years; everybody above 89 years is 90."""
    match = AGE.fullmatch(value)
    if match is None:
        return None
    per_year = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}[match[2]]
    return "090Y" if int(match[1]) / per_year > OLDEST_YEARS else value


def technical_words(value: str) -> str | None:
    """What a description says of the imaging: words of a fixed vocabulary and short numbers, and nothing else."""
    words = [word for word in re.split(r"[^A-Za-z0-9.]+", value) if word.upper() in IMAGING_WORDS or _short(word)]
    return " ".join(words) if any(word.upper() in IMAGING_WORDS for word in words) else None


def _short(word: str) -> bool:
    return re.fullmatch(r"\d{1,2}(\.\d{1,2})?(mm|cm|ms)?", word, re.IGNORECASE) is not None


class Coded:
    """Passes coded words and numbers, unless they repeat a word by which the same object names somebody."""

    def __init__(self, source: Dataset) -> None:
        """Collect the identifying words of a dataset and all its sequences."""
        people: set[str] = set()
        _collect(source, people)
        self.people = people - STANDARD_TERMS
        self.words = self.people | (parts(h.text(source, SERIAL_NUMBER)) - STANDARD_TERMS)

    def repeats(self, value: str) -> bool:
        """Whether an identifying word turns up in a value."""
        return bool(parts(value) & self.words)

    def device_text(self, value: str, vr: str) -> str | None:
        """A value that names a device, as the device option keeps it: its serial number is no reason against it."""
        short = len(value) <= TEXT_LENGTH.get(vr, 64)
        return value if short and h.CODE.fullmatch(value) and not parts(value) & self.people else None

    def code_string(self, value: str) -> str | None:
        """A value of VR CS."""
        value = value.upper()
        return value if CODE_STRING.fullmatch(value) and not self.repeats(value) else None

    def text(self, value: str, vr: str) -> str | None:
        """A value of a text attribute that is on the allow-list."""
        short = len(value) <= TEXT_LENGTH.get(vr, 64)
        return value if short and h.CODE.fullmatch(value) and not self.repeats(value) else None

    def number(self, value: str, vr: str) -> str | None:
        """A value of VR DS or IS."""
        if not DECIMAL.fullmatch(value) or not math.isfinite(float(value)):
            return None
        digits = value.lstrip("+-0")
        if len(digits) >= LONG_DIGITS and digits.isdigit() and any(digits in word for word in self.words):
            return None
        if vr == "IS":
            return str(int(float(value))) if float(value).is_integer() and abs(float(value)) < 2**31 else None
        return value if len(value) <= 16 else format_number_as_ds(float(value))


def parts(value: str) -> set[str]:
    """Words of three characters and more, in capitals, and each value whole, with and without separators."""
    text = value.upper()
    found = [*re.split(r"[\W_]+", text), re.sub(r"[\W_]+", "", text), *(whole.strip() for whole in text.split("\\"))]
    return {part for part in found if len(part) >= 3}


def _collect(source: Dataset, words: set[str]) -> None:
    """Words of identifiers of people, names and dates, wherever they are."""
    for keyword in IDENTIFYING:
        if keyword != SERIAL_NUMBER:
            words |= parts(h.text(source, keyword))
    for tag in list(source.keys()):
        try:
            element = source[tag]
            if element.VR == "PN":
                words |= parts(str(element.value))
            elif element.VR == "SQ":
                for item in element.value:
                    _collect(item, words)
        except Exception:  # noqa: S112  (what cannot be read cannot be copied either)
            continue


def standard_vr(tag: int, given: str) -> str:
    """The one VR that the dictionary knows, or the given one where it allows several (`US or SS`)."""
    known = dictionary_VR(tag)
    return given if " or " in known and given in known else known
