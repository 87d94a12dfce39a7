from types import SimpleNamespace

import pytest
import yaml

from components.command import load_config
from components.train.search import SearchConfig, search
from components.train.step import TrainConfig
from mira.errors import ConfigurationError, DataRejected
from mira.pairs import write_index
from mira.tasks import Task
from model.callbacks import Diverged
from tests.components.made_up import make_pairs
from tests.components.test_train import QUICK, SITES

pytest.importorskip("optuna", reason="the search extra is not installed")


def config(tmp_path, **changes):
    train = {**QUICK, "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db", "rounds": 1}
    train.pop("steps_per_task")
    return SearchConfig(**{"trials": 2, "steps_per_task": 4, "patch_size": [32], "train": train, **changes})


def made_up_trials(monkeypatch):
    """Trials whose gain grows with the learning rate, instead of trainings; the list holds what they were given."""
    tried = []

    def train(pairs, network, out, chosen):
        tried.append(chosen)
        return SimpleNamespace(gain_db={"ct-denoising": chosen.learning_rate}, run_id="0")

    monkeypatch.setattr("components.train.search.train", train)
    return tried


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


def test_trials_after_a_cut_are_new_ones(tmp_path, monkeypatch):
    """A search of six trials that was cut off after three does not train the first three again."""
    tried = made_up_trials(monkeypatch)
    make_pairs(tmp_path / "pairs", patients=1, sites=SITES, tasks=(Task.CT_DENOISING,))
    for trials in (3, 6):
        wanted = config(tmp_path).model_copy(update={"trials": trials})
        found = search(tmp_path / "pairs", "ct-denoising", tmp_path / "search", wanted)
    assert found.trials == len(tried) == 6
    assert len({chosen.learning_rate for chosen in tried}) == 6


def test_a_diverged_trial_does_not_end_the_search(tmp_path, monkeypatch):
    make_pairs(tmp_path / "pairs", patients=1, sites=SITES, tasks=(Task.CT_DENOISING,))
    tried = []

    def train(pairs, network, out, chosen):
        tried.append(chosen.learning_rate)
        if len(tried) != 2:
            raise Diverged("no finite number any more")
        return SimpleNamespace(gain_db={"ct-denoising": 1.0}, run_id="0")

    monkeypatch.setattr("components.train.search.train", train)
    found = search(tmp_path / "pairs", "ct-denoising", tmp_path / "search", config(tmp_path, trials=3))
    assert (found.trials, len(set(tried))) == (3, 3)
    assert found.best["learning_rate"] == tried[1]
    tried.extend([0.0, 0.0])
    with pytest.raises(ConfigurationError, match="Every trial of the search diverged"):
        search(tmp_path / "pairs", "ct-denoising", tmp_path / "another", config(tmp_path, trials=2))


def test_other_pairs_parameters_or_ranges_are_another_study(tmp_path, monkeypatch):
    tried = made_up_trials(monkeypatch)
    out = tmp_path / "search"
    index = make_pairs(tmp_path / "pairs", patients=1, sites=SITES, tasks=(Task.CT_DENOISING,))
    first = config(tmp_path)
    others = [
        first.model_copy(update={"train": {**first.train, "size": "small"}}),
        first.model_copy(update={"train": {**first.train, "weight_decay": 0.1}}),
        first.model_copy(update={"learning_rate": (1e-4, 1e-3)}),
        first.model_copy(update={"steps_per_task": 8}),
    ]
    for number, wanted in enumerate([first, *others], start=1):
        assert search(tmp_path / "pairs", "ct-denoising", out, wanted).trials == 2
        assert len(tried) == 2 * number
    (tmp_path / "new").mkdir()
    write_index(tmp_path / "new", index.model_copy(update={"data_version": "fedcba9876543210"}))
    search(tmp_path / "new", "ct-denoising", out, first)
    assert len(tried) == 12
    # what weights do not depend on, and more trials, stay in the study
    same = first.model_copy(update={"train": {**first.train, "threads": 1, "run_name": "r"}, "seed": 9, "trials": 3})
    assert search(tmp_path / "pairs", "ct-denoising", out, same).trials == 3
    assert len(tried) == 13


def test_without_validation_pairs_there_is_nothing_to_compare(tmp_path):
    make_pairs(tmp_path / "pairs", patients=1, sites=(("alpha", "train"), ("gamma", "local")))
    with pytest.raises(DataRejected, match="no validation pairs"):
        search(tmp_path / "pairs", "ct-denoising", tmp_path / "search", config(tmp_path))
