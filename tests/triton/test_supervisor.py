"""Supervision of the real server: what dies comes back, at the same address, and the trail says so."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from components.promote import audit, processes, server, supervisor
from components.promote.paths import ROOT
from mira.cli import main
from tests.triton.load import Clients
from tests.triton.own_server import with_server
from tests.triton.station import Station

pytestmark = [pytest.mark.triton, pytest.mark.slow, with_server]


@pytest.fixture(scope="module")
def station(tmp_path_factory):
    station = Station(tmp_path_factory.mktemp("supervised"))
    station.promote(1, ("mira_net",))
    where = ["--workspace", str(station.config.workspace), "--repository", str(station.config.repository)]
    assert main(["serve", *where, "--tracking-uri", "off"]) == 0
    yield station
    assert main(["serve", "--stop", *where]) == 0
    assert supervisor.running(station.config) is None
    assert server.running(station.config) is None


def recoveries(station):
    return [record for record in audit.read(station.config.audit) if record.what == "recover"]


def wait_for_recovery(station, count, seconds=30):
    end = time.monotonic() + seconds
    while len(recoveries(station)) < count:
        assert time.monotonic() < end, station.config.supervisor_log.read_text()
        time.sleep(0.1)


def test_a_killed_stub_and_a_killed_server_come_back_while_patient_clients_see_nothing(station):
    url, begun = station.url, len(recoveries(station))
    with Clients(url, {"1": station.network(1)}, 3, patient=60) as clients:
        state = server.running(station.config)
        for pid in processes.session_members(state.pid):
            if pid != state.pid:
                os.kill(pid, signal.SIGKILL)
        wait_for_recovery(station, begun + 1)
        clients.wait_for(3)
        os.kill(server.running(station.config).pid, signal.SIGKILL)
        wait_for_recovery(station, begun + 2)
        clients.wait_for(3)
    tally = clients.tally()
    assert (tally.failed, tally.wrong) == ({}, [])
    assert tally.longest_gap_s < 20
    assert station.url == url
    assert [record.outcome for record in recoveries(station)[begun:]] == ["done", "done"]
    figures = station.config.metrics.read_text()
    assert "mira_serving_healthy 1\n" in figures
    assert "mira_serving_version 1\n" in figures


def test_supervision_leaves_a_change_alone_and_ends_when_another_takes_over(station):
    from components.promote import repository

    mine = supervisor.Supervisor(station.config)
    begun = len(recoveries(station))
    with repository.locked(station.config):
        mine.step()
    assert mine.counters == supervisor.Counters()
    assert len(recoveries(station)) == begun
    mine.watch(threading.Event())  # the supervisor of this workspace is another process: it ends at once


def test_in_the_foreground_the_end_of_the_supervisor_is_the_end_of_the_server(tmp_path):
    paths = Station(tmp_path).config
    where = ["--workspace", str(paths.workspace), "--repository", str(paths.repository), "--tracking-uri", "off"]
    program = "import sys; from mira.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", program, "serve", "--foreground", *where], cwd=ROOT)
    try:
        end = time.monotonic() + 30
        while not paths.metrics.is_file():
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.1)
        assert "mira_serving_healthy 1\n" in paths.metrics.read_text()
        state = server.running(paths)
        process.terminate()
        assert process.wait(30) == 0
        assert processes.start_ticks(state.pid) is None
    finally:
        process.kill()
        process.wait()
        server.stop(paths)
