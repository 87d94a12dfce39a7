"""Tell acquired slices from everything else that lies in an archive, by the header alone."""

from pydicom.dataset import Dataset
from pydicom.uid import UID as DicomUid

from mira.dicom import headers as h
from mira.dicom.reasons import Reason, Refused
from mira.dicom.remembered import remembered

CT, MR, PET = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.128"
CLASSIC = {CT: "CT", MR: "MR", PET: "PT"}
ENHANCED = {CT + ".1": "CT", CT + ".2": "CT", MR + ".1": "MR", MR + ".4": "MR",
            "1.2.840.10008.5.1.4.1.1.130": "PT", PET + ".1": "PT"}  # fmt: skip
"""Enhanced multi-frame images, and classic ones that were converted to such."""
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
RT_STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
NOT_IMAGES = ("1.2.840.10008.5.1.4.1.1.88", "1.2.840.10008.5.1.4.1.1.481", "1.2.840.10008.5.1.4.1.1.9",
              "1.2.840.10008.5.1.4.1.1.11", "1.2.840.10008.5.1.4.1.1.66", "1.2.840.10008.5.1.4.1.1.104")  # fmt: skip

LOCALISERS = {"LOCALIZER", "LOCALISER", "SCOUT", "TOPOGRAM", "SURVEY", "SURVIEW", "REF_SURVIEW", "SCOUTVIEW"}
DOSE_PAGES = {"DOSE_INFO", "DOSE_REPORT", "PATIENT_INFO", "SCREEN SAVE", "PROTOCOL"}
REFORMATTED = {"MPR", "CSA MPR", "CPR", "MIP", "MINIP", "MAXIP", "MNIP", "AVERAGEIP", "PROJECTION IMAGE", "VRT", "SSD",
               "VOLUME_RENDERED", "MAX_IP", "MIN_IP", "CSAPARALLEL", "THICK_MPR", "CURVED_MPR"}  # fmt: skip
REFORMATTED_FRAMES = {"MAX_IP", "MIN_IP", "VOLUME_RENDER", "SURFACE_RENDER", "MPR", "CURVED_MPR"}
"""Volume-based calculation techniques of enhanced frames (PS3.3 C.8.16.2.1.3)."""
PARAMETRIC = {"ADC", "EADC", "FA", "TRACEW", "DIFFUSION_ADC", "PERFUSION", "RCBF", "RCBV", "CBF", "CBV", "MTT", "TTP",
              "TMAX", "PBP", "SUBTRACT", "SUBTRACTION", "T1 MAP", "T2 MAP", "T2_STAR MAP", "FIELD_MAP", "VELOCITY",
              "PARAMETRIC", "METABOLITE_MAP", "VIRTUAL_NON_CONTRAST", "IODINE", "EFF_ATOMIC_NUM",
              "ELECTRON_DENSITY"}  # fmt: skip
NOT_MAGNITUDE = {"P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY", "MIXED"}
OWN_MARKS = ("MIRA-NET", "MIRA_NET")


def sop_class(header: Dataset) -> str:
    """SOP class of a dataset; of its file meta header where the dataset has none; "" when neither says."""
    found = h.uid(header, "SOPClassUID")
    meta = getattr(header, "file_meta", None)
    return found or (h.uid(meta, "MediaStorageSOPClassUID") if meta is not None else "")


def modality(header: Dataset) -> str:
    """CT, MR or PT by the SOP class, or by the Modality attribute where there is no SOP class; "" for others."""
    kind = sop_class(header)
    if kind:
        return CLASSIC.get(kind) or ENHANCED.get(kind, "")
    stated = h.text(header, "Modality").upper()
    return stated if stated in CLASSIC.values() else ""


def is_enhanced(header: Dataset) -> bool:
    """Whether the object keeps its frames' geometry in functional groups."""
    return sop_class(header) in ENHANCED


@remembered(
    "MediaStorageSOPClassUID", "SOPClassUID", "ImageType", "Modality", "PhotometricInterpretation", "SamplesPerPixel",
    "NumberOfFrames", "BurnedInAnnotation", "DerivationDescription", "ManufacturerModelName",
    "ContributingEquipmentSequence", "VolumeBasedCalculationTechnique", "ComplexImageComponent",
)  # fmt: skip
def triage(header: Dataset) -> None:
    """Refuse what is not an acquired grey-scale slice of CT, PET or MR.

    Reads attributes up to group 0028 only, so a header that stops there will do.

    Raises:
        Refused: with the reason.
    """
    kind = sop_class(header)
    image_type = {value.upper() for value in h.values(header, "ImageType")}
    if kind == SECONDARY_CAPTURE or kind.startswith(SECONDARY_CAPTURE + "."):
        if image_type & LOCALISERS:
            raise Refused(Reason.LOCALISER)
        raise Refused(Reason.DOSE_PAGE if image_type & DOSE_PAGES else Reason.SECONDARY_CAPTURE)
    if any(kind == prefix or kind.startswith(prefix + ".") for prefix in NOT_IMAGES):
        raise Refused(Reason.NOT_AN_IMAGE, kind_name(header))
    if not modality(header):
        raise Refused(Reason.OTHER_MODALITY, kind_name(header))
    if h.text(header, "PhotometricInterpretation").upper() not in ("", "MONOCHROME1", "MONOCHROME2"):
        raise Refused(Reason.COLOUR)
    if (h.number(header, "SamplesPerPixel") or 1) != 1:
        raise Refused(Reason.COLOUR)
    if not is_enhanced(header) and (h.number(header, "NumberOfFrames") or 1) != 1:
        raise Refused(Reason.NO_GEOMETRY, "several frames in an object that is made for one")
    if h.text(header, "BurnedInAnnotation").upper() == "YES":
        raise Refused(Reason.BURNED_IN)
    if is_own(header):
        raise Refused(Reason.ALREADY_RESTORED)
    _check_image_type(header, image_type)


def _check_image_type(header: Dataset, image_type: set[str]) -> None:
    if image_type & LOCALISERS:
        raise Refused(Reason.LOCALISER)
    if image_type & DOSE_PAGES:
        raise Refused(Reason.DOSE_PAGE)
    technique = h.text(header, "VolumeBasedCalculationTechnique").upper()
    if image_type & REFORMATTED or technique in REFORMATTED_FRAMES:
        raise Refused(Reason.REFORMATTED)
    if image_type & PARAMETRIC:
        raise Refused(Reason.PARAMETRIC)
    component = h.text(header, "ComplexImageComponent").upper()
    kinds = [value.upper() for value in h.values(header, "ImageType")]
    if modality(header) == "MR" and (component in NOT_MAGNITUDE or (len(kinds) > 2 and kinds[2] in NOT_MAGNITUDE)):
        raise Refused(Reason.NOT_MAGNITUDE)


def is_own(header: Dataset) -> bool:
    """Whether a MIRA-Net version is named among the equipment or in the derivation: the series is restored already."""
    words = [h.text(header, "DerivationDescription"), h.text(header, "ManufacturerModelName")]
    for item in h.items(header, "ContributingEquipmentSequence"):
        words += [h.text(item, "Manufacturer"), h.text(item, "ManufacturerModelName")]
    return any(mark in word.upper() for word in words for mark in OWN_MARKS)


def kind_name(header: Dataset) -> str:
    """The standard's name of the SOP class; nothing from the header itself."""
    kind = DicomUid(sop_class(header))
    return kind.name if kind and kind.name != kind else "unknown object"
