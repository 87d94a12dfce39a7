import pytest
import yaml

from components.command import load_config
from components.train.search import SearchConfig, search
from components.train.step import TrainConfig
from mira.errors import DataRejected
from tests.components.made_up import make_pairs
from tests.components.test_train import QUICK, SITES

pytest.importorskip("optuna", reason="the search extra is not installed")


def config(tmp_path, **changes):
    train = {**QUICK, "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db", "rounds": 1}
    train.pop("steps_per_task")
    return SearchConfig(trials=2, steps_per_task=4, patch_size=[32], train=train, **changes)


def test_a_search_keeps_its_trials_and_goes_on(tmp_path):
    make_pairs(tmp_path / "pairs", patients=1, sites=SITES)
    out = tmp_path / "search"
    first = search(tmp_path / "pairs", "ct-denoising", out, config(tmp_path))
    assert first.trials == 2
    assert {"learning_rate", "batch_size", "patch_size", "ema_decay"} == set(first.best)
    again = search(tmp_path / "pairs", "ct-denoising", out, config(tmp_path))
    assert again == first  # both trials were there
    more = search(tmp_path / "pairs", "ct-denoising", out, config(tmp_path).model_copy(update={"trials": 3}))
    assert more.trials == 3
    assert more.gain_db >= first.gain_db
    assert load_config(TrainConfig, out / "best.yaml", "train").learning_rate == more.best["learning_rate"]
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("mira-net")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {f"search-ct-denoising-{number}" for number in range(3)}
    # a larger batch takes fewer steps: every trial saw the same number of patches
    for run in runs.values():
        batch, steps = (int(run.data.params[name]) for name in ("batch_size", "steps_per_task"))
        assert batch * steps == 4 * QUICK["batch_size"]
    assert yaml.safe_load((out / "best.yaml").read_text())["train"] == more.best


def test_without_validation_pairs_there_is_nothing_to_compare(tmp_path):
    make_pairs(tmp_path / "pairs", patients=1, sites=(("alpha", "train"), ("gamma", "local")))
    with pytest.raises(DataRejected, match="no validation pairs"):
        search(tmp_path / "pairs", "ct-denoising", tmp_path / "search", config(tmp_path))
