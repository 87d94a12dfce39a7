"""Which series fall to a candidate: a fixed part, always the same ones, and others for another candidate."""

import asyncio

import numpy as np
import pytest

model_config_pb2 = pytest.importorskip("tritonclient.grpc").model_config_pb2

from mira.client.arrays import Restorer  # noqa: E402
from mira.client.asynchronous import AsyncRestorationClient  # noqa: E402
from mira.client.engines import Answer  # noqa: E402
from mira.client.plan import Restored  # noqa: E402
from mira.client.share import PARAMETER, Candidate, candidate_of, described  # noqa: E402
from mira.errors import ServingFailed  # noqa: E402

SERIES = [f"1.2.840.{index}.{index * 7}" for index in range(4000)]


def candidate(share=0.1, version="7"):
    return Candidate(candidate_of("mira_net"), version, share, 32)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_the_share_is_kept(share):
    chosen = np.mean([candidate(share).restores(series) for series in SERIES])
    assert abs(chosen - share) < 4 * np.sqrt(share * (1 - share) / len(SERIES))


def test_the_choice_stays_and_a_larger_share_keeps_whom_it_had():
    small = {series for series in SERIES if candidate(0.1).restores(series)}
    assert small == {series for series in SERIES if candidate(0.1).restores(series)}
    assert small < {series for series in SERIES if candidate(0.3).restores(series)}


def test_another_candidate_gets_other_series():
    first = {series for series in SERIES if candidate(0.1, "7").restores(series)}
    second = {series for series in SERIES if candidate(0.1, "8").restores(series)}
    assert len(first & second) < 0.3 * len(first)


def config(**changes):
    message = model_config_pb2.ModelConfig(name="mira_net_candidate")
    message.input.add(name="instruction", dims=[48])
    message.version_policy.specific.versions.append(9)
    message.parameters[PARAMETER].string_value = changes.get("share", "0.25")
    return message


def test_the_servers_configuration_says_it_all():
    assert described(config()) == Candidate("mira_net_candidate", "9", 0.25, 48)
    plain = config()
    del plain.parameters[PARAMETER]
    assert described(plain) is None


class Voice:
    """An engine that answers with its version, or fails."""

    error_map, slices = False, 1

    def __init__(self, version, fails=False):
        self.name, self.instruction_size, self.version, self.fails = "mira_net", 2, version, fails

    def infer(self, batch):
        if self.fails:
            raise ServingFailed("gone")
        count = len(batch.image)
        sure = np.tile(np.float32([1, 0, 0]), (count, 1))
        return Answer(batch.image, sure, np.zeros(count, np.float32), np.zeros((count, 2), np.float32), self.version)


@pytest.mark.parametrize(("fails", "version"), [(False, "2"), (True, "1")])
def test_a_candidate_that_fails_leaves_the_whole_series_to_what_serves(monkeypatch, fails, version):
    restorer = Restorer(Voice("1"))
    monkeypatch.setattr(restorer, "_engine_for", lambda series: Voice("2", fails) if series else restorer.engine)
    volume = np.zeros((20, 40, 40), np.float32)
    restored = restorer.restore_slices(volume, "CT", series="1.2.3")
    assert isinstance(restored, Restored)
    assert (restored.version, len(restored.voxels)) == (version, 20)
    assert restorer.restore_slices(volume, "CT").version == "1"


def test_an_instruction_that_is_given_goes_to_the_version_that_serves(monkeypatch):
    given = np.ones(2, np.float32)
    restorer = Restorer(Voice("1"))
    monkeypatch.setattr(restorer, "_engine_for", lambda series: Voice("2") if series else restorer.engine)
    volume = np.zeros((20, 40, 40), np.float32)
    assert restorer.restore_slices(volume, "CT", series="1.2.3", instruction=given).version == "1"

    asked = []
    client = AsyncRestorationClient("nowhere:1")

    async def chosen(series):
        asked.append(series)
        return client

    async def answers(batches):
        return [Voice("1").infer(batch) for batch in batches]

    monkeypatch.setattr(client, "_for_series", chosen)
    monkeypatch.setattr(client, "_run", answers)
    asyncio.run(client.restore_slices(volume, "CT", series="1.2.3", instruction=given))
    asyncio.run(client.restore_slices(volume, "CT", series="1.2.3"))
    assert asked == ["", "1.2.3"]
