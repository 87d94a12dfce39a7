"""The projection, the count-domain model and the NEMA phantoms."""

from dataclasses import replace

import numpy as np
import pytest

from mira.degrade import pet, pet_acquisition
from mira.degrade.projection import system_matrix
from mira.phantom.nema import (
    CENTRE_Y,
    SPHERE_DEGREES,
    background_centres,
    background_variability,
    contrast_recovery,
    nema_iq,
    region,
    sphere_centres,
    uniform_cylinder,
)
from mira.phantom.raster import Grid

PARAMETERS = pet.PetParameters(0.1, 1000.0, views=40)
COLD = (28.0, 37.0)


def gathered(activity: np.ndarray, mu: np.ndarray, pixel_mm: float, **options: float) -> np.ndarray:
    return np.concatenate(list(pet_acquisition.scanned(activity, mu, pixel_mm, PARAMETERS, 1, **options)))


def test_projection_keeps_counts_in_every_view():
    matrix = system_matrix((20, 31), 24, 8)
    for forward in matrix.forward:
        views = forward.toarray().reshape(3, matrix.bins, -1).sum(axis=1)
        np.testing.assert_allclose(views, 1, atol=1e-5)
        assert forward.data.min() >= 0


def test_projection_of_a_disc_is_its_chords():
    disc = np.hypot(*(np.indices((64, 64)) - 31.5)) < 25
    matrix = system_matrix((64, 64), 24, 8)
    lines = (matrix.forward[2] @ disc.astype(np.float32).ravel()).reshape(3, matrix.bins)
    bins = np.arange(matrix.bins) - (matrix.bins - 1) / 2
    chords = 2 * np.sqrt(np.maximum(25**2 - bins**2, 0))
    assert np.abs(lines - chords)[:, np.abs(bins) < 15].max() < 1.5


def test_back_projection_is_the_transpose():
    matrix = system_matrix((20, 31), 24, 8)
    for forward, backward in zip(matrix.forward, matrix.backward, strict=True):
        assert abs(forward.T - backward).max() == 0


def test_osem_recovers_activity_behind_attenuation_scatter_and_randoms():
    phantom = uniform_cylinder(Grid((0, 0, 0), 48, 5.0, 1, 5.0))
    image = gathered(phantom.activity, phantom.mu, 5.0, resolution_mm=0.0, noise_free=True)[0]
    inner = np.hypot(phantom.grid.x()[None, :], phantom.grid.y()[:, None]) < 80
    assert image[inner].mean() == pytest.approx(1, abs=0.02)
    assert np.abs(image[inner] - 1).max() < 0.1


def test_a_resolution_model_sharpens():
    grid = Grid((0, 0, 0), 48, 5.0, 1, 5.0)
    activity = np.full((1, 48, 48), 0.1, np.float32)
    activity[0, 24, 24] = 50
    mu = np.zeros_like(activity)
    peaks = []
    for psf in (0.0, 9.0):
        parameters = replace(PARAMETERS, psf_fwhm_mm=psf, iterations=6, filter_fwhm_mm=0.0)
        scan = pet_acquisition.acquisition(activity, mu, grid.pixel_mm, parameters, resolution_mm=9.0)
        peaks.append(float(pet_acquisition.reconstructed(scan, scan.expected, grid.pixel_mm, parameters).max()))
    assert peaks[1] > 1.5 * peaks[0]


def test_thinned_counts_are_poisson_counts_of_the_fraction():
    phantom = uniform_cylinder(Grid((0, 0, 0), 32, 7.0, 1, 5.0))
    many = [np.repeat(image, 150, axis=0) for image in (phantom.activity, phantom.mu)]
    scan = pet_acquisition.acquisition(many[0], many[1], 7.0, PARAMETERS, 6.0)
    counts = pet_acquisition.acquired(scan, seed=1)
    few = pet_acquisition.thinned(counts, 0.1, seed=2)
    expected = scan.with_counts(0.1).expected
    busy = expected[0][:, 0] > 0.5
    np.testing.assert_allclose(few[0][busy].mean(), expected[0][busy].mean(), rtol=0.01)
    assert few[0][busy].var(axis=1).mean() == pytest.approx(few[0][busy].mean(), rel=0.03)
    assert all((part <= whole).all() for part, whole in zip(few, counts, strict=True))


def test_thinned_and_directly_drawn_scans_reconstruct_alike():
    phantom = uniform_cylinder(Grid((0, 0, 0), 32, 7.0, 1, 5.0))
    many = [np.repeat(image, 48, axis=0) for image in (phantom.activity, phantom.mu)]
    scan = pet_acquisition.acquisition(many[0], many[1], 7.0, PARAMETERS, 6.0)
    fewer = scan.with_counts(0.1)
    thin = pet_acquisition.thinned(pet_acquisition.acquired(scan, 1), 0.1, 2)
    images = [
        pet_acquisition.reconstructed(fewer, counts, 7.0, PARAMETERS)
        for counts in (thin, pet_acquisition.acquired(fewer, 3))
    ]
    inner = np.hypot(phantom.grid.x()[None, :], phantom.grid.y()[:, None]) < 70
    spread = [image[:, inner].var(axis=0).mean() for image in images]
    assert spread[0] == pytest.approx(spread[1], rel=0.1)
    assert images[0][:, inner].mean() == pytest.approx(images[1][:, inner].mean(), rel=0.01)


def test_nema_phantom_has_its_volumes():
    grid = Grid((0, CENTRE_Y, 0), 160, 2.0, 60, 2.0)
    phantom = nema_iq(grid, contrast=4.0, cold=())
    x, y = np.meshgrid(grid.x(), grid.y())
    for diameter, (cx, cy, _) in sphere_centres().items():
        near = np.hypot(x - cx, y - cy) < diameter / 2 + 4
        extra = float((phantom.activity - 1)[:, near].clip(min=0).sum()) * 8
        assert extra / 3 == pytest.approx(np.pi / 6 * diameter**3, rel=0.06)
    insert = (phantom.mu > 0.002) & (phantom.mu < 0.004)
    assert insert[30].sum() * 4 == pytest.approx(np.pi * 25**2, rel=0.1)
    tank = (phantom.mu[30] > 0.001).sum() * 4
    assert tank == pytest.approx(np.pi / 2 * 147**2 + 140 * 77 + np.pi / 2 * 77**2, rel=0.01)


def test_background_regions_touch_neither_sphere_nor_edge():
    grid = Grid((0, CENTRE_Y, 0), 160, 2.0, 1, 2.0)
    activity = nema_iq(grid).activity
    for x, y in background_centres():
        assert (activity[region(grid, (x, y, 0.0), 37.0 + 8.0)] == 1).all()
    assert len(set(background_centres())) == 12


def test_contrast_recovery_of_the_truth_and_of_a_scan():
    grid = Grid((0, CENTRE_Y, 0), 80, 4.0, 12, 4.0)
    phantom = nema_iq(grid, 4.0, COLD)
    truth = contrast_recovery(phantom.activity, grid, 4.0, COLD)
    image = gathered(phantom.activity, phantom.mu, 4.0, noise_free=True)
    seen = contrast_recovery(image, grid, 4.0, COLD)
    assert truth[22.0] > 85  # its rim shares pixels with the background
    assert all(5 < seen[d] < truth[d] for d in SPHERE_DEGREES)
    assert seen[10.0] < seen[13.0] < seen[17.0] < seen[22.0]
    assert background_variability(phantom.activity, grid)[37.0] < 0.01
    noisy = gathered(phantom.activity, phantom.mu, 4.0, fraction=0.1)
    spread = background_variability(noisy, grid)
    assert spread[10.0] > spread[37.0] > 2
