"""What a full disk or a kill leaves of a configuration that was being copied, and a live one that was damaged."""

import errno
import os
import shutil

import pytest

from components.promote import registry, repository
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
