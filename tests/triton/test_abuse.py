"""Requests that no client should send against the real Triton: each is refused in words, and the server stays up.

The whole of it, with 1,000 sizes through an exported network: `python -m tests.triton.abuse --sizes 1000`.
"""

import pytest

from components.promote import processes, server
from mira.client.engines import LocalEngine, TritonEngine
from tests.triton import abuse
from tests.triton.own_server import serving, with_server
from tests.triton.tiny_network import D

pytestmark = [pytest.mark.triton, with_server]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("abused")) as (paths, url):
        yield paths, url


@pytest.fixture
def wire(served):
    """A raw channel; afterwards the same processes run, and a valid request gets the same bytes as before."""
    pid = server.running(served[0]).pid
    wire = abuse.Wire(served[1])
    valid = abuse.message(abuse.tensors(D)).SerializeToString()
    before, members = wire.send(valid), processes.session_members(pid)
    assert before.status == "OK"
    yield wire
    assert wire.send(valid).body == before.body
    assert set(processes.session_members(pid)) == set(members)
    wire.close()


def test_every_malformed_request_is_refused_in_words(wire):
    found = {one.name: abuse.problems(wire.send(one.body), one.words) for one in abuse.abuses(D)}
    assert len(found) > 80
    assert {name: fault for name, fault in found.items() if fault} == {}


def test_damaged_copies_of_a_valid_request_are_answered_one_by_one(wire):
    valid = abuse.message(abuse.tensors(D)).SerializeToString()
    statuses = {wire.send(body).status for body in abuse.mutations(valid, 300)}
    assert statuses <= abuse.CLEAR | {"OK", "INTERNAL"}
    assert len(statuses) > 1


def test_a_stream_says_what_is_wrong_and_answers_what_is_right(wire):
    good = abuse.message(abuse.tensors(D)).SerializeToString()
    small = abuse.message(abuse.tensors(D, 1, 31, 40)).SerializeToString()
    assert wire.stream([good, good]).body == b"2"
    assert "smallest side is 32" in wire.stream([good, small]).text
    assert wire.stream([good[:1000], good]).body == b"0"  # Triton ends a stream at a message that it cannot read


def test_random_sizes_restore_as_in_process(served):
    paths, url = served
    engine = TritonEngine(url)
    reference = LocalEngine(paths.models / "mira_net" / "1" / "model.onnx", threads=1)
    sizes = abuse.random_sizes(24)
    assert {(32, 32), (700, 700)} <= {size[:2] for size in sizes}
    assert max(abuse.restore_size(engine, reference, *size) for size in sizes) < 1e-6
    engine.close()


@pytest.mark.slow
def test_a_shape_that_overflows_costs_the_stub_and_a_restart_brings_it_back(tmp_path):
    """Known of Triton 2.51, and nothing that model.py can prevent: supervision by canaries has to notice it."""
    with serving(tmp_path) as (paths, url):
        wire = abuse.Wire(url)
        valid = abuse.message(abuse.tensors(D)).SerializeToString()
        before = wire.send(valid)
        assert before.status == "OK"
        assert "not healthy" in wire.send(abuse.overflowing(D)).text
        assert "not healthy" in wire.send(valid).text
        wire.close()
        server.stop(paths, patience_s=1)
        wire = abuse.Wire(server.start(paths, ["mira_net"], threads=1).url)
        assert wire.send(valid).body == before.body
        wire.close()
