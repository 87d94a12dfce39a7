"""A candidate with a share of the series, against the real server: who restores what, and every way it ends."""

import argparse
import asyncio
import os
import signal
import threading
import time

import numpy as np
import pytest

from components.promote import audit, candidate, processes, release, rollback, server, share, status
from components.promote.repository import read_served
from components.promote.supervisor import Supervisor
from mira.client import AsyncRestorationClient, RestorationClient
from mira.client.share import candidate_of, described
from mira.errors import ConfigurationError, ServingFailed
from tests.triton.own_server import with_server
from tests.triton.station import IMAGE, MODELS, Station

pytestmark = [pytest.mark.triton, pytest.mark.slow, with_server]
SERIES = [f"1.2.826.{index}" for index in range(60)]
NAME = candidate_of(MODELS[0])


@pytest.fixture(scope="module")
def station(tmp_path_factory):
    with Station(tmp_path_factory.mktemp("station")) as station:
        station.promote(1)
        yield station


@pytest.fixture
def shared(station):
    """Version 1 serves, version 2 has half of the series."""
    if read_served(station.config).version != 1:
        rollback.rollback(station.config, 1, "off")
    if read_served(station.config).candidate is None:
        share.start(*station.release(2), 0.5, station.config)
    return station


def versions(url, series=SERIES):
    with RestorationClient(url, deadline_s=10) as client:
        return {name: client.restore_slices(IMAGE, "CT", series=name).version for name in series}


def test_a_series_always_goes_to_the_same_version_whoever_asks(shared):
    chosen = versions(shared.url)
    assert set(chosen.values()) == {"1", "2"}
    assert 15 < list(chosen.values()).count("2") < 45
    assert versions(shared.url) == chosen

    async def all_at_once():
        async with AsyncRestorationClient(shared.url, deadline_s=10) as client:
            restored = [client.restore_slices(IMAGE, "CT", series=name) for name in SERIES]
            return [one.version for one in await asyncio.gather(*restored)]

    assert asyncio.run(all_at_once()) == list(chosen.values())


def test_the_answer_is_that_of_the_version_it_names_under_the_models_own_name(shared):
    name = next(name for name, version in versions(shared.url).items() if version == "2")
    with RestorationClient(shared.url) as client, RestorationClient(shared.url, NAME) as direct:
        one = client.restore_slices(IMAGE, "CT", series=name)
        np.testing.assert_array_equal(one.voxels, direct.restore_slices(IMAGE, "CT").voxels)
        assert np.abs(one.voxels - client.restore_slices(IMAGE, "CT").voxels).max() > 0.1
    assert (one.model, one.version) == ("mira_net", "2")


def test_callers_without_a_series_or_with_a_version_get_what_serves(shared):
    with RestorationClient(shared.url) as client:
        assert {client.restore_slices(IMAGE, "CT").version for _ in range(5)} == {"1"}
        assert {one.version for one in client.stream(iter(IMAGE), "CT")} == {"1"}
    with RestorationClient(shared.url, version="1") as client:
        assert {client.restore_slices(IMAGE, "CT", series=name).version for name in SERIES[:10]} == {"1"}


def test_status_and_trail_name_the_candidate(shared):
    found = status.read(shared.config, "off")
    assert (found.candidate, found.candidate_share, found.candidate_answers) == (2, 0.5, True)
    assert found.disagreements == []
    assert "candidate    version 2 restores 50% of the series" in status.describe(found)
    started = [record for record in audit.read(shared.config.audit) if record.what == "canary-start"]
    assert [record.outcome for record in started][-2:] == ["begun", "done"]
    assert (started[-1].version, started[-1].before) == (2, 1)


def test_a_restart_brings_the_share_back(shared):
    chosen = versions(shared.url)
    server.stop(shared.config)
    release.serve(shared.config)
    assert versions(shared.url) == chosen


@pytest.mark.parametrize("end", ["stop", "rollback"])
def test_ending_it_under_load_fails_no_series(shared, end):
    stop, found, failed = threading.Event(), [], []

    def ask(offset):
        with RestorationClient(shared.url, deadline_s=20) as client:
            while not stop.is_set():
                for name in SERIES[offset::4]:
                    try:
                        found.append((time.monotonic(), client.restore_slices(IMAGE, "CT", series=name).version))
                    except ServingFailed as error:
                        failed.append(str(error))

    threads = [threading.Thread(target=ask, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(1.5)
        if end == "stop":
            share.stop(shared.config, "streaks")
        else:
            assert rollback.rollback(shared.config, None, "off").version == 1
        ended = time.monotonic()
        time.sleep(1.5)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failed == []
    assert {version for at, version in found if at < ended} == {"1", "2"}
    assert {version for at, version in found if at > ended + 1} == {"1"}
    assert read_served(shared.config).candidate is None
    assert not (shared.config.models / NAME).exists()
    last = [record for record in audit.read(shared.config.audit) if record.what == "canary-end"][-1]
    assert (last.outcome, last.version, last.before) == ("done", 2, 1)


def test_a_candidate_that_dies_is_withdrawn_and_no_series_fails(shared):
    state = server.running(shared.config)
    for pid in processes.session_members(state.pid):
        if f"/{NAME}/" in processes.command_line(pid):
            os.kill(pid, signal.SIGKILL)
    assert set(versions(shared.url).values()) == {"1"}
    Supervisor(shared.config).step()
    assert read_served(shared.config).candidate is None
    last = audit.read(shared.config.audit)[-1]
    assert (last.what, last.outcome, last.version) == ("canary-end", "failed", 2)


def test_a_candidate_that_was_changed_on_disk_does_not_keep_the_server_from_starting(shared):
    with (shared.config.models / NAME / "2" / "model.onnx").open("ab") as network:
        network.write(b"x")
    server.stop(shared.config)
    release.serve(shared.config)
    assert read_served(shared.config).candidate is None
    assert shared.answer()[0] == "1"


def test_a_start_that_was_killed_leaves_nothing_behind(shared):
    share.stop(shared.config)
    (shared.config.models / NAME / "2").mkdir(parents=True)
    server.stop(shared.config)
    release.serve(shared.config)
    assert not (shared.config.models / NAME).exists()
    with pytest.raises(ConfigurationError, match="No candidate"):
        share.stop(shared.config)


def test_a_candidate_that_does_not_load_gets_no_share(shared, monkeypatch):
    share.stop(shared.config)
    monkeypatch.setattr(share.canary, "check", lambda *_, **__: (_ for _ in ()).throw(ServingFailed("off")))
    with pytest.raises(ServingFailed, match="off"):
        share.start(*shared.release(3), 0.5, shared.config)
    monkeypatch.undo()
    assert read_served(shared.config).candidate is None
    assert set(versions(shared.url, SERIES[:10]).values()) == {"1"}
    assert not (shared.config.models / NAME).exists()


def test_finishing_promotes_it_and_a_second_share_is_refused(shared):
    with pytest.raises(ServingFailed, match="has a share already"):
        share.start(*shared.release(4), 0.1, shared.config)
    with pytest.raises(ConfigurationError, match=r"at most at 0\.5"):
        share.start(*shared.release(4), 0.9, shared.config)
    assert share.finish(shared.config).before == 1
    assert set(versions(shared.url).values()) == {"2"}
    assert read_served(shared.config).candidate is None
    assert candidate.models(read_served(shared.config)) == []
    assert status.read(shared.config, "off").disagreements == []


def test_a_model_without_a_share_is_no_candidate(shared):
    from components.promote import config_files

    assert described(config_files.parse(shared.config.models / MODELS[0] / config_files.CPU_CONFIG)) is None
    for file in (config_files.CONFIG, config_files.CPU_CONFIG):
        found = described(config_files.parse(shared.config.models / NAME / file))
        assert (found.name, found.version, found.share, found.instruction_size) == (NAME, "2", 0.5, 4)


def test_the_verb_starts_and_stops_a_share(shared, capsys):
    from components.promote.share_verb import add_canary

    def run(*words):
        parser = argparse.ArgumentParser()
        add_canary(parser.add_subparsers())
        places = ["--workspace", str(shared.config.workspace), "--repository", str(shared.config.repository)]
        arguments = parser.parse_args(["canary", *words, *places, "--tracking-uri", "off"])
        assert arguments.run(arguments) == 0
        return capsys.readouterr().out

    serving = read_served(shared.config).version
    assert f"version {serving} restores every series; version 2 was withdrawn" in run("stop", "--why", "streaks")
    exported, version, decision = map(str, shared.release(5))
    said = run("start", exported, "--version", version, "--decision", decision, "--share", "0.2")
    assert "version 5 restores 20% of the series" in said
    assert f"version 5 serves instead of {serving}" in run("finish")
    assert shared.answer()[0] == "5"
