"""Volumes on a disk that is full: the old file or none, and never a part of one."""

import errno
import multiprocessing
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from mira.volume import Volume, read_nifti, write_nifti


def _write_with_room_for(room: int, path: Path, volume: Volume) -> int:
    """Write in a process that may make no file longer than that; error number of the write, 0 when it succeeded."""

    def run() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))  # Python ignores SIGXFSZ: the write fails
        try:
            write_nifti(path, volume, compact=True)
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


@pytest.mark.parametrize("name", ["image.nii", "image.nii.gz"])
@pytest.mark.parametrize("step", [1.0, 0.5])  # stored in 16 bits, and as float32 after a try in 16 bits
def test_what_does_not_fit_leaves_the_old_file_and_no_part_of_the_new(tmp_path, name, step):
    path = tmp_path / name
    write_nifti(path, Volume(np.zeros((1, 16, 16), np.float32), np.eye(4)))
    before = path.read_bytes()
    voxels = np.random.default_rng(0).integers(0, 4000, (8, 64, 64)).astype(np.float32) * step
    for room in (100, 20_000):
        assert _write_with_room_for(room, path, Volume(voxels, np.eye(4))) == errno.EFBIG
        assert path.read_bytes() == before
        assert [file.name for file in tmp_path.iterdir()] == [name]
    assert _write_with_room_for(200_000, path, Volume(voxels, np.eye(4))) == 0
    np.testing.assert_array_equal(read_nifti(path).voxels, voxels)
