"""Folders of many small files as few tar files: one shard per folder, the same bytes for the same content.

DVC keeps one object, one directory entry and one transfer per file, so thousands of DICOM slices are slow in it. A
shard is an uncompressed tar without times, owners or permissions, named by its own SHA-256: a folder that did not
change is the same shard again, and a new version stores what is new. A file name in an inbox may carry a patient's
name; it is inside the shard only.
"""

import hashlib
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from mira.cases import Record
from mira.errors import DataRejected
from mira.progress import track
from mira.storage import hash_file

CUT = 256  # a shard ends, on average, after as many files of one folder
PARTIAL = ".partial-"  # leftovers of a killed step, as `mira.storage` names them
OF_THE_RUN = (
    "ingest.json",
    ".ingest/",
)  # what ingest notes for itself: another run of the same files notes other things


class Packed(Record):
    """What a folder became.

    Attributes:
        files: files packed.
        bytes: sum of their sizes.
        shards: number of shards.
        tree_sha256: hash over names and contents, equal to `mira.storage.hash_tree` of the folder.
        content_sha256: the same without what ingest notes for itself; see `content_hash`.
    """

    files: int
    bytes: int
    shards: int
    tree_sha256: str
    content_sha256: str


class _Hashed:
    """A file that is hashed while it is read, so that the hash is that of the very bytes that were packed."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self._stream.read(size)
        self.digest.update(block)
        return block


def pack(root: Path, out: Path) -> Packed:
    """Pack every file below a folder into shards.

    Args:
        root: folder to pack; times, permissions and empty folders do not count, links are followed.
        out: folder that gets the shards, `<sha256>.tar` each.

    Raises:
        DataRejected: when the folder holds no file.
        OSError: when a file shrinks while it is read; the version is then not saved.
    """
    files = _files(root)
    if not files:
        raise DataRejected(f"{root} holds no files to save. Run the step that makes it first.")
    out.mkdir(parents=True, exist_ok=True)
    hashes: dict[Path, str] = {}
    size = 0
    names = set()
    for shard in track(list(_shards(files)), f"pack {out.name}", unit="shard"):
        unnamed = out / "shard.tar"
        with tarfile.open(unnamed, "w", format=tarfile.GNU_FORMAT) as tar:
            for path in shard:
                hashes[path], length = _add(tar, path, path.relative_to(root).as_posix())
                size += length
        name = hash_file(unnamed)
        unnamed.replace(out / f"{name}.tar")
        names.add(name)
    named = {path.relative_to(root).as_posix(): hashes[path] for path in files}
    return Packed(
        files=len(files), bytes=size, shards=len(names), tree_sha256=_digest(named), content_sha256=_content(named)
    )


def unpack(shards: Path, out: Path) -> None:
    """Lay the files of all shards of a folder out again.

    Raises:
        DataRejected: when a shard's content is not what its name says.
    """
    out.mkdir(parents=True, exist_ok=True)
    for shard in track(sorted(shards.glob("*.tar")), f"unpack {out.name}", unit="shard"):
        if hash_file(shard) != shard.stem:
            raise DataRejected(f"Shard {shard.stem[:12]} of {shards.name} is damaged. Restore it from another remote.")
        with tarfile.open(shard) as tar:
            tar.extractall(out, filter="data")


def content_hash(root: Path) -> str:
    """Hash of a folder as `Packed.content_sha256` has it: a second ingest of the same files does not change it."""
    return _content({path.relative_to(root).as_posix(): hash_file(path) for path in _files(root)})


def _files(root: Path) -> list[Path]:
    """Files below a folder, in the order of `mira.storage.hash_tree`."""
    return sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith(PARTIAL))


def _content(hashes: dict[str, str]) -> str:
    return _digest({name: value for name, value in hashes.items() if not name.startswith(OF_THE_RUN)})


def _digest(hashes: dict[str, str]) -> str:
    """SHA-256 over relative names and hashes of files."""
    digest = hashlib.sha256()
    for name, content in hashes.items():
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


def _shards(files: Iterable[Path]) -> Iterator[list[Path]]:
    """Files of one folder each; a large folder is cut where the hash of a name ends in 00.

    The place of a cut depends on one name alone, so a file that joins a folder changes one shard of it.
    """
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in files:
        folders[path.parent].append(path)
    for members in folders.values():
        shard: list[Path] = []
        for path in members:
            shard.append(path)
            if int.from_bytes(hashlib.sha256(path.name.encode()).digest()[-4:], "big") % CUT == 0:
                yield shard
                shard = []
        if shard:
            yield shard


def _add(tar: tarfile.TarFile, path: Path, name: str) -> tuple[str, int]:
    """Add one file under a name; its SHA-256 and its size."""
    with path.open("rb") as stream:
        entry = tarfile.TarInfo(name)
        entry.size = path.stat().st_size
        entry.mode = 0o644
        source = _Hashed(stream)
        tar.addfile(entry, source)
    return source.digest.hexdigest(), entry.size
