"""Keyed pseudonyms: the same patient always becomes the same code, and without the key no way leads back."""

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from mira.dicom import headers as h
from mira.errors import ConfigurationError

KEY_VARIABLE = "MIRA_PSEUDONYM_KEY"
KEY_FILE_VARIABLE = "MIRA_KEY_FILE"
SHORTEST_KEY = 16
DIGITS = 16


@dataclass(frozen=True)
class Pseudonyms:
    """Makes pseudonyms with one key.

    Attributes:
        key: the secret; never stored with the data.
    """

    key: bytes

    def __repr__(self) -> str:
        return "Pseudonyms(key=...)"

    def code(self, kind: str, *parts: str) -> str:
        """HMAC-SHA-256 of a kind of identifier and its parts, as 16 hexadecimal digits.

        Args:
            kind: what is named, so that equal values of different kinds get different codes.
            parts: the identifier; their borders count.
        """
        message = "\0".join([kind, *(f"{len(part)}:{part}" for part in parts)])
        return hmac.new(self.key, message.encode(), hashlib.sha256).hexdigest()[:DIGITS]

    @property
    def key_id(self) -> str:
        """Tells two keys apart without telling anything of them."""
        return self.code("key-id")[:8]

    def patient(self, header: Dataset, scope: str, content: str) -> str:
        """Pseudonym of the patient.

        An ID that says nothing (empty, `***`, ANONYMIZED) is never used: all such patients would become one. Then
        the study, the frame of reference or, without either, the content stands for a patient of its own.

        Args:
            header: any header of the series.
            scope: "" where patient IDs are unique in the whole project, else what they are unique in.
            content: hash of the series' content.
        """
        identifier = h.text(header, "PatientID")
        if not h.is_placeholder(identifier):
            return self.code("patient", h.text(header, "IssuerOfPatientID") or scope, identifier.upper())
        return self.code("patient-of", *self._context(header, content))

    def study(self, header: Dataset, content: str) -> str:
        """Pseudonym of the study."""
        return self.code("study", *self._context(header, content))

    def series(self, header: Dataset, content: str) -> str:
        """Pseudonym of the series; by its content when it has no UID."""
        series = h.uid(header, "SeriesInstanceUID")
        return self.code("series", *self._context(header, content), series or f"content:{content}")

    def _context(self, header: Dataset, content: str) -> tuple[str, str]:
        for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
            if value := h.uid(header, keyword):
                return keyword, value
        return "content", content


def load_pseudonyms() -> Pseudonyms:
    """The project's key: from the environment, or from the secret file, which is made on first use.

    `MIRA_PSEUDONYM_KEY` holds the key itself; `MIRA_KEY_FILE` names a file with it. Without either the file is
    `~/.config/mira/pseudonym.key`, readable by its owner only.

    Raises:
        ConfigurationError: for a key that is too short or a file that others can read or nobody can write.
    """
    given = os.environ.get(KEY_VARIABLE, "").strip()
    if given:
        return Pseudonyms(_checked(given, f"the environment variable {KEY_VARIABLE}"))
    named = os.environ.get(KEY_FILE_VARIABLE)
    path = Path(named) if named else Path.home() / ".config" / "mira" / "pseudonym.key"
    try:
        if not path.exists():
            _make_key(path)
        if not named and path.stat().st_mode & 0o077:
            raise ConfigurationError(f"{path} can be read by others. Run: chmod 600 {path}")
        return Pseudonyms(_checked(path.read_text(encoding="ascii").strip(), str(path)))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"Cannot use the pseudonym key file {path}: {type(error).__name__}. "
            f"Set {KEY_VARIABLE} or {KEY_FILE_VARIABLE}."
        ) from error


def _checked(key: str, where: str) -> bytes:
    if len(key) < SHORTEST_KEY:
        raise ConfigurationError(
            f"The pseudonym key in {where} is shorter than {SHORTEST_KEY} characters. "
            "Make one with: openssl rand -hex 32"
        )
    return key.encode()


def _make_key(path: Path) -> None:
    """Write a new key under a temporary name and link it: of two first users at once, one key wins."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(32) + "\n")
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        temporary.unlink()
