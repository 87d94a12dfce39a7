"""What resume points hold: no weights that are no numbers."""

from dataclasses import replace

import pytest
import torch

from mira.errors import ConfigurationError
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
