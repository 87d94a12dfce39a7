"""The connection to a DICOMweb service: certificates checked, the token kept, answers bounded."""

import os
import re
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests  # type: ignore[import-untyped]
from requests import Response, Session

from mira.errors import ConfigurationError

TOKEN = "MIRA_DICOMWEB_TOKEN"  # noqa: S105 - the name of the variable
CHUNK = 2**20


@dataclass(frozen=True)
class Archive:
    """A DICOMweb service.

    Attributes:
        url: its base address, e.g. https://pacs.example.org/dicom-web.
        authorities: PEM file of the CAs that sign its certificate; None for those of the system.
        certificate: our own certificate and key in one PEM file, where the service asks for one.
        connections: objects that are retrieved at a time.
        attempts: how often a request is tried while the service is away or busy.
        first_pause: seconds before the second try; each further pause is twice as long, up to a minute.
        timeout: seconds without a byte after which a request is given up.
        max_object_bytes: largest answer to one request.
    """

    url: str
    authorities: Path | None = None
    certificate: Path | None = None
    connections: int = 4
    attempts: int = 6
    first_pause: float = 1.0
    timeout: float = 60.0
    max_object_bytes: int = 2**30


def open_session(archive: Archive) -> Session:
    """A session that checks certificates, sends the token to this service alone, and bounds what it reads.

    Raises:
        ConfigurationError: for an address, a file or a token that cannot be used.
    """
    address = urllib.parse.urlsplit(archive.url)
    token = os.environ.get(TOKEN, "").strip()
    if address.scheme not in ("http", "https") or not address.hostname or address.username or address.query:
        raise ConfigurationError(f"Give the address as https://HOST/PATH, and a token in {TOKEN}, not in the address.")
    if address.scheme == "http" and address.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ConfigurationError("Patients' data and tokens go over https only. Give an https address.")
    if not re.fullmatch(r"[!-~]*", token):
        raise ConfigurationError(f"The token in {TOKEN} has characters that no token has. Correct it.")
    session = requests.Session()
    for path in (archive.authorities, archive.certificate):
        if path is not None and not path.is_file():
            raise ConfigurationError(f"{path} does not exist. Give a PEM file.")
    session.verify = str(archive.authorities) if archive.authorities else True
    session.cert = str(archive.certificate) if archive.certificate else None
    session.auth = _Bearer(token) if token else None
    session.max_redirects = 0
    session.trust_env = False  # neither ~/.netrc nor a CA or proxy of the environment may redirect patients' data
    session.hooks["response"].append(_bounded(archive.max_object_bytes))
    return session


class _Bearer:
    """Adds the token to a request."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _bounded(limit: int) -> Callable[..., None]:
    """A hook that ends the reading of an answer beyond the limit."""

    def hook(response: Response, **_: Any) -> None:
        whole = response.iter_content

        def iter_content(chunk_size: int | None = 1, decode_unicode: bool = False) -> Iterator[Any]:
            read = 0
            for chunk in whole(CHUNK, decode_unicode):
                read += len(chunk)
                if read > limit:
                    response.close()
                    raise ValueError("the answer is larger than allowed")
                yield chunk

        response.iter_content = iter_content

    return hook


def check_access(error: Any, host: str | None) -> None:
    """Turn an answer that denies access into what to do about it.

    Raises:
        ConfigurationError: for HTTP 401 and 403.
    """
    if error.response.status_code in (401, 403):
        raise ConfigurationError(
            f"{host} denies access (HTTP {error.response.status_code}). Put a valid token into {TOKEN}."
        ) from None


def retry_after(response: Response) -> float:
    """Seconds that the service asks us to wait; 0 when it does not say or gives a date."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else 0.0
