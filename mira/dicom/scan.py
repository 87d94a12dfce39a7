"""Find the DICOM in a source and group it by series; everything that is not usable is listed with its reason."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Literal

from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag

from mira.dicom import elements
from mira.dicom import headers as h
from mira.dicom.archive import PASSING, Opened
from mira.dicom.headers import tolerant
from mira.dicom.limits import check_inflated
from mira.dicom.reasons import Reason, Refused
from mira.dicom.triage import RT_STRUCTURES, sop_class, triage
from mira.dicom.vocabulary import MODALITIES
from mira.progress import track

LAST_TAG = 0x00280301
"""The scan stops reading after Burned In Annotation: all that groups and sorts files lies before."""
HEADER_BYTES = (8192, 2**18)
"""Most headers are in the first of these, nearly all in the second; then the whole file is read."""
DIRECTORY = "1.2.840.10008.1.3.10"


@dataclass(frozen=True)
class RejectedFile:
    """A file that cannot be used.

    Attributes:
        path: the file; for this process only, since names carry patients.
        modality: DICOM modality when it is one of the standard's short codes, else "".
        reason: the reason code.
        detail: figures or names of the standard, nothing from free text.
    """

    path: Path
    modality: str
    reason: Reason
    detail: str = ""


@dataclass(frozen=True)
class FoundSeries:
    """Files that belong together.

    Attributes:
        study_uid: Study Instance UID, "" when missing.
        series_uid: Series Instance UID, "" when missing.
        group: what the files share when there is no series UID; empty otherwise.
        header: header of the first file, up to group 0028.
        files: all files.
        pixels: for each file, how many pixels its own header declares, all frames together.
    """

    study_uid: str
    series_uid: str
    group: str
    header: Dataset
    files: list[Path]
    pixels: list[int]


@dataclass
class Scan:
    """What a source holds."""

    series: list[FoundSeries] = field(default_factory=list)
    structure_sets: list[Path] = field(default_factory=list)
    rejected: list[RejectedFile] = field(default_factory=list)
    files: int = 0


@dataclass(frozen=True)
class Sighting:
    """What a scan needs to know of one file.

    Attributes:
        kind: `image`, `structures` or `rejected`.
        group: equal for the files of one series.
        pixels: pixels that an image's header declares, all frames together.
        modality: DICOM modality of a rejected file when it is one of the standard's short codes, else "".
        reason: why it is rejected.
        detail: figures or names of the standard that go with the reason.
    """

    kind: str
    group: str = ""
    pixels: int = 0
    modality: str = ""
    reason: Reason | None = None
    detail: str = ""


def scan(source: Opened, what: str = "scan") -> Scan:
    """Read the headers of all files of a source and group the images by series.

    Args:
        source: from `mira.dicom.archive.opened`.
        what: label of the progress bar.
    """
    with tolerant():
        looks = ((path, look_at(path, source.origin[path])) for path in source.files)
        return gather(source, track(looks, what, total=len(source.files), unit="file"))


def look_at(path: Path, origin: str) -> Sighting:
    """Read the header of one file; called under `tolerant`.

    Args:
        path: the file.
        origin: where it came from, as `Opened` has it.
    """
    try:
        header = read_header(path)
    except Refused as error:
        return Sighting("rejected", reason=error.reason, detail=error.detail)
    if sop_class(header) == RT_STRUCTURES:
        return Sighting("structures")
    try:
        triage(header)
    except Refused as error:
        return Sighting("rejected", "", 0, modality_code(header), error.reason, error.detail)
    return Sighting("image", "\0".join(_key(header, origin)), pixels_of(header))


def gather(source: Opened, looks: Iterable[tuple[Path, Sighting]]) -> Scan:
    """Group what was seen of each file; called under `tolerant`.

    Args:
        source: from `mira.dicom.archive.opened`.
        looks: each of its files, and what was seen of it.
    """
    result = Scan(files=len(source.files))
    result.rejected = [RejectedFile(Path(), "", reason) for reason in source.missing]
    groups: dict[str, tuple[list[Path], list[int]]] = {}
    for path, seen in looks:
        if seen.reason is not None:
            result.rejected.append(RejectedFile(path, seen.modality, seen.reason, seen.detail))
        elif seen.kind == "structures":
            result.structure_sets.append(path)
        else:
            files, pixels = groups.setdefault(seen.group, ([], []))
            files.append(path)
            pixels.append(seen.pixels)
    source.unpack(files[0] for files, _ in groups.values())
    for group in sorted(groups):
        files, pixels = groups[group]
        try:
            header = read_header(files[0])
        except Refused as error:  # it was there a moment ago
            result.rejected += [RejectedFile(path, "", error.reason) for path in files]
            continue
        result.series.append(FoundSeries(*_key(header, source.origin[files[0]]), header, files, pixels))
    return result


def read_header(path: Path) -> Dataset:
    """Header of a file up to group 0028.

    Raises:
        Refused: when the file is not DICOM, is a DICOMDIR, or its header is damaged.
        OSError: when disk or network fail, which is no property of the file.
    """
    try:
        with path.open("rb", buffering=0) as stream:
            start = stream.read(HEADER_BYTES[0])
            if start[128:132] != b"DICM" and not looks_like_dicom(start):
                raise Refused(Reason.NOT_DICOM)
            header = elements.read_header(start, LAST_TAG)
            if header is None and len(start) == HEADER_BYTES[0]:
                header = elements.read_header(start + stream.read(HEADER_BYTES[1]), LAST_TAG)
            if header is None:
                check_inflated(path)
                stream.seek(0)
                header = read_partial(BufferedReader(stream), stop_when=_beyond, force=True)
                len(header.get("ImageType") or ())  # conversion is lazy: have it fail here
    except Refused:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in PASSING:
            raise
        raise Refused(Reason.UNREADABLE) from error
    if sop_class(header) == DIRECTORY or "DirectoryRecordSequence" in header:
        raise Refused(Reason.DIRECTORY)
    if not sop_class(header) and not h.text(header, "Modality"):
        raise Refused(Reason.NOT_DICOM if start[128:132] != b"DICM" else Reason.UNREADABLE)
    return header


def looks_like_dicom(start: bytes) -> bool:
    """Whether a file without preamble begins with an element of group 0002 or 0008, in either byte order."""
    orders: tuple[Literal["little", "big"], ...] = ("little", "big")
    for order in orders:
        group = int.from_bytes(start[0:2], order)
        element = int.from_bytes(start[2:4], order)
        if group not in (0x0002, 0x0008) or element > 0x0070 or len(start) < 12:
            continue
        explicit = start[4:6] in (b"UL", b"UI", b"CS", b"OB", b"SH", b"DA", b"TM", b"LO")
        if explicit or int.from_bytes(start[4:8], order) <= 0x100:
            return True
    return False


def pixels_of(header: Dataset) -> int:
    """Rows times columns times frames, as the header declares them."""
    rows, columns = h.number(header, "Rows") or 0, h.number(header, "Columns") or 0
    return int(rows * columns * (h.number(header, "NumberOfFrames") or 1))


def modality_code(header: Dataset) -> str:
    """The Modality attribute when it is one of the standard's codes: anything else may be anybody's name."""
    value = h.text(header, "Modality").upper()
    return value if value in MODALITIES else ""


def series_of(files: Iterable[Path]) -> list[FoundSeries]:
    """Group given files by series; for callers that have a list of files and want no report."""
    listed = list(files)
    return scan(Opened(listed, {path: str(path.parent) for path in listed})).series


def _beyond(tag: BaseTag, vr: str | None, length: int) -> bool:
    return int(tag) > LAST_TAG


def _key(header: Dataset, origin: str) -> tuple[str, str, str]:
    """(study UID, series UID, group): without a series UID, what files of one series share otherwise."""
    study, series = h.uid(header, "StudyInstanceUID"), h.uid(header, "SeriesInstanceUID")
    if series:
        return study, series, ""
    shared = [h.text(header, keyword) for keyword in ("FrameOfReferenceUID", "PatientID", "SeriesNumber", "SeriesTime")]
    return study, "", hashlib.sha256("\0".join([origin, *shared]).encode()).hexdigest()
