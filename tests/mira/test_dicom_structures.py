"""RTSTRUCT contours on the grid of their series."""

import numpy as np
import pytest

from mira.dicom.structures import belongs, rasterise, references
from mira.volume import Volume
from tests.mira.dicom_synthetic import make_header, structure_set

AFFINE = np.array([[0.5, 0, 0, -10], [0, 1.5, 0, -20], [0, 0, 2, 0], [0, 0, 0, 1.0]])
IMAGE = Volume(np.zeros((5, 40, 120), np.float32), AFFINE)


def circle(x: float, y: float, z: float, radius: float) -> list[tuple[float, float, float]]:
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    return [(x + radius * np.cos(a), y + radius * np.sin(a), z) for a in angles]


def test_area_and_place_of_a_circle():
    labels = rasterise([structure_set({3: [circle(20, 10, 4, 9)]})], IMAGE)
    assert labels.count == 1
    assert labels.warnings == []
    assert labels.volume is not None
    voxels = labels.volume.voxels
    assert set(np.unique(voxels)) == {0, 1}
    assert voxels[[0, 1, 3, 4]].sum() == 0
    area = (voxels[2] == 1).sum() * 0.5 * 1.5
    assert area == pytest.approx(np.pi * 81, rel=0.05)
    rows, columns = np.nonzero(voxels[2])
    assert AFFINE[0, 3] + 0.5 * columns.mean() == pytest.approx(20, abs=0.3)
    assert AFFINE[1, 3] + 1.5 * rows.mean() == pytest.approx(10, abs=0.3)


def test_inner_contour_cuts_a_hole():
    labels = rasterise([structure_set({1: [circle(20, 10, 4, 9), circle(20, 10, 4, 4)]})], IMAGE)
    assert labels.volume is not None
    assert labels.volume.voxels.sum() * 0.75 == pytest.approx(np.pi * (81 - 16), rel=0.05)
    assert labels.volume.voxels[2, 20, 60] == 0


def test_the_smaller_structure_stays_visible_and_numbers_follow_the_rois():
    labels = rasterise([structure_set({1: [circle(20, 10, 4, 3)], 2: [circle(20, 10, 4, 9)]})], IMAGE)
    assert labels.volume is not None
    assert labels.volume.voxels[2, 20, 60] == 1
    assert labels.volume.voxels[2, 20, 75] == 2
    assert labels.warnings == ["structures-overlap"]


def test_what_the_grid_cannot_hold_is_warned_of():
    contours = {1: [circle(20, 10, 40, 3)], 2: [circle(200, 10, 4, 3)], 3: [circle(20, 10, 4.2, 3)]}
    labels = rasterise([structure_set(contours)], IMAGE)
    assert labels.count == 1
    assert labels.warnings == ["structures-empty", "structures-outside-grid"]
    steep = [(x, y, 4 + 0.3 * x) for x, y, _ in circle(0, 0, 0, 5)]
    assert rasterise([structure_set({1: [steep]})], IMAGE).warnings == ["structures-empty", "structures-off-plane"]


def test_a_structure_set_belongs_to_the_series_it_names():
    header = make_header()
    assert belongs(references(structure_set({})), header)
    assert not belongs(references(structure_set({}, series="1.2.3")), header)
    assert not belongs(references(structure_set({}, frame="1.2.3")), header)
