"""The key: made once whoever comes first, for its owner only, and never silently another one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mira.dicom.pseudonym_key import load_pseudonyms
from mira.errors import ConfigurationError


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.delenv("MIRA_PSEUDONYM_KEY", raising=False)
    monkeypatch.delenv("MIRA_KEY_FILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".config" / "mira"


def test_the_folder_of_a_new_key_is_closed_to_others_whatever_the_umask(folder):
    old = os.umask(0)
    try:
        load_pseudonyms()
    finally:
        os.umask(old)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "pseudonym.key").stat().st_mode & 0o777 == 0o600


def test_first_users_at_once_get_one_key(folder, tmp_path):
    code = "from mira.dicom.pseudonym_key import load_pseudonyms; print(load_pseudonyms().key_id)"
    users = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "HOME": str(tmp_path)}
        )
        for _ in range(2)
    ]
    found = {user.communicate(timeout=60)[0] for user in users}
    assert len(found) == 1
    assert len(found.pop().strip()) == 8
    assert [path.name for path in folder.iterdir()] == ["pseudonym.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_a_key_that_others_can_touch_is_refused_with_the_way_out(folder, mode):
    load_pseudonyms()
    (folder / "pseudonym.key").chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_pseudonyms()


def test_a_folder_in_which_others_can_replace_the_key_is_refused(folder):
    load_pseudonyms()
    folder.chmod(0o777)
    with pytest.raises(ConfigurationError, match="chmod 700"):
        load_pseudonyms()


def test_an_empty_key_is_neither_used_nor_replaced(folder):
    load_pseudonyms()
    (folder / "pseudonym.key").write_text("")
    with pytest.raises(ConfigurationError, match=r"empty.*backup"):
        load_pseudonyms()
    assert (folder / "pseudonym.key").read_text() == ""


def test_a_named_file_that_is_not_there_is_an_error_and_no_new_key(folder, tmp_path, monkeypatch):
    mistyped = tmp_path / "the keys" / "pseudonmy.key"
    monkeypatch.setenv("MIRA_KEY_FILE", str(mistyped))
    with pytest.raises(ConfigurationError, match=r"does not exist.*MIRA_KEY_FILE.*new names") as failure:
        load_pseudonyms()
    assert not mistyped.parent.exists()
    assert not folder.exists()
    if shutil.which("openssl"):  # the command that the message gives makes a key that is taken
        command = str(failure.value).partition("make one: ")[2]
        subprocess.run(["sh", "-c", command], check=True, timeout=60)
        assert len(load_pseudonyms().key) == 64
        assert mistyped.parent.stat().st_mode & 0o777 == 0o700
    mistyped.unlink(missing_ok=True)
    mistyped.parent.mkdir(exist_ok=True)
    mistyped.symlink_to(tmp_path / "not mounted")
    with pytest.raises(ConfigurationError, match="does not exist"):
        load_pseudonyms()


def test_a_link_is_followed_only_where_it_was_named(folder, tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef0123456789abcdef")
    secret.chmod(0o600)
    folder.mkdir(parents=True)
    (folder / "pseudonym.key").symlink_to(secret)
    with pytest.raises(ConfigurationError, match="is a link"):
        load_pseudonyms()
    monkeypatch.setenv("MIRA_KEY_FILE", str(folder / "pseudonym.key"))
    assert load_pseudonyms().key == b"0123456789abcdef0123456789abcdef"
    secret.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_pseudonyms()


def test_a_dangling_link_and_a_folder_in_its_place_are_errors(folder):
    folder.mkdir(parents=True)
    (folder / "pseudonym.key").symlink_to(folder / "nowhere")
    with pytest.raises(ConfigurationError, match="is a link"):
        load_pseudonyms()
    (folder / "pseudonym.key").unlink()
    (folder / "pseudonym.key").mkdir()
    with pytest.raises(ConfigurationError, match="no plain file"):
        load_pseudonyms()
