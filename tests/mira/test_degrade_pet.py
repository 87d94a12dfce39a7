"""Low-count PET from an image against its physics."""

from dataclasses import replace

import numpy as np
import pytest

from mira.degrade import pet
from mira.degrade.pet_acquisition import scanned
from mira.degrade.pet_filters import BATCH, axial_weights, coupled
from mira.degrade.pet_osem import as_columns, osem, scan_of
from mira.degrade.projection import system_matrix
from mira.errors import ConfigurationError
from tests.mira.case_records import case_record

SIDE, PIXEL, SLICE = 48, 5.0, 3.3
DISTANCE = np.hypot(*(np.indices((SIDE, SIDE)) - (SIDE - 1) / 2))
ROWS, COLUMNS = np.indices((SIDE, SIDE)) - (SIDE - 1) / 2
TRUTH = np.where(DISTANCE < 19, 1.0, 0.0).astype(np.float32)
TRUTH[np.hypot(ROWS, COLUMNS - 10) < 4.5] = 4.0
TRUTH[np.hypot(ROWS, COLUMNS + 10) < 4.5] = 0.1
BODY = (DISTANCE < 14) & (np.hypot(ROWS, COLUMNS - 10) > 7) & (np.hypot(ROWS, COLUMNS + 10) > 7)
HOT, COLD = np.hypot(ROWS, COLUMNS - 10) < 3, np.hypot(ROWS, COLUMNS + 10) < 3
MU = np.where(DISTANCE < 19, np.float32(0.0096), np.float32(0))
PARAMETERS = pet.PetParameters(0.1, 600.0, views=40)
COUNT = 48


class Known:
    """Attenuation that is known everywhere."""

    def slices(self, start: int, stop: int) -> np.ndarray:
        return np.repeat(MU[None], stop - start, axis=0)


def direct(fraction: float, seed: int, slice_mm: float | None = None, count: int = COUNT) -> np.ndarray:
    truth, mu = (np.repeat(image[None], count, axis=0) for image in (TRUTH, MU))
    return np.concatenate(
        list(scanned(truth, mu, PIXEL, PARAMETERS, seed, fraction=fraction, slice_mm=slice_mm, resolution_mm=7.0))
    )


def lowered(full: np.ndarray, fraction: float, seed: int = 5, slice_mm: float | None = None) -> np.ndarray:
    parameters = replace(PARAMETERS, count_fraction=fraction)
    batches = pet.lower_counts(full, PIXEL, parameters, seed, slice_mm=slice_mm, attenuation=Known())
    return np.concatenate(list(batches))


@pytest.fixture(scope="module")
def full() -> np.ndarray:
    return direct(1.0, seed=1)


@pytest.fixture(scope="module")
def low(full) -> dict[float, np.ndarray]:
    return {fraction: lowered(full, fraction) for fraction in (0.25, 0.1, 0.05)}


def variance(images: np.ndarray, region: np.ndarray) -> float:
    return float(images[:, region].var(axis=0, ddof=1).mean())


def neighbours(images: np.ndarray, region: np.ndarray, axis: int) -> float:
    """Correlation of the noise of neighbouring pixels within a region."""
    noise = np.where(region, images - images.mean(axis=0), 0)
    near = (noise * np.roll(noise, 1, axis)).sum(axis=0)[region & np.roll(region, 1, axis - 1)].mean()
    return float(near / np.square(noise).sum(axis=0)[region].mean())


def test_the_image_is_a_fixed_point_of_its_own_expected_counts(full):
    for psf in (0.0, 6.0):
        system = system_matrix((SIDE, SIDE), 40, 8)
        activity, mu = full[:2], np.repeat(MU[None], 2, axis=0)
        scan = scan_of(system, activity, mu, PIXEL, 600.0, 0.3, 0.2, psf)
        again = osem(scan, scan.expected, 2, start=as_columns(activity))
        np.testing.assert_allclose(again, as_columns(activity), rtol=2e-3, atol=1e-4)


def test_mean_suv_is_kept(full, low):
    for images in low.values():
        assert images[:, BODY].mean() == pytest.approx(full[:, BODY].mean(), rel=0.02)
        assert images.mean() == pytest.approx(full.mean(), rel=0.01)
        assert images[:, HOT].mean() == pytest.approx(full[:, HOT].mean(), rel=0.06)


def test_variance_is_that_of_fewer_counts(full, low):
    own = variance(full, BODY)
    for fraction, images in low.items():
        assert variance(images - full, BODY) / own == pytest.approx((1 - fraction) / fraction, rel=0.15)
        assert variance(images, BODY) / own == pytest.approx(1 / fraction, rel=0.15)
    slope = np.polyfit(np.log(list(low)), [np.log(variance(images, BODY)) for images in low.values()], 1)[0]
    assert slope == pytest.approx(-1, abs=0.1)


def test_low_counts_look_like_a_direct_reconstruction(low):
    truth = direct(0.1, seed=2)
    for region, tolerance in ((BODY, 0.15), (HOT, 0.3), (COLD, 0.4)):
        assert variance(low[0.1], region) == pytest.approx(variance(truth, region), rel=tolerance)
    for axis in (1, 2):
        assert neighbours(low[0.1], BODY, axis) == pytest.approx(neighbours(truth, BODY, axis), abs=0.04)
        assert neighbours(low[0.1], BODY, axis) > 0.3  # white noise has 0


def test_noise_follows_the_activity_and_leaves_no_empty_pixels(full, low):
    noise = low[0.1] - full
    assert variance(noise, HOT) > 4 * variance(noise, BODY)
    assert variance(noise, COLD) < 0.5 * variance(noise, BODY)
    inside = DISTANCE < 18
    for images in low.values():
        assert images.min() >= 0
        assert (images[:, inside & (TRUTH > 0.5)] < 0.01).mean() < 1e-3


def test_axial_filter_joins_slices_and_keeps_their_variance(full):
    coupled_full = direct(1.0, seed=3, slice_mm=SLICE)
    coupled, alone = lowered(coupled_full, 0.1, slice_mm=SLICE), lowered(full, 0.1)
    noise = [(images - images.mean(axis=0))[:, BODY] for images in (coupled, alone)]
    weights = axial_weights(PARAMETERS.axial_fwhm_mm, SLICE)
    expected = float((weights[1:] * weights[:-1]).sum() / np.square(weights).sum())
    found = [float((n[1:] * n[:-1]).mean() / np.square(n).mean()) for n in noise]
    assert expected > 0.2
    assert found[0] == pytest.approx(expected, abs=0.07)
    assert found[1] == pytest.approx(0, abs=0.07)
    assert variance(coupled, BODY) == pytest.approx(variance(alone, BODY), rel=0.15)


def test_coupled_streams_equal_one_filter_over_the_whole():
    from scipy.ndimage import correlate1d

    volume = np.random.default_rng(0).random((2, 19, 4, 5)).astype(np.float32)
    weights = axial_weights(9.0, 3.0)
    assert len(weights) > 3
    batches = iter([volume[:, :8], volume[:, 8:16], volume[:, 16:]])
    streamed = np.concatenate(list(coupled(batches, weights)), axis=1)
    np.testing.assert_allclose(streamed, correlate1d(volume, weights, axis=1, mode="constant"), rtol=1e-5)


def test_seed_and_slice_alone_decide(full):
    first = lowered(full[:20], 0.1, seed=3, slice_mm=SLICE)
    np.testing.assert_array_equal(first, lowered(full[:20], 0.1, seed=3, slice_mm=SLICE))
    assert not np.array_equal(first, lowered(full[:20], 0.1, seed=4, slice_mm=SLICE))
    same = np.repeat(full[:1], 9, axis=0)
    images = lowered(same, 0.1, seed=3)
    assert not np.array_equal(images[0], images[8])
    np.testing.assert_allclose(images[:4], lowered(same[:4], 0.1, seed=3), rtol=1e-3, atol=1e-4)


def test_only_a_few_slices_are_held():
    class Stream:
        """Slices that are counted when read."""

        read = 0

        def __len__(self) -> int:
            return 64

        def __getitem__(self, part: slice) -> np.ndarray:
            Stream.read = max(Stream.read, part.stop)
            return np.repeat(TRUTH[None], len(range(*part.indices(64))), axis=0)

    done = 0
    for batch in pet.lower_counts(Stream(), PIXEL, PARAMETERS, 1, slice_mm=SLICE):  # type: ignore[arg-type]
        done += len(batch)
        assert Stream.read <= done + BATCH
    assert done == 64


def test_randoms_and_scatter_add_their_shares():
    system = system_matrix((SIDE, SIDE), 40, 8)
    scan = scan_of(system, TRUTH[None], MU[None], PIXEL, 600.0, 0.3, 0.2)
    trues, background = (sum(float(part.sum()) for part in parts) for parts in (scan.trues, scan.background))
    assert (trues + background) * 0.8 * 0.7 == pytest.approx(trues, rel=0.01)  # (T + S) (1 - SF), (T + S + R) (1 - RF)
    only_scatter = scan_of(system, TRUTH[None], MU[None], PIXEL, 600.0, 0.3, 0.0).background[0]
    view = only_scatter[: system.bins, 0]
    assert view[system.bins // 2] > 1.5 * view[0]  # scatter follows the object
    flat = scan_of(system, TRUTH[None], MU[None], PIXEL, 600.0, 0.0, 0.2).background[0]
    assert np.ptp(flat) == 0  # randoms do not


def test_options_are_checked():
    with pytest.raises(ConfigurationError, match="scatter_fraction"):
        replace(PARAMETERS, scatter_fraction=1.0)
    with pytest.raises(ConfigurationError, match="each subset a view"):
        replace(PARAMETERS, views=4)


def test_water_fills_the_outline_of_the_activity(full):
    mu = pet.attenuation_of(full[:3], PIXEL, None)
    wrong = (mu[0] > 0) != (DISTANCE < 19)
    assert wrong.mean() < 0.03  # cold rod filled, air left out
    known = np.full((3, SIDE, SIDE), 0.02, dtype=np.float32)
    known[:, :10] = np.nan
    mixed = pet.attenuation_of(full[:3], PIXEL, known)
    assert (mixed[:, 10:] == np.float32(0.02)).all()
    np.testing.assert_array_equal(mixed[:, :10], mu[:, :10])


def test_attenuation_makes_noise(full):
    class Nothing:
        """A body that lets everything through."""

        def slices(self, start: int, stop: int) -> np.ndarray:
            return np.zeros((stop - start, SIDE, SIDE), dtype=np.float32)

    clear = np.concatenate(list(pet.lower_counts(full, PIXEL, PARAMETERS, 5, attenuation=Nothing())))
    assert variance(lowered(full, 0.1) - full, BODY) > 2 * variance(clear - full, BODY)


def test_never_negative_and_small_crops_work():
    crop = np.random.default_rng(0).gamma(1, 1, (3, 30, 29)).astype(np.float32)
    crop[0, :5] = -0.1  # as filtered back-projection leaves them
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
    parameters = replace(parameters, counts_per_suv=3000.0, views=64, iterations=1)
    low = np.concatenate(list(pet.lower_counts(volume, 2.0, parameters, 1)))
    assert low.shape == volume.shape
    assert low[0][body].mean() == pytest.approx(1, abs=0.03)
    rim = body & ~np.roll(body, 2, 0) | body & ~np.roll(body, -2, 0)
    assert low[0][rim].max() < 1.3 * low[0][body & ~rim].max()  # none brighter where the coarse grid meets air


def test_counts_follow_dose_and_time():
    record = case_record("PET", protocol={"frame_duration_ms": 120_000.0})
    short = pet.parameters_for(0.1, (64, 64), (3.0, 4.0, 4.0), record).counts_per_suv
    longer = record.model_copy(update={"protocol": record.protocol.model_copy(update={"frame_duration_ms": 240_000.0})})
    assert pet.parameters_for(0.1, (64, 64), (3.0, 4.0, 4.0), longer).counts_per_suv == pytest.approx(2 * short)


def test_an_empty_slice_stays_empty():
    empty = np.zeros((2, 32, 32), np.float32)
    low = np.concatenate(list(pet.lower_counts(empty, 4.0, PARAMETERS, 1, slice_mm=SLICE)))
    np.testing.assert_array_equal(low, empty)
