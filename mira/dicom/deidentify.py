"""De-identified DICOM objects by the Basic Profile of PS3.15 Annex E, with declared options.

An object is never edited: a new one is built, into which an attribute comes only by a rule that lets it in. What is
left out for want of a rule, of a readable value, or of a value that looks as its attribute demands, cannot leak.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import dictionary_has_tag, keyword_for_tag
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import ExplicitVRLittleEndian

from mira import __version__
from mira.dicom import clean_values as clean
from mira.dicom import headers as h
from mira.dicom.clean_private import copy_private
from mira.dicom.confidentiality import DEFAULT, EDITION, Action, Retain, action, method_codes
from mira.dicom.facts import standard_uid
from mira.dicom.pseudonym_key import load_pseudonyms
from mira.dicom.pseudonyms import Pseudonyms
from mira.dicom.syntaxes import may_be_lossy
from mira.dicom.triage import sop_class
from mira.dicom.vocabulary import CODING_SCHEMES, HEADLESS, TEXT_ATTRIBUTES

__all__ = ["Deidentifier", "Pseudonyms", "load_pseudonyms"]

INTEGERS = ("US", "SS", "UL", "SL", "UV", "SV")
DUMMIES = {"DA": "19000101", "TM": "000000", "DT": "19000101000000", "AS": "000Y", "DS": "0", "IS": "0"}
DUMMY_TEXT = "ANONYMIZED"
PATIENT = frozenset({Tag("PatientName"), Tag("PatientID")})
WRITTEN_HERE = frozenset(
    Tag(keyword)
    for keyword in (
        "SpecificCharacterSet", "PatientIdentityRemoved", "DeidentificationMethod",
        "DeidentificationMethodCodeSequence", "LongitudinalTemporalInformationModified",
        "RecognizableVisualFeatures", "PixelData", "FloatPixelData", "DoubleFloatPixelData",
        "BitsAllocated", "BurnedInAnnotation",
    )
)  # fmt: skip


class Deidentifier:
    """Makes de-identified copies with one key and one set of options.

    Attributes:
        retain: the options that are switched on.
    """

    def __init__(self, pseudonyms: Pseudonyms, retain: frozenset[Retain] = DEFAULT, scope: str = "") -> None:
        """Set up.

        Args:
            pseudonyms: the project's key.
            retain: options of the profile.
            scope: what patient IDs without an issuer are unique in; "" for the whole project.
        """
        self.names = pseudonyms
        self.retain = retain
        self.scope = scope

    def __call__(self, source: Dataset, stored: NDArray[Any] | None) -> FileDataset:
        """A de-identified copy of one object.

        Args:
            source: an image of CT, MR or PET, or a structure set; read by `tolerant` settings, values may be invalid.
            stored: its decoded stored values [rows, columns] or [frames, rows, columns]; None for a structure set.
                They are written without compression: a comment in a compressed stream does not come along.

        Returns:
            The copy, in explicit VR little endian, ready to be saved; the same input always gives the same bytes.
        """
        work = _Copy(self, source)
        target = FileDataset("", {}, preamble=b"\0" * 128)
        work.copy(source, target)
        work.identify(target, stored)
        if stored is not None:
            _write_pixels(source, target, stored)
            if may_be_lossy(source):  # the copy's own transfer syntax no longer tells
                target.LossyImageCompression = "01"
        work.declare(target)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = target.SOPClassUID
        meta.MediaStorageSOPInstanceUID = target.SOPInstanceUID
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        target.file_meta = meta
        return target


class _Copy:
    """One object on its way."""

    def __init__(self, settings: Deidentifier, source: Dataset) -> None:
        self.names, self.source = settings.names, source
        pet = h.text(source, "Modality").upper() == "PT"
        self.retain = settings.retain if pet else settings.retain - {Retain.SUV}
        self.coded = clean.Coded(source)
        series = h.text(source, "SeriesInstanceUID") or h.text(source, "SOPInstanceUID")
        self.patient = self.names.patient(source, settings.scope, series)
        self.days = self.names.days_back(self.patient)

    def copy(self, source: Dataset, target: Dataset) -> None:
        """Copy what the rules let in, attribute by attribute, into an empty dataset."""
        for tag in sorted(source.keys()):
            if tag.is_private or tag.element == 0 or tag.group <= 0x0006 or tag in WRITTEN_HERE:
                continue
            vr = _vr(source, tag)
            todo = action(tag, vr, self.retain)
            if vr and todo is not Action.REMOVE:
                self._apply(todo, source, target, tag, vr)
        copy_private(source, target, self.coded, self.retain, self.days)

    def _apply(self, todo: Action, source: Dataset, target: Dataset, tag: BaseTag, vr: str) -> None:
        if tag in PATIENT:
            target.add_new(tag, vr, self.patient)
        elif vr == "SQ":
            if todo in (Action.RECURSE, Action.UNLISTED, Action.KEEP, Action.CLEAN):
                self._sequence(source, target, tag)
        elif todo is Action.EMPTY:
            target.add_new(tag, vr, None)
        elif todo is Action.DUMMY:
            target.add_new(tag, vr, self._dummy(source, tag, vr))
        else:
            self._values(todo, source, target, tag, vr)

    def _sequence(self, source: Dataset, target: Dataset, tag: BaseTag) -> None:
        items = []
        for item in _items(source, tag):
            if "CodeValue" in item and h.text(item, "CodingSchemeDesignator") not in CODING_SCHEMES:
                continue
            copied = Dataset()
            self.copy(item, copied)
            if len(copied):
                items.append(copied)
        if items:
            target.add_new(tag, "SQ", DicomSequence(items))

    def _dummy(self, source: Dataset, tag: BaseTag, vr: str) -> str | None:
        if vr == "UI":
            return self._uid(_texts(source, tag)[:1])
        return None if vr in (*INTEGERS, "OB", "OW", "UN", "FL", "FD") else DUMMIES.get(vr, DUMMY_TEXT)

    def _uid(self, given: list[str]) -> str:
        return standard_uid(given[0]) or self.names.uid(given[0]) if given and given[0] else ""

    def _values(self, todo: Action, source: Dataset, target: Dataset, tag: BaseTag, vr: str) -> None:
        """Copy the values of an attribute that is no sequence; values that may not stay become empty."""
        if vr in (*INTEGERS, "FL", "FD", "AT"):
            if numbers := _numbers(source, tag, vr):
                target.add_new(tag, vr, numbers if len(numbers) > 1 else numbers[0])
            return
        given = _texts(source, tag)
        keyword = keyword_for_tag(tag)
        if todo is Action.UNLISTED and vr not in ("CS", "DS", "IS") and keyword not in TEXT_ATTRIBUTES:
            return
        kept = [self._value(todo, value, vr) if value else "" for value in given]
        if todo is Action.SHIFT and None in kept:
            return  # a moment that is none helps nobody, and half a range misleads
        if vr in ("DS", "IS") and None in kept:
            kept = []  # so does half a vector
        target.add_new(tag, vr, [value or "" for value in kept] if len(kept) > 1 else (kept or [None])[0])

    def _value(self, todo: Action, value: str, vr: str) -> str | None:
        if todo is Action.SHIFT:
            shift = {"DA": clean.shifted_date, "DT": clean.shifted_date_time}
            if vr in shift:
                return shift[vr](value, self.days)
            return clean.time_of_day(value) if vr == "TM" else _time_zone(value)
        if vr == "UI":
            return value if todo is Action.KEEP and h.UID.fullmatch(value) and len(value) <= 64 else self._uid([value])
        if vr == "AS":
            return clean.capped_age(value)
        if vr == "CS":
            return self.coded.code_string(value)
        if vr in ("DS", "IS"):
            return self.coded.number(value, vr)
        if todo is Action.CLEAN:
            return clean.technical_words(value)
        if todo is Action.KEEP:
            return self.coded.device_text(value, vr)
        return self.coded.text(value, vr)

    def identify(self, target: Dataset, stored: NDArray[Any] | None) -> None:
        """Give the copy the names that every object needs, where its source had none."""
        own = h.text(self.source, "SOPInstanceUID") or f"instance:{_content(stored)}"
        study = h.text(self.source, "StudyInstanceUID") or f"study:{self.patient}"
        series = h.text(self.source, "SeriesInstanceUID") or f"series:{study}:{h.text(self.source, 'SeriesNumber')}"
        target.SOPClassUID = sop_class(self.source)
        for keyword, original in (("SOPInstanceUID", own), ("StudyInstanceUID", study), ("SeriesInstanceUID", series)):
            if not h.text(target, keyword):
                setattr(target, keyword, self.names.uid(original))
        target.PatientName = target.PatientID = self.patient
        for keyword in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
                        "ReferringPhysicianName"):  # fmt: skip
            if keyword not in target:
                setattr(target, keyword, None)

    def declare(self, target: Dataset) -> None:
        """State what was done, in the attributes that the standard has for it."""
        target.PatientIdentityRemoved = "YES"
        target.DeidentificationMethod = [
            f"mira-net {__version__}, {EDITION} Basic Profile",
            *(f"retained: {option}" for option in sorted(self.retain)),
        ]
        target.DeidentificationMethodCodeSequence = DicomSequence([_code(*c) for c in method_codes(self.retain)])
        target.LongitudinalTemporalInformationModified = "MODIFIED" if Retain.DATES in self.retain else "REMOVED"
        if "PixelData" in target:
            headless = h.text(target, "BodyPartExamined").upper() in HEADLESS
            target.RecognizableVisualFeatures = "NO" if headless else "YES"
            if h.text(self.source, "BurnedInAnnotation").upper() == "NO":
                target.BurnedInAnnotation = "NO"


def _vr(source: Dataset, tag: BaseTag) -> str:
    """VR of a standard attribute by the dictionary, "" when it is not in it or cannot be read."""
    if not dictionary_has_tag(tag):
        return ""
    try:
        return clean.standard_vr(int(tag), source[tag].VR)
    except Exception:  # what cannot be read is treated by its VR in the dictionary, as an empty value
        return clean.standard_vr(int(tag), "UN")


def _raw(source: Dataset, tag: BaseTag) -> list[Any]:
    try:
        value = source[tag].value
    except Exception:  # pydicom raises many types on a bad value, and all mean: no value
        return []
    if value is None or isinstance(value, bytes | bytearray):
        return []
    return list(value) if isinstance(value, MultiValue | DicomSequence | list | tuple) else [value]


def _texts(source: Dataset, tag: BaseTag) -> list[str]:
    return [str(item).strip().strip("\0") if item is not None else "" for item in _raw(source, tag)]


def _items(source: Dataset, tag: BaseTag) -> list[Dataset]:
    return [item for item in _raw(source, tag) if isinstance(item, Dataset)]


def _numbers(source: Dataset, tag: BaseTag, vr: str) -> list[Any]:
    """Binary numbers of an attribute; empty when its VR or one value is not what the dictionary says."""
    given = _raw(source, tag)
    kinds = (float, int) if vr in ("FL", "FD") else (int,)
    return given if all(isinstance(value, kinds) and np.isfinite(value) for value in given) else []


def _content(stored: NDArray[Any] | None) -> str:
    return hashlib.sha256(stored.tobytes() if stored is not None else b"").hexdigest()


def _time_zone(value: str) -> str | None:
    return value if len(value) == 5 and value[0] in "+-" and value[1:].isdigit() else None


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _write_pixels(source: Dataset, target: Dataset, stored: NDArray[Any]) -> None:
    """Put the decoded values in, without overlays that hide in unused bits."""
    pixels = np.ascontiguousarray(stored)
    for group in range(0x6000, 0x6100, 2):
        position = (_numbers(source, Tag(group, 0x0102), "US") or [0])[0]
        if 0 < position < 8 * pixels.dtype.itemsize:
            pixels = _without_bit(source, pixels, position)
    target.BitsAllocated = 8 * pixels.dtype.itemsize
    data = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()
    target.add_new("PixelData", "OB" if pixels.dtype.itemsize == 1 else "OW", data + b"\0" * (len(data) % 2))


def _without_bit(source: Dataset, pixels: NDArray[Any], position: int) -> NDArray[Any]:
    """Clear an overlay's bit plane above the stored bits; a plane within them is part of the image and stays."""
    if position < (h.number(source, "BitsStored") or 16):
        return pixels
    unsigned = pixels.view(pixels.dtype.str.replace("i", "u"))
    cleared: NDArray[Any] = unsigned & ~unsigned.dtype.type(1 << position)
    return cleared.view(pixels.dtype)
