"""The client's arrays: batching, order, the shared instruction, warnings, refusals, retries."""

from dataclasses import replace

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from mira.client import LocalRestorer, RestorationClient, Restorer
from mira.client.engines import Answer, Batch, MessageTooLarge, TritonEngine, together
from mira.client.plan import Plan, batch_size, probe_slices
from mira.errors import ConfigurationError, DataRejected, ServingFailed
from mira.tasks import Modality
from tests.triton.tiny_network import D, describe, tiny_network


class Recorder:
    """An engine that adds one, estimates the mean of each slice as its instruction, and remembers what it was asked."""

    name, instruction_size, slices = "recorder", D, 1

    def __init__(self, sees: Modality = Modality.CT, versions: tuple[str, ...] = ("3",)) -> None:
        self.batches: list[Batch] = []
        self.sees, self.versions = sees, versions

    def infer(self, batch: Batch) -> Answer:
        self.batches.append(batch)
        count = len(batch.image)
        own = np.repeat(batch.image.mean(axis=(1, 2, 3))[:, None], D, axis=1)
        given = own if batch.instruction is None else np.tile(batch.instruction, (count, 1))
        used = own + batch.instruction_weight * (given - own)
        probability = np.full((count, 3), 0.1, np.float32)
        probability[:, self.sees.number] = 0.8
        version = self.versions[count % len(self.versions)]
        return Answer(batch.image + 1, probability, np.full(count, 0.4, np.float32), used.astype(np.float32), version)

    def close(self) -> None:
        self.batches.append(None)


def volume(slices=19, rows=40, columns=33):
    generator = np.random.default_rng(slices)
    return (generator.normal(0, 50, (slices, rows, columns)) + np.arange(slices)[:, None, None]).astype(np.float32)


def test_slices_come_back_in_order_and_in_batches_of_eight():
    engine = Recorder()
    voxels = volume(19)
    restored = Restorer(engine).restore_slices(voxels, "CT", share_instruction=False)
    np.testing.assert_array_equal(restored.voxels, voxels + 1)
    assert sorted(len(batch.image) for batch in engine.batches) == [3, 8, 8]
    assert all(batch.instruction is None for batch in engine.batches)
    assert restored.modality_probability.shape == (19, 3)
    assert restored.degradation.shape == (19,)
    assert (restored.model, restored.version, restored.warnings) == ("recorder", "3", [])


def test_all_slices_share_the_mean_instruction_of_the_probes():
    engine = Recorder()
    voxels = volume(30)
    restored = Restorer(engine).restore_slices(voxels, Modality.CT)
    expected = voxels[probe_slices(30)].mean(axis=(1, 2)).mean()
    np.testing.assert_allclose(restored.instruction, expected, rtol=1e-4)
    probe, *rest = engine.batches
    assert probe.instruction is None
    assert probe.only_estimates
    assert not any(batch.only_estimates for batch in rest)
    assert len(rest) == 4
    for batch in rest:
        assert batch.instruction_weight == 1.0
        np.testing.assert_array_equal(batch.instruction, restored.instruction)


def test_a_given_instruction_needs_no_probes():
    engine = Recorder()
    given = np.arange(D, dtype=np.float32)
    restored = Restorer(engine).restore_slices(volume(5), "CT", instruction=given)
    assert len(engine.batches) == 1
    np.testing.assert_array_equal(restored.instruction, given)
    with pytest.raises(ConfigurationError, match="takes 4 numbers"):
        Batch(volume(1)[None], 0, 1.0, np.zeros(7, np.float32), 1.0).arrays(D)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 100, 267])
def test_probes_are_few_distinct_and_inside(count):
    probes = probe_slices(count)
    assert len(set(probes)) == len(probes) == min(8, count)
    assert probes.min() >= 0
    assert probes.max() < count


def test_very_large_slices_travel_in_smaller_batches():
    assert batch_size(512, 512) == 8
    assert batch_size(2048, 2048) == 2
    assert batch_size(4096, 2048) == 1
    assert batch_size(9000, 9000) == 1


class Blur(Recorder):
    """An engine whose answer depends on the neighbourhood, as a network's does, and on the instruction."""

    def infer(self, batch):
        answer = super().infer(batch)
        padded = np.pad(batch.image, ((0, 0), (0, 0), (4, 4), (4, 4)), mode="edge")
        mean = np.lib.stride_tricks.sliding_window_view(padded, (9, 9), axis=(2, 3)).mean(axis=(4, 5))
        return Answer(
            (mean + answer.instruction.mean(axis=1)[:, None, None, None]).astype(np.float32),
            answer.modality_probability, answer.degradation, answer.instruction, answer.version,
        )  # fmt: skip


def test_a_slice_too_large_for_a_request_travels_as_tiles_with_one_instruction(monkeypatch):
    monkeypatch.setattr("mira.client.plan.LARGEST_SIDE", 200)
    voxels = volume(2, 210, 300)
    engine = Blur()
    restored = Restorer(engine, tile_side=192).restore_slices(voxels, "CT")
    sizes = {batch.image.shape[2:] for batch in engine.batches}
    assert max(max(size) for size in sizes) <= 192
    probes = [batch for batch in engine.batches if batch.instruction is None]
    rest = [batch for batch in engine.batches if batch.instruction is not None]
    assert 1 <= len(probes) <= 8
    assert all(batch.only_estimates for batch in probes)
    assert all(np.array_equal(batch.instruction, restored.instruction) for batch in rest)
    monkeypatch.undo()
    whole = Restorer(Blur()).restore_slices(voxels, "CT", instruction=restored.instruction)
    np.testing.assert_allclose(restored.voxels, whole.voxels, atol=1e-3)
    assert restored.degradation.shape == (2,)


def test_a_slice_of_1025_rows_travels_as_tiles_that_make_the_whole():
    voxels = volume(1, 1025, 200)
    engine = Blur()
    restored = Restorer(engine).restore_slices(voxels, "CT")
    assert {batch.image.shape[2] <= 1024 for batch in engine.batches} == {True}
    whole = Restorer(Blur(), tile_side=2048).restore_slices(voxels, "CT", instruction=restored.instruction)
    np.testing.assert_allclose(restored.voxels, whole.voxels, atol=1e-3)


def test_tiles_of_air_do_not_decide_the_instruction(monkeypatch):
    monkeypatch.setattr("mira.client.plan.LARGEST_SIDE", 200)
    voxels = np.full((1, 400, 1600), -1000, np.float32)
    voxels[:, :, 1300:] += np.random.default_rng(0).normal(1000, 100, (1, 400, 300)).astype(np.float32)
    plan = Plan(voxels, Modality.CT, 1.0, 192)
    probes = plan.probes()
    assert len(plan.tiles) > 16
    assert len(probes) == 8
    assert all(batch.image.std() > 50 for batch in probes)


def test_a_message_limit_on_the_way_is_met_by_smaller_batches():
    engine = TritonEngine.__new__(TritonEngine)
    engine.name, engine.url = "mira_net", "somewhere:1"
    sizes = []

    def limited(call):
        batch = sizes[-1]
        if batch > 2:
            raise MessageTooLarge("larger than max")
        return batch

    engine.request = lambda batch: sizes.append(len(batch.image)) or {}
    engine._patiently = limited
    recorder = Recorder()
    engine.answer = lambda batch, result: recorder.infer(batch)
    voxels = volume(7)
    answer = engine.infer(Batch(voxels[:, None], 0, 1.0))
    np.testing.assert_array_equal(answer.restored[:, 0], voxels + 1)
    assert sizes == [7, 3, 1, 2, 4, 2, 2]
    engine._patiently = lambda call: limited(call) if sizes[-1] > 9 else (_ for _ in ()).throw(MessageTooLarge("x"))
    with pytest.raises(ServingFailed, match="less than one slice"):
        engine.infer(Batch(voxels[:1, None], 0, 1.0))
    parts = [
        recorder.infer(Batch(voxels[:1, None], 0, 1.0)),
        Recorder(versions=("4",)).infer(Batch(voxels[:1, None], 0, 1.0)),
    ]
    with pytest.raises(ServingFailed, match="version changed"):
        together(parts)


def test_slices_below_the_networks_size_are_padded_and_cropped_again():
    engine = Recorder()
    voxels = volume(5, 30, 45)
    restored = Restorer(engine).restore_slices(voxels, "CT", share_instruction=False)
    assert engine.batches[0].image.shape == (5, 1, 32, 45)
    np.testing.assert_array_equal(engine.batches[0].image[:, 0, 31], voxels[:, 29])
    np.testing.assert_array_equal(restored.voxels, voxels + 1)


def test_modality_disagreement_and_foreign_images_are_warned_of():
    warnings = Restorer(Recorder(sees=Modality.MR)).restore_slices(volume(4), "CT").warnings
    assert warnings[0].startswith("modality-disagreement: declared CT, but 4 of 4 slices")
    assert "like MR" in warnings[0]
    unsure = Recorder()
    infer = unsure.infer
    unsure.infer = lambda batch: replace(infer(batch), modality_probability=np.full((len(batch.image), 3), 1 / 3))
    assert "cannot tell the modality of 4 of 4 slices" in Restorer(unsure).restore_slices(volume(4), "CT").warnings[0]
    becquerel = np.abs(volume(4)) * 1000
    warnings = Restorer(Recorder(sees=Modality.PET)).restore_slices(becquerel, "PET").warnings
    assert "lie outside -1 to 30" in warnings[0]
    assert Restorer(Recorder(sees=Modality.PET)).restore_slices(becquerel / 1e5, "PET").warnings == []


class Changing(Recorder):
    """A server on which a promotion happens after some batches."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def infer(self, batch):
        answer = super().infer(batch)
        version = "1" if len(self.batches) <= self.after else "2"
        own = answer.instruction + (100 if version == "2" else 0)
        used = own if batch.instruction is None else np.tile(batch.instruction, (len(own), 1))
        return replace(answer, version=version, instruction=used)


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_promotion_in_the_middle_gives_one_version_with_its_own_instruction(after):
    engine = Changing(after)
    voxels = volume(19)
    restored = Restorer(engine, in_flight=1).restore_slices(voxels, "CT")
    assert (restored.version, restored.warnings) == ("2", [])
    np.testing.assert_array_equal(restored.voxels, voxels + 1)
    assert restored.instruction.min() > 50  # of version 2
    assert len(engine.batches) == 8


def test_versions_that_change_for_ever_are_an_error():
    with pytest.raises(ServingFailed, match="versions 1, 2"):
        Restorer(Recorder(versions=("1", "2"))).restore_slices(volume(19), "CT", share_instruction=False)


def test_a_stream_comes_back_in_order_and_holds_little():
    engine = Recorder()
    taken = []

    def source():
        for index, one in enumerate(volume(100)):
            taken.append(index)
            yield one

    restorer = Restorer(engine, in_flight=2)
    ahead = 0
    for expected, one in enumerate(restorer.stream(source(), "CT")):
        assert one.index == expected
        np.testing.assert_array_equal(one.voxels, volume(100)[one.index] + 1)
        ahead = max(ahead, len(taken) - one.index)
    assert expected == 99
    assert ahead <= 32  # two batches in flight, one to come, one that is given out
    given = [batch.instruction for batch in engine.batches if batch.instruction is not None]
    assert len(given) == 13
    assert all(np.array_equal(one, given[0]) for one in given)


def test_a_stream_refuses_what_does_not_belong_to_it():
    restorer = Restorer(Recorder())
    with pytest.raises(DataRejected, match="size of the first"):
        list(restorer.stream([np.zeros((40, 40)), np.zeros((40, 41))], "CT"))
    with pytest.raises(DataRejected, match="NaN"):
        list(restorer.stream([np.full((40, 40), np.nan)], "CT"))
    with pytest.raises(ServingFailed, match="middle of a stream"):
        list(Restorer(Changing(2), in_flight=1).stream(volume(19), "CT"))
    assert list(restorer.stream([], "CT")) == []
    with pytest.raises(ConfigurationError, match="needs mr_scale"):
        next(restorer.stream(volume(3), "MR"))
    with pytest.raises(DataRejected, match="positive"):
        next(restorer.stream(volume(3), "MR", mr_scale=float("nan")))
    assert next(Restorer(engine := Recorder()).stream(volume(3), "MR", mr_scale=40.0)).index == 0
    assert {batch.mr_scale for batch in engine.batches} == {40.0}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_answer_that_is_no_image_is_not_given_out(value):
    spoilt = Recorder()
    infer = spoilt.infer

    def broken(batch):
        answer = infer(batch)
        answer.restored[-1, 0, 3, 4] = value
        return answer

    spoilt.infer = broken
    with pytest.raises(ServingFailed, match="NaN or infinite values, which are no image"):
        Restorer(spoilt).restore_slices(volume(9), "CT")
    with pytest.raises(ServingFailed, match="NaN or infinite"):
        list(Restorer(spoilt).stream(volume(9), "CT"))


@pytest.mark.parametrize(
    ("voxels", "words"),
    [
        (np.zeros((3, 15, 64)), "too small"),
        (np.zeros((0, 64, 64)), "shape"),
        (np.zeros((2, 3, 64, 64)), "shape"),
        (np.full((2, 64, 64), np.nan), "NaN or infinite"),
    ],
)
def test_what_cannot_be_restored_is_refused_before_anything_is_sent(voxels, words):
    engine = Recorder()
    with pytest.raises(DataRejected, match=words):
        Restorer(engine).restore_slices(voxels, "CT")
    assert engine.batches == []


def test_mr_scale_is_estimated_only_for_mr_and_checked():
    engine = Recorder(sees=Modality.MR)
    voxels = np.abs(volume(9)) + 100
    Restorer(engine).restore_slices(voxels, "MR")
    assert voxels.mean() < engine.batches[0].mr_scale <= voxels.max()
    assert Restorer(engine).restore_slices(voxels, "MR", mr_scale=77.0) is not None
    assert engine.batches[-1].mr_scale == 77.0
    with pytest.raises(DataRejected, match="positive"):
        Restorer(engine).restore_slices(voxels, "MR", mr_scale=0.0)
    with pytest.raises(ConfigurationError, match="give CT, PET or MR"):
        Restorer(engine).restore_slices(voxels, "US")


def test_local_restorer_runs_the_file(tmp_path):
    network = tiny_network(tmp_path / "model.onnx", gain=0.0)
    describe(network, version=5)
    with LocalRestorer(network, threads=1) as restorer:
        restored = restorer.restore_slices(np.abs(volume(3)) / 20, "PET")
    np.testing.assert_allclose(restored.voxels, np.abs(volume(3)) / 20, rtol=1e-6)
    assert (restored.model, restored.version) == ("mira_net", "5")
    assert restored.warnings == []


def test_local_restorer_names_what_is_wrong(tmp_path):
    with pytest.raises(ConfigurationError, match="does not exist"):
        LocalRestorer(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with pytest.raises(ServingFailed, match="cannot be loaded"):
        LocalRestorer(tmp_path / "bad.onnx")


def test_a_server_that_is_away_is_waited_for_and_then_named():
    with pytest.raises(ServingFailed, match=r"No Triton answers at 127\.0\.0\.1:9"):
        RestorationClient("127.0.0.1:9", deadline_s=0.5)


def engine_of(deadline=5.0):
    engine = TritonEngine.__new__(TritonEngine)
    engine.name, engine.url, engine._deadline = "mira_net", "somewhere:1", deadline
    return engine


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("StatusCode.UNAVAILABLE", "connection refused"),
        ("StatusCode.DEADLINE_EXCEEDED", "Deadline Exceeded"),
        ("StatusCode.INTERNAL", "Stub process 'mira_net_0_0' is not healthy."),
        ("StatusCode.NOT_FOUND", "Request for unknown model: 'mira_net' has no available versions"),
    ],
)
def test_a_server_that_comes_back_is_waited_for(status, message):
    calls = []

    def flaky(left):
        calls.append(left)
        if len(calls) < 3:
            raise InferenceServerException(message, status=status)
        return "answer"

    assert engine_of()._patiently(flaky) == "answer"
    assert len(calls) == 3
    assert all(left <= 2.5 for left in calls)  # half of the deadline: a second attempt is possible


def test_a_refusal_is_not_repeated_and_a_deadline_ends_the_waiting():
    calls = []

    def refused(left):
        calls.append(left)
        raise InferenceServerException("image holds NaN", status="StatusCode.INVALID_ARGUMENT")

    with pytest.raises(ServingFailed, match="image holds NaN"):
        engine_of()._patiently(refused)
    assert len(calls) == 1

    def silent(left):
        raise InferenceServerException("Deadline Exceeded", status="StatusCode.DEADLINE_EXCEEDED")

    with pytest.raises(ServingFailed, match="did not answer within"):
        engine_of(deadline=0.4)._patiently(silent)
