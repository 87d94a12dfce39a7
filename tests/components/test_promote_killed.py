"""What a killed change set aside is brought back, whoever comes next and wherever Triton runs."""

import os

import pytest

from components.promote import audit, registry, repository, server
from components.promote.step import PromoteConfig, promote
from components.promote.switch import Switch, repair
from mira.errors import ServingFailed
from tests.components.test_promote import first_serves, staged, tree
from tests.triton.tiny_network import make_release


@pytest.fixture
def config(tmp_path):
    return PromoteConfig(workspace=tmp_path / "ws", repository=tmp_path / "models", tracking_uri=registry.OFF)


def killed(config, version):
    """A change that had set a version on disk aside, and got no further."""
    staged(config, config.workspace / f"again{version}", version, gain=0.9)
    Switch(config).move_in("mira_net", version)
    repository.remove_candidates(config)


@pytest.fixture
def damaged(tmp_path, config):
    """Version 1 serves on record, its network was set aside by a change that was killed; and as it was before."""
    served = first_serves(config, tmp_path / "1")
    repository.remove_candidates(config)
    before = tree(config.models)
    killed(config, 1)
    with pytest.raises(ServingFailed):
        repository.verify(config, served, 1)
    return config, before


def test_the_next_change_of_the_same_process_id_leaves_it_to_repair(damaged):
    config, before = damaged
    Switch(config).finish()
    repair(config, repository.read_served(config))
    assert tree(config.models) == before


def test_a_release_to_roll_back_to_is_brought_back_too(tmp_path, config):
    first_serves(config, tmp_path / "1")
    second = staged(config, tmp_path / "2", 2)
    switch = Switch(config)
    switch.move_in("mira_net", 2)
    switch.point("mira_net", 2)
    switch.finish()
    repository.write_served(config, second)
    repository.remove_candidates(config)
    before = tree(config.models)
    killed(config, 1)
    repair(config, second)
    assert tree(config.models) == before


def test_a_promotion_to_a_triton_elsewhere_repairs_first(tmp_path, damaged):
    config, before = damaged
    elsewhere = config.model_copy(update={"url": "127.0.0.1:1", "load_timeout_s": 5})
    with pytest.raises(ServingFailed, match=r"mira_net did not load: Triton at 127\.0\.0\.1:1 went away"):
        promote(*make_release(tmp_path / "3", 3), tmp_path / "out", elsewhere)
    assert tree(config.models) == before
    assert server.running(config) is None
    assert [record.outcome for record in audit.read(config.audit)] == ["begun", "failed"]


def test_what_cannot_be_repaired_elsewhere_does_not_stand_in_the_way(tmp_path, damaged):
    config, _ = damaged
    for leftover in config.models.glob(".undo-*/*/model.onnx"):
        os.truncate(leftover, 10)
    elsewhere = config.model_copy(update={"url": "127.0.0.1:1", "load_timeout_s": 5})
    with pytest.raises(ServingFailed, match="did not load"):  # it came as far as asking Triton
        promote(*make_release(tmp_path / "3", 3), tmp_path / "out", elsewhere)
