"""Files that were read before and have not been touched since: their hashes need not be made again.

Content decides what is new. What lies here only spares reading a file again to learn its hash: it is believed while the
file is the same inode with the same size and the same times of its last write and of its last change of any kind, which
no program can set. Every entry is named by a keyed hash of all that, so neither names nor times can be read from here.
"""

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from components.ingest.workers import Workers
from mira.dicom.archive import Opened
from mira.dicom.headers import tolerant
from mira.dicom.pseudonyms import Pseudonyms
from mira.dicom.reasons import Reason
from mira.dicom.scan import Sighting, look_at
from mira.progress import track
from mira.storage import hash_file, read_json, write_compact_json

FORMAT = 1
SETTLED_SECONDS = 2.0
"""A file younger than this may change again within the resolution of a file system's clock."""
FILES_AT_ONCE = 50

Row = list[str | int]


@dataclass(frozen=True)
class Seen:
    """A file as it was when it was read.

    Attributes:
        sighting: what the scan found; its group is a keyed code.
        content: content hash; "" where nobody needed it.
    """

    sighting: Sighting
    content: str


class KnownFiles:
    """The files of one site, and what is known of them without reading them.

    Args:
        path: where it is kept from one ingest to the next.
        software: what was seen by other software is not believed.
        pseudonyms: the project's key.
        verify: believe nothing.
    """

    def __init__(self, path: Path, software: str, pseudonyms: Pseudonyms, verify: bool) -> None:
        self.path, self.software, self.pseudonyms = path, software, pseudonyms
        self.before = {} if verify else _load(path, software)
        self.codes: dict[Path, str] = {}
        self.seen: dict[Path, Seen] = {}

    def look_at_all(self, source: Opened, workers: Workers, what: str) -> Iterator[tuple[Path, Sighting]]:
        """What there is to see of each file of a source; only what is not known is read.

        Args:
            source: the site's files.
            workers: who reads.
            what: label of the progress bar.
        """
        unknown = []
        for path in source.files:
            self.codes[path] = self._code(path)
            if self.codes[path] in self.before:
                self.seen[path] = self.before[self.codes[path]]
            else:
                unknown.append((path, source.origin[path]))
        parts = [unknown[begin : begin + FILES_AT_ONCE] for begin in range(0, len(unknown), FILES_AT_ONCE)]
        for index, found in track(workers.each(_look_at_some, parts), what, total=len(parts), unit="parts"):
            for (path, _), sighting in zip(parts[index], found or _one_by_one(parts[index], workers), strict=True):
                group = self.pseudonyms.code("group", sighting.group) if sighting.group else ""
                self.seen[path] = Seen(replace(sighting, group=group), "")
        for path in source.files:
            yield path, self.seen[path].sighting

    def contents(self, files: list[Path]) -> list[str] | None:
        """Content hashes of files, or None when one of them is not known."""
        known = [self.seen[path].content for path in files]
        return known if all(known) else None

    def content(self, path: Path) -> str:
        """SHA-256 of a file that is no image; "" when it cannot be read at all, which is then its reason."""
        if not self.seen[path].content:
            try:
                self.note_contents([(path, hash_file(path))])
            except OSError:
                return ""
        return self.seen[path].content

    def note_contents(self, contents: Iterable[tuple[Path, str]]) -> None:
        """Enter content hashes."""
        for path, content in contents:
            self.seen[path] = replace(self.seen[path], content=content)

    def store(self) -> None:
        """Keep what was seen of files that did not change while they were read, and are old enough to trust."""
        rows = {
            self.codes[path]: _to_row(seen)
            for path, seen in self.seen.items()
            if seen.content and _is_settled(path) and self._code(path) == self.codes[path]
        }
        write_compact_json(self.path, {"format": FORMAT, "software": self.software, "files": rows})

    def _code(self, path: Path) -> str:
        """Changes whenever the file does."""
        try:
            status = os.stat(path)
        except OSError:
            return ""
        times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
        return self.pseudonyms.code("seen", f"{status.st_dev} {status.st_ino} {status.st_size} {times}", str(path))


def _look_at_some(files: list[tuple[Path, str]]) -> list[Sighting]:
    with tolerant():
        return [look_at(path, origin) for path, origin in files]


def _one_by_one(files: list[tuple[Path, str]], workers: Workers) -> list[Sighting]:
    """What there is to see of files of which one ended the process that read it."""
    found = [Sighting("rejected", reason=Reason.CRASHED) for _ in files]
    for index, looked in workers.each(_look_at_some, [[file] for file in files]):
        if looked is not None:
            found[index] = looked[0]
    return found


def _is_settled(path: Path) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    return max(status.st_mtime, status.st_ctime) < time.time() - SETTLED_SECONDS


def _load(path: Path, software: str) -> dict[str, Seen]:
    """Entries by their code; none when the file is missing, damaged or of other software."""
    try:
        document = read_json(path)
        if document["format"] != FORMAT or document["software"] != software:
            return {}
        return {code: _from_row(row) for code, row in document["files"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _to_row(seen: Seen) -> Row:
    found = seen.sighting
    reason = "" if found.reason is None else found.reason.value
    return [found.kind, found.group, found.pixels, found.modality, reason, found.detail, seen.content]


def _from_row(row: Row) -> Seen:
    kind, group, pixels, modality, reason, detail, content = row
    why = Reason(str(reason)) if reason else None
    found = Sighting(str(kind), str(group), int(pixels), str(modality), why, str(detail))
    return Seen(found, str(content))
