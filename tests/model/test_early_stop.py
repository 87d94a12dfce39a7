"""Ending a training by its validation: when it ends, which weights are kept, and that a kill changes nothing."""

from dataclasses import replace

import pytest
import torch

from mira.errors import ConfigurationError
from model import callbacks
from model.training import fit
from model.validation import choose_samples
from tests.model.made_up import all_tasks
from tests.model.test_training import SETTINGS

ROUNDS = replace(SETTINGS, total_steps=12, rounds=6, patience_rounds=2)
GAINS = (1.0, 3.0, 2.5, 2.9, 4.0, 5.0)  # dB by round: the second is the best, and two without improvement follow it


@pytest.fixture
def planned(monkeypatch):
    """Validations that find the planned gains, whatever the weights; the list holds the weights of each round."""
    seen = []

    def validate(restorer, samples):
        seen.append({name: value.clone() for name, value in restorer.network.state_dict().items()})
        gain = GAINS[len(seen) - 1]
        return {"gain_db/ct-denoising": gain - 1, "gain_db/pet-synthesis": gain + 1}

    monkeypatch.setattr(callbacks, "validate", validate)
    return seen


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_it_ends_after_rounds_without_improvement_and_keeps_the_best(planned, tmp_path):
    trained = fit(all_tasks(1), choose_samples(all_tasks(1), 1), ROUNDS, tmp_path)
    assert (trained.steps, trained.kept_step) == (8, 4)
    assert same(trained.network.state_dict(), planned[1])
    assert not same(trained.network.state_dict(), planned[3])


def test_without_patience_it_goes_on(planned, tmp_path):
    trained = fit(all_tasks(1), choose_samples(all_tasks(1), 1), replace(ROUNDS, patience_rounds=0), tmp_path)
    assert (trained.steps, trained.kept_step) == (12, 12)
    assert same(trained.network.state_dict(), planned[5])


def test_a_killed_training_ends_where_the_whole_one_does(planned, tmp_path):
    class Killed(Exception):
        pass

    def kill(step, row):
        if step == 7:
            raise Killed

    folders = [tmp_path / name for name in ("whole", "killed")]
    for folder in folders:
        folder.mkdir()
    settings, samples = replace(ROUNDS, log_every=1), choose_samples(all_tasks(1), 1)
    whole = fit(all_tasks(1), samples, settings, folders[0])
    planned.clear()
    with pytest.raises(Killed):
        fit(all_tasks(1), samples, settings, folders[1], sink=kill)
    resumed = fit(all_tasks(1), samples, settings, folders[1])
    assert resumed.resumed_at == 6
    assert (resumed.steps, resumed.kept_step) == (whole.steps, whole.kept_step) == (8, 4)
    assert resumed.rows == whole.rows
    assert same(resumed.network.state_dict(), whole.network.state_dict())
    # killed once more, after it had ended
    again = fit(all_tasks(1), samples, settings, folders[1])
    assert (again.resumed_at, again.steps, again.kept_step) == (8, 8, 4)
    assert same(again.network.state_dict(), whole.network.state_dict())


def test_it_needs_validation_slices(tmp_path):
    with pytest.raises(ConfigurationError, match="validation_slices"):
        fit(all_tasks(1), [], ROUNDS, tmp_path)
