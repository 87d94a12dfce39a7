"""What a full disk or a kill leaves of a configuration that was being copied, and a live one that was damaged."""

import errno
import os
import shutil

import pytest

from components.promote import registry, repository, status
from components.promote import switch as switching
from components.promote.step import PromoteConfig
from components.promote.switch import Switch, repair
from tests.components.test_promote import first_serves, staged, tree


@pytest.fixture
def config(tmp_path):
    return PromoteConfig(workspace=tmp_path / "ws", repository=tmp_path / "models", tracking_uri=registry.OFF)


@pytest.fixture
def before(tmp_path, config):
    """Version 1 serves, version 2 is staged; every file as it was when only version 1 was there."""
    first_serves(config, tmp_path / "1")
    repository.remove_candidates(config)
    known = tree(config.models)
    staged(config, tmp_path / "2", 2)
    return known


@pytest.mark.parametrize("part", repository.CONFIGURATION)
@pytest.mark.parametrize("end", ["full", "killed"])
def test_a_configuration_that_was_not_copied_to_its_end_leaves_nothing(config, before, monkeypatch, part, end):
    def half(real):
        def copy(source, target, *more, **options):
            real(source, target, *more, **options)
            if os.path.basename(source) == part and ".candidates" not in str(source):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return copy

    switch = Switch(config)
    switch.move_in("mira_net", 2)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(switching.shutil, "copyfile", half(shutil.copyfile))
        patch.setattr(switching.shutil, "copytree", half(shutil.copytree))
        switch.point("mira_net", 2)
    served = repository.read_served(config)
    repository.check_nothing_strange(config.models / "mira_net")
    if end == "full":
        switch.undo()
    repository.remove_candidates(config)
    if end == "full":
        assert tree(config.models) == before
    repair(config, served)
    assert tree(config.models) == before


def test_what_a_release_of_before_left_half_copied_is_removed(tmp_path, config, before):
    folder = config.models / "mira_net"
    (folder / ".new-configs").mkdir()
    (folder / ".new-config.pbtxt").write_text("cut o")
    (tmp_path / "elsewhere").mkdir()
    (folder / ".new-warmup").symlink_to(tmp_path / "elsewhere")
    repair(config, repository.read_served(config))
    assert tree(config.models) == before
    assert not list(folder.glob(".*"))
    assert (tmp_path / "elsewhere").is_dir()


def cut_off(folder):
    file = folder / "warmup" / "image_256x256"
    file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize(
    "damage",
    [
        cut_off,
        lambda folder: (folder / "warmup" / "modality").unlink(),
        lambda folder: shutil.rmtree(folder / "warmup"),
        lambda folder: (folder / "warmup" / "more").write_bytes(b"0"),
        lambda folder: (folder / "configs" / "gpu.pbtxt").write_text(""),
        lambda folder: (folder / "configs" / "cpu.pbtxt").write_text(""),
    ],
    ids=["warm-up cut off", "warm-up file gone", "warm-up gone", "more warm-up", "another configuration", "empty"],
)
def test_everything_that_triton_reads_as_configuration_is_compared_and_put_right(tmp_path, config, before, damage):
    folder = config.models / "mira_net"
    assert repository.points_to(config, "mira_net", 1)
    damage(folder)
    assert not repository.points_to(config, "mira_net", 1)
    assert "the configuration on disk is not that of version 1" in "".join(status.read(config, "off").disagreements)
    repair(config, repository.read_served(config))
    assert tree(config.models) == before


def test_a_link_in_the_place_of_a_configuration_is_not_taken_for_it(tmp_path, config, before):
    folder = config.models / "mira_net"
    (folder / "warmup").rename(tmp_path / "warmup")
    (folder / "warmup").symlink_to(tmp_path / "warmup")
    assert not repository.points_to(config, "mira_net", 1)
    repair(config, repository.read_served(config))
    assert tree(config.models) == before
    assert not (folder / "warmup").is_symlink()
