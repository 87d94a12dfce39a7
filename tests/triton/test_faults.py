"""Three rows of the fault table on the real server; `python -m tests.triton.faults` runs them all."""

import pytest

from tests.triton.faults import FAULTS, FaultStation, Row, run, table
from tests.triton.own_server import with_server

pytestmark = [pytest.mark.triton, pytest.mark.slow, with_server]


@pytest.fixture(scope="module")
def station(tmp_path_factory):
    pytest.importorskip("mlflow")
    station = FaultStation(tmp_path_factory.mktemp("faults"))
    try:
        station.begin()
        yield station
    finally:
        station.end()


@pytest.mark.parametrize("name", ["hang", "server-killed", "mlflow-lost"])
def test_a_planted_fault_leaves_the_old_version_serving_and_a_line_in_the_trail(station, name):
    row = run(station, next(fault for fault in FAULTS if fault.name == name))
    assert row.faults == []
    assert row.answers > 0


def test_the_table_is_markdown_with_a_row_for_each_fault():
    row = Row("a | b", 5, "said", 10, 0, 0, 0.5, "2", "2", "failed: why", "yes")
    lines = table([row, row]).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
