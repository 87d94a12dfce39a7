"""The audit trail: one JSON line per act, each carrying the hash of the line before.

Changing, removing or inserting a line breaks the chain from there on; `verify` names the first broken line.
"""

import errno
import fcntl
import getpass
import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from mira.cases import Record

START = "0" * 64


class AuditRecord(Record):
    """One act.

    Attributes:
        time: when, UTC.
        who: the person or account.
        what: promote, rollback, approve, serve, stop, recover, canary-start or canary-end.
        outcome: done, unchanged or failed; begun for the line that is written before a change.
        version: the model version that it was about.
        before: the version that served before.
        why: reason given, or the error.
        decision_sha256: hash of the gate decision behind it.
        artifacts: hash of each network that was put in place.
        previous: SHA-256 of the line before.
        hash: SHA-256 of this record without `hash`.
    """

    time: str
    who: str
    what: str
    outcome: str
    version: int | None = None
    before: int | None = None
    why: str = ""
    decision_sha256: str = ""
    artifacts: dict[str, str] = Field(default_factory=dict)
    previous: str = START
    hash: str = ""


def current_user() -> str:
    """Name of the account that runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def append(path: Path, what: str, outcome: str, *, who: str = "", **facts: Any) -> AuditRecord:
    """Add a record to the trail and flush it to the disk.

    Args:
        path: the trail; made when it does not exist.
        what: the act.
        outcome: how it ended.
        who: the person; the account by default.
        facts: other fields of the record.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        content = stream.read()
        lines = content.splitlines()
        record = AuditRecord(
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            who=who or current_user(),
            what=what,
            outcome=outcome,
            previous=hashlib.sha256(lines[-1]).hexdigest() if lines else START,
            **facts,
        )
        record = record.model_copy(update={"hash": _own_hash(record)})
        torn = b"\n" if content and not content.endswith(b"\n") else b""
        try:
            line = torn + record.model_dump_json().encode() + b"\n"
            if os.write(stream.fileno(), line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(stream.fileno())
        except OSError:
            os.ftruncate(stream.fileno(), len(content))  # half a line would break the chain
            raise
    return record


def read(path: Path) -> list[AuditRecord]:
    """All records that can be read, oldest first; `verify` says whether the trail is whole."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_bytes().splitlines():
        try:
            records.append(AuditRecord.model_validate_json(line))
        except ValidationError:
            continue
    return records


def verify(path: Path) -> str:
    """An empty text when the trail is whole, otherwise what is wrong and in which line."""
    previous = START
    for number, line in enumerate(path.read_bytes().splitlines() if path.is_file() else [], start=1):
        try:
            record = AuditRecord.model_validate_json(line)
        except ValidationError:
            return f"line {number} is not an audit record: cut off or edited"
        if record.previous != previous:
            return f"line {number} does not follow the line before it: a line was changed, removed or inserted"
        if record.hash != _own_hash(record):
            return f"line {number} was changed after it was written"
        previous = hashlib.sha256(line).hexdigest()
    return ""


def _own_hash(record: AuditRecord) -> str:
    text = json.dumps(record.model_dump(exclude={"hash"}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
