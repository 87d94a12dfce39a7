"""The audit trail: every kind of change to it is found, lost last lines too, and no accident looks like one."""

import json
import os

import pytest

from components.promote import audit, registry, repository, signing, status
from components.promote.step import PromoteConfig, promote
from mira.cli import main
from mira.errors import GateFailed
from tests.triton.tiny_network import make_release


@pytest.fixture
def config(tmp_path):
    return PromoteConfig(workspace=tmp_path / "ws", repository=tmp_path / "models", tracking_uri=registry.OFF)


def test_audit_trail_is_whole_and_every_kind_of_change_is_found(tmp_path):
    path = tmp_path / "audit.jsonl"
    for version in range(1, 5):
        audit.append(path, "promote", "done", version=version, before=version - 1, artifacts={"mira_net": "ab"})
    assert audit.verify(path) == ""
    assert [record.version for record in audit.read(path)] == [1, 2, 3, 4]
    lines = path.read_text().splitlines()
    changes = {
        "line 2 was": [lines[0], lines[1].replace('"version":2', '"version":9'), *lines[2:]],
        "line 2 does not follow": [lines[0], *lines[2:]],
        "line 3 does not follow": [lines[0], lines[1], lines[3], lines[2]],
        "line 4 was changed": [*lines[:3], lines[3].replace('"done"', '"failed"')],
        "line 3 is not": [*lines[:2], lines[2][:40], lines[3]],
    }
    for words, changed in changes.items():
        path.write_text("\n".join(changed) + "\n")
        assert words in audit.verify(path)


def test_a_full_disk_leaves_the_trail_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "audit.jsonl"
    audit.append(path, "promote", "done", version=1)
    before = path.read_bytes()
    monkeypatch.setattr(audit.os, "write", lambda handle, line, write=os.write: write(handle, line[:10]))
    with pytest.raises(OSError, match="No space"):
        audit.append(path, "promote", "begun", version=2)
    assert path.read_bytes() == before


def test_a_torn_last_line_is_reported_and_the_next_record_still_readable(tmp_path):
    path = tmp_path / "audit.jsonl"
    audit.append(path, "promote", "done", version=1)
    path.write_bytes(path.read_bytes() + b'{"time":"20')
    audit.append(path, "promote", "done", version=2)
    assert "line 2" in audit.verify(path)
    assert [record.version for record in audit.read(path)] == [1, 2]


def test_a_trail_without_its_last_lines_is_not_whole_and_stays_so(tmp_path):
    path = tmp_path / "audit.jsonl"
    for version in range(1, 5):
        audit.append(path, "promote", "done", version=version)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]))
    assert audit.verify(path) == "it has 2 lines, but audit.head.json counts 4: the last ones were removed"
    for version in (5, 6, 7):  # further acts hide nothing, not even with more lines than before
        audit.append(path, "promote", "done", version=version)
        assert "audit.head.json" in audit.verify(path)
    path.unlink()
    assert "has 0 lines" in audit.verify(path)
    path.write_bytes(b"".join(lines))
    assert audit.verify(path) == ""
    audit.head_of(path).unlink()
    for kept in (3, 1):
        path.write_bytes(b"".join(lines[:kept]))
        assert "audit.head.json is missing" in audit.verify(path)


def test_a_trail_that_was_written_anew_without_the_key_is_not_whole(tmp_path, monkeypatch):
    path = tmp_path / "audit.jsonl"
    for version in (1, 2):
        audit.append(path, "approve", "done", version=version)
    head = audit.head_of(path)
    signed = head.read_bytes()
    path.unlink()
    head.unlink()
    with monkeypatch.context() as other:
        other.setenv(signing.KEY_VARIABLE, "the key of somebody else, long enough for a key")
        for version in (1, 9):
            audit.append(path, "approve", "done", version=version)
        assert audit.verify(path) == ""
    assert "another key" in audit.verify(path)
    head.write_bytes(signed)
    assert "written anew" in audit.verify(path)
    head.write_text("{}")
    assert "was changed" in audit.verify(path)


def test_a_trail_without_proofs_and_head_is_not_whole_once_something_was_promoted(tmp_path, monkeypatch):
    path = tmp_path / "audit.jsonl"
    with monkeypatch.context() as without:
        without.delenv(signing.KEY_VARIABLE)
        without.setenv("HOME", str(tmp_path))
        for what in ("approve", "promote"):  # as somebody without the key would write it
            audit.append(path, what, "done", version=1)
        assert audit.verify(path) == ""
    for _ in range(2):
        assert "audit.head.json is missing" in audit.verify(path)
        audit.append(path, "rollback", "failed", version=1)  # signs nothing that was not whole
    assert not audit.head_of(path).exists()


def test_a_head_that_cannot_be_read_is_a_fault_and_no_traceback(tmp_path, monkeypatch):
    path = tmp_path / "audit.jsonl"
    audit.append(path, "promote", "done", version=1)
    assert audit.head_of(path).stat().st_mode == path.stat().st_mode
    monkeypatch.setattr(signing, "read_json", lambda _: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert audit.verify(path) == "audit.head.json cannot be read: Permission denied"


def test_an_account_without_the_key_is_told_what_it_cannot_see(tmp_path, config, monkeypatch, capsys):
    audit.append(config.audit, "approve", "done", version=3)
    assert status.read(config, "off").audit_end_known
    monkeypatch.delenv(signing.KEY_VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    seen = status.read(config, "off")
    assert (seen.audit_end_known, seen.audit_fault, seen.disagreements) == (False, "", [])
    assert "whole as far as can be said without the signing key" in status.describe(seen)
    where = ["--workspace", str(config.workspace), "--repository", str(config.repository)]
    assert main(["approve", "3", *where, "--by", "A. Reader", "--why", "report read"]) == 2
    assert "the signing key is not here" in capsys.readouterr().err
    assert len(audit.read(config.audit)) == 1


def test_a_head_that_is_behind_is_no_false_alarm(tmp_path, monkeypatch):
    """A crash or a full disk between line and head, a trail older than heads, an account without the key."""
    path = tmp_path / "audit.jsonl"
    with monkeypatch.context() as without:
        without.delenv(signing.KEY_VARIABLE)
        without.setenv("HOME", str(tmp_path))
        audit.append(path, "approve", "done", version=1)
        assert not (tmp_path / ".config").exists()
        assert audit.verify(path) == ""
    assert not audit.head_of(path).exists()
    audit.append(path, "promote", "done", version=1)
    with monkeypatch.context() as crash:
        crash.setattr(audit, "write_json", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space")))
        for version in (2, 3):
            audit.append(path, "promote", "begun", version=version)
    assert audit.verify(path) == ""
    assert json.loads(audit.head_of(path).read_text())["statement"]["records"] == 2
    audit.append(path, "promote", "done", version=3)
    assert json.loads(audit.head_of(path).read_text())["statement"]["records"] == 5
    assert audit.verify(path) == ""


def test_status_and_a_manual_promotion_see_that_the_trail_lost_its_end(tmp_path, config):
    for version in (3, 4):
        audit.append(config.audit, "approve", "done", version=version)
    config.audit.write_bytes(config.audit.read_bytes().splitlines(keepends=True)[0])
    assert "audit trail: it has 1 lines" in status.read(config, "off").disagreements[-1]
    manual = config.model_copy(update={"approval": "manual"})
    with pytest.raises(GateFailed, match="no approval in it counts"):
        promote(*make_release(tmp_path, 3), tmp_path / "out", manual)


def test_a_refused_promotion_leaves_a_record(tmp_path, config):
    manual = config.model_copy(update={"approval": "manual", "by": "A. Person", "why": "new site"})
    with pytest.raises(GateFailed, match="mira approve 3"):
        promote(*make_release(tmp_path, 3), tmp_path / "out", manual)
    record = audit.read(config.audit)[-1]
    assert (record.what, record.outcome, record.version, record.who) == ("promote", "failed", 3, "A. Person")
    assert set(record.artifacts) == {"mira_net"}
    assert repository.read_served(config).version is None
