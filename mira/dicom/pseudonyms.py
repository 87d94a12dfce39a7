"""Keyed pseudonyms: the same patient always becomes the same code, and without the key no way leads back."""

import hmac
from dataclasses import dataclass

from pydicom.dataset import Dataset

from mira.dicom import headers as h

DIGITS = 16
UID_ROOT = "2.25."
SHORTEST_SHIFT_DAYS, LONGEST_SHIFT_DAYS = 366, 3652


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
        return self._digest(kind, *parts).hex()[:DIGITS]

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
            scope: "" where patient IDs are unique in the whole project, whoever issued them; else what IDs without an
                issuer are unique in. One series of a patient often names the issuer and another does not, so that for
                a project the issuer must not make two patients of one, who could then be in train and in test.
            content: hash of the series' content.
        """
        identifier = h.text(header, "PatientID")
        if not h.is_placeholder(identifier):
            issuer = (h.text(header, "IssuerOfPatientID") or scope) if scope else ""
            return self.code("patient", issuer, identifier.upper())
        return self.code("patient-of", *self._context(header, content))

    def study(self, header: Dataset, content: str) -> str:
        """Pseudonym of the study."""
        return self.code("study", *self._context(header, content))

    def series(self, header: Dataset, content: str) -> str:
        """Pseudonym of the series; by its content when it has no UID."""
        series = h.uid(header, "SeriesInstanceUID")
        return self.code("series", *self._context(header, content), series or f"content:{content}")

    def uid(self, original: str) -> str:
        """A UID that always stands for the same original: root 2.25 and 128 bits of the HMAC as a decimal number.

        Args:
            original: a UID, or any text that stands in its place; need not be valid.
        """
        return UID_ROOT + str(int.from_bytes(self._digest("uid", original)[:16], "big"))

    def days_back(self, patient: str) -> int:
        """Whole days by which all dates of a patient are moved into the past, one to ten years.

        Args:
            patient: the patient's pseudonym.
        """
        span = LONGEST_SHIFT_DAYS - SHORTEST_SHIFT_DAYS + 1
        return SHORTEST_SHIFT_DAYS + int.from_bytes(self._digest("days", patient)[:8], "big") % span

    def _digest(self, kind: str, *parts: str) -> bytes:
        message = "\0".join([kind, *(f"{len(part)}:{part}" for part in parts)])
        return hmac.digest(self.key, message.encode("utf-8", "surrogateescape"), "sha256")

    def _context(self, header: Dataset, content: str) -> tuple[str, str]:
        for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
            if value := h.uid(header, keyword):
                return keyword, value
        return "content", content
