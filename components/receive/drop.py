"""The folder watch: takes files that were copied into `<drop>/<site>/` into the inbox, whatever they are called."""

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from components.receive.inbox import Inbox
from components.receive.objects import examine
from mira.dicom.archive import opened
from mira.dicom.reasons import Reason, Refused

SETTLE_SECONDS = 5.0

Stamp = tuple[int, int, int, int]


@dataclass
class Taken:
    """What one look at the folder gave.

    Attributes:
        stored: new objects.
        known: objects whose content was there before.
        left: files that stay where they are, by reason.
    """

    stored: int = 0
    known: int = 0
    left: Counter[str] = field(default_factory=Counter)


class Drop:
    """A folder with one sub-folder per site, of any depth below, with DICOM files, zips or whole media.

    A file that was taken is deleted from the folder once its content is safe in the inbox. What cannot be taken stays,
    and is not read again before it changes.

    Args:
        root: the folder.
        inbox: where to store.
        settle_seconds: a file is left alone until it has not changed for so long.
    """

    def __init__(self, root: Path, inbox: Inbox, settle_seconds: float = SETTLE_SECONDS) -> None:
        self.root = root
        self.inbox = inbox
        self.settle_seconds = settle_seconds
        self._left: dict[Path, Stamp] = {}

    def take(self, sites: list[str]) -> Taken:
        """Take what has settled. Call it within `mira.dicom.headers.tolerant`.

        Args:
            sites: ids of the sites whose sub-folders are looked at.

        Raises:
            OSError: when the inbox cannot be written.
        """
        taken = Taken()
        for site in sites:
            for path in sorted((self.root / site).rglob("*")):
                stamp = self._stamp(path)
                if stamp is not None and self._left.get(path) != stamp:
                    self._take_file(site, path, stamp, taken)
        return taken

    def _stamp(self, path: Path) -> Stamp | None:
        """Tells a settled file from what it was before a change; None for what is none."""
        try:
            found = path.stat()
        except OSError:
            return None  # gone since it was listed
        if not path.is_file() or abs(time.time() - found.st_ctime) < self.settle_seconds:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _take_file(self, site: str, path: Path, stamp: Stamp, taken: Taken) -> None:
        refused: list[str] = []
        if path.name.upper() == "DICOMDIR":  # only an index; the files that it names lie beside it
            refused.append(Reason.DIRECTORY.text)
        else:
            with opened(path) as source:
                refused += [reason.text for reason in source.missing]
                for file in source.files:
                    self._store(site, file, taken, refused)
        if not refused:
            try:
                if self._stamp(path) == stamp:  # else it was written again meanwhile: that is taken the next time
                    path.unlink()
            except OSError as error:  # e.g. a share that we may only read
                refused.append(f"taken, but cannot be deleted ({error.errno})")
        if refused:
            self._left[path] = stamp
            taken.left.update(refused)

    def _store(self, site: str, file: Path, taken: Taken, refused: list[str]) -> None:
        try:
            content = file.read_bytes()
        except OSError as error:
            refused.append(f"cannot be read ({error.errno})")
            return
        try:
            new = self.inbox.store(site, content, examine(content))
        except Refused as refusal:
            refused.append(refusal.reason.text)
            return
        taken.stored += new
        taken.known += not new
