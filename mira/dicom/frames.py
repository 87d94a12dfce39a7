"""Enhanced multi-frame images: the header of each frame, as a classic image of one slice would have it.

An enhanced object keeps what its frames share, and what each frame has of its own, in functional groups (DICOM PS3.3
C.7.6.16). Lifting them to the top lets every later step treat a frame like a classic slice. An enhanced PET names its
unit and its corrections by other attributes than a classic one; they are written here in the classic words.
"""

from collections.abc import Collection, Iterator

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from mira.dicom import headers as h
from mira.dicom.reasons import Refused
from mira.dicom.triage import modality, triage

GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
IDENTITY = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
PATIENT = 0x0010
"""What a functional group must not change, the patient's group included: it may quote these of another object."""
PET_UNITS = {
    "BQ/ML": ("BQML", ""), "{SUVBW}G/ML": ("GML", "BW"), "G/ML{SUVBW}": ("GML", "BW"), "{SUVLBM}G/ML": ("GML", "LBM"),
    "{SUVBSA}CM2/ML": ("CM2ML", "BSA"), "{SUVIBW}G/ML": ("GML", "IBW"), "G/ML": ("GML", ""), "{COUNTS}": ("CNTS", ""),
    "{COUNTS}/S": ("CPS", ""), "{PROPCOUNTS}": ("PROPCNTS", ""), "{PROPCOUNTS}/S": ("PROPCPS", ""),
}  # fmt: skip
"""UCUM codes of context groups 83 to 85 in capitals: the classic Units and SUV Type."""
CORRECTIONS = {
    "DECY": "DecayCorrected", "ATTN": "AttenuationCorrected", "SCAT": "ScatterCorrected",
    "DTIM": "DeadTimeCorrected", "NORM": "DetectorNormalizationCorrection", "RAN": "RandomsCorrected",
}  # fmt: skip
"""Classic Corrected Image values, and the enhanced attribute that is YES."""


def frame_headers(dataset: Dataset) -> Iterator[Dataset | Refused]:
    """Header of each frame of an enhanced image, or why this frame is no acquired slice.

    Args:
        dataset: the enhanced image without its pixels.
    """
    base = Dataset()
    _copy(dataset, base, but={tag_for_keyword(keyword) for keyword in GROUPS})
    for group in h.items(dataset, GROUPS[0])[:1]:
        _lift(group, base)
    is_pet = modality(dataset) == "PT"
    for number, group in enumerate(h.items(dataset, GROUPS[1]), start=1):
        header = Dataset()
        header.update(base)
        header.file_meta = dataset.file_meta
        _lift(group, header)
        _put(header, "InstanceNumber", number)
        if kinds := h.values(header, "FrameType"):
            _put(header, "ImageType", kinds)
        if "EchoTime" not in header and (echo := h.number(header, "EffectiveEchoTime")) is not None:
            _put(header, "EchoTime", echo, "FD")
        if is_pet:
            _classic_pet(header)
        try:
            triage(header)
        except Refused as error:
            yield error
            continue
        yield header


def _lift(group: Dataset, header: Dataset) -> None:
    """Copy the attributes of the first item of every public sequence of a functional group, and of those in it."""
    for tag in list(group.keys()):
        keyword = keyword_for_tag(tag)
        if tag.is_private or not (found := h.items(group, keyword)):
            continue
        if keyword == "RealWorldValueMappingSequence":
            header[tag] = group.get_item(tag)  # which item counts depends on its unit
            continue
        _copy(found[0], header, but=_identity(found[0]))
        for inner in h.items(found[0], "DiffusionGradientDirectionSequence")[:1]:
            _copy(inner, header, but=_identity(inner))


def _copy(source: Dataset, target: Dataset, but: Collection[int | None]) -> None:
    """Copy public elements as they are: one that cannot be converted is a missing value where it is asked for."""
    for tag in source.keys():  # noqa: SIM118 - iterating the data set itself would convert every element
        if not tag.is_private and tag not in but:
            target[tag] = source.get_item(tag)


def _identity(group: Dataset) -> set[int]:
    named = {tag_for_keyword(keyword) for keyword in IDENTITY}
    return {tag for tag in group.keys() if tag in named or tag.group == PATIENT}  # noqa: SIM118


def _classic_pet(header: Dataset) -> None:
    """Write unit, slope, corrections and times of an enhanced PET frame by the classic attributes."""
    for item in h.items(header, "RealWorldValueMappingSequence"):
        units = h.items(item, "MeasurementUnitsCodeSequence")
        codes = [h.text(unit, "CodeValue").upper().replace(" ", "") for unit in units]
        slope, intercept = h.number(item, "RealWorldValueSlope"), h.number(item, "RealWorldValueIntercept")
        if slope is None or not codes or codes[0] not in PET_UNITS:
            continue
        for keyword, value in zip(("Units", "SUVType"), PET_UNITS[codes[0]], strict=True):
            _put(header, keyword, value)
        _put(header, "RescaleSlope", slope, "FD")
        _put(header, "RescaleIntercept", intercept or 0.0, "FD")
        break
    stated = {code: h.text(header, keyword).upper() for code, keyword in CORRECTIONS.items()}
    if "CorrectedImage" not in header and any(stated.values()):
        _put(header, "CorrectedImage", [code for code, value in stated.items() if value == "YES"] or ["NONE"])
    if "DecayCorrection" not in header and stated["DECY"] == "NO":
        _put(header, "DecayCorrection", "NONE")
    if "DecayCorrection" not in header and stated["DECY"] == "YES" and h.text(header, "DecayCorrectionDateTime"):
        _put(header, "DecayCorrection", "START")
    if "AcquisitionTime" not in header and (moment := h.text(header, "FrameAcquisitionDateTime")):
        _put(header, "AcquisitionDateTime", moment)
    duration = h.number(header, "FrameAcquisitionDuration")
    if "ActualFrameDuration" not in header and duration is not None:
        _put(header, "ActualFrameDuration", duration, "FD")


def _put(header: Dataset, keyword: str, value: object, vr: str = "") -> None:
    """Set an attribute, whatever was there; numbers of full precision need another VR than the classic attribute's."""
    tag = Tag(keyword)
    header[tag] = DataElement(tag, vr or dictionary_VR(tag), value)
