import numpy as np
import onnx
import pytest
import torch

from mira.errors import ServingFailed
from model.config import ModelConfig
from model.export import OnnxSession, example_inputs, export_onnx, random_restorer
from model.export_gates import halve_gates
from model.network import MiraNet
from model.restorer import Restoration, Restorer


@pytest.mark.slow
def test_a_network_that_sees_neighbours_can_be_written_too(tmp_path):
    network = MiraNet(ModelConfig("custom", (8, 8, 8, 8), (1, 1, 1, 1), (1, 1, 1), instruction_dim=8, slices=3))
    torch.nn.init.normal_(network.head.weight, std=0.1)
    torch.nn.init.normal_(network.stem.weight, std=0.3)
    restorer = Restorer(network).eval()
    path = export_onnx(restorer, tmp_path / "three.onnx")
    for shape in ((1, 32, 32), (3, 33, 47)):
        inputs = example_inputs(restorer, *shape)
        assert inputs[0].shape[1] == 3
        with torch.inference_mode():
            expected = restorer(*inputs)
        assert (expected.restored - inputs[0][:, 1:2]).abs().max() > 1
        np.testing.assert_allclose(OnnxSession(path).run(inputs)["restored"], expected.restored, atol=2e-3)


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


def test_gates_are_convolutions_of_half_the_channels_with_all_of_the_weights(exported):
    restorer, path = exported[1]
    graph = onnx.load(path).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    left = {made_by[node.input[0]] for node in graph.node if node.op_type == "Split"}
    assert left <= {"Gemm", "MatMul"}  # of an instruction, a row of numbers, and of no image
    written = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    names = [f"{name}.weight" for name, part in restorer.named_modules() if name.endswith(("expand", "spatial"))]
    halved = [name for name in names if f"{name}.value" in written]
    blocks = sum(name.endswith("spatial.weight") for name in names)
    assert len(halved) == 3 * blocks > 0
    for name in halved:
        assert name not in written
        both = np.concatenate([written[f"{name}.value"], written[f"{name}.gate"]])
        np.testing.assert_array_equal(both, restorer.get_parameter(name).detach().numpy())


def test_a_split_of_something_else_is_left_alone():
    import onnx_ir

    image = onnx_ir.Value(
        name="image", shape=onnx_ir.Shape([1, 4, 8, 8]), type=onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
    )
    twice = onnx_ir.node("Add", [image, image])
    split = onnx_ir.node("Split", [twice.outputs[0]], {"axis": 1, "num_outputs": 2}, num_outputs=2)
    graph = onnx_ir.Graph([image], list(split.outputs), nodes=[twice, split], opset_imports={"": 20})
    assert halve_gates(graph) == 0
    assert [node.op_type for node in graph] == ["Add", "Split"]


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
