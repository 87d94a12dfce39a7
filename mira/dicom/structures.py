"""RTSTRUCT contours as labels on the grid of the series that they were drawn on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from mira.dicom import headers as h
from mira.dicom.headers import tolerant
from mira.dicom.reasons import Reason, Refused
from mira.volume import Volume

MOST_LABELS = 255
PLANE_TOLERANCE = 0.5
"""A contour belongs to the slice whose centre is at most half a slice distance away, with all its points."""


@dataclass(frozen=True)
class References:
    """What a structure set refers to: frames of reference, series and instances."""

    frames: frozenset[str]
    series: frozenset[str]
    instances: frozenset[str]


@dataclass(frozen=True)
class Labels:
    """Rasterised structures.

    Attributes:
        volume: labels 1..count as float32, 0 is background; None when nothing fell on the grid.
        count: number of structures with at least one voxel.
        warnings: codes of what could not be kept.
    """

    volume: Volume | None
    count: int
    warnings: list[str]


def read_structure_set(path: Path) -> Dataset:
    """Read an RTSTRUCT file.

    Raises:
        Refused: when it is damaged.
    """
    try:
        with tolerant():
            return dcmread(path, force=True)
    except Exception as error:
        raise Refused(Reason.UNREADABLE) from error


def references(structures: Dataset) -> References:
    """UIDs of everything that a structure set says it was drawn on."""
    frames, series, instances = set[str](), set[str](), set[str]()
    for frame in h.items(structures, "ReferencedFrameOfReferenceSequence"):
        frames.add(h.uid(frame, "FrameOfReferenceUID"))
        for study in h.items(frame, "RTReferencedStudySequence"):
            for one in h.items(study, "RTReferencedSeriesSequence"):
                series.add(h.uid(one, "SeriesInstanceUID"))
                instances |= {h.uid(i, "ReferencedSOPInstanceUID") for i in h.items(one, "ContourImageSequence")}
    for roi in h.items(structures, "StructureSetROISequence"):
        frames.add(h.uid(roi, "ReferencedFrameOfReferenceUID"))
    for roi in h.items(structures, "ROIContourSequence"):
        for contour in h.items(roi, "ContourSequence"):
            instances |= {h.uid(i, "ReferencedSOPInstanceUID") for i in h.items(contour, "ContourImageSequence")}
    return References(*(frozenset(found - {""}) for found in (frames, series, instances)))


def belongs(refers: References, header: Dataset, instances: set[str] | None = None) -> bool:
    """Whether a structure set was drawn on a series: same frame of reference, and the series or an instance named.

    Args:
        refers: of the structure set.
        header: any header of the series.
        instances: SOP instance UIDs of the series, where known.
    """
    frame = h.uid(header, "FrameOfReferenceUID")
    if refers.frames and frame and frame not in refers.frames:
        return False
    named = h.uid(header, "SeriesInstanceUID") in refers.series
    return named or bool(instances and instances & refers.instances)


def rasterise(structure_sets: list[Dataset], image: Volume) -> Labels:
    """Label the voxels whose centres lie inside closed contours, structure by structure.

    Contours of one structure on one slice are combined by exclusive or, so an inner contour cuts a hole. Where
    structures overlap, the smaller one is kept on top: a lesion within an organ stays visible.

    Args:
        structure_sets: RTSTRUCT datasets, drawn on the image.
        image: the grid.
    """
    warnings: set[str] = set()
    masks: list[NDArray[np.bool_]] = []
    to_index = np.linalg.inv(image.affine).astype(np.float64)
    for structures in sorted(structure_sets, key=lambda ds: h.text(ds, "SOPInstanceUID")):
        rois = h.items(structures, "ROIContourSequence")
        for roi in sorted(rois, key=lambda item: h.number(item, "ReferencedROINumber") or 0):
            mask = _mask(h.items(roi, "ContourSequence"), to_index, image.voxels.shape, warnings)
            if mask is not None:
                masks.append(mask)
    if len(masks) > MOST_LABELS:
        warnings.add("structures-too-many")
        masks = masks[:MOST_LABELS]
    if not masks:
        return Labels(None, 0, sorted(warnings))
    labels = np.zeros(image.voxels.shape, np.float32)
    for number in sorted(range(len(masks)), key=lambda i: -int(masks[i].sum())):
        if labels[masks[number]].any():
            warnings.add("structures-overlap")
        labels[masks[number]] = number + 1
    return Labels(Volume(labels, image.affine), len(masks), sorted(warnings))


def _mask(
    contours: list[Dataset], to_index: NDArray[np.float64], shape: tuple[int, ...], warnings: set[str]
) -> NDArray[np.bool_] | None:
    """Voxels inside the closed planar contours of one structure; None when there is none."""
    from skimage.draw import polygon  # heavy, and only sites with contours need it

    mask = np.zeros(shape, bool)
    for contour in contours:
        points = np.array(h.numbers(contour, "ContourData"))
        if h.text(contour, "ContourGeometricType").upper() != "CLOSED_PLANAR" or len(points) < 9 or len(points) % 3:
            warnings.add("structures-not-planar")
            continue
        column, row, height = (points.reshape(-1, 3) @ to_index[:3, :3].T + to_index[:3, 3]).T
        number = round(float(height.mean()))
        if np.abs(height - number).max() > PLANE_TOLERANCE:
            warnings.add("structures-off-plane")
            continue
        if not 0 <= number < shape[0]:
            warnings.add("structures-outside-grid")
            continue
        if row.min() < -0.5 or column.min() < -0.5 or row.max() > shape[1] - 0.5 or column.max() > shape[2] - 0.5:
            warnings.add("structures-outside-grid")
        inside = polygon(row, column, shape[1:])
        mask[number][inside] ^= True
    if not mask.any():
        warnings.add("structures-empty")
        return None
    return mask
