"""The watch: makes quiet series complete, ingests them, and has a command run on what is new."""

import fcntl
import hashlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.ingest.step import IngestConfig, ingest
from components.receive.drop import SETTLE_SECONDS, Drop
from components.receive.inbox import Inbox
from mira import __version__
from mira.dicom.headers import tolerant
from mira.errors import ConfigurationError, DataRejected, RetryableError
from mira.sites import Site, Sites, load_sites
from mira.storage import hash_file, read_json, write_json

RETRY_SECONDS = 60.0


@dataclass(frozen=True)
class Watch:
    """What is watched.

    Attributes:
        sites_file: sites.yaml; a site whose `path` is `<inbox>/<site>` is fed by the inbox.
        out: root of the cases.
        config: parameters of ingest.
        drop: folder with one sub-folder per site that files are copied into; None for none.
        quiet_seconds: a series to which nothing came for so long is complete.
        command: run after each ingest that had something new; empty for none.
    """

    sites_file: Path
    out: Path
    config: IngestConfig
    drop: Path | None = None
    quiet_seconds: float = 60.0
    command: Sequence[str] = ()


class Watcher:
    """One watch at work. What it has done is kept in `<inbox>/.watch/state.json`, so that a killed one goes on.

    Args:
        watch: what is watched.
        inbox: the inbox.
        say: gets one line per event, without anything that identifies a patient.
    """

    def __init__(self, watch: Watch, inbox: Inbox, say: Callable[[str], None]) -> None:
        self.watch = watch
        self.inbox = inbox
        self.say = say
        self.state_file = inbox.root / ".watch" / "state.json"
        self.sites = self._sites()
        settle = min(SETTLE_SECONDS, watch.quiet_seconds)
        self.drop = Drop(watch.drop, inbox, settle) if watch.drop else None
        self.version = ""
        self.failed_command = ""

    def look(self) -> int:
        """Look once, and do what is to be done.

        Returns:
            Exit code: 0, 3 when no site gave a usable case, or the command's.

        Raises:
            ConfigurationError: for a sites.yaml or a key that cannot be used.
            OSError, RetryableError: when disk or network were away; the next look tries again.
        """
        self._take_drop()
        released = self.inbox.release(self.watch.quiet_seconds)
        if released:
            self.say("complete: " + ", ".join(f"{count} series of {site}" for site, count in sorted(released.items())))
        if released or not self.version:
            self.version = self._version()
        return self._ingest()

    def run(self, stop: threading.Event) -> None:
        """Look again and again, until told to stop; a failure that may pass is said and tried again."""
        pause = min(max(self.watch.quiet_seconds / 4, 0.2), 15.0)
        not_before = 0.0
        while not stop.wait(pause):
            if time.monotonic() < not_before:
                continue
            try:
                self.look()
            except (OSError, RetryableError) as error:
                what = error if isinstance(error, RetryableError) else f"storage: {error.strerror}"
                self.say(f"{what}; trying again in {RETRY_SECONDS:g} s")
                not_before = time.monotonic() + RETRY_SECONDS

    def _sites(self) -> list[Site]:
        """The sites of sites.yaml; folders of those that the inbox feeds are made first."""
        try:
            listed = Sites.model_validate(yaml.safe_load(self.watch.sites_file.read_text(encoding="utf-8"))).sites
        except (OSError, ValueError, yaml.YAMLError):
            listed = []  # load_sites says what is wrong
        for site in listed:
            if (self.watch.sites_file.parent / site.path).resolve() == self.inbox.root / site.id:
                self.inbox.add_site(site.id)
        sites = load_sites(self.watch.sites_file).sites
        if not any(site.path == self.inbox.root / site.id for site in sites):
            raise ConfigurationError(
                f"No site in {self.watch.sites_file} is fed by this inbox. "
                f"Set its `path` to {self.inbox.root}/<its id>."
            )
        return sites

    def _take_drop(self) -> None:
        if self.drop is None:
            return
        taken = self.drop.take([site.id for site in self.sites])
        if taken.stored or taken.known:
            self.say(f"taken from the drop folder: {taken.stored} objects, {taken.known} were there before")
        for reason, count in taken.left.most_common():
            self.say(f"left in the drop folder: {count} files: {reason}")

    def _version(self) -> str:
        settings = (
            f"{__version__} {hash_file(self.watch.sites_file)} {self.watch.out.resolve()} "
            f"{self.watch.config.model_dump_json()}"
        )
        return hashlib.sha256(f"{self.inbox.version()} {settings}".encode()).hexdigest()

    def _ingest(self) -> int:
        state = self._state()
        if state.get("ingested") != self.version or not (self.watch.out / "ingest.json").is_file():
            started = time.monotonic()
            try:
                summary = ingest(self.watch.sites_file, self.watch.out, self.watch.config)
            except DataRejected as error:
                self.say(f"ingest: {error}")
                state = {"ingested": self.version, "cases": 0, "commanded": self.version}
            else:
                unchanged = sum(site.unchanged for site in summary.sites.values())
                series = sum(site.series for site in summary.sites.values())
                self.say(
                    f"ingest: {series} series, {unchanged} of them unchanged, {summary.cases} cases, "
                    f"{time.monotonic() - started:.1f} s"
                )
                state = {**state, "ingested": self.version, "cases": summary.cases}
            write_json(self.state_file, state)
        if not state["cases"]:
            return DataRejected.exit_code
        return self._command(state)

    def _command(self, state: dict[str, Any]) -> int:
        if not self.watch.command or self.version in (state.get("commanded"), self.failed_command):
            return 0
        self.say(f"starting {Path(self.watch.command[0]).name}")
        try:
            code = subprocess.run(self.watch.command, check=False).returncode
        except OSError as error:
            raise ConfigurationError(f"Cannot start {self.watch.command[0]}: {error.strerror}.") from error
        self.say(f"{Path(self.watch.command[0]).name} ended with exit code {code}")
        if code == 0:
            write_json(self.state_file, {**state, "commanded": self.version})
        else:
            self.failed_command = self.version  # the same data would fail the same way: wait for new data or a restart
        return code

    def _state(self) -> dict[str, Any]:
        return dict(read_json(self.state_file)) if self.state_file.is_file() else {}


@contextmanager
def watching(watch: Watch, inbox: Inbox, say: Callable[[str], None]) -> Iterator[Watcher]:
    """A watcher that has the inbox for itself.

    Raises:
        ConfigurationError: when another watch is at work on this inbox, or sites.yaml cannot be used.
    """
    folder = inbox.root / ".watch"
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"Another mira watch is at work on {inbox.root}. Stop it, or let it be."
            ) from error
        with tolerant():
            yield Watcher(watch, inbox, say)
