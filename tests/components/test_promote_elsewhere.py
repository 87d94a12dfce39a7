"""A server of another repository is left alone, the workspace keeps its own, and MLflow is put right whatever fails."""

import subprocess
import sys

import pytest

from components.promote import processes, registry, release, server
from components.promote.paths import station
from components.promote.repository import read_served
from components.promote.step import PromoteConfig, promote
from mira.errors import GateFailed, ServingFailed
from mira.storage import write_json
from tests.components.test_promote import first_serves, staged
from tests.triton.tiny_network import make_release


@pytest.fixture
def config(tmp_path):
    return PromoteConfig(workspace=tmp_path / "ws", repository=tmp_path / "models", tracking_uri=registry.OFF)


@pytest.fixture
def serving(config):
    """A station whose server is a process that only waits."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
    ticks = processes.start_ticks(process.pid)
    state = server.ServerState(
        pid=process.pid, ticks=ticks, url="127.0.0.1:1", repository=config.models, started="", shared_memory=""
    )
    write_json(config.server, state.model_dump(mode="json"))
    yield config
    process.kill()
    process.wait()


class Loads:
    """Administration of a server that has loaded some models, and loads no other."""

    url = "127.0.0.1:1"

    def __init__(self, loaded):
        self.loaded, self.asked = loaded, []

    def index(self, states=("READY",)):
        return dict(self.loaded) if "READY" in states else {}

    def settle(self, models, patience_s=2.0):
        return []

    def load(self, models):
        if models:
            self.asked.append(("load", *models))
            raise ServingFailed(f"{models[0]} did not load.")

    def unload(self, models, patience_s=20.0):
        if models := sorted(models):
            self.asked.append(("unload", *models))


def test_a_change_refuses_where_the_server_runs_on_another_repository(tmp_path, serving):
    serving.remember()
    typo = serving.model_copy(update={"repository": tmp_path / "typo"})
    with pytest.raises(ServingFailed, match=r"on another repository, .*models\. Stop it: mira serve --stop"):
        release.serve_for_change(typo)
    with pytest.raises(ServingFailed, match="on another repository"):
        promote(*make_release(tmp_path / "4", 4), tmp_path / "out", typo)
    assert station(serving.workspace).repository == serving.models
    assert server.running(serving) is not None
    assert release.serve_for_change(serving, port=9).url == server.running(serving).url  # its own is taken as it is


def test_a_refused_promotion_does_not_change_which_repository_the_workspace_serves(tmp_path, config):
    config.remember()
    other = config.model_copy(update={"repository": tmp_path / "other", "approval": "manual"})
    with pytest.raises(GateFailed):
        promote(*make_release(tmp_path / "4", 4), tmp_path / "out", other)
    assert station(config.workspace).repository == config.models


def test_a_workspace_without_a_repository_keeps_the_first_one_it_is_given(tmp_path, config):
    with pytest.raises(GateFailed):  # the run that asks for approval names it, `mira promote` after that need not
        promote(*make_release(tmp_path / "1", 1), tmp_path / "out", config.model_copy(update={"approval": "manual"}))
    assert station(config.workspace).repository == config.models


@pytest.mark.parametrize("registry_returns", [True, False])
def test_the_alias_goes_back_also_when_the_old_version_cannot_be_brought_back(tmp_path, config, registry_returns):
    first_serves(config, tmp_path / "1")
    record = staged(config, tmp_path / "2", 2).releases[2]
    moves = []

    def move(version):
        moves.append(version)
        if version == 1 and not registry_returns:
            raise ServingFailed("MLflow is away.")

    admin = Loads({"mira_net": [1]})
    with pytest.raises(ServingFailed, match="could not be brought back") as caught:
        release.switch_to(admin, config, 2, record, move, 1e-3, staged=True, embedded=False)
    assert moves == [2, 1]
    assert "mira_net did not load" in str(caught.value)
    assert ("is not known" in str(caught.value)) is not registry_returns
    assert read_served(config).version == 1


def test_what_a_server_had_loaded_before_is_not_unloaded(tmp_path, config, monkeypatch):
    """A repository of another name at a production Triton: its own mira_net goes on."""
    record = staged(config, tmp_path / "3", 3).releases[3]
    monkeypatch.setattr(release, "unhealthy", lambda *_: {})
    for loaded, asked in (({"mira_net": [2]}, []), ({}, [("unload", "mira_net")])):
        admin = Loads(loaded)
        with pytest.raises(ServingFailed, match="did not load"):
            release.switch_to(admin, config, 3, record, lambda _: None, 1e-3, staged=True, embedded=False)
        assert admin.asked[1:] == asked
        staged(config, tmp_path / "again", 3)
