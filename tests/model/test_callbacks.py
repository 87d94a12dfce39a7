"""What resume points hold: no weights that are no numbers, and the losses of all processes."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from types import SimpleNamespace

import pytest
import torch

from mira.errors import ConfigurationError
from model.callbacks import Curves
from model.config import SIZES
from model.network import MiraNet
from model.task import RestorationTask
from model.training import RESUME_FILE, fit
from tests.model.made_up import all_tasks
from tests.model.test_training import SETTINGS


class Diverging:
    """Losses that are no numbers from a step on; SETTINGS have a resume point after every fourth step."""

    def __init__(self, monkeypatch, step):
        self.calls, self.step, self.losses = 0, step, RestorationTask.losses
        monkeypatch.setattr(RestorationTask, "losses", lambda task, batch: self(task, batch))

    def __call__(self, task, batch):
        self.calls += 1
        found = self.losses(task, batch)
        return found._replace(total=found.total * float("nan")) if self.calls >= self.step else found


@pytest.mark.parametrize(
    ("log_every", "bad_step", "noticed"),
    [
        (3, 5, "step 6 .*: loss"),  # with the next row of losses
        (100, 5, "step 8 .*: weights"),  # no row before the next resume point
        (1, 8, "step 8 .*: loss"),
    ],
)
def test_a_diverged_training_ends_and_leaves_a_sound_resume_point(tmp_path, monkeypatch, log_every, bad_step, noticed):
    settings = replace(SETTINGS, log_every=log_every)
    told = []
    with monkeypatch.context() as patch:
        Diverging(patch, bad_step)
        with pytest.raises(ConfigurationError, match=f"{noticed}.* Lower train.learning_rate .* step 4,"):
            fit(all_tasks(1), [], settings, tmp_path, sink=lambda step, row: told.append(row))
    assert all(row["loss"] == row["loss"] for row in told)
    state = torch.load(tmp_path / RESUME_FILE, weights_only=True)
    assert state["global_step"] == 4
    assert all(value.isfinite().all() for value in state["state_dict"].values())
    (tmp_path / "whole").mkdir()
    whole = fit(all_tasks(1), [], settings, tmp_path / "whole")
    resumed = fit(all_tasks(1), [], settings, tmp_path)
    assert resumed.resumed_at == 4
    assert resumed.rows == whole.rows


def test_the_last_update_is_looked_at_too(tmp_path, monkeypatch):
    """The loss of a step is that before its update, so a last update to no numbers shows in the weights alone."""
    update = RestorationTask.optimizer_step

    def spoil(task, *args, **kwargs):
        update(task, *args, **kwargs)
        if task.trainer.global_step == 9:  # it counts the step afterwards
            next(task.averaged.parameters()).data.fill_(float("inf"))

    monkeypatch.setattr(RestorationTask, "optimizer_step", spoil)
    with pytest.raises(ConfigurationError, match=r"step 10 .*: weights.* step 8,"):
        fit(all_tasks(1), [], SETTINGS, tmp_path)


class Processes:
    """Two processes that train together, as threads: `reduce` waits for both and gives each the mean."""

    def __init__(self):
        self.barrier, self.given = Barrier(2, timeout=30), [torch.empty(0), torch.empty(0)]

    def steps(self, rank, curves, first, last):
        """Take steps in which process 0 has the loss 0, and process 1 ten times the number of the step."""

        def reduce(tensor, reduce_op):
            assert reduce_op == "mean"
            self.given[rank] = tensor
            self.barrier.wait()
            mean = torch.stack(self.given).mean(dim=0)
            self.barrier.wait()
            return mean

        task = RestorationTask(MiraNet(SIZES["tiny"]), 6, 1e-3, 0, 1, 0.9, 0.1)
        optimizer = SimpleNamespace(param_groups=[{"lr": 1.0}])
        for step in range(first, last + 1):
            trainer = SimpleNamespace(
                global_step=step,
                max_steps=6,
                is_global_zero=rank == 0,
                optimizers=[optimizer],
                strategy=SimpleNamespace(reduce=reduce),
            )
            names = ("loss", "restoration", "modality", "degradation")
            losses = dict.fromkeys(names, torch.tensor(10.0 * step * rank))
            curves.on_train_batch_end(trainer, task, losses, None, step)
        return curves

    def both(self, curves, first, last):
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda rank: self.steps(rank, curves[rank], first, last), (0, 1)))


def test_a_row_that_straddles_a_resume_point_is_the_mean_over_processes():
    def curves():
        return [Curves(3, 4, [], lambda step, row: None) for _ in range(2)]

    whole = Processes().both(curves(), 1, 6)[0]
    assert [row["loss"] for row in whole.rows] == [10.0, 25.0]  # 5 * 2 and 5 * 5
    saved = Processes().both(curves(), 1, 4)[0].state_dict()  # the first process writes the resume point
    resumed = curves()
    for one in resumed:
        one.load_state_dict({"rows": list(saved["rows"]), "sums": list(saved["sums"])})
    assert Processes().both(resumed, 5, 6)[0].rows == whole.rows
