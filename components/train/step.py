"""Train: pairs to the weights of one network, with its run in MLflow."""

import csv
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

import mira
from components.command import announce
from components.tracking import Run
from components.train.attribution import NOTICE
from components.train.environment import code_version, machine, packages
from components.train.pairs import check_leaks, load, tasks_of
from components.train.pictures import draw_samples
from components.train.seen import KEY, Seen, refuse_seen, seen_after
from components.train.start import Start, StartedFrom, find_start
from components.train.unfinished import work_folder
from mira.cases import Record
from mira.pairs import Split, check_neighbours, read_index
from mira.storage import atomic_folder, hash_file, read_json, write_json, write_text
from mira.tasks import Task

if TYPE_CHECKING:
    from model.config import ModelConfig
    from model.training import Settings, Trained
    from model.validation import Sample


LEARNT_FROM: tuple[Split, ...] = ("train", "validation")


class TrainConfig(Record):
    """Parameters of the train step."""

    size: Literal["tiny", "small", "base"] = Field("tiny", description="size of the network; tiny is for a CPU")
    start_from: str = Field(
        "",
        description="weights that the training begins from: empty for none, `released` for those that come with the "
        "project, a checkpoint folder, or a checkpoint in MLflow (models:/mira_net/3, models:/mira_net@champion, "
        "runs:/RUN/checkpoint); all networks may begin from one and the same",
    )
    start_sha256: str = Field(
        "", description="SHA-256 that the weights of start_from must have; empty for any; `mira run` fills it in"
    )
    steps_per_task: int = Field(
        1000,
        ge=1,
        description="optimiser steps for each task; the unified network takes this many for every task, so that each "
        "task gets the same number of patches as in its single-task network",
    )
    batch_size: int = Field(4, ge=1, description="patches in an optimiser step")
    patch_size: int = Field(64, ge=32, description="rows and columns of a patch; smaller images are mirrored")
    learning_rate: float = Field(4e-3, gt=0, description="peak learning rate of AdamW")
    weight_decay: float = Field(1e-3, ge=0, description="AdamW's weight decay")
    warmup_share: float = Field(0.05, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    ema_decay: float = Field(0.99, ge=0, lt=1, description="decay per step of the averaged weights that are kept")
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    indicator_weight: float = Field(0.1, ge=0, description="weight of the losses of modality and degradation")
    error_map: bool = Field(
        True, description="whether the network also predicts the error of each pixel; the restoration is the same"
    )
    slices: int = Field(
        1,
        ge=1,
        description="neighbouring slices that the network sees, an odd number: 1 for the slice alone, 3 for those "
        "above and below it as well, which needs pairs of neighbours (pair.slice_choice: run) and cannot be served",
    )
    clean_share: float = Field(0.05, ge=0, le=0.5, description="share of the inputs that are left undegraded")
    seed: int = Field(1, ge=0, description="seed of weights and patches")
    rounds: int = Field(8, ge=1, description="validations, and points to resume from, in a training")
    patience_rounds: int = Field(
        0,
        ge=0,
        description="rounds in a row without a better validation after which the training ends with the best round's "
        "weights; 0 never, which keeps the budgets of unified and single-task networks equal",
    )
    log_every: int = Field(20, ge=1, description="steps between two points of the curves")
    validation_slices: int = Field(4, ge=0, description="validation slices per task")
    calibration_slices: int = Field(
        16, ge=0, description="validation slices per task that the predicted error is calibrated on"
    )
    accelerator: str = Field("auto", description="auto, cpu or gpu")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field("32-true", description="bf16-mixed suits GPUs")
    threads: int = Field(0, ge=0, description="CPU threads; 0 leaves it to torch")
    workers: int = Field(0, ge=0, description="processes that cut patches ahead, for GPUs")
    tracking_uri: str = Field("", description="MLflow; empty: MLFLOW_TRACKING_URI, or mlflow.db in the working folder")
    experiment: str = Field("mira-net", description="MLflow experiment")
    run_name: str = Field("", description="name of the MLflow run; empty: network and size")
    work_dir: str = Field("", description="folder for unfinished trainings; empty: beside the output")


class TrainSummary(Record):
    """What a training gave.

    Attributes:
        network: `unified`, or the task of a single-task network.
        run_id: its MLflow run.
        data_version: the pairs it was trained on.
        steps: optimiser steps.
        patches_per_task: training patches that each task gave.
        parameters: number of weights.
        seconds: duration of this process' part.
        images_per_second: patches per second of this process' part.
        gain_db: PSNR gain over the degraded input per task on the validation slices.
        started_from: name and version of the weights that it began from; empty where it began from scratch.
    """

    network: str
    run_id: str
    data_version: str
    steps: int
    patches_per_task: int
    parameters: int
    seconds: float
    images_per_second: float
    gain_db: dict[str, float]
    started_from: str = ""


def train(pairs: Path, network: str, out: Path, config: TrainConfig) -> TrainSummary:
    """Train one network; a killed training goes on from its last round when it is started again with the same code.

    Equal budgets: a single-task network takes `steps_per_task` optimiser steps, the unified network as many for each
    of its tasks, with batches of the same size in which tasks take turns. Every task is seen by the same number of
    patches in both. With `start_from` these are the steps of this training alone: what the weights learnt before does
    not count, and a single-task network that begins from a unified one has seen the other tasks.

    Started by torchrun (`torchrun --nproc-per-node 2 -m components.train ...`) or by a Kubeflow TrainJob, the processes
    share each batch; the first one writes.

    Args:
        pairs: root of the pair store.
        network: `unified`, or a task.
        out: checkpoint folder to write: model.safetensors, config.json, history.csv, training.json, and STARTED_FROM.md
            with the licence and attribution of weights that it began from.
        config: parameters.

    Raises:
        DataRejected: when there is nothing to train on, a split leaks, the start has seen test or local patients, or a
            volume holds values that are not numbers.
        ConfigurationError: for an unknown network, a device that is not here, weights to start from that are not
            there or do not fit, slices that are no neighbours where the network sees several, or a training that has
            diverged.
        RetryableError: when MLflow is away.
    """
    index = read_index(pairs)
    tasks = tasks_of(network, index)
    check_leaks(index)
    records = {split: [pair for task in tasks for pair in index.select(split, task=task)] for split in LEARNT_FROM}
    shape = _shape(config)
    check_neighbours((pair for split in LEARNT_FROM for pair in records[split]), shape.slices)
    from model.calibration import calibrate
    from model.data import Ranks
    from model.training import fit
    from model.validation import choose_samples

    start = find_start(config.start_from, config.size, config.tracking_uri, config.start_sha256)
    if start is not None:
        start.check(shape)  # before minutes of reading pairs
        refuse_seen(index, start.seen, f"{start.origin.label}, which start_from names")
    steps = config.steps_per_task * len(tasks)
    volumes, held_out = (load(pairs, records[split]) for split in LEARNT_FROM)
    samples = choose_samples(held_out, config.validation_slices)
    unseen = choose_samples(held_out, config.calibration_slices)
    settings = _settings(config, steps)
    first = Ranks.from_environment().rank == 0  # of several processes the first one tells and writes
    root = Path(config.work_dir) if config.work_dir else out.parent / f".{out.name}.unfinished"
    begun = [] if start is None else [start.origin.sha256]

    def say(line: str) -> None:
        if first:
            announce(f"train {network}: {line}")

    work = work_folder(root, network, settings, index.data_version, begun, say)
    begin = None if start is None else partial(start.network, shape, say=say)
    if not first:
        with threads_of_torch(config.threads):
            trained = fit(volumes, [], settings, work, network=begin)
        figures = _figures(trained, config, network, len(tasks), start)
        return _summary(network, "", index.data_version, tasks, figures)
    with threads_of_torch(config.threads), _run(config, network, tasks, index.data_version, work, start) as run:
        what = f"train {network}"
        trained = fit(volumes, samples, settings, work, what, sink=_batched(run), say=announce, network=begin)
        figures = _figures(trained, config, network, len(tasks), start)
        figures["error_scale"] = {str(kind): scale for kind, scale in calibrate(trained.network, unseen).items()}
        figures[KEY] = seen_after(index, tasks, Seen() if start is None else start.seen).model_dump()
        with atomic_folder(out) as new:
            _write(new, trained, config, network, tasks, index.data_version, figures | {"run_id": run.run_id})
            if start is not None and start.notice:
                write_text(new / NOTICE, start.notice)
            _log_files(run, new, trained, samples, work)
    shutil.rmtree(work)
    if not config.work_dir and not any(work.parent.iterdir()):
        work.parent.rmdir()
    return _summary(network, run.run_id, index.data_version, tasks, figures)


def _summary(
    network: str, run_id: str, data_version: str, tasks: tuple[Task, ...], figures: dict[str, Any]
) -> TrainSummary:
    return TrainSummary(
        network=network,
        run_id=run_id,
        data_version=data_version,
        steps=figures["steps"],
        patches_per_task=figures["patches_per_task"],
        parameters=figures["parameters"],
        seconds=figures["seconds"],
        images_per_second=figures["images_per_second"],
        gain_db={task.value: figures[f"gain_db_{task}"] for task in tasks if f"gain_db_{task}" in figures},
        started_from=StartedFrom(**figures["started_from"]).label if figures["started_from"] else "",
    )


def _shape(config: TrainConfig) -> "ModelConfig":
    from model.config import size_config

    return replace(size_config(config.size), error_map=config.error_map, slices=config.slices)


def _settings(config: TrainConfig, steps: int) -> "Settings":
    from model.training import Settings

    shared = {field.name for field in fields(Settings)} & set(TrainConfig.model_fields)
    return Settings(total_steps=steps, **{name: getattr(config, name) for name in shared})


@contextmanager
def threads_of_torch(count: int) -> Iterator[None]:
    """Give torch a number of CPU threads for a while; 0 leaves it as it is."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _run(
    config: TrainConfig, network: str, tasks: tuple[Task, ...], data_version: str, work: Path, start: Start | None
) -> Iterator[Run]:
    """The MLflow run: the one of MLFLOW_RUN_ID, that of the interrupted training, or a new one."""
    note = work / "run.json"
    known = os.environ.get("MLFLOW_RUN_ID", "") or (read_json(note)["run_id"] if note.is_file() else "")
    begun = {} if start is None else {"started_from_sha256": start.origin.sha256}  # wherever the weights lay
    tags = {
        "network": network,
        "tasks": ",".join(tasks),
        "data_version": data_version,
        "code_version": code_version(),
        "mlflow.source.name": "components.train",
        "started_from": "scratch" if start is None else start.origin.label,
        **begun,
    }
    run = Run(config.tracking_uri, config.experiment, config.run_name or f"{network}-{config.size}", tags, known)
    write_json(note, {"run_id": run.run_id})
    hidden = {"tracking_uri", "work_dir", "experiment", "run_name", "start_from", "start_sha256"}
    run.parameters({"network": network, **config.model_dump(exclude=hidden), **begun, **machine()})
    try:
        yield run
    except BaseException as error:
        run.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    run.end()


def _batched(run: Run) -> "Callable[[int, dict[str, float]], None]":
    """Metrics go to MLflow with the validation of each round."""

    def sink(step: int, row: dict[str, float]) -> None:
        run.metrics(step, row)
        if any(name.startswith("psnr/") for name in row):
            run.flush()

    return sink


def _figures(trained: "Trained", config: TrainConfig, network: str, tasks: int, start: Start | None) -> dict[str, Any]:
    """Figures of the training that stand in training.json."""
    kept = [row for row in trained.rows if row["step"] <= trained.kept_step]
    last = next((row for row in reversed(kept) if any(name.startswith("psnr/") for name in row)), {})
    losses = next((row for row in reversed(trained.rows) if "loss" in row), {})
    figures: dict[str, Any] = {
        "network": network,
        "steps": trained.steps,
        "kept_step": trained.kept_step,
        "steps_per_task": config.steps_per_task,
        "patches_per_task": trained.steps * config.batch_size // tasks,
        "parameters": sum(parameter.numel() for parameter in trained.network.parameters()),
        "seconds": round(trained.seconds, 2),
        "images_per_second": round(trained.images_per_second, 2),
        "resumed_at_step": trained.resumed_at,
        "device": trained.device,
        "started_from": None if start is None else start.origin.model_dump(),
    }
    figures |= {name: losses[name] for name in ("loss", "restoration", "modality", "degradation") if name in losses}
    return figures | {name.replace("/", "_"): value for name, value in last.items() if name != "step"}


def _write(
    folder: Path,
    trained: "Trained",
    config: TrainConfig,
    network: str,
    tasks: tuple[Task, ...],
    data_version: str,
    figures: dict[str, Any],
) -> None:
    """Write the checkpoint folder."""
    from model.checkpoint import Checkpoint, save_checkpoint

    checkpoint = Checkpoint(network, config.size, tasks, _shape(config), mira.__version__, data_version)
    save_checkpoint(folder, trained.network, checkpoint)
    facts = {"data_version": data_version, "code_version": code_version()}
    weights = {"weights_sha256": hash_file(folder / "model.safetensors")}
    write_json(folder / "training.json", {**figures, **facts, **weights})
    losses = ["loss", "restoration", "modality", "degradation", "learning_rate"]
    columns = ["step", *losses, *(f"gain_db/{task}" for task in tasks)]
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "step": int(row["step"])} for row in trained.rows)
    write_text(folder / "history.csv", table.getvalue())


def _log_files(run: Run, new: Path, trained: "Trained", samples: "list[Sample]", work: Path) -> None:
    """Store checkpoint, curves, sample pictures and environment with the run."""
    from model.restorer import Restorer
    from model.validation import restore_samples

    for name in ("model.safetensors", "config.json", "training.json", NOTICE):
        if (new / name).is_file():
            run.file(new / name, "checkpoint")
    run.file(new / "history.csv")
    write_text(work / "packages.txt", packages())
    run.file(work / "packages.txt", "environment")
    pictures = work / "samples"
    pictures.mkdir(exist_ok=True)
    draw_samples(samples, restore_samples(Restorer(trained.network), samples), pictures)
    run.file(pictures, "samples")
