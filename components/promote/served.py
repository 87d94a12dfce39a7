"""What `served.json` holds: which release serves, which served before it, and every release that is on disk."""

from pathlib import Path

from pydantic import Field

from mira.cases import Record


class ReleaseRecord(Record):
    """A release that was promoted: its networks' hashes, and who decided what when."""

    artifacts: dict[str, str]
    decision_sha256: str
    promoted: str
    by: str


class CandidateRecord(Record):
    """A release that restores a share of the series beside the one that serves.

    Attributes:
        version: its number.
        share: part of the series that it restores.
        since: since when, UTC.
        artifacts: hash of each network, by the name under which it is served.
        files: exported networks, version and decision, from which it can be promoted.
    """

    version: int
    share: float
    since: str
    artifacts: dict[str, str]
    files: tuple[str, Path, Path]


class Served(Record):
    """What the repository serves.

    Attributes:
        version: the release that serves, None before the first promotion.
        since: when it began to serve, UTC.
        releases: every release on disk, by version.
        candidate: the release that has a share of the series, None without one; a promotion or rollback ends it.
        predecessors: versions that served before, the latest last; None in records of before there was this list.
    """

    version: int | None = None
    since: str = ""
    releases: dict[int, ReleaseRecord] = Field(default_factory=dict)
    candidate: CandidateRecord | None = None
    predecessors: list[int] | None = None

    @property
    def models(self) -> list[str]:
        """Names of the models that serve."""
        return sorted(self.releases[self.version].artifacts) if self.version is not None else []

    @property
    def before(self) -> list[int]:
        """Versions that served before the one that serves, the latest last; by their numbers in an older record."""
        if self.predecessors is not None:
            return self.predecessors
        return sorted(version for version in self.releases if self.version is not None and version < self.version)

    @property
    def previous(self) -> int | None:
        """The version to go back to, None when there is none."""
        return self.before[-1] if self.before else None

    def before_when(self, version: int, *, going_back: bool) -> list[int]:
        """`before` when a version is about to serve: a promotion adds what serves, going back takes away down to it."""
        if self.version is None or version == self.version:
            return self.before
        if going_back and version in self.before:
            return self.before[: len(self.before) - 1 - self.before[::-1].index(version)]
        return [*self.before, self.version]
