"""Derived series: new voxels on the geometry of a source series, in the same study, as the source's own kind of image.

A frame of an enhanced CT or MR becomes a classic single-frame image (`mira.dicom.classic`).
The derived series says what was done, by what, from which images; it keeps what viewers and SUV software need, and
drops what is no longer true. It carries the patient, as its source does: it belongs beside it, nowhere else.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from mira.dicom import headers as h
from mira.dicom.classic import as_classic, target_class
from mira.dicom.derivation import (
    Derivation,
    code,
    equipment,
    joined,
    name_coding_scheme,
    restored_by,
    simulated_by,
    source_reference,
    suffixed,
)
from mira.dicom.headers import tolerant
from mira.dicom.inherited import inherited, keep_private, settle_conditions, settle_time
from mira.dicom.stored import Stored, encode
from mira.dicom.syntaxes import may_be_lossy
from mira.dicom.triage import CLASSIC, sop_class
from mira.dicom.volume import SeriesVolume
from mira.errors import DataRejected
from mira.progress import track
from mira.storage import atomic_folder
from mira.tasks import Modality

__all__ = ["Derivation", "check", "restored_by", "simulated_by", "write_derived", "write_series"]
SERIES_NUMBER_STEP = 1000
GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID", "Rows", "Columns")


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
    return write_series(source, encode(source, voxels, purpose.keeps_unseen), out, purpose, progress)


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
        width = max(4, len(str(len(slices))))  # sorted by name, the files are in slice order
        for index, (header, values, number) in enumerate(shown):
            dataset = _derive(header, values, purpose, (study_uid, series_uid), number, moment)
            if amend is not None:
                amend(dataset, index)
            _check_geometry(header, dataset, values)
            dataset.save_as(temporary / f"{index + 1:0{width}d}.dcm", enforce_file_format=True)
    return sorted(out.glob("*.dcm"))


def check(source: SeriesVolume, voxels: NDArray[np.float32], out: Path) -> None:
    """Raise DataRejected unless a derived series of these voxels can be written there."""
    if voxels.shape != source.volume.voxels.shape:
        raise DataRejected(f"The new voxels have shape {voxels.shape}, the source {source.volume.voxels.shape}.")
    if not np.isfinite(voxels).all():
        raise DataRejected("The new voxels are not all finite numbers; nothing was written.")
    if out.exists():
        raise DataRejected(f"{out} exists already. Give another folder, or remove it first.")
    if why := not_derivable(source):
        raise DataRejected(why)


def not_derivable(source: SeriesVolume) -> str:
    """Why no derived series of a source can be written, "" when one can."""
    missing = [header for header in source.headers if not target_class(header)]
    if not missing:
        return ""
    if not sop_class(missing[0]):
        return (
            "A derived series cannot be written: the headers do not say of which SOP class the images are. Export the "
            "series from the archive again."
        )
    return (
        "A derived series of an enhanced PET cannot be written: the classic PET image demands times and counts "
        "that its frames do not state. Take the classic single-frame series of the same scan."
    )


def _derive(
    source: Dataset, values: Stored, purpose: Derivation, uids: tuple[str, str], number: int, moment: datetime
) -> FileDataset:
    """One derived slice."""
    dataset = FileDataset("", inherited(as_classic(source)), preamble=b"\0" * 128)
    dataset.SOPClassUID = target_class(source)
    dataset.Modality = CLASSIC[target_class(source)]  # some sources lack it
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
    moment = moment.astimezone(h.time_zone(source))  # of the dates and times without a zone of their own
    # the series keeps its own date and time: they are the reference of the decay correction of many a PET
    dataset.ContentDate = dataset.InstanceCreationDate = moment.strftime("%Y%m%d")
    dataset.ContentTime = dataset.InstanceCreationTime = moment.strftime("%H%M%S.%f")
    dataset.DerivationDescription = joined(h.text(source, "DerivationDescription"), purpose.description)
    dataset.DerivationCodeSequence = DicomSequence([*h.items(dataset, "DerivationCodeSequence"), code(*purpose.code)])
    dataset.SourceImageSequence = DicomSequence([source_reference(source)])
    contributed = h.items(dataset, "ContributingEquipmentSequence")
    dataset.ContributingEquipmentSequence = DicomSequence([*contributed, equipment(purpose, moment)])
    name_coding_scheme(dataset)
    settle_time(dataset)
    settle_conditions(dataset)
    keep_private(source, dataset)
    _set_pixels(dataset, source, values)
    return dataset


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
    for keyword, padding in (
        ("PixelPaddingValue", values.padding), ("PixelPaddingRangeLimit", values.padding_limit)
    ):  # fmt: skip
        if padding is not None:
            dataset.add_new(keyword, "SS" if signed else "US", padding)
    pixels = values.pixels.astype("<i2" if signed else "<u2")
    if dataset.Modality == "PT":
        dataset.add_new("SmallestImagePixelValue", "SS" if signed else "US", int(pixels.min()))
        dataset.add_new("LargestImagePixelValue", "SS" if signed else "US", int(pixels.max()))
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    # once lossy, always lossy; ratio and method stay with it
    dataset.LossyImageCompression = "01" if may_be_lossy(source) else "00"


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
