"""TLS toward a served network: whom to trust, and by what certificate to be known (mTLS)."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mira.errors import ConfigurationError

VARIABLES = {"authority": "MIRA_TLS_CA", "certificate": "MIRA_TLS_CERTIFICATE", "key": "MIRA_TLS_KEY"}
OPTIONS = {"authority": "--tls-ca", "certificate": "--tls-certificate", "key": "--tls-key"}
# what gRPC says of a server or client that is not trusted; asking again changes nothing
DISTRUST = ("certificate_verify_failed", "unknown_ca", "certificate_required", "bad_certificate", "peer name")
PLAIN_SERVER = "wrong_version_number"


@dataclass(frozen=True)
class Tls:
    """PEM files of a connection; all None for one without TLS.

    Attributes:
        authority: certificates of those who may sign the server's certificate, or that certificate itself.
        certificate: our own, for servers that ask for one.
        key: its private key.
    """

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @classmethod
    def from_environment(cls) -> "Tls":
        """As MIRA_TLS_CA, MIRA_TLS_CERTIFICATE and MIRA_TLS_KEY say."""
        found = {name: os.environ.get(variable, "") for name, variable in VARIABLES.items()}
        return cls(**{name: Path(value) for name, value in found.items() if value})

    def over(self, other: "Tls") -> "Tls":
        """These files, and those of another where one is not given here."""
        return Tls(*(mine or theirs for mine, theirs in zip(self._files(), other._files(), strict=True)))

    def arguments(self) -> dict[str, Any]:
        """What tritonclient's gRPC clients are told.

        Raises:
            ConfigurationError: when a file does not exist, or one is missing beside those given.
        """
        if not any(self._files()):
            return {}
        for needed, reason in (
            (self.authority is None, f"whom to trust: {_say('authority')}"),
            (self.certificate is None and self.key is not None, f"the certificate of the key: {_say('certificate')}"),
            (self.key is None and self.certificate is not None, f"the key of the certificate: {_say('key')}"),
        ):
            if needed:
                raise ConfigurationError(f"TLS needs {reason}.")
        for name, path in zip(VARIABLES, self._files(), strict=True):
            if path is not None and not path.is_file():
                raise ConfigurationError(f"{path} does not exist ({_say(name)}).")
        return {
            "ssl": True,
            "root_certificates": str(self.authority),
            "private_key": str(self.key) if self.key else None,
            "certificate_chain": str(self.certificate) if self.certificate else None,
        }

    def _files(self) -> tuple[Path | None, Path | None, Path | None]:
        return self.authority, self.certificate, self.key


def _say(name: str) -> str:
    return f"{OPTIONS[name]} or {VARIABLES[name]}"


def distrusted(message: str) -> bool:
    """Whether a connection failed because one side does not trust the other, or has no TLS at all."""
    return any(word in message.lower() for word in (*DISTRUST, PLAIN_SERVER))


def trouble(url: str, message: str) -> str:
    """What to say of a server that cannot be reached, as far as TLS may be the reason; "" where it is not.

    Args:
        url: HOST:PORT.
        message: what gRPC said.
    """
    text = message.lower()
    if PLAIN_SERVER in text:
        return f"The server at {url} has no TLS. Leave the certificates out ({', '.join(OPTIONS.values())})."
    if distrusted(text):
        return (
            f"The TLS connection to {url} was not trusted: the server's certificate must be signed by "
            f"{_say('authority')} and name this host, and a server that asks for ours must know who signed "
            f"{_say('certificate')}."
        )
    return ""
