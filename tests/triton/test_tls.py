"""TLS and mTLS on the embedded server: canaries and administration go through it, strangers do not."""

import shutil
import subprocess
from pathlib import Path

import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from components.promote import release, server, status, transport
from components.promote.transport import Transport
from mira.cli import main
from mira.errors import ConfigurationError
from tests.triton.own_server import with_server
from tests.triton.station import Station

pytestmark = pytest.mark.triton
NAMES = "subjectAltName=IP:127.0.0.1,DNS:localhost"


def certificate(folder: Path, name: str, signer: str = "") -> tuple[Path, Path]:
    """A certificate, signed by itself or by another one of the folder."""
    chain, key = folder / f"{name}.pem", folder / f"{name}.key"
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    by = ["-CA", str(folder / f"{signer}.pem"), "-CAkey", str(folder / f"{signer}.key")] if signer else []
    files = ["-keyout", str(key), "-out", str(chain), "-addext", NAMES]
    subprocess.run([*new, *by, *files], check=True, capture_output=True)
    return chain, key


@pytest.fixture
def files(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the test's certificates, is not installed")
    own, key = certificate(tmp_path, "server")
    authority, _ = certificate(tmp_path, "authority")
    client, client_key = certificate(tmp_path, "client", "authority")
    return Transport(certificate=own, key=key, clients=authority, client_certificate=client, client_key=client_key)


def test_files_that_do_not_belong_together_are_refused(files, tmp_path):
    for wrong, words in (
        ({"key": None}, "--tls-key as well"),
        ({"client_key": None}, "--tls-client-key as well"),
        ({"certificate": None, "key": None}, "--tls-certificate and --tls-key"),
        ({"authority": tmp_path / "none.pem"}, "none.pem does not exist"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            files.model_copy(update=wrong).check()
    files.check()


@pytest.mark.slow
@with_server
def test_only_clients_with_a_certificate_are_answered(files, tmp_path):
    with Station(tmp_path / "station") as station:
        station.promote(1, ("mira_net",))
        server.stop(station.config)
        where = ["--workspace", str(station.config.workspace), "--repository", str(station.config.repository)]
        options = [f"--tls-{name.replace('_', '-')}={path}" for name, path in files.model_dump().items() if path]
        assert main(["serve", "--unsupervised", "--tracking-uri", "off", *where, *options]) == 0
        found = status.read(station.config, "off")
        assert (found.answers, found.disagreements) == (True, [])
        for stranger in (
            grpc.InferenceServerClient(station.url),
            grpc.InferenceServerClient(station.url, ssl=True, root_certificates=str(files.certificate)),
        ):
            with pytest.raises(InferenceServerException):
                stranger.is_server_live(client_timeout=3)
            stranger.close()
        server.stop(station.config)
        release.serve(station.config)  # a later start keeps the choice
        assert transport.chosen(station.config).clients == files.clients
        assert station.promote(2, ("mira_net",)).version == 2
        assert status.read(station.config, "off").answers
