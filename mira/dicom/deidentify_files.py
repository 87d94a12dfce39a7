"""A whole source (file, folder, DICOMDIR, zip) to de-identified DICOM files, series by series."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from mira.dicom import headers as h
from mira.dicom.archive import opened
from mira.dicom.burned_in import suspected, suspected_in_slice
from mira.dicom.confidentiality import EDITION
from mira.dicom.deidentify import Deidentifier
from mira.dicom.headers import tolerant
from mira.dicom.pixels import decoded
from mira.dicom.reasons import Reason, Refused
from mira.dicom.scan import modality_code, read_header
from mira.dicom.triage import RT_STRUCTURES, SECONDARY_CAPTURE, sop_class, triage
from mira.progress import track
from mira.storage import atomic_folder, hash_file, write_json

REPORT = "deidentification.json"
STILL_IMAGES = {
    Reason.LOCALISER, Reason.REFORMATTED, Reason.PARAMETRIC, Reason.NOT_MAGNITUDE, Reason.ALREADY_RESTORED,
}  # fmt: skip
"""Of no use as a volume, but images that scanners and their software made: they can be passed on."""
SUSPECTED = "suspected by the look of its pixels; look at the series, then use --confirm-no-text"


@dataclass
class Outcome:
    """What became of a source.

    Attributes:
        files: files found.
        written: files written.
        series: series written.
        refused: one entry for each refused file: its position in the sorted listing, the start of its content's
            SHA-256 ("" where it cannot be read), modality, reason, its text, and figures.
    """

    files: int = 0
    written: int = 0
    series: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)

    @property
    def reasons(self) -> dict[str, int]:
        """Refused files per reason."""
        return dict(sorted(Counter(str(item["reason"]) for item in self.refused).items()))


def deidentify_tree(path: Path, out: Path, deidentifier: Deidentifier, confirmed: bool = False) -> Outcome:
    """De-identify everything that a source holds and that can be passed on.

    Files go to `<patient>/<study>/<series>/<name>.dcm`, all of them pseudonyms that stay the same from run to run; a
    series is replaced as a whole. A list of what was refused goes to `deidentification.json`.

    Args:
        path: file, folder, DICOMDIR or zip.
        out: folder to write into.
        deidentifier: the key and the options.
        confirmed: whether a person has looked at the images and vouches that no text in them identifies anybody;
            without it a series whose pixels look as if they held text is refused as a whole.
    """
    outcome = Outcome()
    with opened(path) as source, tolerant():
        outcome.files = len(source.files)
        indices = {file: number for number, file in enumerate(source.files)}
        for reason in source.missing:
            outcome.refused.append(_entry(-1, "", "", reason))
        groups = defaultdict(list)
        for file in track(source.files, "scan", unit="file"):
            header = None
            try:
                header = read_header(file)
                check_object(header)
                groups[h.text(header, "StudyInstanceUID"), _series_key(header, source.origin[file])].append(file)
            except Refused as error:
                outcome.refused.append(_refusal(indices[file], file, header, error))
        for _, files in track(sorted(groups.items()), "de-identify", unit="series"):
            _write_series(files, indices, out, deidentifier, confirmed, outcome)
    write_json(out / REPORT, _report(outcome, deidentifier))
    return outcome


def check_object(header: Dataset) -> None:
    """Make sure that an object is of a kind that can be de-identified: CT, MR or PET images and structure sets.

    Pages, screenshots, reports and colour images are not: their text is in pixels or in free structure.

    Raises:
        Refused: with the reason.
    """
    if sop_class(header) == RT_STRUCTURES:
        return
    if h.text(header, "BurnedInAnnotation").upper() == "YES":
        raise Refused(Reason.BURNED_IN)
    if sop_class(header).startswith(SECONDARY_CAPTURE):
        raise Refused(Reason.SECONDARY_CAPTURE)
    try:
        triage(header)
    except Refused as error:
        if error.reason not in STILL_IMAGES:
            raise


def _series_key(header: Dataset, origin: str) -> str:
    return h.text(header, "SeriesInstanceUID") or f"{origin}\0{h.text(header, 'SeriesNumber')}"


def _write_series(
    files: list[Path],
    indices: dict[Path, int],
    out: Path,
    deidentifier: Deidentifier,
    confirmed: bool,
    outcome: Outcome,
) -> None:
    objects: list[tuple[Path, Dataset, NDArray[Any] | None]] = []
    for file in files:
        try:
            objects.append((file, *_read(file)))
        except Refused as error:
            outcome.refused.append(_refusal(indices[file], file, None, error))
    if not confirmed and text_suspected([stored for _, _, stored in objects if stored is not None]):
        refusal = Refused(Reason.BURNED_IN, SUSPECTED)
        outcome.refused += [_refusal(indices[file], file, dataset, refusal) for file, dataset, _ in objects]
        return
    folders: dict[Path, dict[str, Dataset]] = defaultdict(dict)
    for file, dataset, stored in objects:
        try:
            name = deidentifier.names.code("file", hash_file(file))
            copy = deidentifier(dataset, stored)
        except OSError:  # it could be read a moment ago
            outcome.refused.append(_refusal(indices[file], file, dataset, Refused(Reason.UNREADABLE)))
            continue
        except Exception as error:  # its message may quote the header, so only its kind is kept
            crash = Refused(Reason.CRASHED, type(error).__name__)
            outcome.refused.append(_refusal(indices[file], file, dataset, crash))
            continue
        folder = out / str(copy.PatientID) / _folder(copy.StudyInstanceUID) / _folder(copy.SeriesInstanceUID)
        folders[folder][name] = copy
    for folder, copies in folders.items():
        with atomic_folder(folder) as temporary:
            for name, copy in copies.items():
                copy.save_as(temporary / f"{name}.dcm", enforce_file_format=True)
        outcome.series += 1
        outcome.written += len(copies)


def _read(file: Path) -> tuple[Dataset, NDArray[Any] | None]:
    try:
        dataset = dcmread(file, force=True)
    except Exception as error:
        raise Refused(Reason.UNREADABLE) from error
    check_object(dataset)  # again, since the scan read no further than group 0028
    if sop_class(dataset) == RT_STRUCTURES:
        return dataset, None
    if "PixelData" not in dataset:
        raise Refused(Reason.NO_PIXELS)
    return dataset, decoded(dataset)


def text_suspected(images: list[NDArray[Any]]) -> bool:
    """Whether text is suspected in any of a series' images: slice by slice, and across slices of one size."""
    if any(suspected_in_slice(plane) for plane in _planes(images)):
        return True
    sizes = {plane.shape for plane in _planes(images)}
    return any(suspected(np.stack([p for p in _planes(images) if p.shape == size])) for size in sizes)


def _planes(images: list[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    for image in images:
        yield from image if image.ndim == 3 else [image]


def _folder(uid: object) -> str:
    """A folder name for a UID: short, and never the UID itself, which an option may have kept."""
    return hashlib.sha256(str(uid).encode()).hexdigest()[:16]


def _refusal(index: int, file: Path, header: Dataset | None, error: Refused) -> dict[str, Any]:
    modality = modality_code(header) if header is not None else ""
    try:
        content = hash_file(file)[:12]
    except OSError:  # its text names the file
        content = ""
    return _entry(index, content, modality, error.reason, error.detail)


def _entry(index: int, content: str, modality: str, reason: Reason, detail: str = "") -> dict[str, Any]:
    return {
        "index": index,
        "content": content,
        "modality": modality,
        "reason": reason.value,
        "text": reason.text,
        "detail": detail,
    }


def _report(outcome: Outcome, deidentifier: Deidentifier) -> dict[str, Any]:
    return {
        "profile": f"{EDITION} Basic Application Level Confidentiality Profile",
        "retained": sorted(deidentifier.retain),
        "key_id": deidentifier.names.key_id,
        "files": outcome.files,
        "written": outcome.written,
        "series": outcome.series,
        "refused": outcome.refused,
    }
