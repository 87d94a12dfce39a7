"""The audit trail: one JSON line per act, each carrying the hash of the line before, and beside it a signed head.

Changing, removing or inserting a line breaks the chain from there on; `verify` names the first broken line. The head,
`audit.head.json`, holds the number of lines and the hash of the last, so that a trail whose last lines are gone, or
that was written anew by somebody without the key, shows too. It is written after each line: one with lines behind it,
as after a crash or by an account without the key, is whole. It never follows a trail that it does not fit.

A line by an account with the key proves itself, too: only such a one is an approval (`proved`).
"""

import errno
import fcntl
import getpass
import hashlib
import hmac
import json
import logging
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from components.promote.signing import Signer, known_signer, load_signer
from mira.cases import Record
from mira.errors import MiraError
from mira.storage import write_json

START = "0" * 64
LOG = logging.getLogger("mira.audit")
WITH_KEY = {("promote", "done"), ("promote", "unchanged"), ("rollback", "done")}  # nobody does these without the key


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
        hash: SHA-256 of this record without `hash` and `proof`.
        proof: signature of `hash`, "" when the account had no key.
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
    proof: str = ""


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
        own, signer = _own_hash(record), _signer()
        proof = signer.proof(_claim(own)) if signer else ""
        record = record.model_copy(update={"hash": own, "proof": proof})
        torn = b"\n" if content and not content.endswith(b"\n") else b""
        try:
            line = torn + record.model_dump_json().encode() + b"\n"
            if os.write(stream.fileno(), line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(stream.fileno())
        except OSError:
            os.ftruncate(stream.fileno(), len(content))  # half a line would break the chain
            raise
        if signer:
            _sign_head(path, lines, (content + line).splitlines(), signer, os.fstat(stream.fileno()).st_mode)
    return record


def proved(record: AuditRecord) -> bool:
    """Whether a line was written with the key of this account; an approval without that may be anybody's.

    Raises:
        ConfigurationError: when the key cannot be used.
    """
    expected = load_signer().proof(_claim(_own_hash(record)))
    return hmac.compare_digest(record.proof.encode(), expected.encode())


def head_of(path: Path) -> Path:
    """The signed head of a trail."""
    return path.with_suffix(".head.json")


def _signer() -> Signer | None:
    """The key, None where it cannot be used: an act is recorded all the same."""
    try:
        return known_signer()
    except MiraError as error:
        LOG.warning("the audit trail is not signed: %s", error)
        return None


def _sign_head(path: Path, before: list[bytes], now: list[bytes], signer: Signer, mode: int) -> None:
    """Make the head that of the trail with its new line; the trail holds the act without it, so nothing is refused."""
    if _head_fault(path, before, signer):
        return  # what does not fit must stay to be seen
    head = {"what": "audit", "records": len(now), "last": hashlib.sha256(now[-1]).hexdigest()}
    try:
        write_json(head_of(path), signer.sign(head), durable=True)  # half a head would look like a forged one
        head_of(path).chmod(stat.S_IMODE(mode))  # who reads the trail reads its head
    except OSError as error:
        LOG.warning("%s stays as it was: %s", head_of(path), error)


def _head_fault(path: Path, lines: list[bytes], signer: Signer) -> str:
    """An empty text when the lines of a trail are those of its head, and perhaps some after them."""
    head = head_of(path)
    if not head.exists():
        gone = any(record.proof or (record.what, record.outcome) in WITH_KEY for record in _records(lines))
        return f"{head.name} is missing, and may have been removed together with the last lines" if gone else ""
    try:
        signed = signer.check(head)
        count, last = int(signed["records"]), signed["last"]
    except (MiraError, KeyError):
        return f"{head.name} was changed, or signed with another key than the one here, {signer.key_id}"
    except OSError as error:
        return f"{head.name} cannot be read: {error.strerror}"
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
    """An empty text when the trail is whole, otherwise what is wrong and in which line.

    Without the key nothing can be said of its end: see `end_known`.
    """
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
    return _head_fault(path, lines, signer) if signer else ""


def end_known(path: Path) -> bool:
    """Whether this account has the key that tells whether the trail's last lines are there."""
    return not head_of(path).exists() or _signer() is not None


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
    text = json.dumps(record.model_dump(exclude={"hash", "proof"}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _claim(own_hash: str) -> dict[str, str]:
    return {"what": "audit-line", "hash": own_hash}
