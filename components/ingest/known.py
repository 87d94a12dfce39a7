"""Files that were read before and have not been touched since: their hashes need not be made again.

Content decides what is new. What lies here only spares reading a file again to learn its hash: it is believed while the
file is the same inode with the same size and the same times of its last write and of its last change of any kind, which
no program can set. Every entry is named by a keyed hash of all that, so neither names nor times can be read from here.
For what is in an archive the state of the archive counts, and of the member its name, check sum and place in it.
"""

import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from components.ingest.workers import Workers
from mira.dicom.archive import Members, Opened
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
        self.places: dict[Path, Path] = {}
        self.states: dict[Path, str] = {}
        self.codes: dict[Path, str] = {}
        self.seen: dict[Path, Seen] = {}

    def knows_all(self, archive: Path, state: os.stat_result, members: Members) -> bool:
        """Whether an archive is as it was when each of its members was read; as `opened` asks.

        Args:
            archive: the archive.
            state: its state before it was opened.
            members: its entries by the file that each would be unpacked to.
        """
        for path, entry in members.items():
            self._note(path, archive, _state(state), f"{archive}!{path.name} {entry.CRC} {entry.filename}")
        return all(self.codes[path] in self.before for path in members)

    def look_at_all(self, source: Opened, workers: Workers, what: str) -> Iterator[tuple[Path, Sighting]]:
        """What there is to see of each file of a source; only what is not known is read.

        Args:
            source: the site's files.
            workers: who reads.
            what: label of the progress bar.
        """
        unknown = []
        for path in source.files:
            if path not in self.codes:
                self._note(path, path, _state_now(path)[0], str(path))
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
        oldest = time.time() - SETTLED_SECONDS
        rows = {}
        for path, seen in self.seen.items():
            state, changed = _state_now(self.places[path])
            was_read = seen.content or seen.sighting.reason is None  # else it could not be
            if was_read and changed < oldest and state == self.states[path]:
                rows[self.codes[path]] = _to_row(seen)
        write_compact_json(self.path, {"format": FORMAT, "software": self.software, "files": rows})

    def _note(self, path: Path, place: Path, state: str, name: str) -> None:
        """Enter where a file lies, the state of that place before it is read, and the code of both."""
        self.places[path], self.states[path] = place, state
        self.codes[path] = self.pseudonyms.code("seen", state, name) if state else ""


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


def _state(status: os.stat_result) -> str:
    """What changes whenever a file does."""
    times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
    return f"{status.st_dev} {status.st_ino} {status.st_size} {times}"


def _state_now(path: Path) -> tuple[str, float]:
    """(state of a file, when it last changed); "" for a file that is gone, which changed just now."""
    try:
        status = os.stat(path)
    except OSError:
        return "", math.inf
    return _state(status), max(status.st_mtime, status.st_ctime)


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
