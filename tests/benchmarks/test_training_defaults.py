"""Batch and patch sizes are compared at the same number of pixels, on validation patients."""

import pytest

from benchmarks.training_defaults import Trial, steps_of, table, trial
from components.train.step import TrainConfig
from mira.errors import DataRejected
from tests.components.made_up import make_pairs


@pytest.mark.parametrize(("batch", "patch"), [(2, 48), (4, 64), (8, 96)])
def test_every_combination_sees_as_many_pixels(batch, patch):
    usual = TrainConfig()
    pixels = 400 * usual.batch_size * usual.patch_size**2
    assert steps_of(batch, patch, 400) * batch * patch**2 == pytest.approx(pixels, rel=0.01)
    assert steps_of(usual.batch_size, usual.patch_size, 400) == 400


def test_the_best_mean_comes_first():
    worse = Trial(4, 64, 400, 10.0, {"ct-denoising": 2.0, "pet-synthesis": 4.0})
    better = Trial(8, 64, 200, 12.0, {"ct-denoising": 5.0, "pet-synthesis": 2.0})
    lines = table([worse, better]).splitlines()
    assert lines[2] == "| 8 | 64 | 200 | +5.00 | +2.00 |  | +3.50 | 12 |"
    assert lines[3].startswith("| 4 | 64 |")


@pytest.mark.slow
def test_a_trial_validates_on_patients_that_it_did_not_train_on(tmp_path):
    make_pairs(tmp_path, 1, (("alpha", "train"), ("beta", "validation")))
    found = trial(tmp_path, 3, 32, steps=2, seed=1, slices=1)
    assert set(found.gain_db) == {"ct-denoising", "pet-synthesis", "mri-super-resolution"}
    make_pairs(tmp_path / "without", 1, (("alpha", "train"),))
    with pytest.raises(DataRejected, match="no validation pairs"):
        trial(tmp_path / "without", 3, 32, steps=1, seed=1, slices=1)
