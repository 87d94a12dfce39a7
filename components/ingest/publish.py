"""A case store that outlives a run, and a run's output that shows what is in it."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mira.errors import ConfigurationError, RetryableError
from mira.storage import atomic_file

LOCK = ".lock"


@contextmanager
def exclusive(ledger: Path) -> Iterator[None]:
    """Hold a ledger, and the cases that it lists, for one ingest at a time.

    Raises:
        RetryableError: when another ingest holds it.
    """
    ledger.mkdir(parents=True, exist_ok=True)
    with (ledger / LOCK).open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RetryableError(
                f"Another ingest works in {ledger.parent}. Run again when it is done, or give another folder."
            ) from error
        yield


def check_apart(store: Path, out: Path) -> None:
    """Make sure that a store and a run's output are two folders.

    Raises:
        ConfigurationError: when they are one, or one lies in the other.
    """
    places = store.resolve(), out.resolve()
    if places[0].is_relative_to(places[1]) or places[1].is_relative_to(places[0]):
        raise ConfigurationError(
            f"The case store {store} and the output {out} are one folder, or one lies in the other. "
            "Name two folders beside each other, or leave `ingest.store` empty."
        )


def publish(store: Path, out: Path) -> None:
    """Make `out` hold the same files as `store`, but for what only the next ingest needs.

    Files are hard links where the file system allows it: no file of a store is ever written in place, so what a run
    has got does not change when the store does. They are made read-only, so that nobody changes the store, and every
    other run, by editing a file of one run in place.
    """
    out.mkdir(parents=True, exist_ok=True)
    wanted = {path.relative_to(store) for path in store.rglob("*") if path.is_file() and _is_shown(path, store)}
    for path in [path for path in out.rglob("*") if path.is_file()]:
        if path.relative_to(out) not in wanted or not path.samefile(store / path.relative_to(out)):
            path.unlink()
    for name in sorted(wanted):
        target = out / name
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        (store / name).chmod(0o444)
        try:
            os.link(store / name, target)
        except OSError:  # another file system, or one without links
            with atomic_file(target) as temporary:
                shutil.copyfile(store / name, temporary)
    for folder in sorted((path for path in out.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()


def _is_shown(path: Path, store: Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(store).parts)
