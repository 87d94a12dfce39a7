"""What goes around every change of what is served: a line in the audit trail before and after, a full disk in words."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from components.promote import audit, registry
from components.promote.paths import Damaged, ServingPaths
from components.promote.repository import read_served
from mira.errors import MiraError, ServingFailed

CHANGES = ("promote", "rollback")
BEGUN = (*CHANGES, "canary-start")  # what is also recorded before it begins


@contextmanager
def audited(paths: ServingPaths, what: str, who: str, **facts: object) -> Iterator[dict[str, object]]:
    """Write one audit record for the block: done, or failed with the error.

    A promotion, rollback or start of a share is also recorded before it begins: without room for that nothing is
    changed, and one that is cut off shows as a beginning without an end. Only a stop needs no record of what serves.

    Yields:
        Facts of the record, which the block may add to; `outcome` is `done` unless it says otherwise.
    """
    record: dict[str, object] = {"outcome": "done", **facts}
    try:
        record["before"] = read_served(paths).version
    except Damaged as error:
        if what != "stop":
            raise
        record["why"] = str(error)
    if what in BEGUN:
        try:
            audit.append(paths.audit, what, "begun", who=who, **_plain(record))
        except OSError as error:
            raise ServingFailed(
                f"{paths.audit} cannot be written ({error.strerror}), so nothing was changed."
            ) from error
    try:
        yield record
    except BaseException as error:
        text = str(error) if isinstance(error, MiraError) else type(error).__name__
        try:
            audit.append(paths.audit, what, "failed", who=who, **{**_plain(record), "why": text})
        except OSError as full:
            raise ServingFailed(f"{text} And {paths.audit} cannot be written: {full.strerror}.") from error
        raise
    try:
        audit.append(paths.audit, what, str(record["outcome"]), who=who, **_plain(record))
    except OSError as error:
        raise ServingFailed(f"It was done, but {paths.audit} cannot be written: {error.strerror}.") from error


@contextmanager
def refusals_recorded(paths: ServingPaths, what: str, who: str, **facts: object) -> Iterator[None]:
    """Write an audit record when the block refuses what is given, before enough is known of it for `audited`."""
    try:
        yield
    except MiraError as error:
        try:
            facts["before"] = read_served(paths).version
        except Damaged:
            facts["before"] = None  # nobody knows; the refusal is what is to be told
        audit.append(paths.audit, what, "failed", who=who, why=str(error), **facts)
        raise


@contextmanager
def disk_has_room(paths: ServingPaths) -> Iterator[None]:
    """Give an OSError in the block, a full disk above all, the words of a failed release.

    Raises:
        ServingFailed: instead of the OSError.
    """
    try:
        yield
    except OSError as error:
        reason, places = error.strerror or type(error).__name__, f"{paths.models} and {paths.state}"
        at = f" at {error.filename}" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what, do = f"The disk refused ({reason})", f"Make room at {places}"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            what, do = f"A file could not be written or read{at} ({reason})", f"Let this account write to {places}"
        else:
            what, do = f"The system refused{at} ({reason})", f"Look at the disks of {places}"
        raise ServingFailed(f"{what}; what served before serves on. {do}, then try again.") from error


def _plain(record: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in record.items() if key != "outcome"}


def settle_cut_off(paths: ServingPaths, uri: str) -> str:
    """Finish in MLflow and in the audit trail what a killed promotion or rollback left open.

    Returns:
        What was done in words, "" when nothing was open.

    Raises:
        ServingFailed: when MLflow does not answer.
    """
    changes = [record for record in audit.read(paths.audit) if record.what in CHANGES]
    served = read_served(paths).version
    if not changes or changes[-1].outcome != "begun":
        return ""
    cut = changes[-1]
    words = f"a {cut.what} of version {cut.version} was cut off; version {served} serves"
    if served is not None and uri != registry.OFF:
        registry.move_champion(uri, served)
        words += ", and MLflow names it champion"
    audit.append(paths.audit, cut.what, "failed", version=cut.version, before=served, why=words)
    return words


def settled(paths: ServingPaths, uri: str) -> str:
    """`settle_cut_off` for a server that is up: a registry that is away is told, and is no reason to leave it alone."""
    try:
        return settle_cut_off(paths, uri)
    except Damaged:
        raise
    except MiraError as error:
        return (
            f"a promotion or rollback was cut off, and is not settled in MLflow yet: {error} What served before "
            "serves. When MLflow answers, run `mira serve` again."
        )
