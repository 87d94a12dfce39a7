"""Low-count PET against its physics."""

from dataclasses import replace

import numpy as np
import pytest

from mira.degrade import pet
from mira.degrade.projection import system_matrix
from tests.mira.case_records import case_record

SIDE, PIXEL = 64, 4.0


def phantom(slices: int = 8) -> np.ndarray:
    y, x = np.indices((SIDE, SIDE)) - (SIDE - 1) / 2
    image = np.where(np.hypot(y, x) < 25, 1.0, 0.0)
    image[np.hypot(y - 10, x) < 5] = 5.0
    return np.repeat(image.astype(np.float32)[None], slices, axis=0)


BODY = phantom(1)[0] == 1
HOT = phantom(1)[0] == 5
PARAMETERS = pet.PetParameters(0.1, counts_per_suv=1500.0)


def realisations(parameters: pet.PetParameters, volumes: int = 12) -> np.ndarray:
    return np.concatenate([pet.noise(phantom(), PIXEL, parameters, seed) for seed in range(volumes)])


def test_projection_keeps_counts_in_every_view():
    matrix = system_matrix((20, 31), 24, 8)
    for forward in matrix.forward:
        views = forward.toarray().reshape(3, matrix.bins, -1).sum(axis=1)
        np.testing.assert_allclose(views, 1, atol=1e-5)
        assert forward.data.min() >= 0


def test_projection_of_a_disc_is_its_chords():
    disc = BODY | HOT
    matrix = system_matrix((SIDE, SIDE), 24, 8)
    lines = (matrix.forward[2] @ disc.astype(np.float32).ravel()).reshape(3, matrix.bins)
    bins = np.arange(matrix.bins) - (matrix.bins - 1) / 2
    chords = 2 * np.sqrt(np.maximum(25**2 - bins**2, 0))
    assert np.abs(lines - chords)[:, np.abs(bins) < 15].max() < 1.5


def test_back_projection_is_the_transpose():
    matrix = system_matrix((20, 31), 24, 8)
    for forward, backward in zip(matrix.forward, matrix.backward, strict=True):
        assert abs(forward.T - backward).max() == 0


def test_osem_recovers_noise_free_activity():
    matrix = system_matrix((SIDE, SIDE), 64, 8)
    truth = phantom(1).reshape(1, -1).T
    ones = [np.ones((forward.shape[0], 1), np.float32) for forward in matrix.forward]
    counts = [forward @ truth for forward in matrix.forward]
    image = pet.osem(matrix, counts, ones, np.full(1, 1e-6, np.float32), 6).reshape(SIDE, SIDE)
    inner = np.hypot(*(np.indices((SIDE, SIDE)) - (SIDE - 1) / 2)) < 10
    assert image[inner & BODY].mean() == pytest.approx(1, abs=0.02)


def test_mean_suv_is_kept():
    mean = realisations(PARAMETERS).mean(axis=0)
    assert mean[BODY].mean() == pytest.approx(0, abs=0.01)
    assert mean[HOT].mean() == pytest.approx(0, abs=0.05)


def test_variance_grows_as_counts_fall():
    variance = {
        a: realisations(replace(PARAMETERS, count_fraction=a), 6)[:, BODY].var() for a in (0.5, 0.25, 0.1, 0.05)
    }
    for a in (0.25, 0.1, 0.05):  # (1 - a) / a over that of 0.5, which is 1
        assert variance[a] / variance[0.5] == pytest.approx((1 - a) / a, rel=0.15)


def test_noise_follows_the_activity_and_is_not_white():
    noise = realisations(PARAMETERS, 4)
    assert noise[:, HOT].std() > 2 * noise[:, BODY].std()
    assert noise[:, ~(BODY | HOT)].std() < 0.3 * noise[:, BODY].std()
    patch = noise[:, 20:30, 20:44]
    neighbours = np.corrcoef(patch[:, :, 1:].ravel(), patch[:, :, :-1].ravel())[0, 1]
    assert neighbours > 0.2


def test_seed_and_slice_alone_decide():
    volume = phantom(10)
    whole = pet.noise(volume, PIXEL, PARAMETERS, seed=3)
    np.testing.assert_array_equal(whole, pet.noise(volume, PIXEL, PARAMETERS, seed=3))
    np.testing.assert_allclose(whole[9], pet.noise(volume[9:], PIXEL, PARAMETERS, 3, first=9)[0], atol=1e-4)
    assert not np.array_equal(whole[0], whole[1])


def test_never_negative_and_small_crops_work():
    rng = np.random.default_rng(0)
    crop = rng.gamma(1, 1, (3, 30, 29)).astype(np.float32)
    parameters = pet.parameters_for(0.1, (30, 29), (3.27, 5.46, 5.46))
    low = np.concatenate(list(pet.lower_counts(crop, 5.46, parameters, 1)))
    assert low.shape == crop.shape
    assert low.min() >= 0
    assert not np.array_equal(low, crop)


def test_fine_matrices_are_binned_and_keep_shape():
    parameters = pet.parameters_for(0.1, (301, 300), (3.0, 2.0, 2.0))
    assert parameters.binning == 2
    body = np.hypot(*(np.indices((301, 300)) - 150)) < 75
    volume = body[None].astype(np.float32)
    low = np.concatenate(list(pet.lower_counts(volume, 2.0, replace(parameters, subsets=8, iterations=1), 1)))
    assert low.shape == volume.shape
    assert low[0][body].mean() == pytest.approx(1, abs=0.03)


def test_counts_follow_dose_and_time():
    record = case_record("PET", protocol={"frame_duration_ms": 120_000.0})
    short = pet.parameters_for(0.1, (64, 64), (3.0, 4.0, 4.0), record).counts_per_suv
    longer = record.model_copy(update={"protocol": record.protocol.model_copy(update={"frame_duration_ms": 240_000.0})})
    assert pet.parameters_for(0.1, (64, 64), (3.0, 4.0, 4.0), longer).counts_per_suv == pytest.approx(2 * short)


def test_an_empty_slice_stays_empty():
    empty = np.zeros((2, 32, 32), np.float32)
    low = np.concatenate(list(pet.lower_counts(empty, 4.0, PARAMETERS, 1)))
    assert np.isfinite(low).all()
    assert low.max() < 0.01
