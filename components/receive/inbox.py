"""The inbox: where everything that arrives lies, whichever way it came, under names that say nothing.

    <inbox>/.arriving/<site>/<series>/<content>.dcm     being sent; nobody reads here but the watch
    <inbox>/<site>/<series>/<batch>/<content>.dcm       complete; `path: <inbox>/<site>` in sites.yaml

`<series>` and `<content>` are hashes, so no name or UID of a patient is a file name, and the same content is the same
file. A series moves from the first place to the second by renaming its folder once it has been quiet: one step, so
whoever reads the second place never sees half of what came in one go. See docs/decisions/0007-the-inbox.md.
"""

import errno
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from components.command import explain
from components.receive.objects import Arrival
from mira.errors import ConfigurationError
from mira.sites import Site

LEFTOVER_SECONDS = 3600.0
ATTEMPTS = 20


class Inbox:
    """Stores what arrives, and tells what is complete. Several processes may use one inbox at a time.

    Args:
        root: the folder; made when missing, readable by this user alone.
        reserve_bytes: space that is left free on the disk.
    """

    def __init__(self, root: Path, reserve_bytes: int = 0) -> None:
        self.root = root.resolve()
        self.reserve_bytes = reserve_bytes
        self._arriving, self._partial = self.root / ".arriving", self.root / ".partial"
        for folder in (self.root, self._arriving, self._partial):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._remove_leftovers()

    def add_site(self, site: str) -> Path:
        """Make the folder of a site, so that sites.yaml can name it before anything came; returns it."""
        folder = self.root / site
        try:
            Site(id=site, role="train", path=folder)
        except ValidationError as error:
            raise ConfigurationError(explain(error, "site")) from error
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def store(self, site: str, content: bytes, arrival: Arrival) -> bool:
        """Keep one object; on the disk for good when this returns.

        Args:
            site: site id.
            content: the whole file.
            arrival: what `examine` said of it.

        Returns:
            Whether it is new; False when the same content was there.

        Raises:
            OSError: when it cannot be written, e.g. with ENOSPC; nothing half-written is left then.
        """
        folder = self._arriving / site / arrival.series
        if self._is_known(site, arrival):
            if folder.is_dir():
                _touch(folder)  # the sender is still at it
            return False
        if shutil.disk_usage(self.root).free < self.reserve_bytes + len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with self._written(content) as temporary:
            for _ in range(ATTEMPTS):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                try:
                    os.rename(temporary, folder / arrival.name)
                    _sync_folder(folder)
                except FileNotFoundError:  # the watch has just taken the folder as complete: this one comes late
                    if temporary.exists():
                        continue
                return True
        raise OSError(errno.EAGAIN, "the series' folder keeps vanishing")

    def release(self, quiet_seconds: float) -> dict[str, int]:
        """Make every series complete to which nothing came for a while.

        A series that was complete before gets a further batch: it is open again for whoever reads it.

        Args:
            quiet_seconds: the while.

        Returns:
            Number of series per site.
        """
        released: dict[str, int] = {}
        for folder in sorted(self._arriving.glob("*/*/")):
            age = time.time() - folder.stat().st_mtime
            if age < 0:
                _touch(folder)  # the clock was set back, or the file server's is ahead
            elif age >= quiet_seconds and self._release(folder):
                released[folder.parent.name] = released.get(folder.parent.name, 0) + 1
        return released

    def waiting(self) -> int:
        """Number of series that are still arriving."""
        return sum(1 for _ in self._arriving.glob("*/*/"))

    def version(self) -> str:
        """Hash of everything complete; the names are content, so the listing is enough."""
        digest = hashlib.sha256()
        for site in sorted(folder for folder in self.root.iterdir() if not folder.name.startswith(".")):
            for series in sorted(site.glob("*/")):
                names = sorted(path.name for path in series.glob("*/*.dcm"))
                digest.update("\n".join([f"{site.name}/{series.name}", *names, ""]).encode())
        return digest.hexdigest()

    def _release(self, folder: Path) -> bool:
        site, series = folder.parent.name, folder.name
        target = self.add_site(site) / series
        for path in folder.iterdir():
            if any(target.glob(f"*/{path.name}")):
                path.unlink()
        names = sorted(path.name for path in folder.iterdir())
        if not names:
            try:
                folder.rmdir()
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:  # something came meanwhile: it waits for the next time
                    raise
            return False
        target.mkdir(mode=0o700, exist_ok=True)
        batch = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
        os.rename(folder, target / batch)
        _sync_folder(target / batch)
        _sync_folder(target)
        return True

    def _is_known(self, site: str, arrival: Arrival) -> bool:
        if (self._arriving / site / arrival.series / arrival.name).exists():
            return True
        return any((self.root / site / arrival.series).glob(f"*/{arrival.name}"))

    @contextmanager
    def _written(self, content: bytes) -> Iterator[Path]:
        """A temporary file with this content that has reached the disk; removed unless it was renamed."""
        temporary = self._partial / secrets.token_hex(16)
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _remove_leftovers(self) -> None:
        """Remove what a killed process left; a living one needs seconds for a file."""
        for path in self._partial.iterdir():
            try:
                if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                    path.unlink(missing_ok=True)
            except FileNotFoundError:
                continue  # another process has just finished with it


def _touch(folder: Path) -> None:
    """Count the quiet time from now, by our own clock: a file server's may be ahead of it for good."""
    try:
        os.utime(folder, (time.time(),) * 2)
    except FileNotFoundError:
        return  # just released


def _sync_folder(folder: Path) -> None:
    """Have a folder's new entries survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
