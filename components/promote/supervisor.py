"""Supervision: a server that died is started again, a model that does not answer is loaded again.

Triton's own readiness says nothing of a python stub that has died, so answers to canary requests decide. The processes
are looked at twice a second, which finds a death at once; canaries are sent at longer intervals, and right after a
process was lost. While a promotion or rollback holds the repository, that one looks after the server itself.
"""

import argparse
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from components.promote import account, audit, candidate, processes, registry, release, repository, server
from components.promote.paths import ROOT, Damaged, ServingPaths, recorded
from mira.cases import Record
from mira.errors import MiraError, ServingFailed
from mira.storage import write_json, write_text

LOOK_SECONDS = 0.5
INTERVAL_SECONDS = 15.0
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
QUIET_SECONDS = 120.0  # so long without an incident, the pauses begin at the shortest again
LOG = logging.getLogger("mira.supervisor")


class SupervisorState(Record):
    """The supervisor of a workspace: its process, found again by id and start time."""

    pid: int
    ticks: int


@dataclass
class Counters:
    """What the supervisor has seen, for the metrics file."""

    restarts: int = 0
    reloads: int = 0
    failed_recoveries: int = 0
    canary_seconds: float = 0.0
    healthy: bool = False
    version: int | None = None

    def text(self, at: float) -> str:
        """The counters in Prometheus' text format, for node_exporter's textfile collector."""
        values = [
            ("healthy", "gauge", "Whether every served model is known to answer its canaries.", int(self.healthy)),
            ("version", "gauge", "Version that is recorded as served, 0 for none.", self.version or 0),
            ("restarts_total", "counter", "Starts of a server that had died.", self.restarts),
            ("reloads_total", "counter", "Recoveries of a server whose models did not answer.", self.reloads),
            ("failed_recoveries_total", "counter", "Recoveries that did not help.", self.failed_recoveries),
            ("canary_seconds", "gauge", "Duration of the last round of canaries.", round(self.canary_seconds, 4)),
            ("checked_timestamp_seconds", "gauge", "When the last check ended, Unix time.", round(at, 1)),
        ]
        lines = []
        for name, kind, words, value in values:
            lines += [f"# HELP mira_serving_{name} {words}", f"# TYPE mira_serving_{name} {kind}"]
            lines.append(f"mira_serving_{name} {value}")
        return "\n".join(lines) + "\n"


class Supervisor:
    """Looks after the server of one workspace.

    Args:
        paths: where things lie.
        interval_s: seconds from one round of canaries to the next.
    """

    def __init__(self, paths: ServingPaths, interval_s: float = INTERVAL_SECONDS) -> None:
        self.paths, self.interval_s = paths, interval_s
        self.counters = Counters()
        self._members: set[int] = set()
        self._pause = FIRST_PAUSE
        self._next_round = 0.0
        self._not_before = 0.0
        self._incident = -QUIET_SECONDS

    def watch(self, stop: threading.Event) -> None:
        """Look after the server until `stop` is set, or the workspace is gone or has another supervisor."""
        LOG.info("supervising %s", self.paths.models)
        while not stop.is_set() and _is_this_process(self.paths):
            self.step()
            stop.wait(LOOK_SECONDS)
        LOG.info("supervision ends")

    def step(self) -> None:
        """Look once, and act when something is wrong."""
        now = time.monotonic()
        if now < self._not_before:
            return
        try:
            lost = bool(self._members - self._processes())
            if not lost and now < self._next_round:
                return
            with repository.locked(self.paths):
                self._check(lost)
            self._members = self._processes()
        except Damaged as error:
            LOG.error("%s Until then nothing is supervised%s.", error, self._down())
            self._not_known(now + self.interval_s)
        except ServingFailed as error:  # a promotion is at work and looks after the server itself
            LOG.info("later: %s", error)
            self._not_before = now + 2 * LOOK_SECONDS
        except OSError as error:  # a full disk is no reason to leave the server alone
            LOG.error("%s: %s", type(error).__name__, error.strerror)
            self._not_known(now + self._pause)
        except Exception as error:  # nobody looks after the server when this process ends
            place = traceback.extract_tb(error.__traceback__)[-1]
            known = isinstance(error, MiraError)  # other errors' words may carry data
            what = str(error) if known else f"{type(error).__name__} at {place.filename}:{place.lineno}."
            LOG.error("unexpected: %s Supervision goes on.", what)
            self._not_known(now + self.interval_s)

    def _not_known(self, not_before: float) -> None:
        """Say that nobody knows whether the models answer, and rest until then."""
        self.counters.healthy = False
        self._not_before = not_before
        with contextlib.suppress(OSError):  # on a full disk the old figures' time tells
            self._write_metrics()

    def _down(self) -> str:
        """What to add to the word of a damaged file when the server is down: nobody knows what it should serve."""
        with contextlib.suppress(ServingFailed, OSError):
            if server.running(self.paths) is None:
                return ", and the server, which is not running, is not started"
        return ""

    def _processes(self) -> set[int]:
        """The server and its stubs."""
        state = server.running(self.paths)
        return set(processes.session_members(state.pid)) if state else set()

    def _check(self, lost: bool) -> None:
        """Send canaries, recover where they are not answered, and set when to look next."""
        served, state = repository.read_served(self.paths), server.running(self.paths)
        begin = time.monotonic()
        ill = release.unhealthy(self.paths, state.url, served) if state else {"server": "the server is not running"}
        self.counters.canary_seconds = time.monotonic() - begin
        self._next_round = time.monotonic() + self.interval_s
        self.counters.healthy, self.counters.version = not ill, served.version
        if ill:
            self._recover(dead=state is None, why="; ".join(ill.values()))
        elif lost:
            LOG.info("a process ended; the models answer as expected")
        if state and not ill and (why := candidate.look_after(self.paths, state.url)):
            LOG.warning("the candidate was withdrawn: %s", why)
        self._write_metrics()

    def _write_metrics(self) -> None:
        write_text(self.paths.metrics, self.counters.text(time.time()))

    def _recover(self, dead: bool, why: str) -> None:
        if time.monotonic() - self._incident > QUIET_SECONDS:
            self._pause = FIRST_PAUSE
        LOG.warning("%s", why)
        begin = time.monotonic()
        try:
            release.serve(self.paths)
            uri = registry.tracking_uri(self.paths)
            if uri != registry.OFF and (words := account.settled(self.paths, uri)):
                LOG.info("%s", words)
        except (MiraError, OSError) as error:
            self.counters.failed_recoveries += 1
            text = str(error) if isinstance(error, MiraError) else f"{type(error).__name__}: {error.strerror}"
            LOG.error("no recovery: %s; next try in %.0f s", text, self._pause)
            outcome, facts = "failed", text
            self._next_round = 0.0
        else:
            self.counters.healthy = True
            LOG.info("recovered in %.1f s", time.monotonic() - begin)
            outcome, facts = "done", why
        self.counters.restarts += dead
        self.counters.reloads += not dead
        self._incident = time.monotonic()
        self._not_before = self._incident + self._pause  # a server that dies again and again gets rest
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        version = repository.read_served(self.paths).version
        audit.append(self.paths.audit, "recover", outcome, version=version, before=version, why=facts)


def running(paths: ServingPaths) -> SupervisorState | None:
    """The supervisor of this workspace, or None when it has none."""
    if not paths.supervisor.is_file():
        return None
    state = recorded(paths.supervisor, SupervisorState, "End the supervisor, if there is one, and remove the file.")
    return state if processes.start_ticks(state.pid) == state.ticks else None


def start(paths: ServingPaths, interval_s: float = INTERVAL_SECONDS) -> SupervisorState:
    """Start a supervisor that outlives this process, or return the one that runs."""
    known = running(paths)
    if known is not None:
        return known
    paths.state.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "components.promote.supervisor", str(paths.workspace.resolve())]
    command += [str(paths.models), str(paths.environment.absolute()), f"{interval_s:g}"]
    with paths.supervisor_log.open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, start_new_session=True
        )
    state = SupervisorState(pid=process.pid, ticks=processes.start_ticks(process.pid) or 0)
    write_json(paths.supervisor, state.model_dump(mode="json"))
    return state


def stop(paths: ServingPaths, patience_s: float = 20.0) -> bool:
    """Stop the supervisor, and leave its server running; returns whether there was one."""
    state = running(paths)
    if state is not None:
        processes.stop_session(state.pid, state.ticks, patience_s)
    paths.supervisor.unlink(missing_ok=True)
    return state is not None


def supervise_here(paths: ServingPaths, interval_s: float = INTERVAL_SECONDS) -> None:
    """Supervise in this process until it is asked to end (SIGTERM or Ctrl-C)."""
    stopped = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    write_json(paths.supervisor, _own_state().model_dump(mode="json"))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    Supervisor(paths, interval_s).watch(stopped)


def _own_state() -> SupervisorState:
    return SupervisorState(pid=os.getpid(), ticks=processes.start_ticks(os.getpid()) or 0)


def _is_this_process(paths: ServingPaths) -> bool:
    with contextlib.suppress(OSError, ServingFailed):
        return running(paths) == _own_state()
    return False


def _main() -> None:
    parser = argparse.ArgumentParser(description="The supervisor that `mira serve` leaves running.")
    for name in ("workspace", "repository", "environment"):
        parser.add_argument(name, type=Path)
    parser.add_argument("interval", type=float)
    given = parser.parse_args()
    paths = ServingPaths(workspace=given.workspace, repository=given.repository, environment=given.environment)
    supervise_here(paths, given.interval)


if __name__ == "__main__":
    _main()
