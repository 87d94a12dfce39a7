"""What a derived slice takes over from its source: all that is still true of it, in a form that the standard allows."""

from copy import copy

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from mira.dicom import headers as h
from mira.dicom.vocabulary import words

# true of the source's pixels or file, not of the derived ones
STALE = (
    "SmallestImagePixelValue", "LargestImagePixelValue", "SmallestPixelValueInSeries", "LargestPixelValueInSeries",
    "SmallestImagePixelValueInPlane", "LargestImagePixelValueInPlane", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence",
    "VOILUTSequence", "RealWorldValueMappingSequence", "PixelIntensityRelationship",
    "PixelIntensityRelationshipSign", "IconImageSequence", "NumberOfFrames", "DigitalSignaturesSequence",
    "MACParametersSequence", "EncryptedAttributesSequence", "OriginalAttributesSequence", "InstanceCreatorUID",
    "DataSetTrailingPadding", "PixelData", "FloatPixelData", "DoubleFloatPixelData", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths", "SOPAuthorizationDateTime", "SOPAuthorizationComment",
    "AuthorizationEquipmentCertificationNumber", "SOPInstanceStatus", "QualityControlImage",
    "RedPaletteColorLookupTableData", "PixelSpacingCalibrationType", "ReferencedImageEvidenceSequence",
    "SourceImageSequence", "LUTExplanation", "PixelDataProviderURL", "ModalityLUTType",
)  # fmt: skip
PAIRED_PARTS = words("ANKLE ARM BREAST CLAVICLE ELBOW EXTREMITY EYE FOOT HAND HIP KNEE LEG SHOULDER")
UNIT_PRIVATE = ((0x7053, "Philips PET Private Group", (0x00, 0x09)), (0x0009, "GEMS_PETD_01", (0x0D,)))
"""Philips' factors from counts to SUV and activity, GE's start of the scan."""


def inherited(source: Dataset) -> Dataset:
    """The source's attributes without private, overlay and stale ones, and those whose bytes are no value of theirs."""
    dataset = Dataset()
    for element in h.elements(source):
        tag = element.tag
        repeating = tag.group & 0xFF01 == 0x6000 or tag.group & 0xFF01 == 0x5000  # overlays and curves
        if not (tag.is_private or repeating or tag.element == 0 or element.keyword in STALE or tag.group == 0x0002):
            dataset.add(element)
    return _without_private(dataset)


def _without_private(dataset: Dataset) -> Dataset:
    """A copy whose sequences carry no private attributes either; the source stays as it is."""
    result = Dataset()
    for element in h.elements(dataset):
        if element.VR == "SQ":
            inner = [_without_private(item) for item in element.value or []]
            result.add_new(element.tag, "SQ", DicomSequence(inner))
        elif not element.tag.is_private:
            result.add(copy(element))  # setting an attribute changes its element, and this one is the source's
    return result


def keep_private(source: Dataset, dataset: Dataset) -> None:
    """Keep the private numbers without which the unit of a PET would be lost."""
    for group, creator, elements in UNIT_PRIVATE:
        for element in elements:
            if value := h.private(source, group, creator, element):
                block = dataset.private_block(group, creator, create=True)
                block.add_new(element, "DT" if group == 0x0009 else "DS", value)


def settle_time(dataset: Dataset) -> None:
    """One time point of a dynamic PET is a static series: a derived series has one image at each position."""
    kinds = h.values(dataset, "SeriesType")
    if kinds[:1] != ["DYNAMIC"] or h.number(dataset, "NumberOfTimeSlices") == 1:
        return
    dataset.SeriesType = ["STATIC", *kinds[1:]]
    index, slices = h.number(dataset, "ImageIndex"), h.number(dataset, "NumberOfSlices")
    if index and slices:  # counted on from time point to time point (PS3.3 C.8.9.4.1.9)
        dataset.ImageIndex = int((index - 1) % slices) + 1


def settle_conditions(dataset: Dataset) -> None:
    """Attributes that the standard allows, or wants, under a condition only, where the source's scanner ignored it."""
    gated = set(h.values(dataset, "ScanOptions")) & {"CG", "PPG", "RG", "PG"}
    series_type = (h.values(dataset, "SeriesType") or [""])[0]
    unwanted = {
        "PatientPosition": "PatientOrientationCodeSequence" in dataset,
        "NumberOfTimeSlices": series_type != "DYNAMIC",
        "NumberOfTimeSlots": series_type != "GATED",
        "TriggerTime": dataset.Modality == "MR" and not gated,
    }
    for keyword, drop in unwanted.items():
        if drop and keyword in dataset:
            delattr(dataset, keyword)
    paired = h.text(dataset, "BodyPartExamined").upper() in PAIRED_PARTS
    if paired and not {"Laterality", "ImageLaterality", "FrameLaterality"} & set(dataset.dir()):
        dataset.Laterality = ""  # of type 2C: which side is not known, and that is said
