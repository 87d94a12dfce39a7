import os

import pytest

from mira.storage import atomic_folder, write_json


@pytest.mark.parametrize(("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_files_and_folders_have_the_permissions_of_the_account(tmp_path, umask, file, folder):
    before = os.umask(umask)
    try:
        write_json(tmp_path / "report.json", {})
        with atomic_folder(tmp_path / "series") as new:
            (new / "slice").touch()
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / "report.json").stat().st_mode & 0o777 == file
    assert (tmp_path / "series").stat().st_mode & 0o777 == folder


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    write_json(tmp_path / "folder" / "old.json", 1)
    with pytest.raises(KeyError), atomic_folder(tmp_path / "folder") as new:
        (new / "half").touch()
        raise KeyError("stop")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "old.json"]
