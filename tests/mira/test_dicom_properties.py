"""Properties that hold for any series: order, rescale, bits, flips, copies, gaps, oblique planes."""

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mira.dicom.reasons import Reason
from mira.dicom.volume import read_series, read_volumes
from tests.mira.dicom_synthetic import make_header, make_series, pixels, write

FEW = settings(max_examples=15, deadline=None, derandomize=True)


@contextmanager
def folder():
    """A folder per example; hypothesis runs many within one test."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@given(order=st.permutations(range(5)), names=st.permutations(range(5)))
@FEW
def test_order_names_and_numbers_of_files_change_nothing(order, names):
    with folder() as place:
        plain = read_series(make_series(place / "a", "MR", 5))
        slices = [make_header("MR", n, InstanceNumber=names[n] + 1) for n in order]
        shuffled = read_series(reversed(write(place / "b", slices)))
    np.testing.assert_array_equal(shuffled.volume.voxels, plain.volume.voxels)
    np.testing.assert_array_equal(shuffled.volume.affine, plain.volume.affine)
    assert shuffled.source_sha256 == plain.source_sha256


@given(
    slope=st.floats(1e-6, 1e4).map(lambda value: f"{value:.9g}"),
    intercept=st.floats(-1e5, 1e5).map(lambda value: f"{value:.9g}"),
    stored_bits=st.integers(4, 16),
    signed=st.booleans(),
    seed=st.integers(0, 99),
)
@FEW
def test_any_rescale_bits_and_sign_give_what_the_header_says(slope, intercept, stored_bits, signed, seed):
    rng = np.random.default_rng(seed)
    low, high = (-(2 ** (stored_bits - 1)), 2 ** (stored_bits - 1)) if signed else (0, 2**stored_bits)
    values = rng.integers(low, high, (3, 8, 9))
    values[:, 0, :2] = low, high - 1
    stored = values.astype(np.int16 if signed else np.uint16)
    rescaled = {"RescaleSlope": slope, "RescaleIntercept": intercept}
    bits = {"BitsStored": stored_bits, "HighBit": stored_bits - 1}
    expected = (values * float(slope) + float(intercept)).astype(np.float32)
    with folder() as place:
        found = read_volumes(write(place, [make_header("MR", n, stored[n], **bits, **rescaled) for n in range(3)]))
    if expected.max() <= 0 or expected.min() == expected.max():
        assert [refusal.reason for refusal in found.refusals] == [Reason.EMPTY_IMAGE]
    else:
        np.testing.assert_array_equal(found.volumes[0].volume.voxels, expected)


@given(axes=st.permutations(range(3)), signs=st.tuples(*[st.sampled_from([-1, 1])] * 3), backwards=st.booleans())
@FEW
def test_any_orientation_and_slice_direction_keeps_every_pixel_in_its_place(axes, signs, backwards):
    row, column = np.zeros(3), np.zeros(3)
    row[axes[0]], column[axes[1]] = signs[0], signs[1]
    step = np.zeros(3)
    step[axes[2]] = 2.5 * signs[2]
    places = [np.array([3.0, -4.0, 5.0]) + n * step for n in (range(4) if not backwards else reversed(range(4)))]
    slices = [
        make_header("MR", n, ImageOrientationPatient=[*row, *column], ImagePositionPatient=list(places[n]))
        for n in range(4)
    ]
    with folder() as place:
        volume = read_series(write(place, slices)).volume
    assert np.linalg.det(volume.affine) > 0
    inverse = np.linalg.inv(volume.affine)
    for n in range(4):
        for i, j in ((0, 0), (7, 11), (19, 23)):
            point = places[n] + j * 0.5 * row + i * 1.5 * column
            x, y, z = np.rint(inverse @ [*point, 1])[:3].astype(int)
            assert volume.voxels[z, y, x] == pixels(n)[i, j]


@given(copies=st.lists(st.integers(0, 4), min_size=1, max_size=6), renamed=st.booleans())
@FEW
def test_copies_of_slices_change_nothing(copies, renamed):
    with folder() as place:
        files = make_series(place / "a", slices=5)
        plain = read_series(files)
        again = [make_header(number=n) for n in copies]
        for number, ds in enumerate(again):
            if renamed:  # sent again by a system that makes new UIDs
                ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.9.{number}"
        found = read_volumes([*files, *write(place / "b", again)])
    np.testing.assert_array_equal(found.volumes[0].volume.voxels, plain.volume.voxels)
    assert len(found.duplicates) == len(copies)
    assert not found.refusals


@given(lost=st.integers(1, 6), slices=st.just(8), gap=st.floats(0.4, 10))
@FEW
def test_a_lost_slice_is_never_bridged(lost, slices, gap):
    headers = [make_header(number=n, ImagePositionPatient=[0, 0, f"{n * gap:.6f}"]) for n in range(slices) if n != lost]
    with folder() as place:
        found = read_volumes(write(place, headers))
    assert not found.volumes
    assert [refusal.reason for refusal in found.refusals] == [Reason.UNEVEN]


@given(first=st.integers(3, 6), second=st.integers(3, 6), between=st.floats(11, 300))
@FEW
def test_two_ranges_in_one_series_become_two_volumes_when_the_acquisition_tells_them_apart(first, second, between):
    heights = [2.0 * n for n in range(first)] + [2.0 * first + between + 2.0 * n for n in range(second)]
    for numbered in (True, False):
        headers = [
            make_header(
                number=n, ImagePositionPatient=[0, 0, f"{z:.6f}"], AcquisitionNumber=1 + (numbered and n >= first)
            )
            for n, z in enumerate(heights)
        ]
        with folder() as place:
            found = read_volumes(write(place, headers))
        if numbered:
            assert [len(volume.headers) for volume in found.volumes] == [first, second]
        else:
            assert not found.volumes


@given(degrees=st.floats(1, 30), axis=st.sampled_from([0, 1]))
@FEW
def test_a_sheared_stack_is_refused_whatever_the_angle(degrees, axis):
    drift = np.zeros(3)
    drift[axis] = 2 * np.tan(np.radians(degrees))
    places = [np.array([0, 0, 2.0 * n]) + n * drift for n in range(6)]
    with folder() as place:
        files = write(
            place, [make_header(number=n, ImagePositionPatient=list(p.round(6))) for n, p in enumerate(places)]
        )
        found = read_volumes(files)
    assert [refusal.reason for refusal in found.refusals] == [Reason.GANTRY_TILT]
    assert f"{degrees:.1f} degrees" in found.refusals[0].detail


@given(value=st.integers(-3000, -1100), width=st.integers(0, 100))
@FEW
def test_padding_and_its_range_become_air(value, width):
    slices = []
    for n in range(3):
        stored = pixels(n)
        stored[:2] = np.linspace(value, value + width, 48).round().reshape(2, 24)
        ds = make_header(number=n, stored=stored, RescaleIntercept=0)
        ds.add_new("PixelPaddingValue", "SS", value)
        ds.add_new("PixelPaddingRangeLimit", "SS", value + width)
        slices.append(ds)
    with folder() as place:
        found = read_series(write(place, slices))
    assert (found.volume.voxels[:, :2] == -1024).all()
    np.testing.assert_array_equal(found.volume.voxels[0, 2:], pixels(0)[2:].astype(np.float32))


def test_a_folder_read_twice_gives_the_same(tmp_path):
    files = make_series(tmp_path / "a", "PT", 4)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    one, two = read_series(files), read_series((tmp_path / "b").iterdir())
    np.testing.assert_array_equal(one.volume.voxels, two.volume.voxels)
    assert one.conversion == two.conversion
