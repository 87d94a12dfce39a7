"""What `mira run` tells the pipeline of the weights that a training begins from."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mira.cli import main
from mira.errors import ConfigurationError
from mira.storage import hash_file
from model import released
from pipelines import verb
from pipelines.factory import ROOT, TRAIN_REST
from tests.model.made_up import release


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the verb with parameters of train and gives back the arguments that the pipeline got."""
    (tmp_path / "site").mkdir()
    sites = tmp_path / "sites.yaml"
    sites.write_text("sites: [{id: a, role: train, path: site}]\n")
    seen: list[dict[str, Any]] = []

    def run_pipeline(compiled: Path, arguments: dict[str, Any], *_: object) -> str:
        seen.append(arguments)
        return "refused"

    monkeypatch.setattr(verb, "run_pipeline", run_pipeline)
    monkeypatch.setattr("components.tracking.prepare", lambda uri: "0")
    monkeypatch.setattr(released, "ROOT", tmp_path / "released")

    def ask(promote: dict[str, object] | None = None, **train: object) -> dict[str, Any]:
        parameters = yaml.safe_load((ROOT / "params.yaml").read_text())
        parameters["train"] |= train
        parameters["promote"] |= promote or {}
        verb.run_factory(tmp_path, sites, parameters, tmp_path / "models", "{}")
        return seen[-1]

    return ask


def test_a_run_from_scratch_names_no_weights(asked: Any) -> None:
    arguments = asked()
    assert (arguments["start_from"], arguments["start_sha256"]) == ("", "")
    assert "start_from" not in arguments["train_config"]
    assert "start_from" not in TRAIN_REST


def test_the_cache_sees_which_weights_a_run_begins_from(asked: Any, tmp_path: Path) -> None:
    folder = release(tmp_path / "released" / "tiny", seed=1)
    first = asked(start_from="released")
    assert (first["start_from"], first["start_sha256"]) == ("released", hash_file(folder / "model.safetensors"))
    release(folder, seed=2)
    assert asked(start_from="released")["start_sha256"] != first["start_sha256"]
    assert "start_sha256" not in asked(start_from="released", start_sha256="")["train_config"]
    with pytest.raises(ConfigurationError, match=r"other weights .* than start_sha256 says"):
        asked(start_from="released", start_sha256=first["start_sha256"])


def test_a_run_without_released_weights_ends_before_its_first_step(asked: Any) -> None:
    with pytest.raises(ConfigurationError, match="no released weights of size tiny"):
        asked(start_from="released")


def test_a_run_on_this_machine_serves_beside_itself_unless_it_is_told_of_a_triton(asked: Any) -> None:
    assert asked()["triton_url"] == "embedded"
    assert asked({"url": "triton:8001"})["triton_url"] == "triton:8001"


def test_networks_that_the_server_does_not_take_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "three.yaml").write_text("train: {slices: 3}\n")
    words = ["run", "--config", str(tmp_path / "three.yaml"), "--workspace", str(tmp_path / "workspace")]
    assert main(words) == ConfigurationError.exit_code
    assert not (tmp_path / "workspace").exists()
