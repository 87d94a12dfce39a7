"""Biases, noise and lesion contrast; statistics over patients."""

import numpy as np
import pytest

from mira.errors import ConfigurationError
from mira.quality.clinical import lesion_contrasts, mean_bias, noise_std, uniform_region
from mira.quality.statistics import mean_per_patient, paired_bootstrap
from mira.tasks import Modality

RNG = np.random.default_rng(3)


def body(noise: float = 0.0) -> np.ndarray:
    y, x = np.indices((64, 64)) - 32
    image = np.where(np.hypot(y, x) < 26, 50.0, -1000.0)
    image[np.hypot(y, x - 12) < 6] = 400.0  # bone
    return np.repeat((image + RNG.normal(0, 1, image.shape) * noise).astype(np.float32)[None], 2, axis=0)


def test_hu_bias_is_found_in_uniform_soft_tissue_alone():
    reference = body(noise=20)
    test = reference + np.where(reference > 250, 100, 3.0).astype(np.float32)
    (bias,) = mean_bias(reference, test, Modality.CT)
    assert (bias.name, bias.unit) == ("hu_mean", "HU")
    assert bias.value == pytest.approx(3, abs=0.01)
    assert bias.reference == pytest.approx(50, abs=8)


def test_hu_bias_of_a_smoother_image_is_not_an_artefact_of_choosing_noisy_voxels():
    reference = body(noise=60)
    assert abs(mean_bias(reference, body(), Modality.CT)[0].value) < 8


def test_suv_and_mr_bias_in_percent():
    pet = np.full((1, 32, 32), 2.0, np.float32)
    pet[0, 5, 5] = 10
    test = pet * np.float32(0.95)
    biases = {b.name: b.value for b in mean_bias(pet, test, Modality.PET)}
    assert biases == {name: pytest.approx(-5, abs=1e-3) for name in ("suv_mean", "suv_max", "activity")}
    (mr,) = mean_bias(pet * 100, pet * 110, Modality.MR)
    assert (mr.name, mr.unit, mr.value) == ("mr_mean", "%", pytest.approx(10, abs=1e-3))


def test_activity_does_not_regress_where_a_region_picked_by_value_does():
    noisy = RNG.gamma(2.0, 0.25, (1, 64, 64)).astype(np.float32)
    biases = {b.name: b.value for b in mean_bias(noisy, np.full_like(noisy, noisy.mean()), Modality.PET)}
    assert biases["suv_mean"] < -20
    assert biases["activity"] == pytest.approx(0, abs=1e-3)


def test_no_region_gives_no_figure():
    air = np.full((1, 32, 32), -1000, np.float32)
    assert mean_bias(air, air, Modality.CT) == []
    assert noise_std(air, uniform_region(air, Modality.CT)) is None
    empty = np.zeros((1, 32, 32), np.float32)
    assert mean_bias(empty, empty, Modality.PET) == []
    assert mean_bias(empty, empty, Modality.MR) == []


def test_noise_is_measured_away_from_edges():
    clean = body()
    region = uniform_region(clean, Modality.CT, share=0.5)
    assert clean[region].std() == 0
    noisy = clean + RNG.normal(0, 12, clean.shape).astype(np.float32)
    assert noise_std(noisy, region) == pytest.approx(12, rel=0.1)


def test_lesion_contrast_and_its_loss():
    reference = body()
    labels = np.zeros(reference.shape, np.uint8)
    y, x = np.indices((64, 64)) - 32
    for label, (row, column) in {1: (-10, -10), 3: (10, -10)}.items():
        inside = np.hypot(y - row, x - column) < 4
        labels[:, inside] = label
        reference[:, inside] += 40
    test = reference.copy()
    test[labels == 3] -= 20
    first, second = lesion_contrasts(reference, test, labels)
    assert (first.label, first.reference, first.recovery) == (1, pytest.approx(40), pytest.approx(1))
    assert (second.label, second.recovery) == (3, pytest.approx(0.5))
    assert first.voxels == int((labels == 1).sum())
    assert (first.mean, first.mean_change) == (pytest.approx(90), pytest.approx(0))
    assert (second.mean, second.mean_change) == (pytest.approx(90), pytest.approx(-20))


def test_contrast_lost_in_noise_has_no_recovery():
    noisy = body() + RNG.normal(0, 50, (2, 64, 64)).astype(np.float32)
    labels = np.zeros(noisy.shape, np.uint8)
    labels[0, 20:22, 20:22] = 1
    (lesion,) = lesion_contrasts(noisy, noisy, labels)
    if lesion.recovery is not None:
        assert abs(lesion.reference) > 50
    np.testing.assert_equal(lesion.reference, lesion.test)
    quiet = body()
    assert lesion_contrasts(quiet, quiet, labels)[0].recovery is None


def test_bootstrap_bounds():
    rng = np.random.default_rng(0)
    first = {f"p{i}": 1.0 + rng.normal(0, 0.5) for i in range(40)}
    second = dict.fromkeys(first, 0.0) | {"other": 5.0}
    result = paired_bootstrap(first, second, seed=1)
    values = np.array([first[p] for p in sorted(first)])
    assert result.patients == 40
    assert result.mean == pytest.approx(values.mean())
    # Student's bound: mean - 1.685 standard errors
    assert result.lower == pytest.approx(values.mean() - 1.685 * values.std(ddof=1) / 40**0.5, abs=0.03)
    assert result.upper > result.mean > result.lower
    assert paired_bootstrap(first, second, seed=1) == result


@pytest.mark.parametrize(("patients", "most"), [("abc", 0.14), ("abcd", 0.09), ("abcde", 0.08)])
def test_bounds_of_few_patients_are_on_the_wrong_side_hardly_more_often_than_they_say(patients, most):
    """0.05 is meant; plain percentiles give 0.18, 0.11 and 0.10."""
    rng, nothing = np.random.default_rng(0), dict.fromkeys(patients, 0.0)
    drawn = [dict(zip(patients, rng.normal(size=len(patients)), strict=True)) for _ in range(400)]
    wrong = sum(paired_bootstrap(values, nothing, seed=k).lower > 0 for k, values in enumerate(drawn))
    assert 0.02 < wrong / 400 < most


def test_bootstrap_resamples_patients_in_pairs():
    first = {f"p{i}": 10.0 * i + 0.2 for i in range(10)}
    second = {f"p{i}": 10.0 * i for i in range(10)}
    result = paired_bootstrap(first, second)
    assert result.lower == pytest.approx(0.2)
    assert result.upper == pytest.approx(0.2)


def test_bootstrap_refuses_what_cannot_be_compared():
    with pytest.raises(ConfigurationError, match="No patient"):
        paired_bootstrap({"a": 1.0}, {"b": 1.0})
    with pytest.raises(ConfigurationError, match="finite"):
        paired_bootstrap({"a": np.inf}, {"a": 1.0})
    with pytest.raises(ConfigurationError, match="between"):
        paired_bootstrap({"a": 1.0}, {"a": 1.0}, confidence=95)


def test_patients_weigh_alike():
    assert mean_per_patient({"a": [1.0, 3.0], "b": [5.0], "c": []}) == {"a": 2.0, "b": 5.0}
