"""The python backend's model.py, without Triton: its own checks, grouping and splitting."""

import importlib.util
import json
import sys
from types import ModuleType

import numpy as np
import pytest

from components.promote.paths import ServingPaths
from mira.client.batches import ESTIMATES, OUTPUTS
from tests.triton.tiny_network import D, tiny_network


class Tensor:
    def __init__(self, name, array):
        self.name, self.array = name, array

    def as_numpy(self):
        return self.array


class TritonError:
    INVALID_ARG, INTERNAL = "invalid", "internal"

    def __init__(self, text, code):
        self.text, self.code = text, code


class Response:
    def __init__(self, output_tensors, error=None):
        self.outputs, self.error = {t.name: t.array for t in output_tensors}, error


@pytest.fixture
def backend(tmp_path, monkeypatch):
    """model.py initialised with ONNX Runtime, on a stand-in of Triton's module."""
    utils = ModuleType("triton_python_backend_utils")
    utils.Tensor, utils.TritonError, utils.InferenceResponse = Tensor, TritonError, Response
    utils.get_input_tensor_by_name = lambda request, name: Tensor(name, request[name])
    utils.Logger = type("Logger", (), {"log_info": staticmethod(print), "log_warn": staticmethod(print)})
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    spec = importlib.util.spec_from_file_location("served_model", ServingPaths().templates / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tiny_network(tmp_path / "1" / "model.onnx", error_map=True)
    parameters = {"engine": "onnxruntime", "precision": "f32", "threads": "1", "modalities": "CT,PET"}
    config = {"max_batch_size": 8, "parameters": {k: {"string_value": v} for k, v in parameters.items()}}
    config["output"] = [{"name": name} for name in (*OUTPUTS, "predicted_error")]
    model = module.TritonPythonModel()
    names = {"model_config": json.dumps(config), "model_repository": str(tmp_path), "model_version": "1"}
    model.initialize(names | {"model_name": "mira_net"})
    return model


class Request(dict):
    asked = (*OUTPUTS, "predicted_error")

    def requested_output_names(self):
        return list(self.asked)


def request(slices=1, size=(40, 48), seed=0, **changes):
    generator = np.random.default_rng(seed)
    arrays = {
        "image": generator.normal(0, 100, (slices, 1, *size)).astype(np.float32),
        "modality": np.zeros((slices, 1), np.int64),
        "mr_scale": np.ones((slices, 1), np.float32),
        "instruction": np.zeros((slices, D), np.float32),
        "instruction_weight": np.zeros((slices, 1), np.float32),
    }
    return Request(arrays | changes)


def test_mixed_sizes_in_one_execution_give_what_each_gives_alone(backend):
    requests = [request(3, seed=1), request(2, (33, 70), seed=2), request(7, seed=3), request(1, (33, 70), seed=4)]
    executions = []
    run = backend.run
    backend.run = lambda inputs: executions.append(len(inputs["image"])) or run(inputs)
    together = backend.execute(requests)
    assert sorted(executions) == [3, 3, 7]
    backend.run = run
    for one, response in zip(requests, together, strict=True):
        alone = backend.execute([one])[0]
        assert response.error is None
        for name, array in alone.outputs.items():
            np.testing.assert_allclose(response.outputs[name], array, rtol=1e-6)


def test_large_slices_go_through_the_network_one_by_one_and_small_ones_together(backend):
    executions = []
    run = backend.run
    backend.run = lambda inputs: executions.append(inputs["image"].shape) or run(inputs)
    large = request(3, (520, 512), seed=1)
    response = backend.execute([large])[0]
    assert executions == [(1, 1, 520, 512)] * 3
    single = [Request({name: array[i : i + 1] for name, array in large.items()}) for i in range(3)]
    alone = [backend.execute([one])[0] for one in single]
    for name, array in response.outputs.items():
        np.testing.assert_allclose(array, np.concatenate([one.outputs[name] for one in alone]), rtol=1e-6)
    executions.clear()
    backend.execute([request(8, (128, 256))])
    assert executions == [(8, 1, 128, 256)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": np.zeros((1, 1, 31, 64), np.float32)}, "smallest side is 32"),
        ({"image": np.full((1, 1, 40, 48), np.nan, np.float32)}, "NaN or infinite"),
        ({"image": np.full((1, 1, 40, 48), -np.inf, np.float32)}, "NaN or infinite"),
        ({"image": np.zeros((1, 3, 40, 48), np.float32)}, r"\[slices, 1, rows, columns\]"),
        ({"modality": np.full((1, 1), 2)}, r"send 0 \(CT\), 1 \(PET\)"),
        ({"modality": np.full((1, 1), -1)}, "not one that this network restores"),
        ({"instruction_weight": np.full((1, 1), 1.5, np.float32)}, "between 0"),
        ({"instruction": np.full((1, D), np.inf, np.float32)}, "instruction holds"),
        ({"image": np.full((1, 1, 40, 48), 2e9, np.float32)}, "values beyond 1e"),
        ({"image": np.zeros((1, 1, 4096, 2049), np.float32)}, "fewer slices, or overlapping tiles"),
        ({"mr_scale": np.full((1, 1), np.nan, np.float32)}, "mr_scale holds NaN"),  # of a CT: NaN * 0 is NaN
    ],
)
def test_a_wrong_request_is_refused_and_its_neighbours_are_served(backend, changes, words):
    good = request(seed=5)
    responses = backend.execute([request(**changes), good])
    assert responses[0].error.code == "invalid"
    assert __import__("re").search(words, responses[0].error.text)
    assert responses[1].error is None
    assert responses[1].outputs["restored"].shape == good["image"].shape


def test_an_engine_that_fails_is_an_error_and_not_a_crash(backend):
    def fail(inputs):
        raise RuntimeError("out of memory")

    backend.run = fail
    response = backend.execute([request()])[0]
    assert (response.error.code, "out of memory" in response.error.text) == ("internal", True)


def test_the_expected_error_comes_with_each_request_s_own_slices(backend):
    several = [request(2, seed=1), request(1, seed=2)]
    for answer in backend.execute(several):
        assert answer.error is None
        np.testing.assert_allclose(answer.outputs["predicted_error"], np.abs(answer.outputs["restored"]) / 2, rtol=1e-6)


def test_estimates_alone_do_not_run_the_network_and_are_those_of_the_whole_answer(backend):
    whole, seen = request(2, seed=1), request(3, seed=2)
    seen.asked = ESTIMATES
    expected = backend.execute([request(3, seed=2)])[0].outputs
    ran, looked = [], []
    run, look = backend.run, backend.look
    backend.run = lambda inputs: ran.append(len(inputs["image"])) or run(inputs)
    backend.look = lambda inputs: (
        looked.append(len(inputs["image"]))
        or {name: array for name, array in look(inputs).items() if name in ESTIMATES}
    )
    first, second = backend.execute([whole, seen])
    assert (ran, looked) == ([2], [3])
    assert set(first.outputs) == {*OUTPUTS, "predicted_error"}
    assert set(second.outputs) == set(ESTIMATES)
    for name in ESTIMATES:
        np.testing.assert_allclose(second.outputs[name], expected[name], rtol=1e-6)
