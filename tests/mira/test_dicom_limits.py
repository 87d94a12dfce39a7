"""What a file may ask for: size bombs are refused before memory is taken, and damage never names the patient."""

import tracemalloc
import zlib

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from mira.dicom import limits
from mira.dicom.archive import opened
from mira.dicom.limits import stream_size
from mira.dicom.reasons import Reason
from mira.dicom.scan import scan
from mira.dicom.volume import read_volumes
from tests.fuzz_dicom import SECRET, damaged, fuzz, healthy
from tests.mira.dicom_enhanced import enhanced
from tests.mira.dicom_synthetic import make_header, make_series, pixels, write

HUGE = {"Rows": 65535, "Columns": 65535, "NumberOfFrames": 10000}


def reasons_and_memory(files) -> tuple[list[Reason], float]:
    tracemalloc.start()
    try:
        found = read_volumes(files)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not found.volumes
    return [refusal.reason for refusal in found.refusals], peak / 2**20


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_a_header_that_claims_a_huge_image_takes_no_memory(tmp_path, syntax):
    ds = enhanced("CT", 4, np.stack([pixels(n, (40, 48)) for n in range(4)]))
    if syntax is not None:
        ds.compress(syntax, generate_instance_uid=False)
    for keyword, value in HUGE.items():
        setattr(ds, keyword, value)
    reasons, peak_mb = reasons_and_memory(write(tmp_path, [ds]))
    assert reasons == [Reason.UNDECODABLE]
    assert peak_mb < 20


def test_a_slice_of_65535_squared_takes_no_memory(tmp_path):
    files = make_series(tmp_path, Rows=65535, Columns=65535)
    reasons, peak_mb = reasons_and_memory(files)
    assert reasons == [Reason.UNDECODABLE]
    assert peak_mb < 20


def test_a_compressed_stream_that_claims_another_matrix_is_refused(tmp_path):
    files = []
    for number in range(3):
        ds = make_header("CT", number, stored=pixels(number, (64, 80)))
        ds.compress(JPEG2000Lossless, generate_instance_uid=False)
        stream = bytearray(ds.PixelData)
        at = stream.index(b"\xff\x4f\xff\x51") + 8
        stream[at : at + 8] = (60000).to_bytes(4, "big") * 2
        ds.PixelData = bytes(stream)
        ds["PixelData"].is_undefined_length = True
        files += write(tmp_path / str(number), [ds])
    reasons, peak_mb = reasons_and_memory(files)
    assert reasons == [Reason.UNDECODABLE]
    assert peak_mb < 20


@pytest.mark.parametrize("value", [0, 1, 7, 255])
def test_a_slice_of_one_value_is_no_bomb(tmp_path, value):
    """Air compresses by hundreds: such slices among others must stay readable."""
    flat = np.full((512, 512), value, np.uint16)
    slices = [make_header("CT", n, stored=flat if n else pixels(0, (512, 512), np.uint16)) for n in range(3)]
    for ds in slices:
        ds.compress(JPEGLSLossless, generate_instance_uid=False)
    assert read_volumes(write(tmp_path, slices)).volumes[0].volume.voxels.shape == (3, 512, 512)


def test_a_deflated_file_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MOST_INFLATED_BYTES", 2**20)
    ds = make_header("CT", 0)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.PixelData = bytes(2**22)
    path = tmp_path / "bomb.dcm"
    ds.save_as(path, enforce_file_format=True)
    assert path.stat().st_size < 2**16
    reasons, peak_mb = reasons_and_memory([path])
    assert reasons == [Reason.UNREADABLE]
    assert peak_mb < 4
    with opened(path) as source:
        assert [item.reason for item in scan(source).rejected] == [Reason.UNREADABLE]


def test_a_damaged_deflated_file_is_refused(tmp_path):
    ds = make_header("CT", 0)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = tmp_path / "a.dcm"
    ds.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    path.write_bytes(content[:600] + b"\xff" * 40 + content[640:])
    assert [refusal.reason for refusal in read_volumes([path]).refusals] == [Reason.UNREADABLE]


def test_stream_size_reads_jpeg_and_jpeg_2000_headers():
    for syntax in (JPEG2000Lossless, JPEGLSLossless):
        ds = make_header("CT", 0, stored=pixels(0, (64, 80)))
        ds.compress(syntax, generate_instance_uid=False)
        start = ds.PixelData[ds.PixelData.index(b"\xff\x4f" if syntax == JPEG2000Lossless else b"\xff\xd8") :]
        assert stream_size(start) == (64, 80)
    assert stream_size(zlib.compress(b"nothing of the kind")) is None
    assert stream_size(b"\xff\xd8\xff\xe0\x00") is None


def test_unusable_fragments_are_refused(tmp_path):
    ds = make_header("CT", 0)
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    ds.PixelData = encapsulate([b"no stream at all"])
    ds["PixelData"].is_undefined_length = True
    assert [refusal.reason for refusal in read_volumes(write(tmp_path, [ds])).refusals] == [Reason.UNDECODABLE]


def test_damaged_files_neither_crash_nor_name_the_patient():
    result = fuzz(150, seed=7)
    assert result.failures == []
    assert sum(result.outcomes.values()) == 150
    assert len(result.outcomes) > 5  # damage of many kinds, not one early exit for all
    assert result.peak_mb < 300


def test_the_fuzz_run_is_deterministic_and_would_find_a_name():
    originals = healthy()
    assert all(SECRET.encode() in content for content in originals if b"1.2.840.10008.1.2.1.99" not in content)
    assert [damaged(n, 3, originals) for n in range(30)] == [damaged(n, 3, originals) for n in range(30)]
