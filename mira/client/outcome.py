"""What became of a restoration: what was delivered, what was refused, and what kept the rest from being restored."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mira.dicom.faults import why
from mira.errors import ConfigurationError, DataRejected, RetryableError, ServingFailed
from mira.tasks import Modality

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class Delivered:
    """One restored series or file; free of patient data but for `files`.

    Attributes:
        modality: CT, PET or MR.
        slices: number of slices.
        files: what was written.
        warnings: what a user should know.
        degradation: mean of the network's estimate, 0 to 1.
        model: name and version of the network.
        error_files: the expected error, where it was asked for.
    """

    modality: Modality
    slices: int
    files: list[Path]
    warnings: list[str]
    degradation: float
    model: str
    error_files: list[Path] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """For a report, without paths."""
        return {
            "modality": str(self.modality),
            "slices": self.slices,
            "files": len(self.files),
            "error_files": len(self.error_files),
            "warnings": self.warnings,
            "degradation": round(self.degradation, 4),
            "model": self.model,
        }


@dataclass
class Outcome:
    """What became of the series below a path.

    Attributes:
        delivered: what was restored.
        refusals: for what was not restored, the reason and how many files it concerns.
        present: folders of series that were restored before, with those of their expected error.
    """

    delivered: list[Delivered] = field(default_factory=list)
    refusals: dict[str, int] = field(default_factory=dict)
    present: list[Path] = field(default_factory=list)

    def refuse(self, why: Exception | str, files: int) -> None:
        """Count files that are not restored."""
        self.refusals[str(why)] = self.refusals.get(str(why), 0) + files

    @property
    def reasons(self) -> str:
        """Why nothing was restored, the commonest reasons first."""
        if not self.refusals:
            return "there are no files in it"
        listed = sorted(self.refusals.items(), key=lambda item: -item[1])
        return "; ".join(f"{text}: {count} files" for text, count in listed[:5])

    def nothing(self, path: Path) -> DataRejected:
        """The error that says why nothing below a path was restored."""
        return DataRejected(f"Nothing in {path} can be restored: {self.reasons}.")


class RestorationIncomplete(ServingFailed):
    """Some series of a folder were not restored, since the network failed.

    Attributes:
        outcome: what became of the others.
    """

    def __init__(self, message: str, outcome: Outcome) -> None:
        super().__init__(message)
        self.outcome = outcome

    @property
    def delivered(self) -> list[Delivered]:
        """What was restored by this call."""
        return self.outcome.delivered

    @property
    def refusals(self) -> dict[str, int]:
        """For what cannot be restored, the reason and how many files it concerns."""
        return self.outcome.refusals


class StorageFailed(RetryableError):
    """The folder of the results takes nothing more.

    Attributes:
        outcome: what became of the series before.
    """

    def __init__(self, message: str, outcome: Outcome | None = None) -> None:
        super().__init__(message)
        self.outcome = outcome or Outcome()


def check_writable(out: Path) -> None:
    """Raise ConfigurationError unless a folder can be written to, or made: before minutes of work."""
    try:
        present = next(one for one in (out, *out.parents) if one.exists())
        if not present.is_dir():
            raise ConfigurationError(f"{present} is a file. Give a folder as --out.")
        with TemporaryDirectory(prefix=".partial-", dir=present):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"{out} cannot be written to ({why(error)}). Give a folder as --out that you may write to, on a disk with "
            "room."
        ) from error


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Name the disk's fault when results cannot be written.

    Raises:
        StorageFailed: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        what = "Make room there" if error.errno in FULL else "Look at the disk and at who may write there"
        raise StorageFailed(f"The results cannot be written to {folder} ({why(error)}). {what}.") from error
