"""Promotions and rollbacks under load, in short: `python -m tests.triton.promotions` is the long form."""

from itertools import pairwise

import pytest

from tests.triton.load import Change, Clients, Request
from tests.triton.own_server import with_server
from tests.triton.promotions import order, run

pytestmark = [pytest.mark.triton]


@pytest.mark.slow
@with_server
def test_no_request_fails_and_no_answer_is_wrong_while_versions_change(tmp_path):
    result = run(tmp_path, promotions=3, rollbacks=2, clients=4)
    assert (result["failed"], result["wrong"], result["reasons"]) == (0, 0, [])
    assert result["answers"] > 100
    assert result["versions_seen"] == 4
    assert result["audit"] == "whole"


def test_promotions_and_rollbacks_are_mixed():
    steps = order(50, 20)
    assert (sum(steps), len(steps), steps[0]) == (50, 70, True)
    assert not any(not one and not other for one, other in pairwise(steps))


@pytest.mark.parametrize(
    ("request_", "fault"),
    [
        (Request(0.5, 0.6, "1"), ""),
        (Request(1.5, 1.6, "1"), ""),
        (Request(1.5, 1.6, "2"), ""),
        (Request(1.9, 2.1, "1"), ""),
        (Request(2.1, 2.2, "2"), ""),
        (Request(2.1, 2.2, "1"), "answered while"),
        (Request(1.5, 1.6, "3"), "answered while"),
        (Request(2.1, 2.2, "2", difference=0.01), "off"),
        (Request(2.1, 2.2, "2", difference=float("nan")), "off"),
    ],
)
def test_an_answer_counts_as_wrong_when_it_differs_or_its_version_was_not_in_play(request_, fault):
    clients = Clients("127.0.0.1:1", {}, count=1)
    clients.changes.append(Change(1.0, 2.0, "1", "2"))
    clients.requests[0].append(request_)
    tally = clients.tally()
    assert len(tally.wrong) == bool(fault)
    assert fault in "".join(tally.wrong)
