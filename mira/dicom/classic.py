"""A frame of an enhanced CT or MR image as a classic single-frame image, as a derived series needs it.

A derived image may be of another SOP class than its source: it names the source frame in its Source Image Sequence. The
classic classes are taken since every archive and viewer knows them, and because an enhanced object would have to
claim dimensions and functional groups of an acquisition that a network has not made. Enhanced PET is refused: the
classic PET image demands a Frame Reference Time, an image index and a series type that frames do not state.
"""

from copy import copy

from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from mira.dicom import headers as h
from mira.dicom.triage import CLASSIC, CT, ENHANCED, MR, sop_class

CLASSIC_OF = {kind: {"CT": CT, "MR": MR}[modality] for kind, modality in ENHANCED.items() if modality != "PT"}
MULTI_FRAME_ONLY = (
    "FrameType", "FrameAcquisitionNumber", "FrameReferenceDateTime", "FrameAcquisitionDateTime",
    "FrameAcquisitionDuration", "DimensionIndexSequence", "DimensionOrganizationSequence", "DimensionOrganizationType",
    "DimensionIndexValues", "StackID", "InStackPositionNumber", "TemporalPositionIndex", "PixelPresentation",
    "VolumetricProperties", "VolumeBasedCalculationTechnique", "ConcatenationUID",
    "SOPInstanceUIDOfConcatenationSource", "InConcatenationNumber", "InConcatenationTotalNumber",
    "ConcatenationFrameOffsetNumber", "EffectiveEchoTime",
    "RepresentativeFrameNumber", "FrameLaterality",
)  # fmt: skip
# of type 2 in the classic modules: present, and empty where the source does not say
EXPECTED = {
    CT: ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
         "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator", "Manufacturer", "SliceThickness",
         "KVP", "AcquisitionNumber"),
    MR: ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
         "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator", "Manufacturer", "SliceThickness",
         "ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength"),
}  # fmt: skip
IN_DS = ("EchoTime", "RepetitionTime", "InversionTime", "FlipAngle", "KVP", "SliceThickness")


def target_class(header: Dataset) -> str:
    """SOP class of the derived image of a slice; "" when there is none."""
    kind = sop_class(header)
    return kind if kind in CLASSIC else CLASSIC_OF.get(kind, "")


def as_classic(header: Dataset) -> Dataset:
    """The header of a slice in the words of its classic image; a classic header as it is.

    Args:
        header: of a classic image, or of a frame with its functional groups lifted to the top.
    """
    if sop_class(header) in CLASSIC:
        return header
    kind = target_class(header)
    result = Dataset()
    for element in h.elements(header):
        if element.keyword not in MULTI_FRAME_ONLY:
            result.add(copy(element))
    if (number := h.number(header, "FrameAcquisitionNumber")) is not None:
        result.AcquisitionNumber = int(number)
    if kind == MR:
        result.ScanningSequence = _scanning(header)
        result.SequenceVariant = _variant(header)
        if (train := h.number(header, "RFEchoTrainLength")) is not None:
            result.EchoTrainLength = int(train)
    for keyword in IN_DS:  # enhanced images hold them in binary
        if (value := h.number(header, keyword)) is not None:
            if keyword in result:
                delattr(result, keyword)
            setattr(result, keyword, format_number_as_ds(float(value)))
    for keyword in EXPECTED[kind]:
        if keyword not in result:
            setattr(result, keyword, None)
    if "PatientPosition" not in result and "PatientOrientationCodeSequence" not in result:
        result.PatientPosition = None
    if not h.text(header, "BodyPartExamined") and not h.items(header, "AnatomicRegionSequence"):
        result.Laterality = None  # whether the part is one of a pair is not known
    result.SOPClassUID = kind
    return result


def _scanning(header: Dataset) -> list[str]:
    echo = h.text(header, "EchoPulseSequence").upper()
    found = [word for word, sign in (("SE", "SPIN"), ("GR", "GRADIENT")) if echo in (sign, "BOTH")]
    found += ["IR"] if h.text(header, "InversionRecovery").upper() == "YES" else []
    found += ["EP"] if h.text(header, "EchoPlanarPulseSequence").upper() == "YES" else []
    return found or ["RM"]


def _variant(header: Dataset) -> list[str]:
    def says(keyword: str) -> bool:
        return h.text(header, keyword).upper() not in ("", "NONE", "NO", "SINGLE")

    signs = (
        ("SK", "SegmentedKSpaceTraversal"), ("MTC", "MagnetizationTransfer"), ("SS", "SteadyStatePulseSequence"),
        ("SP", "Spoiling"), ("MP", "InversionRecovery"),
    )  # fmt: skip
    return [word for word, keyword in signs if says(keyword)] or ["NONE"]
