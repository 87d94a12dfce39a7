"""Statistics of few counts, slices that share data, and insertion against the direct simulation."""

from dataclasses import replace

import numpy as np
import pydicom
import pytest
from scipy.ndimage import gaussian_filter

from mira.degrade import ct, ct_counts
from mira.degrade.ct_acquisition import measure, simulate_acquisition
from mira.degrade.ct_slices import LONGEST, SliceScores, profile_correlation, taps
from mira.degrade.ct_theory import noise_shape, water_variance
from mira.phantom.ct_modules import disc_edge, elliptic_body, water_cylinder
from mira.phantom.solids import slice_grid
from mira.quality.noise import power_spectrum, radial_nps
from mira.quality.resolution import disc_transfer
from tests.bench_sites import BENCH

SIDE, PIXEL, RADIUS = 112, 2.0, 90.0
SLICES = 40


def region(low: float, high: float) -> np.ndarray:
    rows, columns = np.indices((SIDE, SIDE)) - SIDE // 2
    distance = np.hypot(rows, columns) * PIXEL
    return (distance >= low) & (distance < high)


def routine(dose: float) -> ct.CtParameters:
    return replace(ct.parameters_for(dose, (SIDE, SIDE), PIXEL, 1.0), profile_slices=0.0)


@pytest.fixture(scope="module")
def water():
    return np.repeat(water_cylinder(slice_grid(SIDE, PIXEL), RADIUS), SLICES, axis=0)


@pytest.fixture(scope="module")
def full(water):
    return simulate_acquisition(water, PIXEL, routine(1.0), seed=1)


@pytest.mark.parametrize("expected", [0.2, 2.0, 12.0, 40.0, 250.0, 2000.0])
def test_tables_hold_the_statistics_of_drawn_counts(expected):
    statistics = ct_counts.log_statistics(8.0, 1.0, 20.0)
    place = int(ct_counts.places(np.array([np.log(expected)], np.float32))[0])
    size = 15 if expected < 4 else 5 if expected < 20 else 1  # readings that the adaptive filter averages
    rng = np.random.default_rng(0)
    readings = rng.poisson(expected, (150_000, size)) + rng.normal(0, 8**0.5, (150_000, size))
    drawn = -np.log(np.maximum(readings.mean(axis=1), 1.0) / expected)
    assert statistics.bias[place] == pytest.approx(drawn.mean(), abs=4 * drawn.std() / 380 + 0.003 * drawn.std())
    assert statistics.variance[place] == pytest.approx(drawn.var(), rel=0.03)
    if np.log(expected) < ct_counts.MANY:
        row = round((np.log(expected) - ct_counts.LOWEST) * ct_counts.SHAPE_STEPS)
        quantiles = np.quantile((drawn - drawn.mean()) / drawn.std(), [0.05, 0.5, 0.95])
        column = np.searchsorted(ct_counts.SCORES, [-1.6449, 0, 1.6449])
        np.testing.assert_allclose(statistics.shape[row, column], quantiles, atol=0.12)


def test_adaptive_filter_averages_starved_readings_alone():
    rng = np.random.default_rng(0)
    counts = np.full((64, 200), 100.0)
    counts[:, 50:100], counts[:, 100:150] = 10.0, 2.0
    logs = np.log(counts).astype(np.float32)
    values = rng.standard_normal(counts.shape).astype(np.float32)
    plain = ct_counts.averaged(values, logs, 20.0)
    np.testing.assert_array_equal(plain[:, :50], values[:, :50])
    assert plain[:, 55:95].var() == pytest.approx(1 / 5, rel=0.1)
    assert plain[2:-2, 105:145].var() == pytest.approx(1 / 15, rel=0.15)
    scaled = ct_counts.averaged(values, logs, 20.0, unit_variance=True)
    assert scaled[:, 55:95].var() == pytest.approx(1, rel=0.1)
    np.testing.assert_array_equal(ct_counts.averaged(values, logs, 0.0), values)


def test_several_readings_share_the_photons_of_a_slice():
    one, five = routine(0.1), replace(routine(0.1), readings=5)
    quiet = [replace(p, electronic_variance=0.0) for p in (one, five)]
    p = np.array([2.0], np.float32)
    assert ct.noise_sigma(p, quiet[1]) == pytest.approx(ct.noise_sigma(p, quiet[0]), rel=0.01)
    assert ct.noise_sigma(p + 4, five) > 1.05 * ct.noise_sigma(p + 4, one)  # electronic noise enters five times


@pytest.mark.parametrize("width", [0.0, 0.4, 1.0, 1.5, 4.0, 50.0])
def test_moving_mean_has_the_correlation_of_the_profile(width):
    weights = np.array(taps(width))
    assert np.sum(weights**2) == pytest.approx(1, abs=1e-5)
    found = np.correlate(weights, weights, "full")[len(weights) - 1 :]
    wanted = profile_correlation(np.arange(len(weights), dtype=float), min(max(width, 1e-3), LONGEST))
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_overlapping_slices_share_noise_and_keep_their_variance(water):
    parameters = replace(routine(0.25), profile_slices=1.5)
    noise = ct.noise(water, PIXEL, parameters, seed=1)[:, region(0, 70)]
    power = np.square(noise).mean()
    assert (noise[1:] * noise[:-1]).mean() / power == pytest.approx(0.556, abs=0.04)
    assert (noise[2:] * noise[:-2]).mean() / power == pytest.approx(0.074, abs=0.04)
    assert abs((noise[3:] * noise[:-3]).mean() / power) < 0.04
    alone = ct.noise(water, PIXEL, routine(0.25), seed=1)[:, region(0, 70)]
    assert power == pytest.approx(np.square(alone).mean(), rel=0.05)


def test_scores_of_a_slice_do_not_depend_on_what_was_asked_before():
    fresh = SliceScores(3, (8, 10), 4.0).of(20)
    used = SliceScores(3, (8, 10), 4.0)
    for index in (0, 40, 19, 21):
        used.of(index)
    np.testing.assert_array_equal(used.of(20), fresh)


@pytest.mark.parametrize("dose", [0.05, 0.1, 0.25, 0.75])
def test_variance_of_the_low_dose_scan_is_that_of_theory(water, full, dose):
    low = full + ct.noise(full, PIXEL, routine(dose), seed=2)
    for inner, outer in ((0, 25), (65, 80)):
        measured = low.var(axis=0, ddof=1)[region(inner, outer)].mean()
        places = np.sqrt((np.arange(6) + 0.5) / 6 * (outer**2 - inner**2) + inner**2)
        theory = np.mean([water_variance((SIDE, SIDE), PIXEL, routine(dose), RADIUS, float(r)) for r in places])
        assert measured / theory == pytest.approx(1, abs=0.05)


def test_noise_mean_and_spectrum_are_those_of_a_scan_at_that_dose(water, full):
    parameters = routine(0.1)
    low = full + ct.noise(full, PIXEL, parameters, seed=2)
    direct = simulate_acquisition(water, PIXEL, parameters, seed=3)
    inside = region(0, 80)
    assert abs((low - direct)[:, inside].mean()) < 0.2
    middle = slice(SIDE // 2 - 24, SIDE // 2 + 24)
    ours, theirs = (radial_nps((part - part.mean(axis=0))[:, middle, middle], PIXEL) for part in (low, direct))
    assert ours.peak == pytest.approx(theirs.peak, rel=0.05)
    assert ours.mean_frequency == pytest.approx(theirs.mean_frequency, rel=0.02)
    strong = theirs.power > 0.2 * theirs.power.max()
    assert np.abs(ours.shape[strong] / theirs.shape[strong] - 1).mean() < 0.05
    f = np.fft.fftfreq(48)
    theory = noise_shape(f[:, None], f[None, :], parameters.cutoff)
    found, radial = power_spectrum((low - low.mean(axis=0))[:, middle, middle], PIXEL)
    bands = [(radial * PIXEL > edge) & (radial * PIXEL <= edge + 0.05) for edge in np.arange(0.05, 0.5, 0.05)]
    ratio = np.array([found[band].mean() / theory[band].mean() for band in bands])
    np.testing.assert_allclose(ratio / ratio.mean(), 1, atol=0.1)


def test_edges_stay_as_sharp():
    phantom = disc_edge(slice_grid(SIDE, PIXEL))
    scan = simulate_acquisition(phantom, PIXEL, replace(routine(1.0), photons=1e9), seed=1)
    strong = replace(routine(0.25), photons=2e7)
    low = np.mean([(scan + ct.noise(scan, PIXEL, strong, seed))[0] for seed in range(12)], axis=0)
    before, after = (disc_transfer(image, PIXEL, (SIDE // 2,) * 2, 25.0, 15.0).at(0.5) for image in (scan[0], low))
    assert after == pytest.approx(before, rel=0.01)


def test_starved_rays_agree_with_the_direct_simulation_and_streak():
    grid = slice_grid(SIDE, 4.0)
    clean = np.repeat(elliptic_body(grid, (200.0, 120.0)), 40, axis=0)
    few = replace(ct.parameters_for(0.1, (SIDE, SIDE), 4.0, 1.0), profile_slices=0.0)
    few = replace(few, photons=few.photons / 8)
    full_dose = simulate_acquisition(clean, 4.0, replace(few, dose_fraction=1.0), seed=1)
    low = full_dose + ct.noise(full_dose, 4.0, few, seed=2)
    direct = simulate_acquisition(clean, 4.0, few, seed=3)
    rows, columns = np.indices((SIDE, SIDE)) - SIDE // 2
    between = (np.abs(columns) < 14) & (np.abs(rows) < 4)
    ours, theirs = (part.std(axis=0, ddof=1)[between].mean() for part in (low, direct))
    assert ours == pytest.approx(theirs, rel=0.15)
    noise = low - low.mean(axis=0)
    power = np.square(noise)[:, between].mean()
    along = (np.roll(noise, 4, axis=2) * noise)[:, between].mean() / power
    across = (np.roll(noise, 4, axis=1) * noise)[:, between].mean() / power
    assert along > across + 0.15  # streaks run from hip to hip


def test_drawn_counts_have_the_statistics_of_the_tables():
    lines = np.full((200, 300), 5.0, np.float32)
    parameters = replace(routine(1.0), readings=2, adaptive_counts=0.0)
    entering = np.full(300, np.log(50.0) + 5.0, np.float32)  # 50 quanta arrive
    measured = measure(lines, entering, parameters, np.random.default_rng(0)) - lines
    statistics = ct_counts.log_statistics(8.0, 1.0, 0.0)
    place = int(ct_counts.places(np.array([np.log(50.0)], np.float32))[0])
    assert measured.mean() == pytest.approx(statistics.bias[place], rel=0.1)
    assert measured.var() == pytest.approx(statistics.variance[place] / 2, rel=0.03)


@pytest.mark.skipif(not BENCH.is_dir(), reason="the bench of real scans is not here; set MIRA_BENCH to its folder")
@pytest.mark.parametrize(
    ("folder", "width", "tolerance"),
    [
        ("train/site-basel-siemens/CT/example_ct", 3 / 2, 0.05),  # 3 mm slices every 2 mm
        ("local/site-mskcc/CT/CRLM-CT-1004", 1.0, 0.12),  # abutting
        ("train/site-lidc-philips/CT/LIDC-IDRI-0314", 1.0, 0.12),
    ],
)
def test_real_scans_share_noise_between_slices_as_modelled(folder, width, tolerance):
    slices = sorted(
        (pydicom.dcmread(path) for path in (BENCH / folder).glob("*.dcm")), key=lambda d: d.ImagePositionPatient[2]
    )
    volume = np.stack([d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in slices])
    fine = volume - gaussian_filter(volume, (0, 2, 2))  # anatomy reaches through slices too, and is coarser than noise

    def blocks(values):
        cut = values[:, 8:-8, 8:-8]
        n, rows, columns = cut.shape
        return cut.reshape(n, rows // 16, 16, columns // 16, 16).swapaxes(2, 3)

    means, noise = blocks(volume).mean(axis=(3, 4)), blocks(fine)
    level = noise.std(axis=(3, 4))
    for lag in (1, 2):
        tissue = (np.abs(means[:-lag]) < 120) & (np.abs(means[lag:]) < 120)
        worst = np.maximum(level[:-lag], level[lag:])
        calm = tissue & (worst <= np.quantile(worst[tissue], 0.05))
        first, second = noise[:-lag][calm], noise[lag:][calm]
        found = (first * second).sum() / np.sqrt(np.square(first).sum() * np.square(second).sum())
        assert found == pytest.approx(profile_correlation(np.array([float(lag)]), width)[0], abs=tolerance)
