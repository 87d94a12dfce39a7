"""The network in this process: what is wrong with its files, or goes wrong in it, is named and no traceback."""

import numpy as np
import onnx
import pytest

from mira.cli import main
from mira.client.batches import Batch
from mira.client.local import LocalEngine
from mira.errors import ServingFailed
from mira.volume import Volume, write_nifti
from tests.triton.tiny_network import describe, tiny_network


@pytest.fixture
def network(tmp_path):
    path = tiny_network(tmp_path / "network" / "model.onnx")
    describe(path, version=5)
    return path


def slices(channels=1):
    return Batch(np.zeros((2, channels, 32, 48), np.float32), modality=0, mr_scale=1.0)


@pytest.mark.parametrize("content", [b'{"na', b"", b"\xff\xfe\x00", b"[1, 2]"])
def test_a_damaged_description_is_named(network, content):
    assert LocalEngine(network, threads=1).version == "5"
    network.with_name("metadata.json").write_bytes(content)
    with pytest.raises(ServingFailed, match=r"metadata\.json .*(JSON|description).* Copy it again"):
        LocalEngine(network, threads=1)


def test_the_command_ends_with_a_message(network, tmp_path, capsys):
    network.with_name("metadata.json").write_text('{"na')
    write_nifti(tmp_path / "in.nii", Volume(np.zeros((3, 32, 32), np.float32), np.eye(4)))
    command = ["restore", str(tmp_path / "in.nii"), "--modality", "CT", "--out", str(tmp_path / "out"),
               "--model", str(network)]  # fmt: skip
    assert main(command) == 5
    assert "metadata.json cannot be read as JSON" in capsys.readouterr().err


def test_what_onnx_runtime_raises_while_it_runs_is_named(network):
    engine = LocalEngine(network, threads=1)
    assert engine.infer(slices()).restored.shape == (2, 1, 32, 48)
    with pytest.raises(ServingFailed, match=r"cannot run mira_net on 2 slices of 32 x 48 pixels: .*dimensions"):
        engine.infer(slices(channels=3))


def test_a_network_without_an_output_is_named(network):
    model = onnx.load(network)
    del model.graph.output[2]
    onnx.save(model, network)
    with pytest.raises(ServingFailed, match="cannot run mira_net"):
        LocalEngine(network, threads=1).infer(slices())


def test_an_instruction_of_no_fixed_length_is_named(network):
    model = onnx.load(network)
    model.graph.input[3].type.tensor_type.shape.dim[1].dim_param = "d"
    onnx.save(model, network)
    with pytest.raises(ServingFailed, match="is not a MIRA-Net"):
        LocalEngine(network, threads=1)
