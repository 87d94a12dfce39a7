"""Files that are either the old or the new ones: atomic writes and content hashes."""

import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_file(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block succeeds.

    The temporary name keeps the suffix, since writers (nibabel, parquet) choose the format by it.

    Args:
        path: the file.
        durable: whether it must be whole after a power cut, too; this waits for the disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path, path.suffix)
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        if durable:
            _flush(temporary)
        os.replace(temporary, path)
        if durable:
            _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`; it takes the place of `path` when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=".old-", dir=path.parent))
            os.replace(path, old / path.name)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path, suffix: str = "") -> Path:
    """A new name in the same folder; what tempfile makes, its owner alone may read, whatever the umask allows."""
    return path.parent / f".partial-{secrets.token_hex(8)}{suffix}"


def _flush(path: Path) -> None:
    """Bring a file, or the names in a folder, from the cache to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str, durable: bool = False) -> None:
    """Write text atomically, as UTF-8; `durable` as in `atomic_file`."""
    with atomic_file(path, durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, durable: bool = False) -> None:
    """Write a JSON document atomically, with sorted keys so that equal content is equal bytes.

    Raises:
        ValueError: for NaN or infinity, which JSON has no word for.
    """
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", durable)


def write_compact_json(path: Path, value: Any) -> None:
    """Write a long JSON document that nobody reads, atomically and without blanks."""
    write_text(path, json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON document."""
    return json.loads(path.read_text(encoding="utf-8"))


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_tree(root: Path) -> str:
    """SHA-256 over the relative names and contents of all files below `root`; a file's own hash for a file.

    Times and permissions do not count, hidden `.partial-` leftovers neither.
    """
    if root.is_file():
        return hash_file(root)
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file() and not p.name.startswith(".partial-")):
        digest.update(f"{path.relative_to(root).as_posix()}\0{hash_file(path)}\n".encode())
    return digest.hexdigest()


def make_secret(path: Path) -> None:
    """Write a new random key, readable by its owner alone; of two first users at once, one key wins."""
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(32) + "\n")
            stream.flush()
            os.fsync(handle)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        temporary.unlink(missing_ok=True)
