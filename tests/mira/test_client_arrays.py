"""The client's arrays: batching, order, the shared instruction, warnings, refusals, retries."""

import numpy as np
import pytest

from mira.client import LocalRestorer, RestorationClient, Restorer
from mira.client.arrays import batch_size, probe_slices
from mira.client.engines import Answer, Batch
from mira.errors import ConfigurationError, DataRejected, ServingFailed
from mira.tasks import Modality
from tests.triton.tiny_network import D, describe, tiny_network


class Recorder:
    """An engine that adds one, estimates the mean of each slice as its instruction, and remembers what it was asked."""

    name, instruction_size = "recorder", D

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
    assert batch_size(np.broadcast_to(np.float32(0), (20, 512, 512))) == 8
    assert batch_size(np.broadcast_to(np.float32(0), (20, 4096, 2048))) == 2
    assert batch_size(np.broadcast_to(np.float32(0), (20, 9000, 9000))) == 1


def test_slices_below_the_networks_size_are_padded_and_cropped_again():
    engine = Recorder()
    voxels = volume(5, 30, 45)
    restored = Restorer(engine).restore_slices(voxels, "CT", share_instruction=False)
    assert engine.batches[0].image.shape == (5, 1, 32, 45)
    np.testing.assert_array_equal(engine.batches[0].image[:, 0, 31], voxels[:, 29])
    np.testing.assert_array_equal(restored.voxels, voxels + 1)


def test_modality_disagreement_and_mixed_versions_are_warned_of():
    warnings = Restorer(Recorder(sees=Modality.MR)).restore_slices(volume(4), "CT").warnings
    assert warnings[0].startswith("modality-disagreement: declared CT, but 4 of 4 slices")
    assert "like MR" in warnings[0]
    warnings = Restorer(Recorder(versions=("1", "2"))).restore_slices(volume(19), "CT").warnings
    assert any("mixed-versions" in text and "1, 2" in text for text in warnings)


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
        restored = restorer.restore_slices(volume(3), "PET")
    np.testing.assert_allclose(restored.voxels, volume(3), rtol=1e-6)
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


def test_unavailable_is_retried_and_other_refusals_are_not(monkeypatch):
    from tritonclient.utils import InferenceServerException

    from mira.client.engines import TritonEngine

    engine = TritonEngine.__new__(TritonEngine)
    engine.name, engine.url, engine._deadline = "mira_net", "somewhere:1", 5.0
    calls = []

    def flaky(left):
        calls.append(left)
        if len(calls) < 3:
            raise InferenceServerException("connection refused", status="StatusCode.UNAVAILABLE")
        return "answer"

    assert engine._patiently(flaky) == "answer"
    assert len(calls) == 3
    assert calls[0] > calls[1] > calls[2]

    def refused(left):
        calls.append(left)
        raise InferenceServerException("image holds NaN", status="StatusCode.INVALID_ARGUMENT")

    with pytest.raises(ServingFailed, match="image holds NaN"):
        engine._patiently(refused)
    assert len(calls) == 4
