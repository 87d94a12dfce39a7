"""Faults while a source is read: those of one series as its refusal, those of disk and network as what they are.

What pydicom and numpy raise on damaged data is of many types, and its text may hold the bytes of a header: none of it
is said.
"""

import struct
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mira.dicom.reasons import Reason, Refused
from mira.errors import RetryableError

DATA = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, NotImplementedError,
    RecursionError, TypeError, ValueError, struct.error,
)  # fmt: skip
"""What data that nobody foresaw make the readers and writers raise; anything else is a fault of the machine."""
PACKAGE = Path(__file__).parents[1]


@contextmanager
def faults_refused() -> Iterator[None]:
    """Turn what the data of a series make its reader or writer raise into the refusal of that series.

    Raises:
        Refused: with the kind of the error and the line of this package where it came up, and without its text.
    """
    try:
        yield
    except DATA as error:
        raise Refused(Reason.CRASHED, f"{type(error).__name__}{_place(error)}") from None


def _place(error: BaseException) -> str:
    """The last line of this package that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(PACKAGE)]
    inner = [frame for frame in own if Path(frame.filename) != Path(__file__)]
    return f" in {Path(inner[-1].filename).relative_to(PACKAGE.parent).as_posix()}:{inner[-1].lineno}" if inner else ""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name the fault of disk or network that keeps a source from being read; it says nothing of what is in there.

    Raises:
        RetryableError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise RetryableError(
            f"{path} cannot be read to its end ({why(error)}). Look at its disk or network, and at the room for "
            "temporary files where it is a zip; then give the same command again."
        ) from error


def why(error: OSError) -> str:
    """The system's word for a fault, without the name of any file."""
    return error.strerror or type(error).__name__
