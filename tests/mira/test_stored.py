"""Stored values of derived series: as fine as 16 bits allow at every scale, and padding that stays padding."""

import numpy as np
import pytest
from pydicom import dcmread

from mira.dicom.derive import simulated_by, write_derived
from mira.dicom.padding import paddings
from mira.dicom.stored import encode, encode_error
from mira.dicom.volume import read_series
from tests.mira.dicom_synthetic import make_header, pixels, write

SIZE = (40, 36)
PURPOSE = simulated_by("identity 1", "nothing")


def mr(folder, scale):
    stored = [pixels(n, SIZE, np.uint16) for n in range(4)]
    fields = {"RescaleSlope": f"{scale:g}", "RescaleIntercept": "0"}
    return read_series(write(folder, [make_header("MR", n, stored[n], **fields) for n in range(4)]))


def back(stored):
    return np.stack([one.values for one in stored])


@pytest.mark.parametrize("lowest", [0.0, -0.1])  # as a share of the range; a network may go below zero
@pytest.mark.parametrize("scale", [1e-2, 1e-4, 1e-6, 2.4e-7])
def test_mr_of_any_scale_is_stored_as_fine_as_16_bits_allow(tmp_path, scale, lowest):
    source = mr(tmp_path / "in", scale)
    voxels = source.volume.voxels + np.float32(lowest * source.volume.voxels.max())
    error = np.abs(back(encode(source, voxels)) - voxels).max()
    assert error <= np.ptp(voxels) / 65000
    expected = np.abs(source.volume.voxels) * np.float32(0.05)
    assert np.abs(back(encode_error(source, expected)) - expected).max() <= expected.max() / 65000


@pytest.mark.parametrize("span", [8000.0, 8191.0, 16000.0, 16383.5, 30000.0, 60000.0])
@pytest.mark.parametrize("low", [-1024.0, -1024.375, -2047.9])
def test_integer_hu_come_back_exactly_where_the_range_leaves_no_room(tmp_path, span, low):
    source = read_series(write(tmp_path / "in", [make_header("CT", n, pixels(n, SIZE)) for n in range(3)]))
    voxels = source.volume.voxels.copy()
    voxels[0, 0, :2] = low, low + span
    stored = encode(source, voxels)
    slope = float(stored[0].slope)
    assert slope <= max(0.125, 2 * span / 65533)
    whole = voxels == np.rint(voxels)
    np.testing.assert_array_equal(back(stored)[whole], voxels[whole])
    assert np.abs(back(stored) - voxels).max() <= slope / 2


def padded(folder, first, last, modality="CT", **changes):
    """A series with a padding range: corners with its first, its middle and its last value."""
    planes = []
    for number in range(4):
        plane = pixels(number, SIZE).astype(np.int16) + 500
        plane[:5, :5], plane[:5, 5:9], plane[:5, 9:12] = first, (first + last) // 2, last
        planes.append(plane)
    headers = [make_header(modality, n, plane, **changes) for n, plane in enumerate(planes)]
    for header in headers:
        header.add_new("PixelPaddingValue", "SS", first)
        header.add_new("PixelPaddingRangeLimit", "SS", last)
    return read_series(write(folder, headers))


@pytest.mark.parametrize(("first", "last"), [(-2000, -1900), (-1900, -2000)])
def test_a_range_of_padding_is_padding_in_the_derived_series(tmp_path, first, last):
    source = padded(tmp_path / "in", first, last, RescaleIntercept=0)
    again = read_series(write_derived(source, source.volume.voxels, tmp_path / "out", PURPOSE))
    for before, after in zip(paddings(source), paddings(again), strict=True):
        np.testing.assert_array_equal(after.where, before.where)
        np.testing.assert_array_equal(after.values[after.where], before.values[before.where])
    header = again.headers[0]
    limits = [header[keyword].value * float(header.RescaleSlope) + float(header.RescaleIntercept)
              for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]  # fmt: skip
    assert limits == [-2000, -1900]


def test_a_measured_value_within_the_range_does_not_become_padding(tmp_path):
    source = padded(tmp_path / "in", 0, 20, "MR")
    voxels = source.volume.voxels.copy()
    voxels[:, 20, 20] = 10.0
    files = write_derived(source, voxels, tmp_path / "out", PURPOSE)
    again = read_series(files)
    np.testing.assert_array_equal(again.volume.voxels, voxels)  # padding reads as zero
    for before, after in zip(paddings(source), paddings(again), strict=True):
        np.testing.assert_array_equal(after.where, before.where)
    assert "PixelPaddingRangeLimit" not in dcmread(files[0])


def test_one_padding_value_has_no_range(tmp_path):
    source = padded(tmp_path / "in", -2000, -2000)
    written = dcmread(write_derived(source, source.volume.voxels, tmp_path / "out", PURPOSE)[0])
    assert "PixelPaddingValue" in written
    assert "PixelPaddingRangeLimit" not in written


@pytest.mark.parametrize("low", [0.0, -0.3])
def test_padding_far_below_costs_no_precision_and_is_no_measured_value(tmp_path, low):
    scale = 1e-4
    planes = [pixels(n, SIZE).astype(np.int16) for n in range(4)]
    for plane in planes:
        plane[:5, :5] = -32000
    fields = {"RescaleSlope": f"{scale:g}", "RescaleIntercept": "0", "PixelPaddingValue": -32000}
    source = read_series(
        write(tmp_path / "in", [make_header("MR", n, plane, **fields) for n, plane in enumerate(planes)])
    )
    voxels = source.volume.voxels * np.float32(0.1)
    voxels[:, 5:] += np.float32(low * scale)
    where = paddings(source)[0].where
    stored = encode(source, voxels)
    for plane, one in zip(voxels, stored, strict=True):
        assert (one.pixels[where] == one.padding).all()
        assert one.pixels[~where].min() > one.padding
        assert np.abs(one.values - plane)[~where].max() <= 2 * voxels.max() / 65000
