"""RT Structure Set: the contours of a series' lesions."""

import datetime as dt

import numpy as np
from pydicom.dataset import Dataset

from mira.phantom.dicom_base import Frame, StudyInfo, base, da, series, tm
from mira.phantom.identity import Person
from mira.phantom.lesions import Lesion
from mira.phantom.scanners import Device, SiteSpec

RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
STUDY_COMPONENT = "1.2.840.10008.3.1.2.3.1"
_DEVICE = Device("MIRA", "phantom contours", "DEMO-CONTOURS", "1")
_COLOURS = ([255, 80, 60], [80, 200, 80], [70, 120, 255], [240, 200, 40], [200, 80, 220], [60, 210, 220])


def contours(lesion: Lesion, frame: Frame) -> dict[int, list[float]]:
    """Outlines of a lesion per slice index, as x, y, z, x, y, z ... in patient coordinates (LPS mm)."""
    found = {}
    for index, z in enumerate(frame.grid.z()):
        outline = lesion.blob.contour(float(z))
        if outline is None:
            continue
        points = np.concatenate([outline, np.full((len(outline), 1), z)], axis=1)
        found[index] = [round(float(v), 3) for v in frame.to_patient(points).ravel()]
    return found


def structure_set(
    site: SiteSpec,
    person: Person,
    study: StudyInfo,
    frame: Frame,
    images: list[Dataset],
    lesions: list[Lesion],
    number: int,
) -> Dataset | None:
    """The structure set of a series, or None where no lesion crosses a slice.

    Args:
        site: the site.
        person: the patient.
        study: the images' study.
        frame: the images' geometry.
        images: the images in order of the grid's slices.
        lesions: lesions that the series shows.
        number: SeriesNumber.
    """
    outlined = [(lesion, found) for lesion in lesions if (found := contours(lesion, frame))]
    if not outlined:
        return None
    first = images[0]
    start = study.start + dt.timedelta(hours=1, minutes=number)
    ds = base(RT_STRUCTURE_SET, site, person, study, _DEVICE)
    ds.SOPInstanceUID = person.uid("contours", str(first.SeriesInstanceUID))
    uid = person.uid("series", "contours", str(first.SeriesInstanceUID))
    series(ds, "RTSTRUCT", uid, number, f"Lesions on {first.SeriesDescription}", "", start, "")
    del ds.ProtocolName
    ds.InstanceNumber = 1
    ds.FrameOfReferenceUID = first.FrameOfReferenceUID
    ds.PositionReferenceIndicator = None
    ds.StructureSetLabel = "LESIONS"
    ds.StructureSetName = None
    ds.StructureSetDate, ds.StructureSetTime = da(start), tm(start)
    ds.ReferencedFrameOfReferenceSequence = [_referenced(first, images)]
    ds.StructureSetROISequence, ds.ROIContourSequence, ds.RTROIObservationsSequence = [], [], []
    for roi, (lesion, found) in enumerate(outlined, start=1):
        structure = Dataset()
        structure.ROINumber = roi
        structure.ReferencedFrameOfReferenceUID = first.FrameOfReferenceUID
        structure.ROIName = lesion.name
        structure.ROIGenerationAlgorithm = "AUTOMATIC"
        ds.StructureSetROISequence.append(structure)
        outline = Dataset()
        outline.ROIDisplayColor = _COLOURS[(roi - 1) % len(_COLOURS)]
        outline.ReferencedROINumber = roi
        outline.ContourSequence = [_contour(images[index], data) for index, data in sorted(found.items())]
        ds.ROIContourSequence.append(outline)
        observation = Dataset()
        observation.ObservationNumber = roi
        observation.ReferencedROINumber = roi
        observation.RTROIInterpretedType = None
        observation.ROIInterpreter = None
        ds.RTROIObservationsSequence.append(observation)
    ds.ApprovalStatus = "UNAPPROVED"
    return ds


def _reference(image: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return item


def _referenced(first: Dataset, images: list[Dataset]) -> Dataset:
    of_series = Dataset()
    of_series.SeriesInstanceUID = first.SeriesInstanceUID
    of_series.ContourImageSequence = [_reference(image) for image in images]
    of_study = Dataset()
    of_study.ReferencedSOPClassUID, of_study.ReferencedSOPInstanceUID = STUDY_COMPONENT, first.StudyInstanceUID
    of_study.RTReferencedSeriesSequence = [of_series]
    of_frame = Dataset()
    of_frame.FrameOfReferenceUID = first.FrameOfReferenceUID
    of_frame.RTReferencedStudySequence = [of_study]
    return of_frame


def _contour(image: Dataset, data: list[float]) -> Dataset:
    item = Dataset()
    item.ContourImageSequence = [_reference(image)]
    item.ContourGeometricType = "CLOSED_PLANAR"
    item.NumberOfContourPoints = len(data) // 3
    item.ContourData = [f"{value:.3f}" for value in data]
    return item
