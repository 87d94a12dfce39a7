"""The client toward the real server with TLS and mTLS: who is answered, and what the others are told."""

import asyncio
import time

import numpy as np
import pytest

from components.promote.transport import Transport
from mira.cli import main
from mira.client import AsyncRestorationClient, RestorationClient, Tls
from mira.errors import ServingFailed
from mira.tasks import Modality
from mira.volume import Volume, write_nifti
from tests.triton.own_server import serving, with_server
from tests.triton.test_tls import files as files

pytestmark = [pytest.mark.triton, pytest.mark.slow, with_server]
IMAGE = np.random.default_rng(0).normal(0, 100, (2, 40, 48)).astype(np.float32)


def refusal(url, tls):
    """What a client is told that is not answered, which must not take the whole deadline."""
    begin = time.monotonic()
    with pytest.raises(ServingFailed) as caught, RestorationClient(url, deadline_s=40, tls=tls):
        pass
    return str(caught.value), time.monotonic() - begin


@pytest.fixture
def mutual(tmp_path, files):
    """A server that answers clients with a certificate only."""
    with serving(tmp_path / "station", tls=files, error_map=True) as (_, url):
        yield url, Tls(files.certificate, files.client_certificate, files.client_key)


def test_mutual_tls(mutual, tmp_path, monkeypatch, capsys, files):
    url, known = mutual
    with RestorationClient(url, tls=known) as client:
        restored = client.restore_slices(IMAGE, Modality.CT, want_error=True)
    np.testing.assert_allclose(restored.predicted_error, np.abs(restored.voxels) / 2, rtol=1e-5)

    async def both():
        async with AsyncRestorationClient(url, tls=known) as client:
            return await client.restore_slices(IMAGE, "CT", want_error=True)

    np.testing.assert_allclose(asyncio.run(both()).predicted_error, restored.predicted_error, rtol=1e-5)

    text, seconds = refusal(url, Tls(files.clients))  # signed by somebody else
    assert "was not trusted" in text
    assert "--tls-ca" in text
    assert seconds < 20

    write_nifti(tmp_path / "in.nii", Volume(IMAGE, np.eye(4)))
    verb = ["restore", str(tmp_path / "in.nii"), "--modality", "CT", "--out", str(tmp_path / "out"), "--server", url]
    monkeypatch.setenv("MIRA_TLS_CERTIFICATE", str(known.certificate))
    monkeypatch.setenv("MIRA_TLS_KEY", str(known.key))
    assert main([*verb, "--confidence", "--tls-ca", str(known.authority)]) == 0
    assert (tmp_path / "out" / "in-restored_error.nii").is_file()
    assert main(verb) == 2  # a key, but nobody to trust
    assert "MIRA_TLS_CA" in capsys.readouterr().err


def test_a_client_without_certificate_or_without_tls_is_told_what_it_lacks(mutual):
    url, known = mutual
    for tls in (Tls(known.authority), Tls()):
        with pytest.raises(ServingFailed) as caught, RestorationClient(url, deadline_s=3, tls=tls):
            pass
        assert "--tls-certificate" in str(caught.value)


def test_a_server_without_tls_is_named(tmp_path, files):
    with serving(tmp_path) as (_, url):
        text, seconds = refusal(url, Tls(files.certificate))
    assert "has no TLS" in text
    assert seconds < 20


def test_only_the_server_has_a_certificate(tmp_path, files):
    only = Transport(certificate=files.certificate, key=files.key)
    with (
        serving(tmp_path / "station", tls=only) as (_, url),
        RestorationClient(url, tls=Tls(files.certificate)) as client,
    ):
        assert client.restore_slices(IMAGE, "CT").version == "1"
        with pytest.raises(ServingFailed, match="gives no expected error"):
            client.restore_slices(IMAGE, "CT", want_error=True)
