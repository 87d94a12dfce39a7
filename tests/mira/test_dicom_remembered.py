"""What is remembered of a header is what it would say itself; compact reading changes no voxel."""

import numpy as np
import pytest
from pydicom import dcmread

from mira.dicom import headers as h
from mira.dicom.headers import tolerant
from mira.dicom.reasons import Reason, Refused
from mira.dicom.remembered import remembered
from mira.dicom.volume import read_volumes
from tests.mira.dicom_synthetic import make_header, pixels, write


def test_asked_once_for_equal_bytes_and_again_for_others(tmp_path):
    asked = []

    @remembered("Rows", "ImageType")
    def rows(header):
        asked.append(h.number(header, "Rows"))
        return asked[-1], "InstanceNumber" in header

    files = write(tmp_path, [make_header("CT", number) for number in range(3)])
    with tolerant():
        headers = [dcmread(file, stop_before_pixels=True) for file in files]
        assert {rows(header) for header in headers} == {(asked[0], False)}  # it sees what it named, and nothing else
        assert len(asked) == 1
        headers[1].Rows = 7  # converted: it is asked itself
        assert rows(headers[1])[0] == 7
        assert rows(headers[2])[0] == asked[0]


def test_a_refusal_is_not_remembered(tmp_path):
    asked = []

    @remembered("Rows")
    def refuse(header):
        asked.append(header)
        raise Refused(Reason.NO_GEOMETRY)

    header = dcmread(write(tmp_path, [make_header("CT", 0)])[0])
    for _ in range(2):
        with pytest.raises(Refused):
            refuse(header)
    assert len(asked) == 2


def test_a_word_that_is_no_keyword_is_noticed():
    with pytest.raises(ValueError, match="keyword"):
        remembered("Rowz")


@pytest.mark.parametrize(
    ("dtype", "shift", "changes", "compact"),
    [(np.int16, 0, {"RescaleIntercept": "-1024"}, True), (np.uint16, 1024, {"RescaleIntercept": "-1024"}, True),
     (np.int16, -2000, {"RescaleIntercept": "-1000"}, True), (np.uint16, 60000, {"RescaleIntercept": "-60000"}, True),
     (np.uint16, 60000, {"RescaleIntercept": "-1024"}, False), (np.int16, 0, {"RescaleIntercept": "-1024.5"}, False),
     (np.int16, 0, {"RescaleSlope": "0.5"}, False)],
)  # fmt: skip
def test_compact_voxels_are_the_same_voxels(tmp_path, dtype, shift, changes, compact):
    slices = []
    for number in range(4):
        stored = (pixels(number).astype(np.int32) % 3000 + shift).astype(dtype)
        sign = int(np.dtype(dtype).kind == "i")
        depth = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": sign}
        slices.append(make_header("CT", number, stored, **(depth | changes)))
    files = write(tmp_path, slices)
    plain, small = (read_volumes(files, compact=way).volumes[0] for way in (False, True))
    assert plain.volume.voxels.dtype == np.float32
    assert small.volume.voxels.dtype == (np.int16 if compact else np.float32)
    np.testing.assert_array_equal(plain.volume.voxels, small.volume.voxels)
    assert (plain.warnings, plain.source_sha256) == (small.warnings, small.source_sha256)
