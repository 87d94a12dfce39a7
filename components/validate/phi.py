"""What identifies a person, looked for in everything that a case stores; the findings are booleans alone."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
from nibabel.filebasedimages import ImageFileError

from mira.cases import CaseRecord

CASE_FILES = {"image.nii", "structures.nii", "case.json"}
LONGEST_WORDS = (64, 8)  # characters and words: DICOM's longest LO value; more is a sentence, not a coded word

_PERSON = re.compile(r"\w\^\w")  # a DICOM person name; nothing else in a record carries a caret
_ADDRESS = re.compile(r"\S+@\S+\.\w+|(?:^|\s)(?:/|[A-Za-z]:\\)\S+[/\\]|\bhttps?://")
_UID = re.compile(r"\b\d+(?:\.\d+){7,}\b")
_DATE = re.compile(
    r"(?<!\d)(?:19|20)\d\d[-./]?(?:0[1-9]|1[0-2])[-./]?(?:0[1-9]|[12]\d|3[01])(?!\d)"
    r"|(?<!\d)(?:0?[1-9]|[12]\d|3[01])[-./](?:0?[1-9]|1[0-2])[-./](?:19|20)\d\d(?!\d)"
)
_NUMBER = re.compile(r"(?<![\d.])\d{7,}(?![\d.])")  # hospital, insurance and telephone numbers
_PSEUDONYM = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_STANDARD_UID = "1.2.840.10008."
_HEADER = ("scanner.", "protocol.")  # words that came from the DICOM header; all others are the project's own
_VERSIONS = {"scanner.software", "software"}  # build dates and build numbers of software are nobody's
_PSEUDONYMS = ("case_id", "site", "patient", "study", "series", "frame_of_reference")
_HASHES = {*_PSEUDONYMS, "source_sha256"}  # made by the project; a hexadecimal code may be all digits


def phi_facts(record: CaseRecord, folder: Path) -> dict[str, bool]:
    """Whether a case is free of each kind of identifying value; true means free.

    Args:
        record: the case's record.
        folder: its folder, whose file names and NIfTI headers are looked at too.
    """
    texts = [(key, text) for key, text in _texts("", record.model_dump(mode="json")) if key not in _HASHES]
    header = [text for key, text in texts if key.startswith(_HEADER) and key not in _VERSIONS]
    return {
        "no_person_name": not any(_PERSON.search(text) for _, text in texts),
        "no_date": not any(_DATE.search(text) for key, text in texts if key not in _VERSIONS),
        "no_uid": not any(_UID.search(text) and not text.startswith(_STANDARD_UID) for _, text in texts),
        "no_address": not any(_ADDRESS.search(text) for _, text in texts),
        "no_long_number": not any(_NUMBER.search(text) for text in header),
        "no_free_text": not any(len(t) > LONGEST_WORDS[0] or len(t.split()) > LONGEST_WORDS[1] for t in header),
        "names_pseudonymous": all(_PSEUDONYM.fullmatch(getattr(record, key) or "0") for key in _PSEUDONYMS),
        "no_other_file": {path.name for path in folder.iterdir()} <= CASE_FILES,
        "nifti_header_empty": all(_no_text(folder / name) for name in ("image.nii", "structures.nii")),
    }


def looks_like_phi(record: CaseRecord, folder: Path) -> bool:
    """Whether any of `phi_facts` found something."""
    return not all(phi_facts(record, folder).values())


def _no_text(path: Path) -> bool:
    """Whether the text fields and extensions of a NIfTI file are empty; converters put names and dates there."""
    if not path.is_file():
        return True
    try:
        header = nib.load(path).header
    except (OSError, ImageFileError):
        return True  # unreadable, which is another expectation's finding
    fields = ("descrip", "aux_file", "intent_name", "db_name")
    return not any(bytes(header[field].item()).strip(b"\0 ") for field in fields) and not header.extensions


def _texts(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield prefix, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(f"{prefix}.{key}".lstrip("."), item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(prefix, item)
