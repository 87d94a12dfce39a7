import numpy as np
import pytest

from mira.neighbours import with_neighbours

VOLUME = np.arange(5, dtype=np.float32)[:, None, None] + np.zeros((5, 3, 2), np.float32)


def numbers(places, slices, volume=VOLUME):
    found = with_neighbours(volume, places, slices)
    assert found.shape == (len(places), slices, *volume.shape[1:])
    return found[:, :, 0, 0].astype(int).tolist()


def test_each_slice_is_in_the_middle_and_the_outermost_are_repeated():
    assert numbers(range(5), 3) == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 4]]
    assert numbers([4, 0], 5) == [[2, 3, 4, 4, 4], [0, 0, 0, 1, 2]]
    assert numbers([0], 3, VOLUME[:1]) == [[0, 0, 0]]


@pytest.mark.parametrize("places", [range(1, 4), [1, 2, 3], np.array([1, 2, 3])])
def test_slices_alone_are_the_slices_however_they_are_named(places):
    assert numbers(places, 1) == [[1], [2], [3]]
    assert [row[1] for row in numbers(places, 3)] == [1, 2, 3]


def test_slices_alone_that_follow_each_other_are_not_copied():
    assert np.shares_memory(with_neighbours(VOLUME, range(1, 4), 1), VOLUME)


def test_a_volume_mapped_from_a_file_will_do(tmp_path):
    np.save(tmp_path / "v.npy", VOLUME)
    assert numbers([2], 3, np.load(tmp_path / "v.npy", mmap_mode="r")) == [[1, 2, 3]]
