import numpy as np
import onnx
import pytest
import torch

from mira.errors import ServingFailed
from model.export import OnnxSession, example_inputs, export_onnx, random_restorer
from model.restorer import Restoration, Restorer


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    return [
        (random_restorer("tiny", seed), export_onnx(random_restorer("tiny", seed), folder / f"{seed}.onnx"))
        for seed in (0, 1)
    ]


@pytest.mark.parametrize("shape", [(1, 32, 32), (1, 33, 47), (3, 128, 128), (1, 200, 328)])
def test_the_file_does_what_torch_does_at_any_size(exported, shape):
    for restorer, path in exported:  # the second shares the first one's trace, with its own weights
        inputs = example_inputs(restorer, *shape)
        with torch.inference_mode():
            expected = restorer(*inputs)
        got = OnnxSession(path).run(inputs)
        changed = (expected.restored - inputs[0]).abs().max()
        assert changed > 1  # the comparison is of a network that does something
        np.testing.assert_allclose(got["restored"], expected.restored.numpy(), atol=2e-3)
        for name in ("modality_probability", "degradation", "instruction_used"):
            np.testing.assert_allclose(got[name], getattr(expected, name).numpy(), atol=1e-5)


def test_a_given_instruction_works_in_the_file(exported):
    restorer, path = exported[0]
    inputs = (*example_inputs(restorer, batch=1)[:4], torch.ones(1, 1))
    np.testing.assert_allclose(OnnxSession(path).run(inputs)["instruction_used"], inputs[3].numpy(), atol=1e-6)


def test_the_file_has_the_serving_contract(exported):
    model = onnx.load(exported[0][1])
    onnx.checker.check_model(model)
    assert tuple(tensor.name for tensor in model.graph.input) == Restorer.INPUTS
    assert tuple(tensor.name for tensor in model.graph.output) == exported[0][0].outputs == Restoration._fields[:4]
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    assert [bool(size.dim_param) for size in sizes] == [True, False, True, True]
    assert model.opset_import[0].version == 20
    assert not list(exported[0][1].parent.glob("*.data"))


def test_a_broken_file_is_a_serving_failure(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a network")
    with pytest.raises(ServingFailed, match="cannot load"):
        OnnxSession(tmp_path / "model.onnx")
