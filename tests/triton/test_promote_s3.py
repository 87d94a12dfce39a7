"""Promotion from S3 against a real S3 server (moto): fetched, checked, served; and S3 that goes away in the middle.

MLflow reaches S3 by boto3, which is not among the project's packages, and moto is the server; install both to run it:
`pip install boto3 "moto[server]"` (or give the command of another environment's server in MIRA_TEST_MOTO).
"""

import contextlib
import importlib.util
import os
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request

import pytest

from components.promote import audit
from components.promote.remote import local_copy
from mira.errors import ServingFailed
from tests.triton.own_server import with_server
from tests.triton.station import Station

COMMAND = os.environ.get("MIRA_TEST_MOTO") or shutil.which("moto_server")
pytestmark = [
    pytest.mark.triton,
    pytest.mark.slow,
    with_server,
    pytest.mark.skipif(
        importlib.util.find_spec("boto3") is None or not COMMAND,
        reason='S3 needs boto3 and a server: pip install boto3 "moto[server]"',
    ),
]
BUCKET = "models"


class Store:
    """An S3 server in a process of its own, with one bucket."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import boto3

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [*shlex.split(COMMAND), "-H", "127.0.0.1", "-p", str(port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(self.url, timeout=5).close()
                break
            assert time.monotonic() < end, "moto did not come up"
            time.sleep(0.2)
        known = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in {**known, "MLFLOW_S3_ENDPOINT_URL": self.url}.items():
            monkeypatch.setenv(name, value)
        self._client = boto3.client("s3", endpoint_url=self.url)
        self._client.create_bucket(Bucket=BUCKET)

    def upload(self, folder, prefix) -> str:
        """Put a folder into the bucket; its address."""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            self._client.upload_file(str(path), BUCKET, f"{prefix}/{path.relative_to(folder)}")
        return f"s3://{BUCKET}/{prefix}"

    def kill(self) -> None:
        """End it at once, as a machine that loses its power."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def store(monkeypatch):
    opened = Store(monkeypatch)
    yield opened
    opened.kill()


@pytest.fixture
def station(tmp_path):
    with Station(tmp_path / "station") as station:
        yield station


def from_s3(station, store, version):
    """The files of a release whose exported networks lie in S3 alone."""
    exported, registered, decision = station.release(version, ("mira_net",))
    address = store.upload(exported, f"v{version}")
    shutil.rmtree(exported)
    return address, registered, decision


def test_a_release_in_s3_serves_and_the_next_one_without_s3_does_not_disturb_it(station, store, monkeypatch):
    assert station.promote_files(from_s3(station, store, 1)).version == 1
    assert station.answer()[0] == "1"
    second, third = from_s3(station, store, 2), from_s3(station, store, 3)

    from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

    whole = S3ArtifactRepository._download_file
    fetched, one_at_a_time = [], threading.Lock()

    def one_and_then_none(repository, *places, **named):
        with one_at_a_time:  # MLflow fetches files side by side
            if fetched:
                store.kill()  # after the first file of the network has come
            fetched.append(whole(repository, *places, **named))

    monkeypatch.setattr(S3ArtifactRepository, "_download_file", one_and_then_none)
    begin = time.monotonic()
    with pytest.raises(ServingFailed, match="cannot be fetched"):
        station.promote_files(second)
    assert len(fetched) == 1
    assert station.answer()[0] == "1"
    with pytest.raises(ServingFailed, match="cannot be fetched"):
        station.promote_files(third)  # away from the start
    assert time.monotonic() - begin < 120
    assert station.answer()[0] == "1"
    last = audit.read(station.config.audit)[-1]
    assert (last.what, last.outcome, last.before) == ("promote", "failed", 1)
    assert not [path for path in (station.config.state / "fetched").iterdir() if "tmp" in path.name]


def test_what_is_not_there_and_who_may_not_is_said(station, store, monkeypatch):
    with pytest.raises(ServingFailed):
        station.promote_files(("s3://models/nothing", *station.release(1)[1:]))
    with pytest.raises(ServingFailed, match="cannot be fetched"):
        local_copy(station.config, "s3://no-such-bucket/v1", "off")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ServingFailed, match="cannot be fetched"):
        local_copy(station.config, "s3://models/v1", "off")
