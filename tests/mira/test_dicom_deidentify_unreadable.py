"""De-identification of a source that cannot be read everywhere: the rest goes on, and no message names a file."""

import errno
import json
import os
from pathlib import Path

import pytest

from mira.dicom import deidentify_files
from mira.dicom.deidentify import Deidentifier
from mira.dicom.deidentify_files import deidentify_tree
from mira.errors import RetryableError
from tests.mira.dicom_synthetic import make_series
from tests.mira.test_dicom_deidentify_objects import NAMES, command


def failing(monkeypatch, error: int) -> None:
    """Let every file with a patient in its name fail to open, as root may open what nobody else may."""
    whole = Path.open

    def open_(self, *arguments, **options):
        if "DOE" in self.name:
            raise OSError(error, os.strerror(error), str(self))
        return whole(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_)


def test_a_file_that_cannot_be_read_is_refused_and_the_rest_goes_on(tmp_path, monkeypatch):
    files = make_series(tmp_path / "in", "CT")
    (tmp_path / "in" / "DOE_JANE_19700101.dcm").write_bytes(files[0].read_bytes())
    failing(monkeypatch, errno.EACCES)
    outcome = deidentify_tree(tmp_path / "in", tmp_path / "out", Deidentifier(NAMES))
    assert (outcome.written, outcome.reasons) == (4, {"unreadable": 1})
    report = (tmp_path / "out" / "deidentification.json").read_text()
    assert json.loads(report)["refused"][0]["content"] == ""
    assert "DOE" not in report


def test_a_file_that_goes_away_once_it_was_read_is_refused(tmp_path, monkeypatch):
    files, whole = make_series(tmp_path / "in", "CT"), deidentify_files.hash_file

    def gone(path: Path) -> str:
        if path == files[1]:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return whole(path)

    monkeypatch.setattr(deidentify_files, "hash_file", gone)
    outcome = deidentify_tree(tmp_path / "in", tmp_path / "out", Deidentifier(NAMES))
    assert (outcome.written, outcome.reasons) == (3, {"unreadable": 1})


def test_a_failing_disk_ends_the_command_without_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("MIRA_PSEUDONYM_KEY", "0123456789abcdef")
    files = make_series(tmp_path / "in", "CT")
    files[0].rename(tmp_path / "in" / "DOE_JANE.dcm")
    failing(monkeypatch, errno.EIO)
    with pytest.raises(RetryableError, match="Input/output error") as caught:
        command(str(tmp_path / "in"), "--out", str(tmp_path / "out"))
    assert "DOE" not in str(caught.value)
