"""The fast reader gives what pydicom gives, bit for bit, or leaves the file to pydicom."""

import random
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from mira.dicom import headers as h
from mira.dicom.elements import fetch, read_header, read_native
from mira.dicom.headers import tolerant
from mira.dicom.pixels import read_slices
from mira.dicom.scan import LAST_TAG
from tests.bench_sites import BENCH
from tests.mira.dicom_synthetic import make_header, pixels, write


def compare(path: Path) -> bool:
    """Whether the file was read fast; fails when anything differs from what pydicom reads."""
    content = path.read_bytes()
    with tolerant():
        native = read_native(content)
        if native is None:
            return False
        expected = dcmread(path, force=True)
        stored = expected.pixel_array
        assert stored.dtype == native.stored.dtype
        np.testing.assert_array_equal(stored, native.stored)
        del expected.PixelData
        assert list(expected.keys()) == list(native.header.keys())
        assert expected.file_meta == native.header.file_meta
        assert expected.original_encoding == native.header.original_encoding
        assert expected.original_character_set == native.header.original_character_set
        for tag in expected.keys():  # noqa: SIM118  (a Dataset iterates over its elements)
            assert converted(expected, tag) == converted(native.header, tag)
        short = read_header(content[: 2**18], LAST_TAG)
        if short is not None:
            assert list(short.keys()) == [tag for tag in expected.keys() if tag <= LAST_TAG]  # noqa: SIM118
    return True


def converted(dataset: Dataset, tag: int):
    try:
        return dataset[tag].VR, dataset[tag].value
    except Exception as error:
        return type(error)


def one(tmp_path: Path, **changes) -> Path:
    return write(tmp_path, [make_header("CT", 0, **changes)])[0]


def with_sequences(undefined: bool) -> dict:
    inner = Dataset()
    inner.CodeValue, inner.CodeMeaning = "113014", "Größe"
    item = Dataset()
    item.ReferencedSOPInstanceUID, item.PurposeOfReferenceCodeSequence = "1.2.3", Sequence([inner])
    item.is_undefined_length_sequence_item = undefined
    sequence = Sequence([item, item])
    sequence.is_undefined_length = undefined
    return {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Müller^Jörg", "ReferencedImageSequence": sequence}


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("implicit", [False, True])
def test_same_as_pydicom(tmp_path, implicit, undefined):
    ds = make_header("CT", 0, **with_sequences(undefined), PatientWeight="", PixelPaddingValue=0)
    if implicit:
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    assert compare(write(tmp_path, [ds])[0])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(2, 9), st.integers(2, 9), st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4"]), st.integers(1, 32),
    st.booleans(), st.randoms(use_true_random=False),
)  # fmt: skip
def test_any_kind_of_pixels(tmp_path, rows, columns, kind, used, implicit, random_):
    dtype = np.dtype(kind)
    bits = dtype.itemsize * 8
    stored = np.frombuffer(random_.randbytes(rows * columns * dtype.itemsize), dtype).reshape(rows, columns)
    ds = make_header("CT", 0, stored, BitsAllocated=bits, BitsStored=min(used, bits), HighBit=min(used, bits) - 1)
    if stored.nbytes % 2:
        ds.PixelData += b"\0"
    if implicit:
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    path = write(tmp_path, [ds])[0]
    fast = compare(path)
    if used >= bits:
        assert fast  # no bits above the used ones: there is no reason to leave it to pydicom


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless])
def test_the_unusual_is_left_to_pydicom(tmp_path, syntax):
    plain = read_slices(one(tmp_path)).slices[0]
    ds = make_header("CT", 0)
    if syntax == RLELossless:
        ds.compress(RLELossless)
    elif syntax == ExplicitVRBigEndian:
        ds.PixelData = pixels(0).astype(">i2").tobytes()
    ds.file_meta.TransferSyntaxUID = syntax
    path = tmp_path / "unusual.dcm"
    dcmwrite(path, ds, little_endian=syntax != ExplicitVRBigEndian, implicit_vr=False, force_encoding=True)
    assert fetch(path).native is None
    assert read_slices(path).slices[0].digest == plain.digest


def test_bits_above_the_used_ones_are_cut_off(tmp_path):
    stored = pixels(0).astype(np.uint16) | 0x8000
    path = one(tmp_path, stored=stored, BitsStored=12, HighBit=11)
    assert fetch(path).native is None
    np.testing.assert_array_equal(read_slices(path).slices[0].stored, stored & 0x0FFF)


@pytest.mark.parametrize("cut", [100, 131, 200, 700, -1, -500])
def test_cut_off_files_are_left_to_pydicom(tmp_path, cut):
    content = one(tmp_path).read_bytes()
    assert read_native(content[:cut]) is None


def test_damaged_files_never_read_differently(tmp_path):
    content = one(tmp_path, **with_sequences(True)).read_bytes()
    choice, path, fast = random.Random(3), tmp_path / "damaged.dcm", 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(choice.randint(1, 3)):
            damaged[choice.randrange(132, len(damaged) - 960)] = choice.randrange(256)
        path.write_bytes(damaged)
        with tolerant():
            native = read_native(bytes(damaged))
        if native is None:
            continue
        fast += 1
        try:
            with tolerant():
                stored = dcmread(path, force=True).pixel_array
        except Exception:  # pydicom refuses for a reason that is none for grey-scale pixels
            continue
        np.testing.assert_array_equal(stored, native.stored)
    assert fast > 100


def test_content_tells_every_byte(tmp_path):
    path = one(tmp_path)
    content = bytearray(path.read_bytes())
    first = fetch(path)
    assert first.native is not None
    assert first.pixels == blake3(pixels(0).tobytes()).digest()
    seen = {first.content}
    for position in (0, 140, 400, first.native.begin, len(content) - 1):
        content[position] ^= 1
        path.write_bytes(content)
        seen.add(fetch(path).content)
    path.write_bytes(bytes(content) + b"\0")
    seen.add(fetch(path).content)
    assert len(seen) == 7


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("ImageType", ["ORIGINAL", "PRIMARY", ""]), ("PatientWeight", " 74.50 "), ("Rows", 20),
     ("ManufacturerModelName", "Bïograph"), ("SOPInstanceUID", "1.2.3"), ("PatientWeight", ""), ("KVP", None),
     ("PixelPaddingValue", -2000), ("SoftwareVersions", ["a b", " c"]), ("InstanceNumber", 7)],
)  # fmt: skip
def test_values_from_bytes_are_those_of_pydicom(tmp_path, keyword, value):
    with tolerant():
        path = one(tmp_path, SpecificCharacterSet="ISO_IR 100", **{keyword: value})
        raw, converted_ = dcmread(path), dcmread(path)
        for element in converted_:
            assert element is not None  # by iterating, pydicom converts every element
        assert h.numbers(raw, keyword) == h.numbers(converted_, keyword)
        assert h.values(raw, keyword) == h.values(converted_, keyword)


@pytest.mark.bench
@pytest.mark.skipif(not BENCH.is_dir(), reason="the real scans (MIRA_BENCH) are not here")
def test_real_files_read_the_same(tmp_path):
    files = sorted(path for path in BENCH.rglob("*") if path.is_file() and path.stat().st_size < 2**22)
    assert sum(compare(path) for path in files[::24]) > 100
