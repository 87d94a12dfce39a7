"""NIfTI files that are damaged, cut off, or hold something else than numbers: refused in words, and never misread."""

import gzip
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from mira.errors import DataRejected
from mira.volume import nifti_description, read_nifti

VALUES = np.random.default_rng(0).integers(-1000, 1000, (40, 36, 5)).astype(np.int16)


def save(path, voxels=VALUES, kind=nib.Nifti1Image):
    nib.save(kind(voxels, np.diag([2.0, 2.0, 3.0, 1.0])), path)
    return path


def refusal(path):
    with pytest.raises(DataRejected) as caught:
        read_nifti(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.NII.GZ"])
def test_whole_files_give_their_values_and_geometry(tmp_path, name, kind):
    volume = read_nifti(save(tmp_path / name, kind=kind))
    np.testing.assert_array_equal(volume.voxels, VALUES.transpose(2, 1, 0))
    assert volume.spacing == (3.0, 2.0, 2.0)


def test_two_compressed_files_of_header_and_voxels_are_read(tmp_path):
    nib.save(nib.Nifti1Pair(VALUES, np.eye(4)), tmp_path / "a.img.gz")
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.img.gz").voxels, VALUES.transpose(2, 1, 0))


@pytest.mark.parametrize("back", [5000, 9, 6, 2])  # a voxel, the last one, the checksum, the length
def test_a_flipped_bit_in_a_compressed_file_is_found(tmp_path, back):
    raw = save(tmp_path / "a.nii").read_bytes()
    packed = bytearray(gzip.compress(raw, compresslevel=0))  # stored as it is: unpacking alone finds nothing
    packed[-back] ^= 0x40
    path = tmp_path / "a.nii.gz"
    path.write_bytes(packed)
    assert "copy the file again" in refusal(path)


def test_a_compressed_file_is_unpacked_once(tmp_path, monkeypatch):
    path, unpacked = save(tmp_path / "a.nii.gz", np.tile(VALUES, (1, 1, 20))), []
    whole = gzip._GzipReader.read

    def counted(self, size=-1):
        data = whole(self, size)
        unpacked.append(len(data))
        return data

    monkeypatch.setattr(gzip._GzipReader, "read", counted)
    read_nifti(path)
    assert VALUES.nbytes * 20 <= sum(unpacked) < VALUES.nbytes * 20 + 50_000  # and the header twice


def test_what_follows_the_voxels_takes_no_memory(tmp_path):
    raw = save(tmp_path / "a.nii").read_bytes()
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(raw + bytes(100 * 2**20)))
    tracemalloc.start()
    read_nifti(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20


@pytest.mark.parametrize("share", [0.001, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_file_that_is_cut_off_is_refused(tmp_path, name, share):
    path = save(tmp_path / name)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "cut off" in refusal(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize(
    ("voxels", "words"),
    [
        (VALUES.astype(np.complex64), "complex numbers"),
        (np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "colours"),
        (np.zeros((4, 5, 6, 2), np.int16), "4 dimensions"),
    ],
)
def test_what_is_no_volume_of_numbers_is_refused(tmp_path, name, voxels, words):
    assert words in refusal(save(tmp_path / name, voxels))


@pytest.mark.parametrize("at", [40, 42, 70, 108, 111])  # dimensions, kind of voxels, where they begin
def test_a_damaged_header_is_refused(tmp_path, at):
    path = save(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[at : at + 2] = b"\xff\xff"
    path.write_bytes(content)
    refusal(path)


def test_the_description_of_a_damaged_file_is_refused_as_well(tmp_path):
    path = save(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(DataRejected, match="cut off"):
        nifti_description(path)
    with pytest.raises(DataRejected, match="Check the path"):
        nifti_description(tmp_path / "none.nii")
