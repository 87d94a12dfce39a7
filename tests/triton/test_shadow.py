"""Shadow mode on the real server: a candidate is compared with what serves, and nothing of it is ever served."""

import pytest

from components.promote import audit
from components.promote.shadow import describe, shadow
from mira.errors import DataRejected
from mira.storage import read_json
from mira.tasks import Modality
from tests.components.made_up import make_case
from tests.triton.own_server import with_server
from tests.triton.station import Station

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
