"""`mira promote` with a fault planted at one moment: python -m tests.triton.planted FAULT promote ...

The command is the real one; only at the moment that the fault names does it do something more. Each fault acts right
before Triton is asked to load what was rehearsed (`after_*`: right after it), which is the worst moment there is;
`registry_gone` acts right before the alias is moved.
"""

import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.promote import processes, registry, server
from components.promote.paths import ServingPaths
from components.promote.triton import TritonAdmin
from mira.cli import main

NEW = "3"  # the version that is promoted


def _paths() -> ServingPaths:
    return ServingPaths(workspace=Path(os.environ["PLANTED_WORKSPACE"]), repository=Path(os.environ["PLANTED_MODELS"]))


def _folder() -> Path:
    return _paths().models / "mira_net" / NEW


def empty_folder() -> None:
    """The new version's folder is emptied."""
    shutil.rmtree(_folder())
    _folder().mkdir()


def missing_network() -> None:
    """model.onnx goes away."""
    (_folder() / "model.onnx").unlink()


def bad_configuration() -> None:
    """configs/cpu.pbtxt turns to rubbish."""
    (_paths().models / "mira_net" / "configs" / "cpu.pbtxt").write_text("name: {{{", encoding="utf-8")


def hanging_load() -> None:
    """The network never finishes loading."""
    code = _folder() / "model.py"
    text = code.read_text(encoding="utf-8")
    first = "        config = json.loads("
    assert first in text
    sleeping = text.replace(first, f"        __import__('time').sleep(3600)\n{first}", 1)
    code.write_text(sleeping, encoding="utf-8")


def kill_server() -> None:
    """The server is killed."""
    state = server.running(_paths())
    assert state is not None
    os.kill(state.pid, signal.SIGKILL)


def after_kill_stubs() -> None:
    """All python stubs are killed."""
    state = server.running(_paths())
    assert state is not None
    for pid in processes.session_members(state.pid):
        if pid != state.pid:
            os.kill(pid, signal.SIGKILL)


def after_kill_promotion() -> None:
    """The promotion itself is killed: the new version answers already, and nothing of it is recorded."""
    os.kill(os.getpid(), signal.SIGKILL)


def registry_gone() -> None:
    """MLflow's database goes away, before the alias is moved."""
    database = Path(os.environ["PLANTED_DATABASE"])
    database.rename(database.with_suffix(".away"))
    database.write_bytes(b"no database any more" * 100)


def copy_full() -> None:
    """The disk is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def copy_killed() -> None:
    """The promotion itself is killed."""
    os.kill(os.getpid(), signal.SIGKILL)


FAULTS: dict[str, Callable[[], None]] = {
    act.__name__: act
    for act in (
        empty_folder, missing_network, bad_configuration, hanging_load, kill_server, after_kill_stubs,
        after_kill_promotion, registry_gone, copy_full, copy_killed,
    )
}  # fmt: skip


def plant(name: str) -> None:
    """Make the fault happen around the first load that this process asks a server for, or before the alias moves."""
    fault, load, move = FAULTS[name], TritonAdmin.load, registry.move_champion

    def act() -> None:
        Path(os.environ["PLANTED_MARK"]).touch()
        fault()

    if fault is registry_gone:

        def moved(uri: str, version: int | None) -> None:
            registry.move_champion = move
            act()
            move(uri, version)

        registry.move_champion = moved
        return
    if name.startswith("copy_"):
        copytree = shutil.copytree

        def copied(source: Path, target: Path, *more: Any, **options: Any) -> Path:
            made = copytree(source, target, *more, **options)
            if Path(source) == _folder() / "release" / "configs":  # config.pbtxt is in place, the others are not
                shutil.copytree = copytree
                act()
            return made

        shutil.copytree = copied  # type: ignore[assignment]
        return

    def planted(admin: TritonAdmin, models: list[str]) -> None:
        TritonAdmin.load = load  # type: ignore[method-assign]
        if name.startswith("after_"):
            load(admin, models)
            act()
        else:
            act()
            load(admin, models)

    TritonAdmin.load = planted  # type: ignore[assignment,method-assign]


if __name__ == "__main__":
    if sys.argv[1] != "none":
        plant(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
