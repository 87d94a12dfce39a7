"""The station's own files: flushed before they count, and damaged ones named in words instead of ending everything."""

import os

import pytest

from components.promote import registry, repository, server, status, supervisor
from components.promote.step import PromoteConfig
from mira.cli import main
from mira.errors import ServingFailed


@pytest.fixture
def config(tmp_path):
    return PromoteConfig(workspace=tmp_path / "ws", repository=tmp_path / "models", tracking_uri=registry.OFF)


def test_what_is_served_is_on_the_disk_before_it_takes_the_old_record_s_place(config, monkeypatch):
    events = []
    flush, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: events.append("flushed") or flush(handle))
    monkeypatch.setattr(os, "replace", lambda *paths: events.append("replaced") or replace(*paths))
    repository.write_served(config, repository.Served())
    assert events == ["flushed", "replaced", "flushed"]
    assert repository.read_served(config) == repository.Served()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"version": "three"}'])
def test_a_damaged_record_of_what_is_served_is_named_and_what_to_do(config, content, capsys):
    config.models.mkdir(parents=True)
    config.served.write_bytes(content)
    with pytest.raises(ServingFailed, match=r"served\.json is damaged.*backup"):
        repository.read_served(config)
    where = ["--workspace", str(config.workspace), "--repository", str(config.repository)]
    assert main(["status", *where, "--tracking-uri", "off"]) == 5
    assert "mira status: " in capsys.readouterr().err


def test_a_damaged_state_of_the_server_is_not_taken_for_no_server(config):
    config.state.mkdir(parents=True)
    config.server.write_text("")
    with pytest.raises(ServingFailed, match=r"server\.json is damaged.*end tritonserver"):
        server.running(config)
    with pytest.raises(ServingFailed, match=r"server\.json is damaged"):
        status.read(config, "off")


def test_a_supervisor_outlives_damaged_files(config):
    config.models.mkdir(parents=True)
    config.state.mkdir(parents=True)
    for path in (config.served, config.server):
        path.write_text("{")
        watching = supervisor.Supervisor(config)
        watching.step()
        assert watching.counters.restarts == watching.counters.failed_recoveries == 0
        path.unlink()
    config.supervisor.write_text("{")
    with pytest.raises(ServingFailed, match="is damaged"):
        supervisor.running(config)
