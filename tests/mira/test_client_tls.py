"""Certificates of the client: which belong together, where they come from, and what a refusal says."""

import pytest

from mira.cli import main
from mira.client.retries import Retries
from mira.client.tls import Tls, trouble
from mira.errors import ConfigurationError

UNTRUSTED = "failed to connect: Ssl handshake failed: SSL_ERROR_SSL: OPENSSL_internal:CERTIFICATE_VERIFY_FAILED"


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / name for name in ("ca.pem", "own.pem", "own.key")]
    for path in paths:
        path.write_text("PEM")
    return Tls(*paths)


def test_what_the_connection_is_told(files):
    assert Tls().arguments() == {}
    told = files.arguments()
    assert told == {
        "ssl": True,
        "root_certificates": str(files.authority),
        "private_key": str(files.key),
        "certificate_chain": str(files.certificate),
    }
    assert Tls(files.authority).arguments()["certificate_chain"] is None


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (("certificate", "key"), "--tls-ca or MIRA_TLS_CA"),
        (("authority", "key"), "--tls-certificate or MIRA_TLS_CERTIFICATE"),
        (("authority", "certificate"), "--tls-key or MIRA_TLS_KEY"),
    ],
)
def test_a_missing_one_is_named(files, kept, words):
    with pytest.raises(ConfigurationError, match=words):
        Tls(**{name: getattr(files, name) for name in kept}).arguments()


def test_a_file_that_is_not_there_is_named(files):
    files.authority.unlink()
    with pytest.raises(ConfigurationError, match=r"ca.pem does not exist \(--tls-ca"):
        files.arguments()


def test_options_come_before_the_environment(files, monkeypatch, tmp_path):
    monkeypatch.setenv("MIRA_TLS_CA", str(files.authority))
    monkeypatch.setenv("MIRA_TLS_CERTIFICATE", str(files.certificate))
    monkeypatch.delenv("MIRA_TLS_KEY", raising=False)
    assert Tls.from_environment() == Tls(files.authority, files.certificate)
    other = tmp_path / "other.pem"
    assert Tls(other).over(Tls.from_environment()) == Tls(other, files.certificate)


def test_distrust_is_not_asked_again_and_says_what_to_do():
    retries = Retries(60)
    assert retries.pause("StatusCode.UNAVAILABLE", UNTRUSTED) is None
    assert retries.pause("StatusCode.UNAVAILABLE", "connection refused") is not None
    assert "--tls-ca" in trouble("host:1", UNTRUSTED)
    assert "has no TLS" in trouble("host:1", "Ssl handshake failed: WRONG_VERSION_NUMBER")
    assert trouble("host:1", "connection refused") == ""


def test_the_verb_wants_files_that_belong_together(files, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    verb = ["restore", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--tls-key", str(files.key)]
    assert main(verb) == 2
    assert "--tls-ca" in capsys.readouterr().err
