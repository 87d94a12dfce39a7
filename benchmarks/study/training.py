"""Training every network of the study with one budget, several at a time; finished ones are kept."""

import hashlib
import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from components.train.unfinished import digest_of_sources
from mira.pairs import check_neighbours, read_index
from mira.storage import atomic_folder, read_json, write_json
from mira.tasks import Task

if TYPE_CHECKING:
    from model.training import Settings

ALL = "unified"


@dataclass(frozen=True)
class Budget:
    """What every network gets: the same steps for each task it learns, and the same patches.

    Attributes:
        steps_per_task: optimiser steps for each task.
        batch_size: patches in a step.
        patch_size: rows and columns of a patch.
        learning_rate: peak learning rate of AdamW; the same for all networks but those that name their own.
        seed: seed of weights and patches.
    """

    steps_per_task: int
    batch_size: int = 4
    patch_size: int = 64
    learning_rate: float = 4e-3
    seed: int = 1


@dataclass(frozen=True)
class Training:
    """One network of the study.

    Attributes:
        architecture: name that `model.baselines.named_network` knows, or NAME@RATE for a peak learning rate of its own,
            since what suits MIRA-Net need not suit its rivals.
        learns: `unified`, or a task.
    """

    architecture: str
    learns: str

    @property
    def network(self) -> str:
        """The architecture without its learning rate."""
        return self.architecture.partition("@")[0]

    def learning_rate(self, budget: Budget) -> float:
        """Its own peak learning rate, or that of the budget."""
        own = self.architecture.partition("@")[2]
        return float(own) if own else budget.learning_rate

    @property
    def name(self) -> str:
        """Name within the study, unique for a budget."""
        return f"{self.architecture}:{self.learns}"


@dataclass(frozen=True)
class Finished:
    """A trained network.

    Attributes:
        training: what was trained.
        folder: where its weights are.
        seconds: how long it took, on one core beside the others.
        steps: optimiser steps.
    """

    training: Training
    folder: Path
    seconds: float
    steps: int


def train_all(
    pairs: Path, trainings: Sequence[Training], budget: Budget, work: Path, workers: int
) -> Iterator[Finished]:
    """Train what is not there yet; a killed study goes on where it was.

    Args:
        pairs: pair store.
        trainings: networks.
        budget: the budget of each.
        work: where networks are kept; folders are named by all that they depend on.
        workers: networks at once, one core each.
    """
    from components.train.pairs import tasks_of

    index = read_index(pairs)
    waiting = []
    for training in trainings:
        settings = _settings(training, budget, len(tasks_of(training.learns, index)))
        folder = work / _key(training, settings, index.data_version)
        if (folder / "finished.json").is_file():
            yield _finished(training, folder)
        else:
            waiting.append((training, settings, folder))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = {pool.submit(_train, pairs, t, own, folder): (t, folder) for t, own, folder in waiting}
        for future in as_completed(futures):
            future.result()
            yield _finished(*futures[future])


def _key(training: Training, settings: "Settings", data_version: str) -> str:
    """Name of a network's folder: the code, every setting, the pairs, and MONAI's version where it comes from there."""
    import model

    monai = version("monai") if training.network == "restormer" else ""
    source = digest_of_sources(Path(str(model.__file__)).parent)
    facts = json.dumps([asdict(training), asdict(settings), data_version, source, monai], sort_keys=True)
    return f"{training.architecture}-{training.learns}-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"


def _finished(training: Training, folder: Path) -> Finished:
    facts = read_json(folder / "finished.json")
    return Finished(training, folder, facts["seconds"], facts["steps"])


def _settings(training: Training, budget: Budget, tasks: int) -> "Settings":
    """All settings of a training; those that the budget does not name are the train step's defaults."""
    from model.training import Settings

    steps = budget.steps_per_task * tasks
    return Settings(
        size=training.network,
        total_steps=steps,
        batch_size=budget.batch_size,
        patch_size=budget.patch_size,
        learning_rate=training.learning_rate(budget),
        weight_decay=1e-3,
        warmup_share=0.05,
        ema_decay=0.99,
        gradient_clip=1.0,
        indicator_weight=0.1,
        clean_share=0.05,
        seed=budget.seed,
        rounds=8,
        log_every=steps,
        accelerator="cpu",
        precision="32-true",
        workers=0,
    )


def _train(pairs: Path, training: Training, settings: "Settings", folder: Path) -> None:
    """Train one network in this process, on one core."""
    import torch
    from safetensors.torch import save_file

    from components.train.pairs import check_leaks, load, tasks_of
    from model.baselines import named_network
    from model.training import fit

    torch.set_num_threads(1)
    index = read_index(pairs)
    check_leaks(index)
    tasks = tasks_of(training.learns, index)
    records = [pair for task in tasks for pair in index.select("train", task=task)]
    check_neighbours(records, named_network(training.network).slices)
    volumes = load(pairs, records)
    partial = folder.with_name(f"{folder.name}.partial")  # not with_suffix: a rate in the name has a point of its own
    partial.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    trained = fit(volumes, [], settings, partial, network=lambda: named_network(training.network))
    with atomic_folder(folder) as new:
        weights = {key: value.detach().contiguous() for key, value in trained.network.state_dict().items()}
        save_file(weights, new / "model.safetensors")
        write_json(new / "finished.json", {"seconds": time.monotonic() - begin, "steps": settings.total_steps})


def plan(tasks: Sequence[Task], rivals: Sequence[str], size: str = "tiny") -> list[Training]:
    """All trainings of the study: single-task networks and rivals per task, the unified one and its ablations."""
    singles = [Training(name, task.value) for name in (size, *rivals) for task in tasks]
    unified = [Training(name, ALL) for name in (size, f"{size}-unguided", f"{size}-label")]
    return [*unified, *singles]
