"""Hyper-parameter search: trainings with other learning rates, batches and patches, by Optuna, each a run in MLflow.

`python -m components.train.search --pairs data/pairs --network unified --out runs/search --config params.yaml`
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import Field

from components.command import announce, configure, main
from components.train.step import TrainConfig, train
from components.train.unfinished import NEUTRAL
from mira.cases import Record
from mira.errors import ConfigurationError, DataRejected
from mira.pairs import read_index
from mira.storage import write_text

if TYPE_CHECKING:
    import optuna

STUDY_FILE = "optuna.db"
BEST_FILE = "best.yaml"
OPEN = {"trials", "seed", "train"}  # may change within a study; `train` counts as the parameters that it gives


class SearchConfig(Record):
    """Parameters of the search, section `search`; the section `train` gives all that is not searched."""

    trials: int = Field(
        20, ge=1, description="trainings in all, diverged ones too; a search that was cut off goes on to this number"
    )
    steps_per_task: int = Field(300, ge=1, description="optimiser steps for each task in a trial")
    learning_rate: tuple[float, float] = Field((1e-3, 1e-2), description="smallest and largest peak learning rate")
    batch_size: list[int] = Field([2, 4, 8], description="batch sizes to choose from, at equal numbers of patches")
    patch_size: list[int] = Field([48, 64, 96], description="patch sizes to choose from")
    ema_decay: list[float] = Field([0.98, 0.99, 0.995], description="decays of the averaged weights to choose from")
    seed: int = Field(1, ge=0, description="seed of the search")
    train: dict[str, object] = Field(default_factory=dict, description="parameters of the train step for all trials")


class SearchSummary(Record):
    """What a search found.

    Attributes:
        trials: finished trials, those that diverged among them.
        gain_db: mean over tasks of the validation gain in the best one.
        best: its parameters; also in best.yaml, as a section `train` for `--config`.
    """

    trials: int
    gain_db: float
    best: dict[str, float | int]


def search(pairs: Path, network: str, out: Path, config: SearchConfig) -> SearchSummary:
    """Search for the parameters with the highest mean validation gain at a fixed number of training patches.

    A larger batch takes fewer steps, so that every trial sees as many patches as `steps_per_task` batches of the
    train step's own size. A search that is started again goes on with its study; other pairs, parameters or ranges
    begin a study of their own in the same database.

    Args:
        pairs: root of the pair store.
        network: `unified`, or a task.
        out: folder for the database of studies, a folder per study with its trials' checkpoints, and best.yaml.
        config: parameters.

    Raises:
        ConfigurationError: when Optuna is not installed, a parameter cannot be used, or every trial diverged.
        DataRejected: when there are no pairs, or no validation pairs to compare by.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigurationError("The search needs Optuna: pip install 'mira-net[search]'.") from error
    from model.callbacks import Diverged

    base = configure(TrainConfig, config.train, "search, train")
    patches = config.steps_per_task * base.batch_size
    out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    finished = [optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED]  # pruned: it diverged
    name = study_name(read_index(pairs).data_version, network, base, config)
    study = optuna.create_study(
        study_name=name,
        storage=f"sqlite:///{(out / STUDY_FILE).absolute()}",
        direction="maximize",
        load_if_exists=True,
    )
    known = len(study.get_trials(states=finished))
    # the same seed would draw the same trials again, those that were cut off included
    study.sampler = optuna.samplers.TPESampler(seed=config.seed + len(study.trials))

    def objective(trial: "optuna.Trial") -> float:
        batch_size = trial.suggest_categorical("batch_size", config.batch_size)
        chosen = base.model_copy(
            update={
                "learning_rate": trial.suggest_float("learning_rate", *config.learning_rate, log=True),
                "batch_size": batch_size,
                "patch_size": trial.suggest_categorical("patch_size", config.patch_size),
                "ema_decay": trial.suggest_categorical("ema_decay", config.ema_decay),
                "steps_per_task": max(1, patches // batch_size),
                "run_name": f"search-{network}-{trial.number}",
            }
        )
        try:
            summary = train(pairs, network, out / name / f"trial-{trial.number}", chosen)
        except Diverged as error:
            announce(f"trial {trial.number}: diverged at a learning rate of {chosen.learning_rate:.2g}")
            raise optuna.TrialPruned from error
        if not summary.gain_db:
            raise DataRejected("There are no validation pairs, so trials cannot be compared. Raise validation_share.")
        trial.set_user_attr("mlflow_run", summary.run_id)
        gain = sum(summary.gain_db.values()) / len(summary.gain_db)
        announce(f"trial {trial.number}: {gain:+.2f} dB")
        return gain

    announce(f"study {name}: {known} of {config.trials} trials are there")
    study.optimize(objective, n_trials=max(0, config.trials - known))
    if not study.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
        raise ConfigurationError("Every trial of the search diverged. Lower both bounds of search.learning_rate.")
    best = dict(study.best_trial.params)
    write_text(out / BEST_FILE, yaml.safe_dump({"train": best}, sort_keys=True))
    return SearchSummary(trials=len(study.get_trials(states=finished)), gain_db=study.best_value, best=best)


def study_name(data_version: str, network: str, base: TrainConfig, config: SearchConfig) -> str:
    """Name of the study of all that its trials have in common: network, pairs, parameters and ranges."""
    parameters = base.model_dump(mode="json", exclude=NEUTRAL)
    facts = [data_version, parameters, config.model_dump(mode="json", exclude=OPEN)]
    return f"{network}-{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]}"


def _call(pairs: Path, network: Path, out: Path, config: SearchConfig) -> SearchSummary:
    return search(pairs, str(network), out, config)


if __name__ == "__main__":
    sys.exit(
        main("search", SearchConfig, ["pairs", "network", "out"], _call, "Search for training parameters by Optuna.")
    )
