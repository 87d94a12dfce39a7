"""Derived series: new voxels on the geometry of a source series, in the same study, as the source's own kind of image.

A frame of an enhanced CT or MR becomes a classic single-frame image (`mira.dicom.classic`).
The derived series says what was done, by what, from which images; it keeps what viewers and SUV software need, and
drops what is no longer true. It carries the patient, as its source does: it belongs beside it, nowhere else.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from mira import __version__
from mira.dicom import headers as h
from mira.dicom.classic import as_classic, target_class
from mira.dicom.headers import tolerant
from mira.dicom.stored import Stored, encode
from mira.dicom.triage import CLASSIC, is_enhanced, sop_class
from mira.dicom.volume import SeriesVolume
from mira.errors import DataRejected
from mira.progress import track
from mira.storage import atomic_folder
from mira.tasks import Modality

CODING_SCHEME = "99MIRA"
SERIES_NUMBER_STEP = 1000
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
PAIRED_PARTS = frozenset(
    {
        "ANKLE",
        "ARM",
        "BREAST",
        "CLAVICLE",
        "ELBOW",
        "EXTREMITY",
        "EYE",
        "FOOT",
        "HAND",
        "HIP",
        "KNEE",
        "LEG",
        "SHOULDER",
    }
)
UNIT_PRIVATE = ((0x7053, "Philips PET Private Group", (0x00, 0x09)), (0x0009, "GEMS_PETD_01", (0x0D,)))
"""Philips' factors from counts to SUV and activity, GE's start of the scan."""
GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID", "Rows", "Columns")


@dataclass(frozen=True)
class Derivation:
    """What made a derived series.

    Attributes:
        label: appended to the series description, e.g. `MIRA-Net, research use`; plain ASCII.
        description: what was done, for `DerivationDescription`; plain ASCII.
        code: value and meaning of the derivation code in the project's own scheme; the standard's CID 7203 has no
            code for it.
        manufacturer: maker of the software.
        model: name of the network or simulator.
        versions: versions of the network and of the software.
    """

    label: str
    description: str
    code: tuple[str, str]
    manufacturer: str
    model: str
    versions: tuple[str, ...]


def restored_by(model: str, version: str) -> Derivation:
    """The derivation of a restored series; readers recognise it and refuse to restore it again."""
    return Derivation(
        label="MIRA-Net, research use",
        description=f"Restored slice by slice by the neural network MIRA-Net ({model} {version or 'unversioned'}). "
        "Research use only; not for primary diagnosis.",
        code=("RESTORED", "Image restoration by neural network"),
        manufacturer="MIRA-Net project",
        model=model,
        versions=(version or "unversioned", f"mira {__version__}"),
    )


def simulated_by(simulator: str, what: str) -> Derivation:
    """The derivation of a series that simulates a low dose, few counts or a low resolution.

    Args:
        simulator: name and version of the simulator.
        what: what was simulated, e.g. `dose fraction 0.1`.
    """
    return Derivation(
        label=f"simulated {what}",
        description=f"Degraded by simulation: {what}. Not acquired like this; for tests only.",
        code=("SIMULATED", "Simulated degradation"),
        manufacturer="mira simulator",
        model=simulator,
        versions=(f"mira {__version__}",),
    )


def write_derived(
    source: SeriesVolume, voxels: NDArray[np.float32], out: Path, purpose: Derivation, progress: bool = False
) -> list[Path]:
    """Write a derived series; the folder appears complete or not at all.

    Args:
        source: the series that the voxels were made from.
        voxels: float32 [slices, rows, columns] in the unit of `source`, on its grid.
        out: folder of the new series, which must not exist yet.
        purpose: what made the voxels.
        progress: whether to show a progress bar.

    Returns:
        The files, in slice order.

    Raises:
        DataRejected: when the source cannot carry a derived series, the voxels do not fit its grid or are not finite,
            or the folder exists.
    """
    check(source, voxels, out)
    return write_series(source, encode(source, voxels), out, purpose, progress)


def write_series(
    source: SeriesVolume,
    stored: Sequence[Stored],
    out: Path,
    purpose: Derivation,
    progress: bool = False,
    amend: Callable[[Dataset, int], None] | None = None,
) -> list[Path]:
    """Write checked and encoded slices as a derived series.

    Args:
        source: the series that they were made from.
        stored: a slice each.
        out: folder of the new series.
        purpose: what made them.
        progress: whether to show a progress bar.
        amend: changes a finished dataset, given with the number of its slice, before it is checked and written.

    Returns:
        The files, in slice order.
    """
    series_uid, moment = str(generate_uid()), datetime.now(UTC).astimezone()
    study_uid = h.uid(source.headers[0], "StudyInstanceUID") or str(generate_uid())  # some sources lack it
    numbers = _instance_numbers(source.headers)
    with tolerant(), atomic_folder(out) as temporary:
        slices = list(zip(source.headers, stored, numbers, strict=True))
        shown = track(slices, "writing", unit="slice") if progress else slices
        for index, (header, values, number) in enumerate(shown):
            dataset = _derive(header, values, purpose, (study_uid, series_uid), number, moment)
            if amend is not None:
                amend(dataset, index)
            _check_geometry(header, dataset, values)
            dataset.save_as(temporary / f"{index + 1:04d}.dcm", enforce_file_format=True)
    return sorted(out.glob("*.dcm"))


def check(source: SeriesVolume, voxels: NDArray[np.float32], out: Path) -> None:
    """Raise DataRejected unless a derived series of these voxels can be written there."""
    if voxels.shape != source.volume.voxels.shape:
        raise DataRejected(f"The new voxels have shape {voxels.shape}, the source {source.volume.voxels.shape}.")
    if not np.isfinite(voxels).all():
        raise DataRejected("The new voxels are not all finite numbers; nothing was written.")
    if out.exists():
        raise DataRejected(f"{out} exists already. Give another folder, or remove it first.")
    for header in source.headers:
        if not target_class(header):
            raise DataRejected(
                "A derived series of an enhanced PET cannot be written: the classic PET image demands times and counts "
                "that its frames do not state. Take the classic single-frame series of the same scan."
            )


def _derive(
    source: Dataset, values: Stored, purpose: Derivation, uids: tuple[str, str], number: int, moment: datetime
) -> FileDataset:
    """One derived slice."""
    dataset = FileDataset("", _copy(as_classic(source)), preamble=b"\0" * 128)
    dataset.SOPClassUID = target_class(source)
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uids
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    dataset.InstanceNumber = number
    dataset.SeriesNumber = int(h.number(source, "SeriesNumber") or 0) + SERIES_NUMBER_STEP
    dataset.SeriesDescription = suffixed(h.text(source, "SeriesDescription"), purpose.label)
    dataset.ImageType = _image_type(source)
    # the series keeps its own date and time: they are the reference of the decay correction of many a PET
    dataset.ContentDate = dataset.InstanceCreationDate = moment.strftime("%Y%m%d")
    dataset.ContentTime = dataset.InstanceCreationTime = moment.strftime("%H%M%S.%f")
    dataset.DerivationDescription = _joined(h.text(source, "DerivationDescription"), purpose.description)
    dataset.DerivationCodeSequence = DicomSequence([*h.items(dataset, "DerivationCodeSequence"), code(*purpose.code)])
    dataset.SourceImageSequence = DicomSequence([_source_reference(source)])
    equipment = [*h.items(dataset, "ContributingEquipmentSequence"), _equipment(purpose, moment)]
    dataset.ContributingEquipmentSequence = DicomSequence(equipment)
    _name_coding_scheme(dataset)
    _settle_conditions(dataset)
    _keep_private(source, dataset)
    _set_pixels(dataset, source, values)
    return dataset


def _copy(source: Dataset) -> Dataset:
    """The source's attributes without private, overlay and stale ones."""
    dataset = Dataset()
    for element in source:
        tag = element.tag
        repeating = tag.group & 0xFF01 == 0x6000 or tag.group & 0xFF01 == 0x5000  # overlays and curves
        if not (tag.is_private or repeating or tag.element == 0 or element.keyword in STALE or tag.group == 0x0002):
            dataset.add(element)
    return _without_private(dataset)


def _without_private(dataset: Dataset) -> Dataset:
    """A copy whose sequences carry no private attributes either; the source stays as it is."""
    result = Dataset()
    for element in dataset:
        if element.VR == "SQ":
            inner = [_without_private(item) for item in element.value or []]
            result.add_new(element.tag, "SQ", DicomSequence(inner))
        elif not element.tag.is_private:
            result.add(copy(element))  # setting an attribute changes its element, and this one is the source's
    return result


def _keep_private(source: Dataset, dataset: Dataset) -> None:
    """Keep the private numbers without which the unit of a PET would be lost."""
    for group, creator, elements in UNIT_PRIVATE:
        for element in elements:
            if value := h.private(source, group, creator, element):
                block = dataset.private_block(group, creator, create=True)
                block.add_new(element, "DT" if group == 0x0009 else "DS", value)


def _set_pixels(dataset: Dataset, source: Dataset, values: Stored) -> None:
    rows, columns = values.pixels.shape
    signed = values.pixels.dtype.kind == "i"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = h.text(source, "PhotometricInterpretation").upper() or "MONOCHROME2"
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = int(signed)
    if values.slope is not None:
        dataset.RescaleSlope = values.slope
        dataset.RescaleIntercept = values.intercept
        if dataset.Modality != "PT":  # the PET image has no Rescale Type: its Units say it
            dataset.RescaleType = "HU" if dataset.Modality == "CT" else "US"
    if values.padding is not None:
        dataset.add_new("PixelPaddingValue", "SS" if signed else "US", values.padding)
    pixels = values.pixels.astype("<i2" if signed else "<u2")
    if dataset.Modality == "PT":
        dataset.add_new("SmallestImagePixelValue", "SS" if signed else "US", int(pixels.min()))
        dataset.add_new("LargestImagePixelValue", "SS" if signed else "US", int(pixels.max()))
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    # once lossy, always lossy; ratio and method stay with it
    dataset.LossyImageCompression = "01" if h.text(source, "LossyImageCompression") == "01" else "00"


def _check_geometry(source: Dataset, dataset: Dataset, values: Stored) -> None:
    """What was written must lie where the source lies."""
    for keyword in GEOMETRY:
        before, after = h.values(source, keyword), h.values(dataset, keyword)
        if before and before != after:
            raise DataRejected(f"{keyword} of the derived slice differs from the source's; nothing was written.")
    if values.pixels.shape != (h.number(source, "Rows"), h.number(source, "Columns")):
        raise DataRejected("The derived slice has another matrix than its source; nothing was written.")


def _image_type(source: Dataset) -> list[str]:
    """DERIVED, SECONDARY, and what the source says from its third value on, where its kind of image is named.

    A PET image may only be PRIMARY (PS3.3 C.8.9.4.1.1).
    """
    modality = Modality.from_dicom(CLASSIC[target_class(source)])
    rest = h.values(source, "ImageType")[2:]
    if not rest and modality is not Modality.PET:
        rest = ["AXIAL" if modality is Modality.CT else "OTHER"]
    return ["DERIVED", "PRIMARY" if modality is Modality.PET else "SECONDARY", *rest]


def _instance_numbers(headers: Sequence[Dataset]) -> list[int]:
    """The source's instance numbers where they are unique, otherwise 1, 2, 3 in slice order."""
    numbers = [h.number(header, "InstanceNumber") for header in headers]
    known = [int(number) for number in numbers if number is not None]
    return known if len(set(known)) == len(headers) else list(range(1, len(headers) + 1))


def _source_reference(source: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class(source)
    item.ReferencedSOPInstanceUID = h.text(source, "SOPInstanceUID") or generate_uid()
    if is_enhanced(source):
        item.ReferencedFrameNumber = int(h.number(source, "InstanceNumber") or 1)
    item.SpatialLocationsPreserved = "YES"
    purpose = code("121322", "Source image for image processing operation", "DCM")
    item.PurposeOfReferenceCodeSequence = DicomSequence([purpose])
    return item


def _equipment(purpose: Derivation, moment: datetime) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = DicomSequence([code("109102", "Processing Equipment", "DCM")])
    item.Manufacturer = purpose.manufacturer
    item.ManufacturerModelName = purpose.model
    item.SoftwareVersions = list(purpose.versions)
    item.ContributionDateTime = moment.strftime("%Y%m%d%H%M%S.%f%z")
    item.ContributionDescription = purpose.description[:64]
    return item


def code(value: str, meaning: str, scheme: str = CODING_SCHEME) -> Dataset:
    """An item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _name_coding_scheme(dataset: Dataset) -> None:
    """Explain the private coding scheme to whoever meets its code."""
    known = h.items(dataset, "CodingSchemeIdentificationSequence")
    if all(h.text(item, "CodingSchemeDesignator") != CODING_SCHEME for item in known):
        item = Dataset()
        item.CodingSchemeDesignator = CODING_SCHEME
        item.CodingSchemeName = "MIRA-Net derivation codes"
        item.CodingSchemeResponsibleOrganization = "MIRA-Net project"
        dataset.CodingSchemeIdentificationSequence = DicomSequence([*known, item])


def _settle_conditions(dataset: Dataset) -> None:
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


def suffixed(text: str, label: str) -> str:
    """A series description with the label, within the 64 characters of its type; a word is kept whole or left out."""
    suffix = f" ({label})"[:64]
    room = 64 - len(suffix)
    if len(text) > room:
        whole = text[: room - 2].rpartition(" ")[0]  # a description of one long word has to be cut
        text = (whole or text[: room - 3]).rstrip(" ,;:-_(") + "..."
    return (text.rstrip() + suffix).strip()


def _joined(before: str, text: str) -> str:
    """A derivation description after the one that the source had, within the 1024 characters of its type."""
    return f"{before[: 1000 - len(text)]}; {text}" if before else text
