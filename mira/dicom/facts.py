"""What a record may say of scanner and protocol: numbers, and coded words that passed a narrow filter."""

import re

from pydicom.dataset import Dataset
from pydicom.uid import UID as DicomUid

from mira.cases import Protocol, Scanner
from mira.dicom import headers as h
from mira.dicom.triage import sop_class

IDENTIFYING = (
    "PatientName", "PatientID", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName",
    "PatientBirthDate", "PatientAddress", "PatientTelephoneNumbers", "AccessionNumber", "StudyID",
    "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "PhysiciansOfRecord", "RequestingPhysician",
    "DeviceSerialNumber", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate",
)  # fmt: skip
"""Attributes whose words must not turn up in a coded field, wherever a device has copied them to."""


def scanner_facts(header: Dataset) -> Scanner:
    """The device, from coded fields."""
    coded = Coded(header)
    return Scanner(
        manufacturer=coded("Manufacturer"),
        model=coded("ManufacturerModelName"),
        software=coded("SoftwareVersions"),
        field_strength_t=positive(header, "MagneticFieldStrength", 25.0),
    )


def protocol_facts(header: Dataset) -> Protocol:
    """The acquisition, from numbers and coded fields."""
    coded = Coded(header)
    rows, columns = acquired_matrix(header)
    return Protocol(
        slice_thickness_mm=positive(header, "SliceThickness", 1000.0),
        kernel=coded("ConvolutionKernel", 24),
        kvp=positive(header, "KVP", 1000.0),
        tube_current_ma=positive(header, "XRayTubeCurrent", 1e5) or positive(header, "XRayTubeCurrentInmA", 1e5),
        exposure_mas=positive(header, "Exposure", 1e6) or positive(header, "ExposureInmAs", 1e6),
        ctdi_vol_mgy=positive(header, "CTDIvol", 1e4),
        scanning_sequence=coded("ScanningSequence", 24),
        repetition_time_ms=positive(header, "RepetitionTime", 1e6),
        echo_time_ms=positive(header, "EchoTime", 1e5),
        reconstruction=coded("ReconstructionMethod", 32),
        frame_duration_ms=positive(header, "ActualFrameDuration", 1e9),
        acquired_rows=rows,
        acquired_columns=columns,
    )


def acquired_matrix(header: Dataset) -> tuple[int | None, int | None]:
    """Rows and columns that an MR scanner acquired, before it interpolated; (None, None) where it does not say.

    Acquisition Matrix is "frequency rows, frequency columns, phase rows, phase columns", of which two are zero
    (PS3.3 C.8.3.1). A matrix of less than a quarter of the image, or more than the image, says nothing of it.
    """
    values = [int(value) for value in h.numbers(header, "AcquisitionMatrix")]
    size = h.number(header, "Rows") or 0, h.number(header, "Columns") or 0
    if len(values) != 4 or [bool(value) for value in values] not in (
        [True, False, False, True],
        [False, True, True, False],
    ):
        return None, None
    rows, columns = max(values[0], values[2]), max(values[1], values[3])
    fits = all(whole / 4 <= acquired <= whole for acquired, whole in zip((rows, columns), size, strict=True))
    return (rows, columns) if fits else (None, None)


def positive(header: Dataset, keyword: str, highest: float) -> float | None:
    """A number above zero and at most `highest`, or None: what lies outside is no measurement."""
    value = h.number(header, keyword)
    return value if value is not None and 0 < value <= highest else None


def standard_uid(value: str) -> str:
    """A UID of the DICOM standard's own list, or "": others may be made of dates and device numbers."""
    return value if value and DicomUid(value).name != value else ""


def sop_class_uid(header: Dataset) -> str:
    """SOP class when it is the standard's."""
    return standard_uid(sop_class(header))


def transfer_syntax_uid(header: Dataset) -> str:
    """Transfer syntax when it is the standard's."""
    meta = getattr(header, "file_meta", None)
    return standard_uid(h.uid(meta, "TransferSyntaxUID")) if meta is not None else ""


class Coded:
    """Reads coded fields of one header, leaving out whatever repeats an identifying word of the same header."""

    def __init__(self, header: Dataset) -> None:
        self.header = header
        self.forbidden = {word for keyword in IDENTIFYING for word in _words(h.text(header, keyword))}

    def __call__(self, keyword: str, length: int = 64) -> str:
        """The coded value of an attribute, or "" when it is free text, too long or identifying."""
        value = h.code(self.header, keyword, length)
        return "" if _words(value) & self.forbidden else value


def _words(value: str) -> set[str]:
    """Words of three characters and more, in capitals, and the whole without separators."""
    parts = re.split(r"[^A-Za-z0-9]+", value.upper())
    return {part for part in [*parts, "".join(parts)] if len(part) >= 3}
