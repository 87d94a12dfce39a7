"""Low-dose CT against its physics."""

from dataclasses import replace

import numpy as np
import pytest

from mira.degrade import ct
from mira.degrade.calibration import calibrate, patches_of, spread
from mira.degrade.interface import degrade
from mira.tasks import Task
from mira.volume import Volume
from tests.mira.case_records import case_record

SIDE, PIXEL = 128, 2.0
RADIUS_MM = 100.0


def cylinder(slices: int = 4, side: int = SIDE, radius_mm: float = RADIUS_MM) -> np.ndarray:
    y, x = np.indices((side, side)) - (side - 1) / 2
    water = np.hypot(y, x) * PIXEL < radius_mm
    return np.repeat(np.where(water, 0.0, -1000.0).astype(np.float32)[None], slices, axis=0)


def centre(noise: np.ndarray, half: int = 10) -> np.ndarray:
    middle = noise.shape[-1] // 2
    return noise[:, middle - half : middle + half, middle - half : middle + half]


PARAMETERS = ct.CtParameters(0.25, photons=2e5, electronic_variance=0.0, views=180)


def test_line_integrals_of_a_disc_are_its_chords():
    disc = (cylinder(ct.BATCH) > -500).astype(np.float32)
    lines = ct.projector(SIDE, 180).project(disc)
    bins = np.fft.fftfreq(lines.shape[-1], 1 / lines.shape[-1])
    # the grid's centre lies half a pixel beside the phantom's, so compare where the chord is flat
    chords = 2 * np.sqrt(np.maximum((RADIUS_MM / PIXEL) ** 2 - bins**2, 0))
    inner = np.abs(bins) < 20
    assert np.abs(lines[0][:, inner] - chords[inner]).max() < 0.02 * chords.max()


def test_filtered_back_projection_inverts_the_projection():
    disc = (cylinder(ct.BATCH) > -500).astype(np.float32)
    engine = ct.projector(SIDE, 180)
    again = engine.reconstruct(engine.project(disc), cutoff=3.0)
    flat = centre(again)
    assert np.std(flat) < 0.02
    assert np.mean(flat) == pytest.approx(1, abs=0.02)


def test_noise_at_the_centre_is_what_filtered_back_projection_predicts():
    noise = np.concatenate([ct.noise(cylinder(8), PIXEL, PARAMETERS, seed) for seed in range(6)])
    p = 2 * RADIUS_MM * PARAMETERS.mu_water_per_mm
    sigma_p = np.sqrt(3 * np.exp(p) / PARAMETERS.photons)  # (1 - a) / a = 3
    k = np.linspace(-0.5, 0.5, 4001)
    transfer = np.abs(k) * np.where(np.abs(k) < 0.65, 0.5 + 0.5 * np.cos(np.pi * k / 0.65), 0)
    expected = 1000 / PARAMETERS.mu_water_per_mm / PIXEL * np.pi * sigma_p * np.sqrt(np.mean(transfer**2) / 180)
    assert centre(noise, 6).std() == pytest.approx(expected, rel=0.05)


def test_variance_follows_one_minus_a_over_a():
    volume = cylinder(8)
    variance = {
        a: centre(ct.noise(volume, PIXEL, replace(PARAMETERS, dose_fraction=a), seed=int(1000 * a)), 16).var()
        for a in (0.05, 0.1, 0.25, 0.5, 0.75)
    }
    for a, value in variance.items():
        assert value / variance[0.5] == pytest.approx((1 - a) / a, rel=0.08)


def test_electronic_noise_matters_where_photons_are_few():
    p = np.array([1.0, 8.0], dtype=np.float32)
    with_noise = ct.noise_sigma(p, replace(PARAMETERS, electronic_variance=8.0)) / ct.noise_sigma(p, PARAMETERS)
    assert with_noise[0] == pytest.approx(1, abs=0.001)
    assert with_noise[1] > 1.1


def test_noise_has_zero_mean_and_no_low_frequencies():
    noise = np.concatenate([ct.noise(cylinder(8), PIXEL, PARAMETERS, seed) for seed in range(2)])
    assert abs(noise.mean()) < 0.1
    patch = centre(noise, 32) * np.hanning(64)[:, None] * np.hanning(64)
    spectrum = np.mean(np.abs(np.fft.fft2(patch)) ** 2, axis=0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    bands = [(frequency > k - 0.02) & (frequency < k + 0.02) for k in (0.06, 0.12, 0.18, 0.24, 0.30, 0.36)]
    measured = np.array([spectrum[band].mean() for band in bands])
    apodised = frequency * np.maximum(0, 0.5 + 0.5 * np.cos(np.pi * frequency / 0.65)) ** 2  # ramp^2 / k
    expected = np.array([apodised[band].mean() for band in bands])
    np.testing.assert_allclose(measured / measured.sum(), expected / expected.sum(), atol=0.03)
    assert spectrum[0, 0] < 0.1 * spectrum.max()


def test_noise_depends_on_seed_and_slice_alone():
    volume = cylinder(6)
    whole = ct.noise(volume, PIXEL, PARAMETERS, seed=7)
    np.testing.assert_array_equal(whole, ct.noise(volume, PIXEL, PARAMETERS, seed=7))
    alone = ct.noise(volume[5:], PIXEL, PARAMETERS, seed=7, first=5)
    np.testing.assert_allclose(whole[5], alone[0], atol=1e-2)
    other = ct.noise(volume, PIXEL, PARAMETERS, seed=8)
    assert abs(np.corrcoef(centre(whole).ravel(), centre(other).ravel())[0, 1]) < 0.1
    assert abs(np.corrcoef(centre(whole[:1]).ravel(), centre(whole[1:2]).ravel())[0, 1]) < 0.2


def test_views_do_not_change_the_noise():
    few, many = (
        replace(PARAMETERS, views=views, photons=PARAMETERS.photons * 180 / views, minimum_counts=0.01)
        for views in (120, 360)
    )
    volume = cylinder(8)
    ratio = centre(ct.noise(volume, PIXEL, few, 1), 16).std() / centre(ct.noise(volume, PIXEL, many, 1), 16).std()
    assert ratio == pytest.approx(1, abs=0.05)


def test_truncated_body_gets_the_noise_of_the_whole_body():
    whole, crop = cylinder(8, 192, 160), cylinder(8, 192, 160)[:, 56:136, 56:136]
    parameters = ct.parameters_for(0.25, (80, 80), PIXEL, 3.0)
    assert parameters.extension_pixels == 40
    unit = replace(parameters, views=240)
    full = centre(ct.noise(whole, PIXEL, replace(unit, extension_pixels=0), 1)).std()
    continued = centre(ct.noise(crop, PIXEL, unit, 1)).std()
    naive = centre(ct.noise(crop, PIXEL, replace(unit, extension_pixels=0), 1)).std()
    assert continued == pytest.approx(full, rel=0.15)
    assert naive < 0.5 * full


def test_body_that_ends_inside_the_view_is_not_continued():
    small = cylinder(1, 80, 60)
    parameters = ct.parameters_for(0.25, (80, 80), PIXEL, 3.0)
    canvas = ct.attenuation(small, parameters)
    assert canvas.sum() == pytest.approx(ct.attenuation(small, replace(parameters, extension_pixels=0)).sum())


def test_flux_follows_exposure_thickness_and_voltage():
    record = case_record("CT", protocol={"exposure_mas": 100.0, "kvp": 120.0, "slice_thickness_mm": 2.0})
    base = ct.parameters_for(0.25, (128, 128), PIXEL, 9.0, record).photons
    thick = record.model_copy(update={"protocol": record.protocol.model_copy(update={"slice_thickness_mm": 4.0})})
    assert ct.parameters_for(0.25, (128, 128), PIXEL, 9.0, thick).photons == pytest.approx(2 * base, rel=1e-3)
    strong = record.model_copy(update={"protocol": record.protocol.model_copy(update={"exposure_mas": 300.0})})
    assert ct.parameters_for(0.25, (128, 128), PIXEL, 9.0, strong).photons == pytest.approx(3 * base, rel=1e-3)


def test_calibration_finds_the_noise_that_a_scan_has():
    clean = cylinder(4, 160, 150)
    truth = ct.CtParameters(0.5, photons=4e5, electronic_variance=0.0, views=224, cutoff=0.8)
    scan = clean + ct.noise(clean, PIXEL, truth, seed=3)  # noise inserted at half the dose is that of the dose itself
    fitted = calibrate(scan, PIXEL, replace(truth, photons=5e4, cutoff=1.3))
    assert fitted.calibrated
    assert fitted.photons == pytest.approx(4e5, rel=0.2)
    assert fitted.cutoff == pytest.approx(0.8, abs=0.1)


def test_calibration_leaves_noise_free_phantoms_and_bare_lungs_alone():
    parameters = ct.CtParameters(0.25, photons=1e5, views=180)
    assert calibrate(cylinder(), PIXEL, parameters) == parameters
    assert calibrate(np.full((4, 64, 64), -800, np.float32), PIXEL, parameters) == parameters


def test_total_variance_of_a_noisy_scan_becomes_one_over_a():
    clean = cylinder(8, 160, 150)
    own = ct.CtParameters(0.5, photons=4e5, electronic_variance=0.0, views=224, cutoff=1.0)
    scan = clean + ct.noise(clean, PIXEL, own, seed=3)
    low, _ = degrade(Volume(scan, np.diag([PIXEL, PIXEL, 3.0, 1.0])), Task.CT_DENOISING, 0.25, seed=5)
    before, after = (np.median(spread(patches_of(centre(v, 48)))) for v in (scan, low.voxels))
    assert after / before == pytest.approx(2.0, rel=0.1)


def test_bow_tie_weakens_the_outer_rays_alone():
    volume, plain = cylinder(8), replace(PARAMETERS, minimum_counts=0.01)
    without = ct.noise(volume, PIXEL, plain, 1)
    filtered = ct.noise(volume, PIXEL, replace(plain, bowtie=0.5), 1)
    assert centre(filtered, 5).std() == pytest.approx(centre(without, 5).std(), rel=0.1)
    edge = (slice(None), slice(60, 68), slice(20, 26))  # 80 mm from the centre
    assert filtered[edge].std() > 1.05 * without[edge].std()


def test_padding_stays_and_air_is_cut_where_stored_ct_is():
    volume = cylinder(2)
    volume[:, :4] = -3024
    low = np.concatenate(list(ct.lower_dose(volume, PIXEL, replace(PARAMETERS, photons=1e3), 1)))
    np.testing.assert_array_equal(low[:, :4], -3024)
    assert low[:, 4:].min() >= -1024
