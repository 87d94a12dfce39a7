"""Train one network from pairs in memory, from one configuration, resumable at any time."""

import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import nn

from mira.errors import ConfigurationError
from model.callbacks import Curves, EarlyStop, Progress, ResumePoint, Row, Sink
from model.config import size_config
from model.data import PairedVolume, PatchBatches, PatchDataModule, Ranks
from model.network import GuidedNetwork, MiraNet
from model.task import RestorationTask
from model.validation import Sample

RESUME_FILE = "last.ckpt"


@dataclass(frozen=True)
class Settings:
    """Settings of a training; `components.train.step.TrainConfig` explains each.

    `total_steps` is that of the whole training: steps per task times the number of tasks.
    """

    size: str
    total_steps: int
    batch_size: int
    patch_size: int
    learning_rate: float
    weight_decay: float
    warmup_share: float
    ema_decay: float
    gradient_clip: float
    indicator_weight: float
    clean_share: float
    seed: int
    rounds: int
    log_every: int
    accelerator: str
    precision: str
    workers: int
    error_map: bool = False
    slices: int = 1
    patience_rounds: int = 0

    @property
    def steps_per_round(self) -> int:
        """Steps between two validations and resume points."""
        return math.ceil(self.total_steps / self.rounds)


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        network: the network with averaged weights, on the CPU.
        rows: losses and validation figures by step.
        steps: optimiser steps that were taken in all; fewer than planned where the training ended early.
        kept_step: step that the weights are of; that of the best round where training may end early.
        resumed_at: step that this process began at; 0 for a training in one go.
        seconds: duration of this process' part.
        images_per_second: patches per second of this process' part.
        device: what it ran on.
    """

    network: GuidedNetwork
    rows: list[Row]
    steps: int
    kept_step: int
    resumed_at: int
    seconds: float
    images_per_second: float
    device: str


def fit(
    volumes: Sequence[PairedVolume],
    samples: Sequence[Sample],
    settings: Settings,
    work: Path,
    what: str = "train",
    sink: Sink = lambda step, row: None,
    say: Callable[[str], None] = lambda line: None,
    network: Callable[[], GuidedNetwork] | None = None,
) -> Trained:
    """Train a network, going on from the resume point in `work` when there is one.

    Weights, patches and their order depend on the seed alone; a resumed training takes the same steps as one that
    was never interrupted.

    Started by torchrun in several processes (or by a Kubeflow TrainJob), all train together: each takes its share of
    every batch, and the steps are those of one process with the whole batch. All must call this function.

    Args:
        volumes: training pairs.
        samples: validation slices.
        settings: settings.
        work: folder of the resume point; it must belong to these settings and data.
        what: label of the progress bar.
        sink: told every row of figures with its step.
        say: told lines of progress where there is no terminal.
        network: makes the network; MIRA-Net of `settings.size` when left out.

    Raises:
        ConfigurationError: when no such device is here, the training may end early without validation slices, or it
            has diverged.
    """
    ranks = Ranks.from_environment()
    if settings.patience_rounds and not samples and ranks.rank == 0:
        raise ConfigurationError(
            "patience_rounds ends a training by its validation, but there are no validation slices. Raise "
            "validation_slices and see that the pairs have a validation split, or set patience_rounds to 0."
        )
    resume = work / RESUME_FILE
    quiet()
    # lightning's own seeding would seed the process; weights alone need it, patches have their own generators
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        trainee = _mira_net(settings) if network is None else network()
        channels_last(trainee)
    task = RestorationTask(
        trainee,
        total_steps=settings.total_steps,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=max(1, round(settings.warmup_share * settings.total_steps)),
        ema_decay=settings.ema_decay,
        indicator_weight=settings.indicator_weight,
    )
    batches = PatchBatches(
        volumes,
        settings.batch_size,
        settings.patch_size,
        settings.seed,
        settings.clean_share,
        ranks,
        slices=trainee.slices,
    )
    every = settings.steps_per_round
    curves = Curves(settings.log_every, every, samples, sink)
    early = EarlyStop(curves, every, settings.patience_rounds) if settings.patience_rounds else None
    callbacks: list[pl.Callback] = [curves, *([] if early is None else [early]), ResumePoint(resume, every)]
    trainer = _trainer(settings, work, [*callbacks, Progress(what, say)] if ranks.rank == 0 else callbacks, ranks)
    begin = time.monotonic()
    started = int(torch.load(resume, weights_only=True, mmap=True)["global_step"]) if resume.is_file() else 0
    trainer.fit(
        task,
        datamodule=PatchDataModule(batches, settings.total_steps, settings.workers),
        ckpt_path=resume if started else None,
        weights_only=True,
    )
    if trainer.interrupted:
        raise KeyboardInterrupt
    seconds = time.monotonic() - begin
    averaged = task.averaged_network.cpu().eval()
    if early is not None and early.weights:
        averaged.load_state_dict(early.weights)
    return Trained(
        network=averaged,
        rows=curves.rows,
        steps=trainer.global_step,
        kept_step=trainer.global_step if early is None else early.best_step,
        resumed_at=started,
        seconds=seconds,
        images_per_second=(trainer.global_step - started) * settings.batch_size / seconds,
        device=trainer.strategy.root_device.type,
    )


def _mira_net(settings: Settings) -> MiraNet:
    return MiraNet(replace(size_config(settings.size), error_map=settings.error_map, slices=settings.slices))


def _trainer(settings: Settings, work: Path, callbacks: list[pl.Callback], ranks: Ranks) -> pl.Trainer:
    nodes = int(os.environ.get("GROUP_WORLD_SIZE", "1")) if ranks.world > 1 else 1
    try:
        return pl.Trainer(
            default_root_dir=work,
            accelerator=settings.accelerator,
            devices=ranks.world // nodes,
            num_nodes=nodes,
            strategy="ddp" if ranks.world > 1 else "auto",
            precision=settings.precision,
            max_steps=settings.total_steps,
            gradient_clip_val=settings.gradient_clip,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            limit_val_batches=0,
        )
    except (pl.utilities.exceptions.MisconfigurationException, ValueError) as error:
        raise ConfigurationError(
            f"accelerator {settings.accelerator!r} with precision {settings.precision!r} cannot be used here: {error}"
        ) from error


def channels_last(network: nn.Module) -> None:
    """Bring a network's convolution weights into the memory order that is fastest on CPUs and tensor cores."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def quiet() -> None:
    """Keep lightning's tips and advertisements out of the logs of a step."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
