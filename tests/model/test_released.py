import json
from dataclasses import replace

import pytest
import torch

from mira.errors import ConfigurationError, DataRejected
from mira.storage import hash_file
from mira.tasks import Task
from model import released
from model.checkpoint import UNIFIED, begin_from, read_checkpoint, read_weights
from model.config import size_config
from model.network import MiraNet
from model.released import CARD, LARGEST_BYTES, ROOT, WEIGHTS, find_weights, read_card, weights_in
from tests.model.made_up import release

REAL = sorted(path.parent for path in ROOT.glob(f"*/{WEIGHTS}"))


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(released, "ROOT", tmp_path)
    return tmp_path


def test_released_weights_have_the_name_version_and_data_of_their_card(root):
    release(root / "tiny", seed=1)
    found = find_weights("released")
    assert (found.name, found.version, found.datasets) == ("made_up_tiny", "2", ("Phantoms (made up)",))
    assert found.sha256 == hash_file(root / "tiny" / WEIGHTS)
    assert find_weights(str(root / "tiny")) == find_weights("released", "tiny") == found


def test_the_largest_size_is_meant_where_none_is_named(root):
    release(root / "tiny")
    release(root / "small", "small")
    assert find_weights("released").folder == root / "small"


def test_what_is_not_there_is_named_with_what_is(root):
    with pytest.raises(ConfigurationError, match="no released weights in"):
        find_weights("released")
    release(root / "tiny")
    with pytest.raises(ConfigurationError, match=r"no released weights of size base .* There are some of size tiny"):
        find_weights("released", "base")
    with pytest.raises(ConfigurationError, match=r"nowhere is not a folder. Give `released`"):
        find_weights(str(root / "nowhere"))
    (root / "empty").mkdir()
    with pytest.raises(DataRejected, match="not a checkpoint"):
        find_weights(str(root / "empty"))


def test_a_checkpoint_folder_without_a_card_has_the_served_name_and_its_hash(root):
    folder = release(root / "own")
    (folder / CARD).unlink()
    found = weights_in(folder)
    assert (found.name, found.version) == ("mira_net", hash_file(folder / WEIGHTS)[:12])
    assert found.datasets == ()


def test_other_weights_than_those_of_the_card_are_refused(root):
    folder = release(root / "tiny", seed=1)
    release(root / "other", seed=2)
    (root / "other" / WEIGHTS).replace(folder / WEIGHTS)
    with pytest.raises(ConfigurationError, match=r"is not the file of its MODEL_CARD.md"):
        find_weights("released")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('version: "2"', 'version: ""', "version: String should have at least 1"),
        ("---\n", "", "does not open with a block"),
        ("size: tiny\n", "size: tiny\npatients: [a]\n", "patients: Extra inputs"),
        ("size: tiny", "size: [", "cannot be used"),
    ],
)
def test_a_card_that_cannot_be_read_says_what_is_wrong(root, old, new, words):
    path = release(root / "tiny") / CARD
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ConfigurationError, match=words):
        find_weights("released")


def network(error_map, seed=3):
    torch.manual_seed(seed)
    return MiraNet(replace(size_config("tiny"), error_map=error_map))


@pytest.mark.parametrize(
    ("trained", "new", "head"),
    [(True, True, "taken"), (False, True, "fresh"), (True, False, "dropped"), (False, False, "none")],
)
def test_the_error_head_may_be_in_either_alone(trained, new, head):
    weights = {name: value + 1 for name, value in network(trained).state_dict().items()}
    beginning = network(new, seed=4)
    before = {name: value.clone() for name, value in beginning.state_dict().items()}
    assert begin_from(beginning, weights) == head
    for name, value in beginning.state_dict().items():
        kept = name == "error_head.scale" or (name.startswith("error_head") and head == "fresh")
        assert torch.equal(value, before[name] if kept else weights[name]), name


def test_weights_of_another_network_are_refused():
    weights = network(False).state_dict()
    with pytest.raises(ConfigurationError, match=r"those of another network: 1 names differ, e.g. stem.weight"):
        begin_from(network(False), {name: value for name, value in weights.items() if name != "stem.weight"})
    with pytest.raises(ConfigurationError, match=r"other shapes: .*stem.bias"):
        begin_from(network(False), {**weights, "stem.bias": torch.zeros(3)})


@pytest.mark.parametrize("folder", REAL, ids=lambda folder: folder.name)
def test_the_weights_in_the_tree_are_whole_small_enough_and_described(folder):
    found, config = weights_in(folder), json.loads((folder / "config.json").read_text())
    card = read_card(folder / CARD)
    assert (folder / WEIGHTS).stat().st_size <= LARGEST_BYTES
    assert (config["network"], config["size"], card.size) == (UNIFIED, folder.name, folder.name)
    assert config["tasks"] == [task.value for task in Task]
    assert found.datasets
    assert "FILL IN" not in (folder / CARD).read_text()
    assert begin_from(MiraNet(read_checkpoint(folder).model), read_weights(folder)) in ("taken", "none")
