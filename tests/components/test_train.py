import csv
import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from components.command import load_config
from components.tracking import Run, prepare, resolve
from components.train import pairs, unfinished
from components.train.pairs import check_leaks, load, tasks_of
from components.train.step import TrainConfig, train
from components.train.unfinished import digest_of_sources
from mira.errors import ConfigurationError, DataRejected
from mira.pairs import check_neighbours, read_index, write_index
from mira.storage import hash_file, read_json
from mira.tasks import Task
from mira.volume import Volume, write_nifti
from model.checkpoint import load_restorer
from tests.components.made_up import make_pairs

SITES = (("alpha", "train"), ("beta", "validation"), ("delta", "test"), ("gamma", "local"))
QUICK = {"steps_per_task": 6, "batch_size": 2, "patch_size": 32, "rounds": 2, "log_every": 2, "validation_slices": 1}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("store") / "pairs"
    make_pairs(root, patients=1, sites=SITES)
    return root


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    """A database that two processes made at the same time: its address, and the run of each."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('tracking')}/new/mlflow.db"
    code = f"from components.tracking import Run; print(Run({uri!r}, 'mira-net', 'r', {{}}).run_id)"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    runs = {process.communicate()[0].split()[-1] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    return uri, runs


@pytest.fixture(scope="module")
def tracking(raced):
    return raced[0]


@pytest.fixture(scope="module")
def unified(store, tracking, tmp_path_factory):
    out = tmp_path_factory.mktemp("networks") / "unified"
    return out, train(store, "unified", out, TrainConfig(tracking_uri=tracking, **QUICK))


def client_of(tracking):
    import mlflow

    return mlflow.MlflowClient(tracking_uri=tracking)


def test_the_checkpoint_folder_is_complete(unified):
    out, summary = unified
    config, training = read_json(out / "config.json"), read_json(out / "training.json")
    assert config["network"] == "unified"
    assert config["tasks"] == [task.value for task in Task]
    assert training["weights_sha256"] == hash_file(out / "model.safetensors")
    assert training["run_id"] == summary.run_id
    assert training["data_version"] == config["data_version"] == summary.data_version == "0123456789abcdef"
    assert set(summary.gain_db) == {task.value for task in Task}
    with (out / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in rows if row["loss"]] == list(range(2, 19, 2))
    assert [int(row["step"]) for row in rows if row["gain_db/ct-denoising"]] == [9, 18]
    assert not [path for path in out.parent.rglob("*") if "unfinished" in path.name]


def test_every_task_has_the_same_budget_alone_and_together(unified, store, tracking, tmp_path):
    single = train(store, "pet-synthesis", tmp_path / "pet", TrainConfig(tracking_uri=tracking, **QUICK))
    assert unified[1].steps == 3 * single.steps == 18
    assert unified[1].patches_per_task == single.patches_per_task == 12
    assert read_json(tmp_path / "pet" / "config.json")["tasks"] == ["pet-synthesis"]


def test_the_run_has_parameters_curves_pictures_environment_and_versions(unified, tracking):
    client, run_id = client_of(tracking), unified[1].run_id
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["steps_per_task"] == "6"
    assert run.data.params["torch"]
    assert run.data.tags["data_version"] == "0123456789abcdef"
    assert run.data.tags["code_version"]
    assert [metric.step for metric in client.get_metric_history(run_id, "loss")] == list(range(2, 19, 2))
    assert {"psnr/ct-denoising", "input_psnr/ct-denoising", "gain_db/ct-denoising"} <= set(run.data.metrics)
    names = {
        a.path for folder in ("", "samples", "checkpoint", "environment") for a in client.list_artifacts(run_id, folder)
    }
    assert {f"samples/{task}.png" for task in Task} <= names
    assert {"history.csv", "checkpoint/model.safetensors", "environment/packages.txt"} <= names


def test_the_same_again_gives_the_same_weights(unified, store, tracking, tmp_path):
    again = train(store, "unified", tmp_path / "again", TrainConfig(tracking_uri=tracking, **QUICK))
    assert hash_file(tmp_path / "again" / "model.safetensors") == hash_file(unified[0] / "model.safetensors")
    assert again.run_id != unified[1].run_id


def test_a_killed_training_goes_on_in_the_same_run(unified, store, tracking, tmp_path, monkeypatch):
    config = TrainConfig(tracking_uri=tracking, work_dir=str(tmp_path / "work"), **QUICK)

    def die(self, path, folder=""):
        raise ConnectionError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "file", die)
        with pytest.raises(ConnectionError):
            train(store, "unified", tmp_path / "out", config)
    assert not (tmp_path / "out").exists()
    (note,) = (tmp_path / "work").glob("*/run.json")
    killed = read_json(note)["run_id"]
    assert client_of(tracking).get_run(killed).info.status == "FAILED"
    summary = train(store, "unified", tmp_path / "out", config)
    assert summary.run_id == killed
    assert client_of(tracking).get_run(killed).info.status == "FINISHED"
    assert read_json(tmp_path / "out" / "training.json")["resumed_at_step"] == 18
    assert hash_file(tmp_path / "out" / "model.safetensors") == hash_file(unified[0] / "model.safetensors")
    assert not list((tmp_path / "work").iterdir())


def test_a_training_that_other_code_began_is_not_gone_on_with(unified, store, tracking, tmp_path, monkeypatch, capsys):
    config = TrainConfig(tracking_uri=tracking, work_dir=str(tmp_path / "work"), **QUICK)

    def die(self, path, folder=""):
        raise ConnectionError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(unfinished, "digest_of_sources", lambda folder: "01dc0de0")
        patch.setattr(Run, "file", die)
        with pytest.raises(ConnectionError):
            train(store, "unified", tmp_path / "out", config)
    (note,) = (tmp_path / "work").glob("*/run.json")
    assert "begins anew" not in capsys.readouterr().out
    summary = train(store, "unified", tmp_path / "out", config)
    assert f"train unified: begins anew: {note.parent} holds" in capsys.readouterr().out
    assert summary.run_id != read_json(note)["run_id"]
    assert read_json(tmp_path / "out" / "training.json")["resumed_at_step"] == 0
    assert list((tmp_path / "work").iterdir()) == [note.parent]


def test_the_digest_of_sources_is_that_of_code_alone(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    before = digest_of_sources(tmp_path)
    (tmp_path / "a.pyc").write_text("cache")
    assert digest_of_sources(tmp_path) == before
    (tmp_path / "a.py").write_text("x = 2\n")
    changed = digest_of_sources(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({before, changed, digest_of_sources(tmp_path)}) == 3


def test_a_run_given_by_the_environment_is_used(store, tracking, tmp_path, monkeypatch):
    client = client_of(tracking)
    given = client.create_run(prepare(tracking)).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    config = TrainConfig(tracking_uri=tracking, **{**QUICK, "steps_per_task": 1, "validation_slices": 0})
    assert train(store, "ct-denoising", tmp_path / "ct", config).run_id == given


def changed(store, root, change):
    index = read_index(store)
    root.mkdir()
    write_index(root, index.model_copy(update={"pairs": [change(pair) for pair in index.pairs]}))
    return root


def test_a_patient_in_two_splits_is_refused(store, tmp_path):
    root = changed(store, tmp_path / "leak", lambda pair: pair.model_copy(update={"patient": "same"}))
    with pytest.raises(DataRejected, match="Patient same is in the splits"):
        train(root, "unified", tmp_path / "out", TrainConfig())
    assert not (tmp_path / "out").exists()


def test_a_local_site_in_training_is_refused(store, tmp_path):
    root = changed(store, tmp_path / "leak", lambda pair: pair.model_copy(update={"site": "gamma"}))
    with pytest.raises(DataRejected, match="Site gamma is local"):
        check_leaks(read_index(root))


def strided(pair, split="train", stride=3):
    parameters = {**pair.physics.parameters, "slice_stride": stride if pair.split == split else 1}
    return pair.model_copy(update={"physics": pair.physics.model_copy(update={"parameters": parameters})})


@pytest.mark.parametrize("split", ["train", "validation"])
def test_slices_that_are_no_neighbours_are_refused_for_a_network_that_sees_several(store, tmp_path, split):
    root = changed(store, tmp_path / "strided", lambda pair: strided(pair, split))
    with pytest.raises(
        ConfigurationError, match=r"6 pairs .* \(stride 3\)\. Set pair\.slice_choice: run \(or pair\.max_sl"
    ):
        train(root, "unified", tmp_path / "out", TrainConfig(slices=3))
    with pytest.raises(ConfigurationError, match="Give an odd number"):
        train(root, "unified", tmp_path / "out", TrainConfig(slices=2))
    assert [path.name for path in tmp_path.iterdir()] == ["strided"]
    check_neighbours(read_index(root).pairs, 1)
    check_neighbours(read_index(changed(store, tmp_path / "test", lambda pair: strided(pair, "x"))).pairs, 3)


def test_a_network_that_sees_neighbours_is_trained_and_kept_as_one(store, tracking, tmp_path):
    config = TrainConfig(tracking_uri=tracking, slices=3, run_name="three", **QUICK)
    summary = train(store, "ct-denoising", tmp_path / "ct", config)
    assert read_json(tmp_path / "ct" / "config.json")["model"]["slices"] == 3
    assert client_of(tracking).get_run(summary.run_id).data.params["slices"] == "3"
    assert set(summary.gain_db) == {"ct-denoising"}
    restorer, _ = load_restorer(tmp_path / "ct")
    assert restorer.network.stem.weight[:, 2:].any()
    with pytest.raises(ConfigurationError, match="slices 3 instead of 1"):
        train(store, "ct-denoising", tmp_path / "other", TrainConfig(start_from=str(tmp_path / "ct")))


def test_validation_slices_know_their_case(store):
    records = read_index(store).select("validation")
    assert [volume.case for volume in load(store, records)] == [record.case_id for record in records]


@pytest.mark.parametrize("limit", [0, pairs.MEMORY_LIMIT_BYTES])
def test_one_voxel_that_is_no_number_is_refused_in_memory_and_mapped(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(pairs, "MEMORY_LIMIT_BYTES", limit)
    index = make_pairs(tmp_path, patients=1, sites=(("alpha", "train"),), tasks=(Task.PET_SYNTHESIS,))
    degraded = load(tmp_path, index.pairs)[1].degraded
    assert degraded.flags.owndata == (limit > 0)
    broken = tmp_path / index.pairs[1].degraded
    voxels = np.array(degraded)
    voxels[-1, 3, 5] = np.nan
    write_nifti(broken, Volume(voxels, np.eye(4)))
    with pytest.raises(DataRejected, match=f"{index.pairs[1].pair_id} .*{broken.name}.* Delete its folder"):
        load(tmp_path, index.pairs)


def test_a_training_that_diverges_says_what_to_do(store, tracking, tmp_path):
    config = TrainConfig(tracking_uri=tracking, learning_rate=1e30, run_name="diverged", **QUICK)
    with pytest.raises(ConfigurationError, match=r"diverged.* Lower train\.learning_rate"):
        train(store, "ct-denoising", tmp_path / "out", config)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("last.ckpt"))


def test_networks_and_tasks(store, tmp_path):
    index = read_index(store)
    assert tasks_of("unified", index) == tuple(Task)
    only_pet = index.model_copy(update={"pairs": index.select("train", task=Task.PET_SYNTHESIS)})
    assert tasks_of("unified", only_pet) == (Task.PET_SYNTHESIS,)
    with pytest.raises(DataRejected, match="no training pairs for ct-denoising"):
        tasks_of("ct-denoising", only_pet)
    with pytest.raises(ConfigurationError, match="Use one of: unified, ct-denoising"):
        tasks_of("ct", index)
    with pytest.raises(DataRejected, match="Run the pair step first"):
        train(tmp_path, "unified", tmp_path / "out", TrainConfig())


def test_the_command_line_explains_itself_and_maps_errors(tmp_path):
    call = [sys.executable, "-m", "components.train"]
    told = subprocess.run([*call, "--help"], capture_output=True, text=True, check=True).stdout
    assert "--network" in told
    assert "steps_per_task" in told
    refused = subprocess.run(
        [*call, "--pairs", str(tmp_path), "--network", "unified", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 3
    assert "holds no pairs.json" in refused.stderr


def test_parameters_of_the_repository_are_valid(tmp_path):
    load_config(TrainConfig, Path(__file__).resolve().parents[2] / "params.yaml", "train")
    (tmp_path / "p.yaml").write_text("train: {steps: 3}\n")
    with pytest.raises(ConfigurationError, match="steps"):
        load_config(TrainConfig, tmp_path / "p.yaml", "train")


def test_two_processes_may_make_the_database_at_once(raced):
    uri, runs = raced
    path = Path(uri.removeprefix("sqlite:///"))
    with sqlite3.connect(path) as database:
        assert runs <= {row[0] for row in database.execute("select run_uuid from runs")}
        places = database.execute("select artifact_location from experiments where name='mira-net'").fetchall()
    assert len(runs) == 2
    assert places == [((path.parent / "mlartifacts").as_uri(),)]


def test_tracking_addresses(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert resolve("") == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert resolve("") == "http://mlflow:5000"
    assert resolve("sqlite:////a/b.db") == "sqlite:////a/b.db"
    assert json.dumps(TrainConfig().model_dump(mode="json"))
