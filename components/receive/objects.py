"""Objects that arrive: checked, and named by their content."""

import hashlib
from dataclasses import dataclass
from io import BytesIO

from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from mira.dicom import headers as h
from mira.dicom.limits import check_inflated_stream
from mira.dicom.reasons import Reason, Refused
from mira.dicom.scan import looks_like_dicom
from mira.dicom.triage import CT, MR, PET, RT_STRUCTURES, kind_name, sop_class

IMAGES = (
    *(CT, CT + ".1", CT + ".2"),  # classic, enhanced, legacy converted enhanced
    *(MR, MR + ".1", MR + ".4"),
    *(PET, PET + ".1", "1.2.840.10008.5.1.4.1.1.130"),
)
ACCEPTED = (*IMAGES, RT_STRUCTURES)
"""Storage SOP classes that are taken: CT, MR and PET images, and structure sets. Nothing else is of use here."""

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
UNDEFINED_LENGTH = 0xFFFFFFFF
PREFIX_END = 132


@dataclass(frozen=True)
class Arrival:
    """One checked object.

    Attributes:
        header: its dataset; for this process only.
        series: name of its series' folder, a hash.
        name: file name, a hash of its content.
    """

    header: Dataset
    series: str
    name: str


def examine(content: bytes) -> Arrival:
    """Check one DICOM file and name it by its content. Call it within `mira.dicom.headers.tolerant`.

    The hash covers the transfer syntax and the dataset, not the file meta information, which each way of sending
    writes anew.

    Args:
        content: the whole file.

    Raises:
        Refused: when it is not DICOM, is damaged or cut off, or is not of an accepted kind.
    """
    try:
        start, syntax = _dataset_start(content)
        if syntax == DeflatedExplicitVRLittleEndian:
            stream = BytesIO(content)
            stream.seek(start)
            check_inflated_stream(stream)
        header = dcmread(BytesIO(content), force=looks_like_dicom(content[:144]))
        cut_off = is_cut_off(header)
    except InvalidDicomError:
        raise Refused(Reason.NOT_DICOM) from None
    except Exception:
        raise Refused(Reason.UNREADABLE) from None
    kind = sop_class(header)
    if "DirectoryRecordSequence" in header:
        raise Refused(Reason.DIRECTORY)
    if cut_off or not kind:
        raise Refused(Reason.UNREADABLE)
    if kind not in ACCEPTED:
        raise Refused(Reason.OTHER_MODALITY, kind_name(header))
    if kind in IMAGES and not any(keyword in header for keyword in PIXELS):
        raise Refused(Reason.NO_PIXELS)
    return Arrival(header, _series_code(header), f"{_content_hash(content, start, syntax)}.dcm")


def is_cut_off(header: Dataset) -> bool:
    """Whether an element is shorter than it says. pydicom reads on without a word."""
    for tag in list(header.keys()):
        element = header.get_item(tag)
        if not isinstance(element, RawDataElement) or element.length == UNDEFINED_LENGTH:
            continue
        if len(element.value or b"") != element.length:
            return True
    return False


def _series_code(header: Dataset) -> str:
    series = h.uid(header, "SeriesInstanceUID")
    shared = () if series else ("FrameOfReferenceUID", "PatientID", "SeriesNumber", "SeriesTime")
    parts = [h.uid(header, "StudyInstanceUID"), series, *(h.text(header, keyword) for keyword in shared)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _content_hash(content: bytes, start: int, syntax: str) -> str:
    digest = hashlib.sha256(f"{syntax}\0".encode())
    digest.update(memoryview(content)[start:])
    return digest.hexdigest()


def _dataset_start(content: bytes) -> tuple[int, str]:
    """(where the dataset begins behind the file meta information, transfer syntax); (0, "") where there is none."""
    if content[PREFIX_END - 4 : PREFIX_END] != b"DICM":
        return 0, ""
    stream = BytesIO(content)
    stream.seek(PREFIX_END)
    meta = read_dataset(stream, False, True, stop_when=_beyond_meta)
    return stream.tell(), h.uid(meta, "TransferSyntaxUID")


def _beyond_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return int(tag) >> 16 != 2
