"""The audit trail: one JSON line per act, each carrying the hash of the line before, and beside it a signed head.

Changing, removing or inserting a line breaks the chain from there on; `verify` names the first broken line. The head,
`audit.head.json`, holds the number of lines and the hash of the last, so that a trail whose last lines are gone, or
that was written anew by somebody without the key, shows too. It is written after each line: one that is a line behind,
as after a crash or by an account without the key, is whole. It never follows a trail that it does not fit.
"""

import errno
import fcntl
import getpass
import hashlib
import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from components.promote.signing import Signer, known_signer
from mira.cases import Record
from mira.errors import MiraError
from mira.storage import write_json

START = "0" * 64
LOG = logging.getLogger("mira.audit")


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
        headed: whether the trail had a head when the line was written; it must have one ever after.
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
    headed: bool = False
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
            headed=head_of(path).exists(),
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
        _sign_head(path, lines, (content + line).splitlines())
    return record


def head_of(path: Path) -> Path:
    """The signed head of a trail."""
    return path.with_suffix(".head.json")


def _sign_head(path: Path, before: list[bytes], now: list[bytes]) -> None:
    """Make the head that of the trail with its new line; the trail holds the act without it, so nothing is refused."""
    try:
        signer = known_signer()
        if signer is None or _head_fault(path, before, signer):
            return  # what does not fit must stay to be seen
        head = {"what": "audit", "records": len(now), "last": hashlib.sha256(now[-1]).hexdigest()}
        write_json(head_of(path), signer.sign(head), durable=True)  # half a head would look like a forged one
    except (MiraError, OSError) as error:
        LOG.warning("%s stays as it was: %s", head_of(path), error)


def _head_fault(path: Path, lines: list[bytes], signer: Signer) -> str:
    """An empty text when the lines of a trail are those of its head, and perhaps some after them."""
    head = head_of(path)
    if not head.exists():
        gone = any(record.headed for record in _records(lines))
        return f"{head.name} is missing, and may have been removed together with the last lines" if gone else ""
    try:
        signed = signer.check(head)
        count, last = int(signed["records"]), signed["last"]
    except (MiraError, KeyError):
        return f"{head.name} was changed, or signed with another key than the one here, {signer.key_id}"
    if len(lines) < count:
        return f"it has {len(lines)} lines, but {head.name} counts {count}: the last ones were removed"
    if hashlib.sha256(lines[count - 1]).hexdigest() != last:
        return f"line {count} is not the one that {head.name} was signed for: the trail was written anew"
    return ""


def read(path: Path) -> list[AuditRecord]:
    """All records that can be read, oldest first; `verify` says whether the trail is whole."""
    return _records(path.read_bytes().splitlines()) if path.is_file() else []


def _records(lines: list[bytes]) -> list[AuditRecord]:
    records = []
    for line in lines:
        try:
            records.append(AuditRecord.model_validate_json(line))
        except ValidationError:
            continue
    return records


def verify(path: Path) -> str:
    """An empty text when the trail is whole, otherwise what is wrong and in which line."""
    if not path.is_file():
        return _end_fault(path, [])
    with path.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)  # nobody writes a line before its head is read
        lines = stream.read().splitlines()
        return _chain_fault(lines) or _end_fault(path, lines)


def _end_fault(path: Path, lines: list[bytes]) -> str:
    try:
        signer = known_signer()
    except MiraError as error:
        return str(error)
    if signer is None and head_of(path).exists():
        return f"whether its last lines are there cannot be said without the key of {head_of(path).name}"
    return _head_fault(path, lines, signer) if signer else ""


def _chain_fault(lines: list[bytes]) -> str:
    previous = START
    for number, line in enumerate(lines, start=1):
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
    # lines of trails that had no head yet lack the word
    text = json.dumps(record.model_dump(exclude={"hash"} if record.headed else {"hash", "headed"}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
