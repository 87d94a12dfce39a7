"""The release verbs on the command line, without a server."""

import json
import subprocess

import pytest

from components.promote import audit, registry, status
from components.promote.paths import ROOT
from components.promote.step import PromoteConfig
from mira.cli import main
from mira.errors import GateFailed, MiraError
from tests.triton.tiny_network import make_release


@pytest.fixture
def config(tmp_path):
    return PromoteConfig(workspace=tmp_path / "ws", repository=tmp_path / "models", tracking_uri=registry.OFF)


def test_status_and_approve_without_any_server(config, capsys):
    config.workspace.mkdir(parents=True, exist_ok=True)
    where = ["--workspace", str(config.workspace), "--repository", str(config.repository)]
    assert main(["status", *where, "--json", "--tracking-uri", "off"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["running"], document["version"], document["audit_fault"]) == (False, None, "")
    assert main(["approve", "4", *where, "--by", "A. Reader", "--why", "report read"]) == 0
    assert [(r.what, r.who, r.version) for r in audit.read(config.audit)] == [("approve", "A. Reader", 4)]
    assert main(["rollback", *where, "--tracking-uri", "off"]) == 2
    assert "mira rollback --to" in capsys.readouterr().err
    assert main(["serve", "--stop", *where]) == 0
    assert status.read(config, "off").audit_records == 4


@pytest.mark.parametrize(
    "words",
    [
        ["serve", "--stop"],
        ["rollback", "--to", "1"],
        ["approve", "1", "--by", "A. Reader", "--why", "report read"],
        ["canary", "stop"],
    ],
)
def test_no_lever_makes_a_workspace_of_a_misspelt_name(tmp_path, capsys, words):
    assert main([*words, "--workspace", str(tmp_path / "typo")]) == 2
    assert "There is no workspace" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_make_stop_asks_each_workspace_and_nothing_where_there_is_none(tmp_path):
    says = tmp_path / "environment" / "bin" / "mira"
    says.parent.mkdir(parents=True)
    says.write_text('#!/bin/sh\necho "$@"\n')
    says.chmod(0o755)
    command = ["make", "--no-print-directory", "-f", str(ROOT / "Makefile"), "stop", f"VENV={says.parent.parent}"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == ""
    (tmp_path / "runs" / "my site").mkdir(parents=True)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "serve --stop --workspace runs/my site/\n"


def test_promote_verb_refuses_with_the_gates_exit_code(tmp_path, config, capsys):
    exported, version, decision = make_release(tmp_path / "r", 1, approved=False)
    where = ["--workspace", str(config.workspace), "--repository", str(config.repository), "--tracking-uri", "off"]
    assert main(["promote", str(exported), "--version", str(version), "--decision", str(decision), *where]) == 4
    assert issubclass(GateFailed, MiraError)
