"""The embedded Triton: started detached on the loopback address, found again by its state file, stopped cleanly."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from components.promote import processes, transport
from components.promote.binary import TritonBinary, prepare
from components.promote.paths import ServingPaths, recorded
from components.promote.triton import TritonAdmin
from mira.cases import Record
from mira.errors import ServingFailed
from mira.storage import write_json, write_text

RESTRICTED = "model-repository,shared-memory,trace,logging"
START_SECONDS = 90.0
LOCALHOST = "127.0.0.1"


class ServerState(Record):
    """A server that was started here.

    Attributes:
        pid: process id, leader of its own session.
        ticks: start time of the process in clock ticks since boot, so that a reused id is not mistaken for it.
        url: HOST:PORT of its gRPC front end.
        repository: model repository that it serves.
        started: when, UTC.
        shared_memory: prefix of its shared-memory regions.
    """

    pid: int
    ticks: int
    url: str
    repository: Path
    started: str
    shared_memory: str


def running(paths: ServingPaths) -> ServerState | None:
    """The server of this workspace, or None when it is not running; leftovers of a dead one are removed.

    Raises:
        ServingFailed: when its state file cannot be read: another server beside it would go unnoticed.
    """
    if not paths.server.is_file():
        return None
    advice = "Nothing tells whether a server runs: end tritonserver, if there is one, and remove the file."
    state = recorded(paths.server, ServerState, advice)
    if processes.start_ticks(state.pid) == state.ticks:
        return state
    if processes.start_ticks(state.pid) is None:
        processes.stop_session(state.pid, state.ticks, 0)
    processes.remove_shared_memory(state.shared_memory)
    paths.server.unlink(missing_ok=True)
    return None


def start(
    paths: ServingPaths, models: list[str], port: int | None = None, threads: int = 0, patience_s: float = START_SECONDS
) -> ServerState:
    """Start Triton with the given models, or return the one that runs.

    Args:
        paths: where things lie.
        models: models to load at start.
        port: gRPC port; by default that of the last server, so that applications find it again, else a free one.
        threads: threads of the numeric libraries; the number of usable cores by default.
        patience_s: longest time for it to come up, models loaded.

    Raises:
        ServingFailed: when it cannot run here, another repository is served, or it does not come up.
    """
    state = running(paths)
    if state is not None:
        if state.repository != paths.models:
            raise ServingFailed(f"A server runs on another repository, {state.repository}. Stop it: mira serve --stop")
        if port and state.url != f"{LOCALHOST}:{port}":
            raise ServingFailed(f"The server runs at {state.url}. Stop it first: mira serve --stop")
        return state
    binary = prepare(paths.environment)
    paths.state.mkdir(parents=True, exist_ok=True)
    paths.models.mkdir(parents=True, exist_ok=True)
    attempts = 1 if port else 3  # a port that was free may be taken before the server has it
    for attempt in range(attempts):
        state = _launch(paths, binary, models, port or _port(paths, again=attempt == 0), threads or usable_cores())
        write_json(paths.server, state.model_dump(mode="json"))
        if _wait_until_live(paths, state, patience_s):
            write_text(paths.last_port, state.url.rpartition(":")[2] + "\n")
            return state
        stop(paths)
        if attempt + 1 == attempts or "address already in use" not in tail(paths.log, 200).lower():
            break
    raise ServingFailed(f"Triton did not come up. Its log, {paths.log}, ends with:\n{tail(paths.log, 8)}")


def stop(paths: ServingPaths, patience_s: float = 20.0) -> bool:
    """Stop the server of this workspace.

    Returns:
        Whether one was running.
    """
    state = running(paths)
    if state is None:
        return False
    processes.stop_session(state.pid, state.ticks, patience_s)
    processes.remove_shared_memory(state.shared_memory)
    paths.server.unlink(missing_ok=True)
    return True


def administer(paths: ServingPaths, url: str, timeout_s: float = 120.0) -> TritonAdmin:
    """Administration of a server, with this workspace's key."""
    return TritonAdmin(url, _key(paths), timeout_s, transport.chosen(paths))


def end_hanging_loads(paths: ServingPaths, models: Iterable[str], version: int) -> None:
    """Kill the stubs in which a version of some models is still loading; Triton then gives the load up.

    Without this, Triton 2.51 waits for such a load for ever, and every later load of the model waits behind it.
    """
    state = running(paths)
    if state is None:
        return
    with contextlib.closing(administer(paths, state.url)) as admin, contextlib.suppress(ServingFailed):
        loading = admin.index(states=("LOADING",))
        hanging = [str(paths.models / name / str(version)) for name in models if version in loading.get(name, [])]
        for pid in processes.session_members(state.pid):
            if any(f"{folder}/" in processes.command_line(pid) for folder in hanging):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        admin.settle(models, patience_s=5)


def usable_cores() -> int:
    """Cores that this process may use, eight at most: small networks do not gain from more."""
    return min(8, len(os.sched_getaffinity(0)))


def tail(path: Path, lines: int) -> str:
    """The last lines of a log."""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]) if path.is_file() else ""


def _key(paths: ServingPaths) -> str:
    """The key of the restricted protocols, made at the first use."""
    if not paths.key.is_file():
        paths.key.parent.mkdir(parents=True, exist_ok=True)
        with (
            contextlib.suppress(FileExistsError),
            open(os.open(paths.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as stream,
        ):
            stream.write(secrets.token_hex(24))
    return paths.key.read_text(encoding="ascii").strip()


def _port(paths: ServingPaths, again: bool) -> int:
    """The port of the last server when it is wanted again and free, else any free one."""
    last = paths.last_port.read_text(encoding="ascii").strip() if again and paths.last_port.is_file() else "0"
    for wanted in (int(last) if last.isdigit() else 0, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the last server may linger
            probe.bind((LOCALHOST, wanted))
            return int(probe.getsockname()[1])
    raise ServingFailed("There is no free port on this machine.")


def _launch(paths: ServingPaths, binary: TritonBinary, models: list[str], port: int, threads: int) -> ServerState:
    shared_memory = f"mira-{secrets.token_hex(6)}-"
    command = [
        str(binary.executable),
        f"--model-repository={paths.models}",
        f"--backend-directory={binary.root / 'backends'}",
        "--model-control-mode=explicit",
        "--model-config-name=cpu",
        "--disable-auto-complete-config",
        "--exit-on-error=false",
        f"--grpc-address={LOCALHOST}",
        f"--grpc-port={port}",
        "--allow-http=false",
        "--allow-metrics=false",
        *transport.chosen(paths).server_options(),
        f"--grpc-restricted-protocol={RESTRICTED}:admin-key={_key(paths)}",
        f"--backend-config=python,shm-region-prefix-name={shared_memory}",
        *(f"--load-model={model}" for model in models),
    ]
    with paths.log.open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=paths.state,
            env=binary.variables(threads),
            start_new_session=True,
        )
    return ServerState(
        pid=process.pid,
        ticks=processes.start_ticks(process.pid) or 0,
        url=f"{LOCALHOST}:{port}",
        repository=paths.models,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        shared_memory=shared_memory,
    )


def _wait_until_live(paths: ServingPaths, state: ServerState, patience_s: float) -> bool:
    """Wait until the server answers and has tried to load its models; False when it ended or took too long."""
    admin = administer(paths, state.url)
    end = time.monotonic() + patience_s
    try:
        while time.monotonic() < end and processes.start_ticks(state.pid) == state.ticks:
            if admin.live():
                return True
            time.sleep(0.05)
        return False
    finally:
        admin.close()
