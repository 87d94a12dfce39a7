import json

import pytest
import torch

from mira.errors import ConfigurationError, DataRejected
from mira.tasks import Task
from model.checkpoint import UNIFIED, Checkpoint, load_restorer, read_checkpoint, save_checkpoint
from model.config import ModelConfig, size_config
from model.network import MiraNet

LITTLE = ModelConfig("custom", (8, 8, 8, 8), (1, 1, 1, 1), (1, 1, 1), guidance_width=4, instruction_dim=8)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    save_checkpoint(tmp_path, MiraNet(LITTLE), Checkpoint(UNIFIED, "custom", tuple(Task), LITTLE, "0.1.0", "d1"))
    return tmp_path


def test_round_trip(folder):
    restorer, checkpoint = load_restorer(folder)
    torch.manual_seed(0)
    for name, value in MiraNet(LITTLE).state_dict().items():
        assert torch.equal(value, restorer.network.state_dict()[name])
    assert checkpoint == Checkpoint(UNIFIED, "custom", tuple(Task), LITTLE, "0.1.0", "d1")


def test_equal_weights_are_equal_bytes(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    restorer, checkpoint = load_restorer(folder)
    save_checkpoint(other, restorer.network, checkpoint)
    assert (other / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_who_may_read_the_configuration_may_read_the_weights(folder):
    weights, config = ((folder / name).stat().st_mode for name in ("model.safetensors", "config.json"))
    assert weights == config


def test_served_names():
    names = [Checkpoint(n, "tiny", (), LITTLE, "").served_name for n in (UNIFIED, *Task)]
    assert names == ["mira_net", "mira_net_ct", "mira_net_pet", "mira_net_mri"]


def test_incomplete_and_broken_folders_say_so(folder):
    (folder / "config.json").write_text('{"network": "unified"}')
    with pytest.raises(DataRejected, match="cannot be read"):
        read_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(DataRejected, match="not a checkpoint"):
        read_checkpoint(folder)


def test_weights_that_do_not_fit(folder):
    config = json.loads((folder / "config.json").read_text())
    config["model"]["widths"][3] = 16
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataRejected, match="do not fit"):
        load_restorer(folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"modulation": "foo"}, "modulation"),
        ({"guide": "foo"}, "guide"),
        ({"widths": ["a", 32, 48, 64]}, "widths"),
        ({"widths": [16, 32]}, "widths"),
        ({"widths": 16}, "widths"),
        ({"expansion": 0}, "expansion"),
        ({"instruction_dim": [32]}, "instruction_dim"),
        ({"pathways": True}, "pathways"),
        ({"guidance_width": 10**9}, "guidance_width"),
    ],
)
def test_a_network_that_cannot_be_is_refused_by_name(change, named):
    assert ModelConfig.from_dict(size_config("small").to_dict()) == size_config("small")
    with pytest.raises(ConfigurationError, match=f"no usable {named}"):
        ModelConfig.from_dict({**size_config("tiny").to_dict(), **change})
