"""Open what a hospital sends: a file, a folder of any depth, a DICOMDIR or a zip, as a list of plain files."""

import errno
import lzma
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread

from mira.dicom import headers as h
from mira.dicom.headers import tolerant
from mira.dicom.reasons import Reason

LARGEST_ARCHIVE_BYTES = 256 * 2**30
LARGEST_COMPRESSION = 200.0
COPY_BYTES = 2**20
PASSING = {
    errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT,
    errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH,
}  # fmt: skip
"""Failures of disk, network or system, which say nothing of the file that was asked for."""
DAMAGED = zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, EOFError, ValueError

Members = dict[Path, zipfile.ZipInfo]
"""Entries of an archive by the file that each is unpacked to."""
IsKnown = Callable[[Path, os.stat_result, Members], bool]


@dataclass
class Opened:
    """Files to look at, in a stable order, and those that could not be reached.

    Attributes:
        files: every file found; those from a zip lie in a private temporary folder.
        origin: for each file, the folder (or archive and folder within) it came from: files of one series without
            a series UID are told apart by it.
        missing: reasons for what was named but is not there or was not unpacked.
        packed: files that are still in their archive, since the caller knows what is in them.
    """

    files: list[Path] = field(default_factory=list)
    origin: dict[Path, str] = field(default_factory=dict)
    missing: list[Reason] = field(default_factory=list)
    packed: dict[Path, tuple[Path, zipfile.ZipInfo]] = field(default_factory=dict)

    def unpack(self, files: Iterable[Path]) -> None:
        """Unpack those of some files that are still in their archive.

        Raises:
            OSError: when disk or network fail, or an archive has changed since it was opened.
        """
        wanted: dict[Path, Members] = {}
        for file in files:
            if file in self.packed:
                archive, member = self.packed.pop(file)
                wanted.setdefault(archive, {})[file] = member
        for archive, members in wanted.items():
            try:
                with zipfile.ZipFile(archive) as content:
                    _copy_all(content, members)
            except DAMAGED:  # it was whole when it was read
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from None


@contextmanager
def opened(path: Path, is_known: IsKnown | None = None) -> Iterator[Opened]:
    """Yield the files of a source; what was unpacked from zips is deleted at the end.

    Zip members are written under numbers in a folder that only this user can read, so neither a member's name nor
    a `..` in it has any effect. A DICOMDIR gives the files that it names, wherever they lie below its folder.

    Args:
        path: folder, file, DICOMDIR or zip.
        is_known: told of each archive, its state before it was opened and its members, whether the caller knows all of
            them; they stay packed then until `Opened.unpack`.
    """
    found = Opened()
    with ExitStack() as stack:
        if path.is_dir():
            listed = _walk(path, found)
        elif path.name.upper().startswith("DICOMDIR"):
            listed = _directory(path, found)
        else:
            listed = [path]
        for file in listed:
            if file.suffix.lower() == ".zip" or (file == path and zipfile.is_zipfile(file)):
                scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="mira-"))
                _unpack(file, Path(scratch), found, is_known)
            else:
                found.files.append(file)
                found.origin[file] = str(file.parent)
        yield found


def _walk(folder: Path, found: Opened) -> list[Path]:
    """Files of any depth; a folder that is not looked into is missing, so that nobody takes it for an empty one."""
    files = []
    for place, folders, names in os.walk(folder, onerror=lambda _: found.missing.append(Reason.UNREADABLE_FOLDER)):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]  # they may lead in a circle
        found.missing += [Reason.UNREADABLE_FOLDER] * len(links)
        files += [path for path in (Path(place, name) for name in names) if path.is_file()]
    return sorted(files)


def _unpack(archive: Path, scratch: Path, found: Opened, is_known: IsKnown | None) -> None:
    """Unpack an archive as a whole or not at all: the first half of a series looks like a series.

    Raises:
        OSError: when the disk is full, or disk or network fail: one of `PASSING`.
    """
    try:
        state = archive.stat()
        with zipfile.ZipFile(archive) as content:
            entries = sorted((m for m in content.infolist() if not m.is_dir()), key=lambda m: m.filename)
            members = {scratch / f"{number:07d}": entry for number, entry in enumerate(entries)}
            total = sum(entry.file_size for entry in entries)
            packed = sum(entry.compress_size for entry in entries)
            if total > LARGEST_ARCHIVE_BYTES or total > 2**20 + LARGEST_COMPRESSION * packed:
                found.missing.append(Reason.UNSAFE_ARCHIVE)
                return
            if is_known is not None and is_known(archive, state, members):
                found.packed |= {target: (archive, entry) for target, entry in members.items()}
            else:
                _copy_all(content, members)
    except DAMAGED:
        found.missing.append(Reason.UNSAFE_ARCHIVE)
        return
    except OSError as error:
        if error.errno in PASSING:
            raise
        found.missing.append(Reason.UNSAFE_ARCHIVE)
        return
    found.files += members
    found.origin |= {target: f"{archive}!{entry.filename.rpartition('/')[0]}" for target, entry in members.items()}


def _copy_all(content: zipfile.ZipFile, members: Members) -> None:
    for target, entry in members.items():
        _copy(content, entry, target)


def _copy(content: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """Unpack one member, never more than it declares: a forged size stops here."""
    left = member.file_size
    with content.open(member) as source, target.open("wb") as sink:
        while block := source.read(min(COPY_BYTES, left + 1)):
            left -= len(block)
            if left < 0:
                raise ValueError("longer than declared")
            sink.write(block)


def _directory(path: Path, found: Opened) -> list[Path]:
    """Files named by a DICOMDIR that lie below its folder."""
    base = path.parent.resolve()
    result = []
    with tolerant():
        try:
            records = h.items(dcmread(path), "DirectoryRecordSequence")
        except Exception:  # any damage means: this index cannot be used
            found.missing.append(Reason.UNREADABLE)
            return []
        if not records:
            found.missing.append(Reason.DIRECTORY)  # an index of nothing
        for record in records:
            parts = h.values(record, "ReferencedFileID")
            if not parts:
                continue
            candidates = [base.joinpath(*parts), base.joinpath(*(part.lower() for part in parts))]
            file = next((c for c in map(_resolved, candidates) if c and c.is_relative_to(base)), None)
            if file is None:
                found.missing.append(Reason.MISSING_FILE)
            else:
                result.append(file)
    return sorted(set(result))


def _resolved(path: Path) -> Path | None:
    """The file that a path leads to, or None; a name that no file can have leads to none."""
    try:
        return path.resolve() if path.is_file() else None
    except (OSError, ValueError):
        return None
