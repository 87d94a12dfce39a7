"""The expected error through promotion and the real server: there where the network has it, and checked by canaries."""

from dataclasses import replace

import numpy as np
import pytest

from components.promote import canary, config_files
from components.promote.exported import read_release
from mira.client import RestorationClient
from mira.client.engines import LocalEngine
from mira.errors import ServingFailed
from mira.tasks import Modality
from tests.triton.own_server import with_server
from tests.triton.station import IMAGE, Station
from tests.triton.tiny_network import D, make_release, tiny_network


@pytest.mark.parametrize("error_map", [False, True])
def test_a_release_knows_whether_its_network_has_it(tmp_path, error_map):
    release = read_release(*make_release(tmp_path, 1, error_map=error_map))
    assert release.models[0].error_map is error_map


def test_canaries_hold_it_and_find_a_wrong_one(tmp_path):
    network = tiny_network(tmp_path / "model.onnx", error_map=True)
    canary.save(tmp_path / canary.FILE, canary.make(network, [Modality.CT], D))
    stored = canary.load(tmp_path / canary.FILE)
    engine = LocalEngine(network, threads=1)
    for question in stored:
        answer = replace(engine.infer(question.batch), version="1")
        assert canary._compare(question, answer, "mira_net", 1, 1e-4) < 1e-6
        wrong = replace(answer, predicted_error=answer.predicted_error + 10)
        with pytest.raises(ServingFailed, match="wrongly"):
            canary._compare(question, wrong, "mira_net", 1, 1e-4)
    plain = canary.make(tiny_network(tmp_path / "plain.onnx"), [Modality.CT], D)
    assert plain[0].predicted_error is None


@pytest.mark.triton
@pytest.mark.slow
@with_server
def test_it_comes_and_goes_with_the_version(tmp_path):
    with Station(tmp_path / "station") as station:
        station.promote(1, ("mira_net",))
        with RestorationClient(station.url) as client, pytest.raises(ServingFailed, match="gives no expected error"):
            client.restore_slices(IMAGE, "CT", want_error=True)
        files = make_release(tmp_path / "v2", 2, gain=0.2, error_map=True)
        assert station.promote_files(files).version == 2
        with RestorationClient(station.url) as client:
            restored = client.restore_slices(IMAGE, "CT", want_error=True)
            assert client.restore_slices(IMAGE, "CT").predicted_error is None
        np.testing.assert_allclose(restored.predicted_error, np.abs(restored.voxels) / 2, rtol=1e-5)
        config = config_files.parse(station.config.models / "mira_net" / config_files.CONFIG)
        assert config.output[-1].name == "predicted_error"
