"""Which restored series an archive has been sent: a hidden, empty file in the series' folder says so.

Its name holds a digest of the archive's address. Losing it does no harm: the series is sent again, and an object keeps
its UID.
"""

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def unsent(folders: Iterable[Path], where: str) -> list[Path]:
    """Files of those series that were not sent to an archive yet.

    Args:
        folders: of restored series.
        where: the archive's address.
    """
    return [path for folder in folders if not _mark(folder, where).exists() for path in sorted(folder.glob("*.dcm"))]


def remember_sent(files: Iterable[Path], where: str) -> None:
    """Note of whole series that an archive has taken them."""
    for folder in sorted({path.parent for path in files}):
        with suppress(OSError):  # then it is sent again
            _mark(folder, where).touch()


def _mark(folder: Path, where: str) -> Path:
    return folder / f".sent-{hashlib.sha256(where.strip().encode()).hexdigest()[:16]}"
