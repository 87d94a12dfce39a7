"""Processes that this project started, found again by id and start time, and stopped without touching any other."""

import contextlib
import os
import signal
import time
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Triton's python backend puts its regions


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when it is gone or only a zombie is left."""
    with contextlib.suppress(ChildProcessError, OSError):
        os.waitpid(pid, os.WNOHANG)
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in ("Z", "X") else None


def session_members(session: int) -> list[int]:
    """Living processes of a session: a server that was started with its own session, and its stubs."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields and fields[0] not in ("Z", "X") and int(fields[3]) == session:
                members.append(int(entry.name))
    return sorted(members)


def command_line(pid: int) -> str:
    """Command line of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def stop_session(pid: int, ticks: int, patience_s: float) -> bool:
    """Stop the process `pid` that started at `ticks` and all of its session.

    Args:
        pid: leader of the session.
        ticks: its start time, so that a reused id is left alone.
        patience_s: how long it may take to end by itself before it is killed.

    Returns:
        Whether it ended by itself.
    """
    own = start_ticks(pid) == ticks
    if own:
        os.kill(pid, signal.SIGTERM)
    if _wait(pid, ticks, patience_s if own else 0) and not session_members(pid):
        return own
    own = own or start_ticks(pid) is None  # a session keeps its id from being used again while a member lives
    for member in session_members(pid) if own else []:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    _wait(pid, ticks, 5)
    end = time.monotonic() + 5
    while own and session_members(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return False


def remove_shared_memory(prefix: str) -> int:
    """Remove the shared-memory regions that a killed server left behind; returns how many."""
    left = list(SHARED_MEMORY.glob(f"{prefix}*")) if prefix else []
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


def _wait(pid: int, ticks: int, seconds: float) -> bool:
    """Wait until a process has ended."""
    end = time.monotonic() + seconds
    while start_ticks(pid) == ticks:
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _stat(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat from the state on; empty when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()
