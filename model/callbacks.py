"""What happens around the optimiser steps: curves, validation, the point to resume from, and progress."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from tqdm import tqdm

from mira.errors import ConfigurationError
from mira.storage import atomic_file
from model.restorer import Restorer
from model.task import RestorationTask
from model.validation import Sample, validate

Row = dict[str, float]
Sink = Callable[[int, Row], None]


class Diverged(ConfigurationError):
    """A training has no finite figures or weights any more."""


def round_ends(trainer: pl.Trainer, steps_per_round: int) -> bool:
    """Whether the step just done was the last of a round or of the training."""
    return bool(trainer.global_step % steps_per_round == 0 or trainer.global_step == trainer.max_steps)


class Curves(pl.Callback):  # type: ignore[misc]  # lightning is not followed
    """Mean losses every few steps and validation figures every round, kept in the checkpoint.

    A training that has diverged ends here with `Diverged`, before its weights get into a resume point.

    Args:
        log_every: steps between two rows of losses.
        steps_per_round: steps between two validations.
        samples: validation slices.
        sink: told each new row with its step.
    """

    def __init__(self, log_every: int, steps_per_round: int, samples: Sequence[Sample], sink: Sink) -> None:
        self.log_every, self.steps_per_round, self.samples, self.sink = log_every, steps_per_round, samples, sink
        self.rows: list[Row] = []
        self._sums: list[torch.Tensor] = []

    def state_dict(self) -> dict[str, Any]:
        """Rows so far, and the losses that no row holds yet."""
        return {"rows": self.rows, "sums": [losses.cpu() for losses in self._sums]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the rows of a checkpoint."""
        self.rows = state_dict["rows"]
        self._sums = state_dict["sums"]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collect the losses; tell their mean when a row is full, and validate the averaged weights after a round."""
        names = ("loss", "restoration", "modality", "degradation")
        losses = torch.stack([outputs[name].detach().float() for name in names])
        self._sums = [*(earlier.to(losses.device) for earlier in self._sums), losses]
        step = trainer.global_step
        if step % self.log_every == 0 or step == trainer.max_steps:
            own = torch.stack(self._sums).mean(dim=0)
            means = trainer.strategy.reduce(own, reduce_op="mean").tolist()  # the one wait in this many steps
            self._sums = []
            rate = float(trainer.optimizers[0].param_groups[0]["lr"])
            self._tell(step, {**dict(zip(names, means, strict=True)), "learning_rate": rate})
        if not round_ends(trainer, self.steps_per_round):
            return
        if self._sums:  # every process goes on from the first one's checkpoint, so it holds the mean over all of them
            self._sums = list(trainer.strategy.reduce(torch.stack(self._sums), reduce_op="mean"))
        assert isinstance(pl_module, RestorationTask)
        if not torch.stack([weights.isfinite().all() for weights in pl_module.averaged.parameters()]).all():
            raise self._diverged("weights", step)  # an average keeps what was no number once
        if self.samples and trainer.is_global_zero:
            self._tell(step, validate(Restorer(pl_module.averaged_network), self.samples))

    def _tell(self, step: int, figures: Row) -> None:
        odd = [name for name, value in figures.items() if not math.isfinite(value)]
        if odd:
            raise self._diverged(", ".join(odd), step)
        self.rows.append({"step": float(step), **figures})
        self.sink(step, figures)

    def _diverged(self, what: str, step: int) -> Diverged:
        last = (step - 1) // self.steps_per_round * self.steps_per_round
        return Diverged(
            f"The training has diverged: at step {step} there is no finite number any more for: {what}. Lower "
            "train.learning_rate and start again; that begins anew. Without a change it goes on from "
            + (f"the last resume point, step {last}, whose weights are sound." if last else "its beginning.")
        )


class EarlyStop(pl.Callback):  # type: ignore[misc]  # lightning is not followed
    """Ends a training that no longer gets better on the validation slices, and keeps its best round's weights.

    The figure is the gain in dB, mean over the tasks. A round without one counts as one without improvement. All of its
    state is in the checkpoint, so a resumed training ends where an uninterrupted one does.

    Args:
        curves: where each round's validation stands.
        steps_per_round: steps between two validations.
        patience: rounds in a row without improvement after which the training ends.

    Attributes:
        best_step: step of the best round; 0 before the first one.
    """

    def __init__(self, curves: Curves, steps_per_round: int, patience: int) -> None:
        self.curves, self.steps_per_round, self.patience = curves, steps_per_round, patience
        self.best_step, self.best, self.stale = 0, -math.inf, 0
        self.weights: dict[str, torch.Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """The best round so far, its averaged weights, and the rounds since."""
        return {"best_step": self.best_step, "best": self.best, "stale": self.stale, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        self.best_step, self.best = state_dict["best_step"], state_dict["best"]
        self.stale, self.weights = state_dict["stale"], state_dict["weights"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stay ended when the training was killed after its last round."""
        trainer.should_stop = self.stale >= self.patience

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Judge a round; comes after `Curves`, which has validated it, and before `ResumePoint`."""
        if not round_ends(trainer, self.steps_per_round):
            return
        if trainer.is_global_zero:
            assert isinstance(pl_module, RestorationTask)
            row = self.curves.rows[-1] if self.curves.rows else {}
            gains = [value for name, value in row.items() if name.startswith("gain_db/")]
            gain = sum(gains) / len(gains) if gains else -math.inf
            if gain > self.best:
                self.best_step, self.best, self.stale = trainer.global_step, gain, 0
                weights = pl_module.averaged_network.state_dict()
                self.weights = {name: value.detach().cpu().clone() for name, value in weights.items()}
            else:
                self.stale += 1
        self.stale = trainer.strategy.broadcast(self.stale)  # the other processes do not validate
        trainer.should_stop = self.stale >= self.patience


class ResumePoint(pl.Callback):  # type: ignore[misc]  # lightning is not followed
    """Keeps the whole state of the training in one file, renewed after each round by rename.

    Args:
        path: the file.
        steps_per_round: steps between two renewals.
    """

    def __init__(self, path: Path, steps_per_round: int) -> None:
        self.path, self.steps_per_round = path, steps_per_round

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the state; comes after `Curves`, so that the rows of the round are in it."""
        if round_ends(trainer, self.steps_per_round):
            if not trainer.is_global_zero:
                trainer.save_checkpoint(self.path)  # only takes part: the first process writes
                return
            with atomic_file(self.path) as temporary:
                trainer.save_checkpoint(temporary)


class Progress(pl.Callback):  # type: ignore[misc]  # lightning is not followed
    """A bar on a terminal; elsewhere a line for each tenth of the training.

    Args:
        what: label.
        say: told each line where there is no terminal.
    """

    def __init__(self, what: str, say: Callable[[str], None]) -> None:
        self.what, self.say = what, say
        self._bar: tqdm[Any] | None = None
        self._last = 0
        self._begun = (0, 0.0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar at the step that the training goes on from."""
        step = trainer.global_step
        self._begun = (step, time.monotonic())
        self._last = 10 * step // trainer.max_steps
        if sys.stderr.isatty():
            self._bar = tqdm(desc=self.what, total=trainer.max_steps, initial=step, unit="step", leave=False)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move on."""
        step, total = trainer.global_step, trainer.max_steps
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
        elif 10 * step // total > self._last:
            self._last = 10 * step // total
            first, begin = self._begun
            left = (time.monotonic() - begin) / max(1, step - first) * (total - step)
            self.say(f"{self.what}: step {step} of {total}, about {left:.0f} s left")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
