"""Low-resolution MR against its formula."""

import numpy as np
import pytest

from mira.degrade.mr import MrParameters, lower_resolution, truncate

RNG = np.random.default_rng(1)


def smooth(rows: int, columns: int) -> np.ndarray:
    y, x = np.indices((rows, columns))
    return (100 + 50 * np.sin(y / 9) + 30 * np.cos(x / 7) + RNG.normal(0, 5, (rows, columns))).astype(np.float32)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("shape", [(64, 64), (96, 128)])
def test_zero_filled_equals_the_reference_formula(factor, shape):
    image = smooth(*shape).astype(np.float64)
    rows, columns = shape
    # DFT as matrices, centred by construction, independent of any FFT
    y, x = np.arange(rows) - rows // 2, np.arange(columns) - columns // 2
    fy, fx = np.exp(-2j * np.pi * np.outer(y, y) / rows), np.exp(-2j * np.pi * np.outer(x, x) / columns)
    kspace = fy @ image @ fx.T
    mask = np.zeros(shape)
    h, w = rows // factor // 2, columns // factor // 2
    mask[rows // 2 - h : rows // 2 + h, columns // 2 - w : columns // 2 + w] = 1
    assert mask.mean() == pytest.approx(1 / factor**2)
    expected = np.abs(fy.conj().T @ (kspace * mask) @ fx.conj()) / (rows * columns)
    low = truncate(image.astype(np.float32), MrParameters(factor), np.random.default_rng())
    np.testing.assert_allclose(low, expected, rtol=1e-5, atol=1e-4)


def test_energy_of_the_kept_kspace_is_kept():
    image = smooth(64, 64)
    low = truncate(image, MrParameters(2), np.random.default_rng()).astype(np.float64)
    spectrum = np.fft.fftshift(np.fft.fft2(image.astype(np.float64)))[16:48, 16:48]
    # positive image: the magnitude drops nothing but the phase of the unpaired Nyquist rows
    assert (low**2).sum() == pytest.approx((np.abs(spectrum) ** 2).sum() / image.size, rel=1e-6)


def test_a_constant_image_and_odd_sizes_keep_their_mean():
    image = np.full((63, 57), 7.0, np.float32)
    for mode in ("zero-filled", "cropped"):
        low = truncate(image, MrParameters(4, mode=mode), np.random.default_rng())
        np.testing.assert_allclose(low, 7.0, rtol=1e-5)
    assert low.shape == (16, 14)


def test_point_spreads_to_the_width_of_the_factor():
    image = np.zeros((64, 64), np.float32)
    image[32, 32] = 1
    low = truncate(image, MrParameters(4), np.random.default_rng())
    assert low.max() == pytest.approx(1 / 16, rel=1e-4)
    assert (low[32] > low.max() / 2).sum() == 5  # a sinc of 4.8 pixels at half maximum


@pytest.mark.parametrize("mode", ["zero-filled", "cropped"])
def test_magnitude_noise_is_rician(mode):
    empty = np.zeros((128, 128), np.float32)
    background = truncate(empty, MrParameters(2, noise=3.0, mode=mode), np.random.default_rng(2))
    assert background.mean() == pytest.approx(3 * np.sqrt(np.pi / 2), rel=0.03)  # Rayleigh where there is no signal
    bright = truncate(empty + 1000, MrParameters(2, noise=3.0, mode=mode), np.random.default_rng(2))
    assert bright.std() == pytest.approx(3, rel=0.05)  # Gaussian where the signal is strong


def test_without_noise_the_seed_does_not_matter():
    images = np.stack([smooth(32, 32)] * 2)
    one, two = (np.concatenate(list(lower_resolution(images, MrParameters(2), seed))) for seed in (1, 2))
    np.testing.assert_array_equal(one, two)
