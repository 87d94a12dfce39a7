"""Noise power spectrum and transfer function of known noise and known edges; the CT modules' values."""

import numpy as np
import pytest

from mira.errors import DataRejected
from mira.phantom import ct_modules
from mira.phantom.raster import Grid
from mira.phantom.shapes import Ellipsoid
from mira.phantom.solids import Solid, paint, slice_grid
from mira.quality.noise import radial_nps
from mira.quality.resolution import disc_transfer


def coloured(slices: int, side: int, pixel: float, centre: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(side, pixel), np.fft.fftfreq(side, pixel)))
    amplitude = np.exp(-(((f - centre) / 0.15) ** 2))
    white = rng.standard_normal((slices, side, side))
    return np.fft.ifft2(np.fft.fft2(white) * amplitude).real.astype(np.float32)


def test_white_noise_has_a_flat_spectrum_of_its_variance():
    noise = 5 * np.random.default_rng(0).standard_normal((60, 32, 32)).astype(np.float32)
    found = radial_nps(noise, 0.5)
    assert found.variance == pytest.approx(25, rel=0.03)
    np.testing.assert_allclose(found.power[1:], 25 * 0.25, rtol=0.1)  # HU^2 times the pixel's area
    assert np.sum(found.shape) * (found.frequency[1] - found.frequency[0]) == pytest.approx(1)


@pytest.mark.parametrize("centre", [0.25, 0.45])
def test_peak_and_grain_of_coloured_noise(centre):
    found = radial_nps(coloured(60, 64, 0.7, centre), 0.7)
    assert found.peak == pytest.approx(centre, rel=0.04)
    assert found.mean_frequency == pytest.approx(centre, rel=0.1)


def test_spectrum_ignores_a_slope_of_the_anatomy():
    noise = coloured(20, 32, 1.0, 0.3)
    tilted = noise + np.linspace(0, 50, 32, dtype=np.float32)[:, None]
    np.testing.assert_allclose(radial_nps(tilted, 1.0).power, radial_nps(noise, 1.0).power, rtol=1e-3)


def test_regions_must_be_squares():
    with pytest.raises(DataRejected, match="square"):
        radial_nps(np.zeros((3, 16, 12), np.float32), 1.0)


@pytest.mark.parametrize("sigma_mm", [0.8, 1.5])
def test_transfer_of_a_gaussian_blur(sigma_mm):
    from scipy.ndimage import gaussian_filter

    pixel = 0.5
    disc = ct_modules.disc_edge(slice_grid(256, pixel), 300.0, 25.0)[0]
    found = disc_transfer(gaussian_filter(disc, sigma_mm / pixel), pixel, (128, 128), 25.0)
    assert found.contrast == pytest.approx(300, rel=0.01)
    assert found.at(0.5) == pytest.approx(np.sqrt(np.log(2) / 2) / (np.pi * sigma_mm), rel=0.04)
    assert found.at(0.1) > found.at(0.5)


def test_edges_that_cannot_be_measured_are_refused():
    image = np.zeros((64, 64), np.float32)
    with pytest.raises(DataRejected, match="contrast"):
        disc_transfer(image, 1.0, (32, 32), 15.0)
    with pytest.raises(DataRejected, match="border"):
        disc_transfer(image, 1.0, (10, 32), 15.0)


def test_painted_area_is_exact_and_values_are_kept():
    grid = slice_grid(128, 1.5)
    water = ct_modules.water_cylinder(grid, 80.0)[0]
    share = (water + 1000) / 1000
    assert share.sum() * 1.5**2 == pytest.approx(np.pi * 80.0**2, rel=2e-3)
    assert water[64, 64] == 0
    assert water[0, 0] == -1000
    rods = ct_modules.contrast_module(grid)[0]
    places = ct_modules.disc_places(len(ct_modules.SENSITOMETRY), ct_modules.SENSITOMETRY_CIRCLE_MM)
    for (x, y), (_, value) in zip(places, ct_modules.SENSITOMETRY, strict=True):
        assert rods[round(64 + y / 1.5), round(64 + x / 1.5)] == value


def test_line_pairs_alternate_at_their_frequency():
    pixel = 0.25
    module = ct_modules.line_pair_module(slice_grid(800, pixel), oversample=2)[0]
    x, y = ct_modules.disc_places(10, ct_modules.LINE_PAIR_CIRCLE_MM)[4]  # 5 line pairs per cm
    row = module[round(400 + y / pixel), round(400 + (x - 4) / pixel) : round(400 + (x + 4) / pixel)]
    rising = np.flatnonzero((row[1:] > 500) & (row[:-1] <= 500))
    assert len(rising) == 4
    assert np.diff(rising).mean() * pixel == pytest.approx(2.0, abs=0.15)


def test_low_contrast_discs_and_wire():
    low = ct_modules.low_contrast_module(slice_grid(256, 0.9), 10.0)[0]
    assert (low[124:132, 180:188] == 10).all()  # the widest disc lies 50 mm to the right
    assert low[124:132, 64:68].max() == 0
    assert low.max() == 10
    thin = ct_modules.wire(slice_grid(64, 0.3))[0]
    area = np.pi * 0.14**2 / 0.3**2
    assert thin[20:44, 20:44].sum() == pytest.approx(20000 * area, rel=0.1)


def test_solids_change_along_z_with_partial_slices():
    ball = [Solid(Ellipsoid((0, 0, 0), (9, 9, 9)), 100.0)]
    volume = paint(Grid((0, 0, 0), 32, 1.0, 24, 1.0), ball, 0.0, oversample=3, oversample_z=3)
    assert volume.sum() / 100 == pytest.approx(4 / 3 * np.pi * 9**3, rel=0.01)
