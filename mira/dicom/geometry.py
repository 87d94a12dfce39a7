"""Group the slices of a series into regular grids, ordered by position along the normal. Nothing is invented."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from mira.dicom import headers as h
from mira.dicom.reasons import Reason, Refused
from mira.dicom.remembered import remembered

MINIMUM_SLICES = 3
SAME_DIRECTION = 1e-3
SAME_POSITION_MM = 0.01
GAP_TOLERANCE = 0.05
"""Largest deviation of a gap from the median: whole-body PET has 2.5 % where beds meet, a lost slice 100 %."""
GAP_TOLERANCE_MM = 0.02
"""The same in mm, for thin slices whose positions are rounded in the header."""
SHEAR_TOLERANCE = 2e-3
"""Largest sideways drift per mm along the normal (0.1 degrees): rounding of header values stays below."""

PHASE_KEYWORDS = ("ImageType", "EchoTime", "EchoNumbers", "TemporalPositionIdentifier", "TemporalPositionIndex",
                  "AcquisitionNumber", "DiffusionBValue", "InversionTime", "ConvolutionKernel",
                  "DiffusionGradientOrientation", "ComplexImageComponent", "TriggerTime",
                  "NominalCardiacTriggerDelayTime", "FrameReferenceTime", "AcquisitionDateTime", "AcquisitionTime",
                  "ContentTime")  # fmt: skip
"""What may tell repeated positions apart, most meaningful first."""
RUN_KEYWORDS = ("AcquisitionNumber", "ImageType", "Rows", "Columns", "PixelSpacing", "SliceThickness", "EchoTime",
                "TemporalPositionIdentifier", "TemporalPositionIndex", "ConvolutionKernel",
                "AcquisitionTime")  # fmt: skip
"""What may tell apart runs that lie beside each other or overlap: two ranges of the body in one series."""


@dataclass(frozen=True)
class _Face:
    """What the slices of a stack have in common, as a `Plane` has it."""

    orientation: NDArray[np.float64]
    spacing: tuple[float, float]
    size: tuple[int, int]
    normal: NDArray[np.float64]


@remembered("ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "GantryDetectorTilt")
def _face(header: Dataset) -> _Face:
    """Read what does not differ from slice to slice.

    Raises:
        Refused: when something is missing or impossible.
    """
    cosines, spacing = h.numbers(header, "ImageOrientationPatient"), h.numbers(header, "PixelSpacing")
    if len(cosines) != 6 or len(spacing) != 2:
        raise Refused(Reason.NO_GEOMETRY)
    orientation = np.array(cosines)
    row, column = orientation[:3], orientation[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if min(spacing) <= 0 or max(abs(length - 1) for length in lengths) > 0.01 or abs(row @ column) > 0.01:
        raise Refused(Reason.BAD_GEOMETRY)
    normal: NDArray[np.float64] = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    tilt = h.number(header, "GantryDetectorTilt") or 0.0
    if abs(tilt) > 0.5 and np.abs(normal).max() > 1 - 1e-6:
        raise Refused(Reason.GANTRY_TILT, "the header names a tilt, but the orientation has none")
    size = int(h.number(header, "Rows") or 0), int(h.number(header, "Columns") or 0)
    for shared in (orientation, normal):
        shared.flags.writeable = False
    return _Face(orientation, (spacing[0], spacing[1]), size, normal)


class Plane:
    """Where a slice lies.

    Attributes:
        orientation: 6 direction cosines, of the rows' direction and of the columns' direction.
        position: LPS coordinates in mm of the centre of the first pixel.
        spacing: distances in mm between rows and between columns.
        size: rows and columns.
        normal: unit normal.
    """

    def __init__(self, header: Dataset) -> None:
        position = h.numbers(header, "ImagePositionPatient")
        if len(position) != 3:
            raise Refused(Reason.NO_GEOMETRY)
        face = _face(header)
        self.position = np.array(position)
        self.orientation, self.spacing = face.orientation, face.spacing
        self.size, self.normal = face.size, face.normal


def split_by_orientation(planes: Sequence[Plane], headers: Sequence[Dataset]) -> list[list[int]]:
    """Indices of slices that lie in parallel planes of one stack, group by group in order of first appearance."""
    groups: list[list[int]] = []
    stacks = [h.text(header, "StackID") for header in headers]
    for index, plane in enumerate(planes):
        for group in groups:
            if stacks[group[0]] == stacks[index] and _is_parallel(planes[group[0]], plane):
                group.append(index)
                break
        else:
            groups.append([index])
    return groups


def _is_parallel(one: Plane, other: Plane) -> bool:
    """Whether two slices have the same orientation, which most have as one object."""
    same = one.orientation is other.orientation
    return same or bool(np.abs(one.orientation - other.orientation).max() < SAME_DIRECTION)


def split_runs(planes: Sequence[Plane], headers: Sequence[Dataset], ordered: list[int]) -> list[list[int]]:
    """Split slices that are no regular grid together into runs that are one each, if an attribute tells them apart.

    Args:
        planes: of all slices.
        headers: of all slices.
        ordered: indices of the slices in question, in order along the normal.

    Returns:
        The runs; `ordered` itself when it is a regular grid, or when nothing splits it into regular grids.
    """
    if _is_grid(planes, ordered):
        return [ordered]
    for keyword in RUN_KEYWORDS:
        runs = _partition(ordered, lambda index, keyword=keyword: h.text(headers[index], keyword))  # type: ignore[misc]
        if len(runs) > 1 and all(_is_grid(planes, run) for run in runs):
            return runs
    return [ordered]


def _is_grid(planes: Sequence[Plane], ordered: list[int]) -> bool:
    try:
        grid([planes[index] for index in ordered])
    except Refused:
        return False
    return True


def split_repeats(planes: Sequence[Plane], headers: Sequence[Dataset]) -> list[list[int]]:
    """Split parallel slices so that no position repeats: by echo, time point, acquisition or another attribute.

    Raises:
        Refused: when positions repeat and no attribute tells the volumes apart.
    """
    heights = [float(plane.position @ planes[0].normal) for plane in planes]
    order = sorted(range(len(planes)), key=heights.__getitem__)
    at: list[list[int]] = []
    for index in order:
        if at and heights[index] - heights[at[-1][0]] < SAME_POSITION_MM:
            at[-1].append(index)
        else:
            at.append([index])
    most = max(len(members) for members in at)
    if most == 1:
        return [order]
    place = {index: number for number, members in enumerate(at) for index in members}
    for keys in [*((k,) for k in PHASE_KEYWORDS), *combinations(PHASE_KEYWORDS[:10], 2)]:
        parts = _partition(order, lambda index, keys=keys: "|".join(h.text(headers[index], key) for key in keys))  # type: ignore[misc]
        if len(parts) == most and all(len({place[i] for i in part}) == len(part) for part in parts):
            return parts
    blocks = _by_instance_blocks(at, headers)
    if blocks is None:
        raise Refused(Reason.REPEATED, f"up to {most} slices at one position")
    return blocks


def _partition(order: list[int], key: Callable[[int], str]) -> list[list[int]]:
    parts: dict[str, list[int]] = defaultdict(list)
    for index in order:
        parts[key(index)].append(index)
    return [parts[name] for name in sorted(parts)]


def _by_instance_blocks(at: list[list[int]], headers: Sequence[Dataset]) -> list[list[int]] | None:
    """Volumes stored one after the other: every position equally often, and the blocks of numbers do not overlap."""
    numbers = {index: h.number(headers[index], "InstanceNumber") for members in at for index in members}
    if any(number is None for number in numbers.values()) or len({len(members) for members in at}) != 1:
        return None
    ranked = [sorted(members, key=lambda index: numbers[index] or 0.0) for members in at]
    parts = [list(part) for part in zip(*ranked, strict=True)]
    for before, after in pairwise(parts):
        if max(numbers[i] or 0.0 for i in before) >= min(numbers[i] or 0.0 for i in after):
            return None
    return parts


def grid(planes: Sequence[Plane]) -> NDArray[np.float64]:
    """Affine of slices that are already ordered along the normal.

    Args:
        planes: the slices' planes, in order.

    Returns:
        4x4 matrix from (column, row, slice, 1) to LPS mm.

    Raises:
        Refused: when they are no regular, rectangular grid of at least 3 slices.
    """
    first = planes[0]
    if len({plane.size for plane in planes}) > 1:
        raise Refused(Reason.MIXED_SIZES)
    if any(np.abs(np.subtract(plane.spacing, first.spacing)).max() > 1e-3 * min(first.spacing) for plane in planes):
        raise Refused(Reason.MIXED_SIZES)
    if len(planes) < MINIMUM_SLICES:
        raise Refused(Reason.TOO_FEW, f"{len(planes)} slice{'s' if len(planes) > 1 else ''}")
    positions = np.stack([plane.position for plane in planes])
    heights = positions @ first.normal
    gaps = np.diff(heights)
    typical = float(np.median(gaps))
    line = np.linspace(heights[0], heights[-1], len(planes))
    allowed = max(GAP_TOLERANCE * typical, GAP_TOLERANCE_MM)
    if np.abs(gaps - typical).max() > allowed or np.abs(heights - line).max() > 2 * allowed:
        raise Refused(Reason.UNEVEN, f"gaps from {gaps.min():.2f} to {gaps.max():.2f} mm in {len(planes)} slices")
    drift = positions - positions[0] - np.outer(heights - heights[0], first.normal)
    sideways = float(np.linalg.norm(drift, axis=1).max())
    length = float(heights[-1] - heights[0])
    if sideways > max(SHEAR_TOLERANCE * length, 0.05 * min(first.spacing)):
        degrees = np.degrees(np.arctan2(sideways, length))
        raise Refused(Reason.GANTRY_TILT, f"{degrees:.1f} degrees")
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[:3] * first.spacing[1]
    affine[:3, 1] = first.orientation[3:] * first.spacing[0]
    affine[:3, 2] = (positions[-1] - positions[0]) / (len(planes) - 1)
    affine[:3, 3] = positions[0]
    return affine
