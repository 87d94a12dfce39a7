"""Shadow mode on the real server: a candidate is compared with what serves, and nothing of it is ever served."""

import shutil

import pytest

from components.promote import audit, transport
from components.promote.shadow import describe, shadow
from components.promote.transport import Transport
from mira.errors import DataRejected
from mira.storage import read_json
from mira.tasks import Modality
from tests.components.made_up import make_case
from tests.triton.own_server import with_server
from tests.triton.station import Station
from tests.triton.test_tls import certificate

pytestmark = [pytest.mark.triton, pytest.mark.slow, with_server]


def test_candidate_is_compared_on_stored_cases_and_leaves_nothing_behind(tmp_path):
    for modality in Modality:
        make_case(tmp_path / "cases", "alpha", 1, modality)
    with Station(tmp_path) as station:
        station.promote(1, ("mira_net",))
        before = station.config.served.read_bytes()
        lines = len(audit.read(station.config.audit))
        files = station.release(2, ("mira_net",))
        report = shadow(files, tmp_path / "cases", tmp_path / "shadow", station.config, slices=2)
        assert station.answer()[0] == "1"
        with pytest.raises(DataRejected, match="no usable case"):
            shadow(files, tmp_path / "nothing", tmp_path / "shadow", station.config)
    assert (report.served, report.candidate) == ("1", 2)
    assert [one.candidate_error for one in report.comparisons] == ["", "", ""]
    assert {one.modality for one in report.comparisons} == {"CT", "PET", "MR"}
    for one in report.comparisons:  # the candidate's gain is twice the served one's, and that is all that differs
        assert one.slices == 2
        assert one.rms == pytest.approx(one.change, rel=0.02)
        assert 0 < one.rms <= one.largest
    assert station.config.served.read_bytes() == before
    assert len(audit.read(station.config.audit)) == lines
    assert not list((station.config.state / "shadow").glob("models*"))
    assert read_json(tmp_path / "shadow" / "shadow.json")["candidate"] == 2
    assert "version 2 in the shadow of version 1" in describe(report)


def test_a_served_side_with_tls_is_compared_with_a_candidate_without(tmp_path, monkeypatch):
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the test's certificates, is not installed")
    make_case(tmp_path / "cases", "alpha", 1, Modality.CT)
    own, key = certificate(tmp_path, "server")
    authority, _ = certificate(tmp_path, "authority")
    client, client_key = certificate(tmp_path, "client", "authority")
    with Station(tmp_path) as station:
        files = Transport(certificate=own, key=key, clients=authority, client_certificate=client, client_key=client_key)
        transport.remember(station.config, files)
        station.promote(1, ("mira_net",))
        monkeypatch.setenv("MIRA_TLS_CA", str(authority))  # of another server; neither side may take it
        report = shadow(
            station.release(2, ("mira_net",)), tmp_path / "cases", tmp_path / "out", station.config, slices=1
        )
    assert [one.candidate_error for one in report.comparisons] == [""]
