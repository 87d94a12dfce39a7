"""Synthetic enhanced multi-frame images: functional groups, stacks, echoes, time points."""

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset, FileDataset

from tests.mira.dicom_synthetic import make_header, pet_drug, pixels

CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2.1",
    "MR": "1.2.840.10008.5.1.4.1.1.4.1",
    "PT": "1.2.840.10008.5.1.4.1.1.130",
}
CLASSIC_ONLY = (
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope",
    "RescaleIntercept", "Units", "DecayCorrection", "CorrectedImage", "ActualFrameDuration", "SeriesTime",
    "AcquisitionTime", "AcquisitionDate", "SeriesDate",
)  # fmt: skip


def item(**fields) -> Dataset:
    """A data set of some attributes; a list of data sets becomes a sequence."""
    ds = Dataset()
    for keyword, value in fields.items():
        setattr(ds, keyword, value)
    return ds


def frame(number: int, slope: float = 1.0, intercept: float = 0.0, kind: str = "MR", **content) -> Dataset:
    """The functional group of one frame, `number` * 3 mm along z; `content` goes into its Frame Content Sequence."""
    group = item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 3.0 * number])])
    group.FrameContentSequence = [item(FrameAcquisitionNumber=1, **content)]
    if kind == "PT":
        unit = item(CodeValue="Bq/ml", CodingSchemeDesignator="UCUM", CodeMeaning="Becquerels/milliliter")
        mapping = item(MeasurementUnitsCodeSequence=[unit])
        mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = slope, intercept
        group.RealWorldValueMappingSequence = [mapping]
    else:
        group.PixelValueTransformationSequence = [item(RescaleSlope=slope, RescaleIntercept=intercept)]
    return group


def enhanced(
    kind: str,
    frames: int | Sequence[Dataset],
    stored: np.ndarray | None = None,
    orientation: Sequence[float] | None = (1, 0, 0, 0, 1, 0),
    **changes,
) -> FileDataset:
    """An enhanced image with a pixel spacing and an orientation that its frames share.

    Args:
        kind: CT, MR or PT.
        frames: number of plain frames, or the functional group of each.
        stored: [frames, rows, columns]; by default `pixels(0)`, `pixels(1)`, ...
        orientation: of all frames; None for groups that bring their own.
        **changes: attributes at the top.
    """
    groups = (
        [frame(n, n + 1, -1000 if kind == "CT" else 0, kind) for n in range(frames)]
        if isinstance(frames, int)
        else frames
    )
    stored = np.stack([pixels(n) for n in range(len(groups))]) if stored is None else stored
    ds = make_header(kind, 0, stored=stored[0], **dict.fromkeys(CLASSIC_ONLY))
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CLASSES[kind]
    ds.NumberOfFrames = len(groups)
    shared = item(PixelMeasuresSequence=[item(PixelSpacing=[1.5, 0.5], SliceThickness=3)])
    if orientation is not None:
        shared.PlaneOrientationSequence = [item(ImageOrientationPatient=list(orientation))]
    if kind == "PT":
        ds.DecayCorrected = ds.AttenuationCorrected = "YES"
        ds.DecayCorrectionDateTime = "20200102100000"
        drug = pet_drug(RadiopharmaceuticalStartTime=None, RadiopharmaceuticalStartDateTime="20200102090000")
        ds.RadiopharmaceuticalInformationSequence = [drug]
        ds.PatientWeight = 74
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = list(groups)
    ds.PixelData = stored.tobytes()
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds
