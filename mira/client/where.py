"""Where restored series are sent: an archive that takes C-STORE, or the address of a DICOMweb service."""

import os
import re
import urllib.parse
from dataclasses import dataclass

from mira.errors import ConfigurationError

TOKEN = "MIRA_DICOMWEB_TOKEN"  # noqa: S105 - the name of the variable
HOST = re.compile(r"[\w.:%-]{1,253}")


@dataclass(frozen=True)
class Peer:
    """An archive that takes C-STORE.

    Attributes:
        title: its AE title.
        host: its address.
        port: its TCP port.
    """

    title: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Peer":
        """From `AET@HOST:PORT`.

        Raises:
            ConfigurationError: when it is not of that form.
        """
        found = re.fullmatch(r"([^@\\]{1,16})@(.+):(\d{1,5})", text.strip())
        if found is None or not 0 < int(found[3]) < 65536:
            raise ConfigurationError("Give the archive as AET@HOST:PORT, e.g. ARCHIVE@pacs.example.org:11112.")
        return cls(found[1].strip(), found[2].strip("[]"), int(found[3]))


def check_where(where: str) -> None:
    """Raise ConfigurationError unless `where` is an address that `send` takes; nothing is sent."""
    if "://" in where:
        web_headers(where)
    else:
        Peer.parse(where)


def web_headers(url: str) -> dict[str, str]:
    """Headers for the requests to a DICOMweb service: the token, where there is one.

    Raises:
        ConfigurationError: for an address or a token that cannot be used.
    """
    address, token = _split(url), os.environ.get(TOKEN, "").strip()
    if address is None or address.scheme not in ("http", "https") or address.username or address.query:
        raise ConfigurationError(f"Give the address as https://HOST/PATH, and a token in {TOKEN}, not in the address.")
    if address.scheme == "http" and address.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ConfigurationError("Patients' data and tokens go over https only. Give an https address.")
    if not re.fullmatch(r"[!-~]*", token):
        raise ConfigurationError(f"The token in {TOKEN} has characters that no token has. Correct it.")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _split(url: str) -> urllib.parse.SplitResult | None:
    """The parts of an address; None when it names no host, or has a host or port that none has."""
    try:
        address = urllib.parse.urlsplit(url)
        return address if HOST.fullmatch(address.hostname or "") and address.port != 0 else None
    except ValueError:  # a bracket that is not closed, a port that is no number or too large
        return None
