"""The same voxels from every transfer syntax that can be written here, for signed and unsigned pixels."""

import base64
import io
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread, dcmwrite
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from mira.dicom.deidentify import Deidentifier, Pseudonyms
from mira.dicom.deidentify_files import deidentify_tree
from mira.dicom.derive import simulated_by, write_derived
from mira.dicom.reasons import Reason
from mira.dicom.volume import read_series, read_volumes
from tests.mira.dicom_synthetic import make_header, write

STREAMS = json.loads((Path(__file__).parent / "htj2k_streams.json").read_text(encoding="utf-8"))
SYNTAXES = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
    HTJ2KLossless,
]


def formula(number: int, dtype: type) -> np.ndarray:
    """The pixels that the stored HTJ2K streams hold."""
    row, column = np.mgrid[:32, :40]
    return ((37 * column + 53 * row + 101 * number) % 997 - (500 if dtype is np.int16 else 0)).astype(dtype)


def save(folder: Path, syntax: UID, dtype: type, bits: int) -> list[Path]:
    """A CT series of three slices in a transfer syntax."""
    datasets = [
        make_header("CT", n, stored=formula(n, dtype), BitsStored=bits, HighBit=bits - 1, RescaleIntercept=0)
        for n in range(3)
    ]
    folder.mkdir()
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        return [by_gdcm(path, syntax) for path in write(folder, datasets)]
    files = []
    for number, ds in enumerate(datasets):
        files.append(folder / f"{number}.dcm")
        encode(ds, number, syntax, dtype)
        dcmwrite(files[-1], ds, enforce_file_format=True)
    return files


def encode(ds: FileDataset, number: int, syntax: UID, dtype: type) -> None:
    if syntax == HTJ2KLossless:
        ds.PixelData = encapsulate([base64.b64decode(STREAMS[dtype.__name__][number])])
        ds["PixelData"].is_undefined_length = True
    elif syntax == ExplicitVRBigEndian:
        ds.PixelData = np.frombuffer(ds.PixelData, dtype).byteswap().tobytes()
    elif syntax.is_compressed:
        ds.compress(syntax, generate_instance_uid=False)
    ds.file_meta.TransferSyntaxUID = syntax


def by_gdcm(path: Path, syntax: UID) -> Path:
    """Recompress a file in place: JPEG lossless is written by gdcm alone."""
    gdcm = pytest.importorskip("gdcm", reason="python-gdcm writes JPEG lossless")
    kind = gdcm.TransferSyntax.JPEGLosslessProcess14
    if syntax == JPEGLosslessSV1:
        kind = gdcm.TransferSyntax.JPEGLosslessProcess14_1
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(kind))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(path))
    assert writer.Write()
    return path


@pytest.mark.parametrize(("dtype", "bits"), [(np.uint16, 12), (np.uint16, 16), (np.int16, 16)])
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.keyword)
def test_voxels_are_equal_in_every_transfer_syntax(tmp_path, syntax, dtype, bits):
    files = save(tmp_path / "s", syntax, dtype, bits)
    assert {dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID for path in files} == {syntax}
    found = read_series(files)
    expected = np.stack([formula(n, dtype) for n in range(3)]).astype(np.float32)
    np.testing.assert_array_equal(found.volume.voxels, expected)


def test_source_hash_does_not_depend_on_the_transfer_syntax(tmp_path):
    some = [ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, HTJ2KLossless]
    hashes = {read_series(save(tmp_path / s.keyword, s, np.int16, 16)).source_sha256 for s in some}
    assert len(hashes) == 1


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_files_without_a_meta_header_are_read_by_their_encoding(tmp_path, syntax):
    files = save(tmp_path / "s", syntax, np.uint16, 16)
    for path in files:
        content = path.read_bytes()
        length = 144 + int.from_bytes(content[140:144], "little")
        path.write_bytes(content[length:])
    np.testing.assert_array_equal(read_series(files).volume.voxels[2], formula(2, np.uint16).astype(np.float32))


def test_unused_high_bits_do_not_reach_the_voxels(tmp_path):
    files = []
    for number in range(3):
        stored = formula(number, np.uint16) | 0xA000  # an overlay plane lived here once
        files += write(tmp_path / str(number), [make_header("MR", number, stored=stored, BitsStored=12, HighBit=11)])
    np.testing.assert_array_equal(read_series(files).volume.voxels[1], formula(1, np.uint16).astype(np.float32))


WITHOUT_CODECS = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("openjpeg", "pylibjpeg", "libjpeg", "jpeg_ls", "gdcm", "_gdcm", "PIL"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
from pathlib import Path
from mira.dicom.volume import read_volumes

for folder in sys.argv[1:]:
    found = read_volumes(Path(folder).glob("*.dcm"))
    print(len(found.volumes), *[f"{one.reason.value} | {one.reason.text} | {one.detail}" for one in found.refusals])
"""


def test_without_codecs_the_refusal_names_the_compression_and_what_to_install(tmp_path):
    folders = {}
    for syntax in (JPEG2000Lossless, JPEGLSLossless, RLELossless):
        folders[syntax] = tmp_path / syntax.keyword
        save(folders[syntax], syntax, np.uint16, 16)
    command = [sys.executable, "-c", WITHOUT_CODECS, *map(str, folders.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    jpeg_2000, jpeg_ls, run_length = done.stdout.splitlines()
    assert jpeg_2000.startswith("0 no-decoder | ")
    assert "pip install 'mira-net[codecs]'" in jpeg_2000
    assert jpeg_2000.endswith("| JPEG 2000 Image Compression (Lossless Only)")
    assert jpeg_ls.endswith("| JPEG-LS Lossless Image Compression")
    assert run_length == "1"  # numpy does


def test_the_extra_that_is_named_brings_the_codecs():
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    names = {re.split(r"[<>=]", one, maxsplit=1)[0] for one in extras["codecs"]}
    assert names == {"pylibjpeg", "pylibjpeg-openjpeg", "pyjpegls", "python-gdcm"}
    assert "mira-net[codecs]" in extras["data"]


def test_damage_is_no_missing_codec(tmp_path):
    files = save(tmp_path / "s", JPEG2000Lossless, np.uint16, 16)
    for path in files:
        ds = dcmread(path)
        ds.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(60)])
        ds.save_as(path)
    assert {refusal.reason for refusal in read_volumes(files).refusals} == {Reason.UNDECODABLE}


def lossy(folder: Path, name: str, said: str | None = None) -> list[Path]:
    """A CT series in a transfer syntax that allows loss; its header says what is given of it, mostly nothing."""
    datasets = [make_header("CT", n, formula(n, np.uint16), LossyImageCompression=said) for n in range(3)]
    if name == "jpeg":  # 8 bits
        for ds in datasets:
            stream = io.BytesIO()
            image = Image.fromarray((ds.pixel_array // 4).astype(np.uint8))
            image.save(stream, "JPEG", quality=80)
            ds.BitsAllocated = ds.BitsStored = 8
            ds.HighBit = 7
            ds.PixelData = encapsulate([stream.getvalue()])
            ds["PixelData"].is_undefined_length = True
            ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    for ds in datasets:
        if name == "jpeg-ls":
            ds.compress(JPEGLSNearLossless, jls_error=2, generate_instance_uid=False)
        if name == "jpeg-2000":
            ds.compress(JPEG2000, j2k_cr=[5], generate_instance_uid=False)
        if said is None and "LossyImageCompression" in ds:
            del ds.LossyImageCompression
    return write(folder, datasets)


@pytest.mark.parametrize("said", [None, "00"])
@pytest.mark.parametrize("name", ["jpeg", "jpeg-ls", "jpeg-2000"])
def test_a_lossy_transfer_syntax_is_told_whatever_the_header_says(tmp_path, name, said):
    files = lossy(tmp_path / "in", name, said)
    source = read_series(files)
    assert "lossy-compressed" in source.warnings
    derived = write_derived(source, source.volume.voxels, tmp_path / "out", simulated_by("identity 1", "nothing"))
    assert {dcmread(path).LossyImageCompression for path in derived} == {"01"}
    deidentify_tree(files[0].parent, tmp_path / "copies", Deidentifier(Pseudonyms(b"a key that is long enough")), True)
    copies = list((tmp_path / "copies").rglob("*.dcm"))
    assert [dcmread(path).LossyImageCompression for path in copies] == ["01"] * 3
    assert "lossy-compressed" in read_series(copies).warnings


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.keyword)
def test_a_lossless_transfer_syntax_is_not_taken_for_a_lossy_one(tmp_path, syntax):
    source = read_series(save(tmp_path / "in", syntax, np.uint16, 16))
    assert "lossy-compressed" not in source.warnings
    derived = write_derived(source, source.volume.voxels, tmp_path / "out", simulated_by("identity 1", "nothing"))
    assert dcmread(derived[0]).LossyImageCompression == "00"


def test_one_lossy_slice_is_enough_for_the_warning_and_marks_only_itself(tmp_path):
    files = save(tmp_path / "in", ExplicitVRLittleEndian, np.uint16, 16)
    files[1] = lossy(tmp_path / "lossy", "jpeg-ls")[1]
    for path in files:
        ds = dcmread(path)
        ds.RescaleIntercept = 0
        ds.save_as(path)
    source = read_series(files)
    assert "lossy-compressed" in source.warnings
    derived = write_derived(source, source.volume.voxels, tmp_path / "out", simulated_by("identity 1", "nothing"))
    assert [dcmread(path).LossyImageCompression for path in derived] == ["00", "01", "00"]
