"""Trainings that begin from weights: what they take over, what they say of it, and what they refuse."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from components.train.start import find_start, pinned
from components.train.step import TrainConfig, train
from mira.errors import ConfigurationError, DataRejected
from mira.storage import hash_file, read_json
from mira.tasks import Task
from model import released
from model.checkpoint import read_weights
from model.config import size_config
from tests.components.made_up import make_pairs
from tests.model.made_up import release

QUICK = {"steps_per_task": 2, "batch_size": 2, "patch_size": 32, "rounds": 2, "validation_slices": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pairs, an MLflow database, and released weights of size tiny."""
    folder = tmp_path_factory.mktemp("start")
    make_pairs(folder / "pairs", 1, (("alpha", "train"), ("beta", "validation"), ("gamma", "local")))
    release(folder / "released" / "tiny", seed=5)
    return folder


@pytest.fixture(autouse=True)
def in_the_tree(root, monkeypatch):
    monkeypatch.setattr(released, "ROOT", root / "released")


def settings(root, **changes):
    return TrainConfig(tracking_uri=f"sqlite:///{root / 'mlflow.db'}", **{**QUICK, **changes})


@pytest.fixture(scope="module")
def started(root):
    """A unified network and a single-task one that begin from the released weights and hardly learn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(released, "ROOT", root / "released")
        config = settings(root, start_from="released", learning_rate=1e-9, calibration_slices=0)
        return {name: train(root / "pairs", name, root / name, config) for name in ("unified", "pet-synthesis")}


def client_of(root):
    import mlflow

    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")


@pytest.mark.parametrize("name", ["unified", "pet-synthesis"])
def test_the_weights_are_there_before_the_first_step(root, started, name):
    begun, trained = read_weights(root / "released" / "tiny"), read_weights(root / name)
    assert begun.keys() == trained.keys()
    for key, value in begun.items():
        assert torch.allclose(trained[key], value, atol=1e-6), key


def test_a_training_from_scratch_is_another(root, started, tmp_path):
    config = settings(root, learning_rate=1e-9)
    summary = train(root / "pairs", "pet-synthesis", tmp_path / "scratch", config)
    assert summary.started_from == ""
    assert not (tmp_path / "scratch" / "STARTED_FROM.md").exists()
    assert read_json(tmp_path / "scratch" / "training.json")["started_from"] is None
    begun = read_weights(root / "released" / "tiny")["stem.weight"]
    assert not torch.allclose(read_weights(tmp_path / "scratch")["stem.weight"], begun, atol=1e-3)
    assert client_of(root).get_run(summary.run_id).data.tags["started_from"] == "scratch"


def test_the_record_names_what_it_began_from(root, started):
    sha256 = hash_file(root / "released" / "tiny" / "model.safetensors")
    for name, summary in started.items():
        assert summary.started_from == "made_up_tiny 2"
        assert read_json(root / name / "training.json")["started_from"] == {
            "name": "made_up_tiny",
            "version": "2",
            "sha256": sha256,
            "network": "unified",
            "datasets": ["Phantoms (made up)"],
        }
        run = client_of(root).get_run(summary.run_id).data
        assert (run.tags["started_from"], run.tags["started_from_sha256"]) == ("made_up_tiny 2", sha256)
        assert run.params["started_from_sha256"] == sha256
        assert "start_from" not in run.params  # the path of a folder would make equal trainings unequal


def test_the_record_has_every_patient_that_the_weights_have_seen(root, started, tmp_path):
    """Also of what they began from, and of what that began from."""
    own = ["patient-alpha-0", "patient-beta-0"]
    for name in started:
        assert read_json(root / name / "training.json")["seen"] == {"patients": own, "unknown": ["made_up_tiny 2"]}

    make_pairs(tmp_path / "pairs", 1, (("delta", "train"), ("epsilon", "test")), (Task.PET_SYNTHESIS,))
    config = settings(root, start_from=str(root / "unified"), calibration_slices=0)
    train(tmp_path / "pairs", "pet-synthesis", tmp_path / "next", config)
    seen = read_json(tmp_path / "next" / "training.json")["seen"]
    assert seen == {"patients": [*own, "patient-delta-0"], "unknown": ["made_up_tiny 2"]}


def test_a_start_that_has_seen_test_patients_is_refused_before_the_training(root, started, tmp_path):
    make_pairs(tmp_path / "pairs", 2, (("beta", "train"), ("alpha", "test")), (Task.PET_SYNTHESIS,))
    source = f"runs:/{started['unified'].run_id}/checkpoint"  # the list is kept with the registered weights
    with pytest.raises(DataRejected, match=r"1 of 2 test patients were in train or validation of mira_net .*previous"):
        train(tmp_path / "pairs", "pet-synthesis", tmp_path / "out", settings(root, start_from=source))
    assert not (tmp_path / "out").exists()


ATTRIBUTED = """
Some words.

## Data

| data set | licence | attribution |
|---|---|---|
| Phantoms (made up) | CC BY 4.0 | A. Maker, 2020 |

### Doubts

None.

## Training

A long one.
"""


def test_licence_and_attribution_of_the_start_go_with_every_copy(root, tmp_path):
    """Also with a copy of a copy, which finds them in MLflow."""
    folder = release(tmp_path / "attributed")
    card = folder / released.CARD
    card.write_text(card.read_text().replace("license: none", "license: CC BY, goes with every copy") + ATTRIBUTED)
    one = settings(root, start_from=str(folder), calibration_slices=0)
    first = train(root / "pairs", "pet-synthesis", tmp_path / "first", one)
    notice = (tmp_path / "first" / "STARTED_FROM.md").read_text()
    assert notice.startswith("### made_up_tiny 2\n\nLicence: CC BY, goes with every copy\n\n| data set | licence |")
    assert "| Phantoms (made up) | CC BY 4.0 | A. Maker, 2020 |" in notice
    assert "###### Doubts" in notice  # below the heading of its weights
    assert "A long one" not in notice
    two = settings(root, start_from=f"runs:/{first.run_id}/checkpoint", calibration_slices=0)
    train(root / "pairs", "pet-synthesis", tmp_path / "second", two)
    assert (tmp_path / "second" / "STARTED_FROM.md").read_text() == notice


def test_all_of_a_card_without_a_section_about_data_goes_with_the_copy(root, started):
    assert (root / "unified" / "STARTED_FROM.md").read_text() == "### made_up_tiny 2\n\nLicence: none\n\n#### Made up\n"


def test_an_error_head_that_is_missing_begins_fresh_and_that_is_said(root, tmp_path, capsys):
    folder = release(tmp_path / "bare", error_map=False)
    summary = train(root / "pairs", "pet-synthesis", tmp_path / "out", settings(root, start_from=str(folder)))
    said = capsys.readouterr().out
    assert "train pet-synthesis: starts from made_up_tiny 2" in said
    assert "the error head is new, since it has none" in said
    assert "error_head.down.weight" in read_weights(tmp_path / "out")
    assert summary.started_from == "made_up_tiny 2"


def test_an_error_head_that_is_not_wanted_is_left_out_and_that_is_said(root, tmp_path, capsys):
    config = settings(root, start_from="released", error_map=False)
    train(root / "pairs", "pet-synthesis", tmp_path / "out", config)
    assert "its error head is left out, since error_map is off" in capsys.readouterr().out
    assert not [name for name in read_weights(tmp_path / "out") if name.startswith("error_head")]


def test_a_killed_training_goes_on_and_other_weights_begin_another(root, tmp_path, monkeypatch):
    from components.tracking import Run

    def die(self, path, folder=""):
        raise ConnectionError("power cut")

    folder = release(tmp_path / "own", seed=6)
    config = settings(root, start_from=str(folder), work_dir=str(tmp_path / "work"))
    whole = settings(root, start_from=str(folder))
    train(root / "pairs", "pet-synthesis", tmp_path / "whole", whole)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "file", die)
        with pytest.raises(ConnectionError):
            train(root / "pairs", "pet-synthesis", tmp_path / "out", config)
        first = {path.name for path in (tmp_path / "work").iterdir()}
        release(folder, seed=7)  # other weights in the same folder
        with pytest.raises(ConnectionError):
            train(root / "pairs", "pet-synthesis", tmp_path / "out", config)
    assert len(first) == 1
    assert len(list((tmp_path / "work").iterdir())) == 2
    release(folder, seed=6)
    train(root / "pairs", "pet-synthesis", tmp_path / "out", config)
    assert read_json(tmp_path / "out" / "training.json")["resumed_at_step"] == 2
    assert hash_file(tmp_path / "out" / "model.safetensors") == hash_file(tmp_path / "whole" / "model.safetensors")


@pytest.mark.parametrize("size", sorted(path.name for path in Path(released.__file__).parent.glob("released/*")))
def test_the_weights_that_come_with_the_project_fit_the_training_of_today(monkeypatch, size):
    monkeypatch.setattr(released, "ROOT", Path(released.__file__).parent / released.RELEASED)
    begun = find_start("released", size, "")
    begun.check(size_config(size))
    assert begun.network(size_config(size)).keeps_local_mean


def test_weights_that_do_not_fit_say_what_to_do(root, tmp_path):
    small = release(tmp_path / "small", "small")
    before = len(client_of(root).search_runs(["1"]))
    with pytest.raises(ConfigurationError, match=r"do not fit this training: size small instead of tiny, .*Set size: "):
        train(root / "pairs", "unified", tmp_path / "out", settings(root, start_from=str(small)))
    with pytest.raises(ConfigurationError, match="no released weights of size base"):
        train(root / "pairs", "unified", tmp_path / "out", settings(root, start_from="released", size="base"))
    (tmp_path / "torn").mkdir()
    with pytest.raises(DataRejected, match="not a checkpoint"):
        train(root / "pairs", "unified", tmp_path / "out", settings(root, start_from=str(tmp_path / "torn")))
    with pytest.raises(ConfigurationError, match=r"other weights .* than start_sha256 says"):
        config = settings(root, start_from="released", start_sha256="0" * 64)
        train(root / "pairs", "unified", tmp_path / "out", config)
    assert not (tmp_path / "out").exists()
    assert len(client_of(root).search_runs(["1"])) == before  # refused before there is a run


def test_weights_that_are_no_safetensors_are_never_unpickled(root, tmp_path):
    folder = release(tmp_path / "pickled")
    (folder / released.CARD).unlink()
    torch.save({"stem.weight": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(DataRejected, match="cannot be read"):
        find_start(str(folder), "tiny", "")


def test_a_registered_version_by_number_alias_and_run(root, started):
    client = client_of(root)
    source = f"runs:/{started['unified'].run_id}/checkpoint"
    client.create_registered_model("mira_net")
    version = client.create_model_version("mira_net", source, started["unified"].run_id).version
    client.set_registered_model_alias("mira_net", "champion", version)
    uri = f"sqlite:///{root / 'mlflow.db'}"
    sha256 = hash_file(root / "unified" / "model.safetensors")
    for address, label in (
        (f"models:/mira_net/{version}", f"mira_net {version}"),
        ("models:/mira_net@champion", f"mira_net {version}"),
        (source, f"mira_net {sha256[:12]}"),
    ):
        start = find_start(address, "tiny", uri)
        assert (start.origin.label, start.origin.sha256, start.origin.network) == (label, sha256, "unified")
        assert pinned(address, "tiny", uri) == {"start_from": address, "start_sha256": sha256}
    for wrong, words in (
        ("models:/mira_net/99", "MLflow has no models:/mira_net/99"),
        ("models:/mira_net@nobody", "MLflow has no models:/mira_net@nobody"),
        ("models:/mira_net", "is no address of a registered version"),
        (f"runs:/{'0' * 32}/checkpoint", "MLflow has no runs:/0000"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            find_start(wrong, "tiny", uri)


def test_what_a_pipeline_gets_names_the_very_weights(root, tmp_path, monkeypatch):
    sha256 = hash_file(root / "released" / "tiny" / "model.safetensors")
    assert pinned("", "tiny", "") == {"start_from": "", "start_sha256": ""}
    assert pinned("released", "tiny", "") == {"start_from": "released", "start_sha256": sha256}
    release(tmp_path / "own", seed=8)
    monkeypatch.chdir(tmp_path)
    own = pinned("own", "tiny", "")
    assert own == {
        "start_from": str(tmp_path / "own"),
        "start_sha256": hash_file(tmp_path / "own" / "model.safetensors"),
    }
    with pytest.raises(ConfigurationError, match="no released weights of size small"):
        pinned("released", "small", "")


@pytest.mark.slow
def test_processes_that_train_together_begin_from_the_same_weights(root, tmp_path):
    """torchrun with two gloo processes takes the steps of one process, from the same start."""
    folder = release(tmp_path / "own", seed=9)
    shared = {**QUICK, "start_from": str(folder), "tracking_uri": f"sqlite:///{root / 'mlflow.db'}"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"train": shared}))
    words = ["--pairs", str(root / "pairs"), "--network", "pet-synthesis", "--config", str(tmp_path / "params.yaml")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-m", "components.train", *words, "--out", str(tmp_path / "together")],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    train(root / "pairs", "pet-synthesis", tmp_path / "alone", TrainConfig(**shared))
    together, alone = (read_json(tmp_path / name / "training.json") for name in ("together", "alone"))
    assert together["started_from"] == alone["started_from"]
    assert together["started_from"]["sha256"] == hash_file(folder / "model.safetensors")
    assert together["loss"] == pytest.approx(alone["loss"], rel=1e-4)
    start, one, two = (read_weights(path) for path in (folder, tmp_path / "alone", tmp_path / "together"))
    # the optimiser's first steps are signs: a gradient near nothing may leave one weight elsewhere
    steps, apart = ([float((a - b[name]).norm()) for name, a in one.items()] for b in (start, two))
    assert math.hypot(*apart) < 0.01 * math.hypot(*steps)
