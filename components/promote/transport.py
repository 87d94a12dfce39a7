"""TLS on the gRPC front end: what the server is started with, and how this project's own requests reach it.

Triton has TLS on gRPC only, and its HTTP front end is off. With the certificate authority of the clients given, only a
client that shows a certificate of it is answered (mTLS).
"""

from pathlib import Path
from typing import Any

from components.promote.paths import ServingPaths, recorded
from mira.cases import Record
from mira.errors import ConfigurationError
from mira.storage import write_json


class Transport(Record):
    """PEM files of the connection; all None for a connection without TLS.

    Attributes:
        certificate: the server's; it must be valid for 127.0.0.1, where this project's own checks ask.
        key: its private key.
        authority: who signed it; the certificate itself by default, as when it is self-signed.
        clients: who signs the clients' certificates; with it, clients without one are turned away.
        client_certificate: certificate of this project's own checks, with `clients`.
        client_key: its private key.
    """

    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None
    clients: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    def check(self) -> None:
        """Raise ConfigurationError when files do not exist or belong together and one of them is not given."""
        given = {name for name, path in self.model_dump().items() if path is not None}
        for group in ({"certificate", "key"}, {"clients", "client_certificate", "client_key"}):
            if given & group and not group <= given:
                options = ", ".join(f"--tls-{name.replace('_', '-')}" for name in sorted(group - given))
                raise ConfigurationError(f"TLS needs {options} as well.")
        if given and "certificate" not in given:
            raise ConfigurationError("TLS needs --tls-certificate and --tls-key.")
        for name in sorted(given):
            if not getattr(self, name).is_file():
                raise ConfigurationError(f"{getattr(self, name)} does not exist (--tls-{name.replace('_', '-')}).")

    def server_options(self) -> list[str]:
        """Options of tritonserver."""
        if self.certificate is None:
            return []
        options = ["--grpc-use-ssl=true", f"--grpc-server-cert={self.certificate}", f"--grpc-server-key={self.key}"]
        if self.clients is not None:
            options += ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={self.clients}"]
        return options

    def connect(self, url: str) -> Any:
        """Triton's gRPC client of a server with these certificates."""
        import tritonclient.grpc as grpc_client

        if self.certificate is None:
            return grpc_client.InferenceServerClient(url)
        return grpc_client.InferenceServerClient(
            url,
            ssl=True,
            root_certificates=str(self.authority or self.certificate),
            private_key=str(self.client_key) if self.client_key else None,
            certificate_chain=str(self.client_certificate) if self.client_certificate else None,
        )


PLAIN = Transport()


def remember(paths: ServingPaths, transport: Transport) -> None:
    """Keep the choice, so that every later start of this workspace's server has it."""
    transport.check()
    absolute = {name: Path(path).resolve() if path else None for name, path in transport.model_dump().items()}
    write_json(paths.transport, Transport(**absolute).model_dump(mode="json"))


def chosen(paths: ServingPaths) -> Transport:
    """What was chosen for this workspace's server.

    Raises:
        Damaged: when the record of it cannot be read.
    """
    advice = "Remove it, and start the server again with the options of its connection: mira serve --help"
    return recorded(paths.transport, Transport, advice) if paths.transport.is_file() else PLAIN
