"""Low-resolution MR against its formulas, and against real k-space."""

import numpy as np
import pytest

from mira.degrade import kspace, mr
from mira.degrade.mr import MrParameters, lower_resolution, slice_weights, thick_slices, truncate
from mira.errors import ConfigurationError
from mira.phantom.mr_uniform import points, slanted_edge, uniform_cylinder
from mira.phantom.raster import Grid
from tests.bench_sites import BENCH
from tests.mira.case_records import case_record

RNG = np.random.default_rng(1)
KSPACE = BENCH / "train/site-kspace/MR/brain8ch_kspace/cartesian_ksp.npy"


def smooth(rows: int, columns: int) -> np.ndarray:
    y, x = np.indices((rows, columns))
    return (100 + 50 * np.sin(y / 9) + 30 * np.cos(x / 7) + RNG.normal(0, 5, (rows, columns))).astype(np.float32)


def one(image: np.ndarray, parameters: MrParameters, seed: int = 0) -> np.ndarray:
    return truncate(image[None], parameters, [np.random.default_rng(seed)])[0]


@pytest.mark.parametrize(
    ("shape", "factors"), [((64, 64), (2, 2)), ((96, 128), (4, 4)), ((64, 96), (2, 4)), ((60, 90), (1.5, 3))]
)
def test_zero_filled_equals_the_reference_formula(shape, factors):
    image = smooth(*shape).astype(np.float64)
    rows, columns = shape
    # DFT as matrices, centred by construction, independent of any FFT
    y, x = np.arange(rows) - rows // 2, np.arange(columns) - columns // 2
    fy, fx = np.exp(-2j * np.pi * np.outer(y, y) / rows), np.exp(-2j * np.pi * np.outer(x, x) / columns)
    measured = fy @ image @ fx.T
    mask = np.zeros(shape)
    h, w = round(rows / factors[0]) // 2, round(columns / factors[1]) // 2
    mask[rows // 2 - h : rows // 2 + h, columns // 2 - w : columns // 2 + w] = 1
    assert mask.mean() == pytest.approx(1 / (factors[0] * factors[1]))
    expected = np.abs(fy.conj().T @ (measured * mask) @ fx.conj()) / (rows * columns)
    parameters = MrParameters(factors[0], column_factor=factors[1])
    np.testing.assert_allclose(one(image.astype(np.float32), parameters), expected, rtol=1e-5, atol=1e-5)


def test_parseval():
    images = RNG.normal(size=(3, 37, 52)) + 1j * RNG.normal(size=(3, 37, 52))
    whole = kspace.to_kspace(images)
    np.testing.assert_allclose((abs(whole) ** 2).sum((1, 2)), (abs(images) ** 2).sum((1, 2)), rtol=1e-12)
    np.testing.assert_allclose(kspace.to_image(whole), images, atol=1e-12)
    kept = kspace.to_kspace(images, (12, 13))
    np.testing.assert_array_equal(kept, whole[:, kspace.block(37, 12), kspace.block(52, 13)])
    filled = kspace.to_image(kept, (37, 52))
    np.testing.assert_allclose((abs(filled) ** 2).sum((1, 2)), (abs(kept) ** 2).sum((1, 2)), rtol=1e-12)


@pytest.mark.parametrize("kept", [16, 15])
def test_point_spread_is_the_dirichlet_kernel(kept):
    size, row, column = 64, 40, 21
    low = one(points((size, size), [(row, column)])[0], MrParameters(size / kept))

    def kernel(offset):  # of the centred DFT block of `kept` frequencies
        angle = np.pi * offset / size
        return (
            np.abs(np.where(offset == 0, kept, np.sin(kept * angle) / np.where(offset == 0, 1, np.sin(angle)))) / size
        )

    y, x = np.arange(size) - row, np.arange(size) - column
    np.testing.assert_allclose(low, np.outer(kernel(y), kernel(x)), atol=1e-6)


def test_edge_response_is_flat_up_to_the_cutoff_and_nothing_beyond():
    edge = slanted_edge((64, 128))[0]
    before, after = (np.abs(np.fft.fft(image, axis=1))[:, :64].mean(0) for image in (edge, one(edge, MrParameters(2))))
    odd = np.arange(1, 64, 2)  # a band of half the width has odd harmonics only
    # the phase of a row's edge changes from row to row, so truncating along the rows costs the higher harmonics little
    ratio = after[odd] / before[odd]
    np.testing.assert_allclose(ratio[odd < 28], 1, atol=0.05)
    assert ratio[odd > 36].max() < 0.1
    assert one(edge, MrParameters(2, row_factor=1)).max() > 1.05 * edge.max()  # Gibbs


def test_a_constant_image_and_odd_sizes_keep_their_mean():
    image = np.full((63, 57), 7.0, np.float32)
    for mode in ("zero-filled", "cropped"):
        low = one(image, MrParameters(4, mode=mode))
        np.testing.assert_allclose(low, 7.0, rtol=1e-5)
    assert low.shape == (16, 14)


def test_cropped_samples_the_zero_filled_image():
    image = smooth(64, 96)
    filled, cropped = (one(image, MrParameters(4, mode=mode)) for mode in ("zero-filled", "cropped"))
    np.testing.assert_allclose(cropped, filled[::4, ::4], rtol=1e-5)


@pytest.mark.parametrize("mode", ["zero-filled", "cropped"])
def test_magnitude_noise_is_rician(mode):
    sigma, grid = 3.0, Grid((0.0, 0.0, 0.0), 128, 1.5, 8, 5.0)
    phantom = uniform_cylinder(grid, diameter_mm=100, signal=300).voxels
    low = np.concatenate(list(lower_resolution(phantom, MrParameters(2, noise=sigma, mode=mode), seed=2)))
    clean = np.concatenate(list(lower_resolution(phantom, MrParameters(2, mode=mode), seed=2)))
    side = low.shape[1]
    corner, middle = low[:, : side // 16, :], low[:, side * 3 // 8 : side * 5 // 8, side * 3 // 8 : side * 5 // 8]
    empty = np.concatenate(list(lower_resolution(0 * phantom, MrParameters(2, noise=sigma, mode=mode), seed=3)))
    # air: Rayleigh, mean sqrt(pi / 2) sigma and variance (2 - pi / 2) sigma^2
    assert empty.mean() == pytest.approx(np.sqrt(np.pi / 2) * sigma, rel=0.01)
    assert empty.var() == pytest.approx((2 - np.pi / 2) * sigma**2, rel=0.02)
    assert corner.mean() == pytest.approx(np.sqrt(np.pi / 2) * sigma, rel=0.05)  # with the phantom's own ringing
    # where the signal is strong: Gaussian, and E[m^2] = A^2 + 2 sigma^2
    bright = middle - clean[:, side * 3 // 8 : side * 5 // 8, side * 3 // 8 : side * 5 // 8]
    assert bright.std() == pytest.approx(sigma, rel=0.04)
    assert (middle.astype(np.float64) ** 2).mean() == pytest.approx(300**2 + 2 * sigma**2, rel=2e-3)


def test_a_signal_to_noise_ratio_sets_the_noise():
    phantom = uniform_cylinder(Grid((0.0, 0.0, 0.0), 64, 3.0, 6, 5.0), signal=500).voxels
    parameters = mr.parameters_for(2, phantom, options={"snr": 25})
    low = np.concatenate(list(lower_resolution(phantom, parameters, seed=1)))
    clean = np.concatenate(list(lower_resolution(phantom, MrParameters(2), seed=1)))
    middle = np.s_[:, 24:40, 24:40]
    assert 500 / (low[middle] - clean[middle]).std() == pytest.approx(25, rel=0.1)


def test_the_factor_counts_from_what_was_acquired():
    # an odd block, whose frequencies all have their mirrors, so that the interpolated image is real
    block = kspace.to_kspace(smooth(128, 96)[None], (63, 47))
    interpolated = np.abs(kspace.to_image(block, (128, 96))).astype(np.float32)  # by the scanner
    record = case_record("MR", {"acquired_rows": 63, "acquired_columns": 47})
    parameters = mr.parameters_for(2, interpolated, record)
    assert parameters.kept((128, 96)) == (32, 24)
    low, unaware = (one(interpolated[0], p) for p in (parameters, MrParameters(2)))
    np.testing.assert_allclose(unaware, interpolated[0], rtol=1e-4)  # nothing but empty k-space was cut off
    np.testing.assert_array_equal(low, one(interpolated[0], MrParameters(4)))
    assert np.abs(low - interpolated[0]).max() > 5


def test_slices_do_not_depend_on_how_many_there_are():
    images = np.stack([smooth(32, 32) for _ in range(11)])
    parameters = MrParameters(2, noise=2, phase_rad=1.0, partial_fourier=0.75, slice_factor=2)
    whole = np.concatenate(list(lower_resolution(images, parameters, 5)))
    part = np.concatenate(list(lower_resolution(images[:10], parameters, 5)))
    np.testing.assert_array_equal(whole[:9], part[:9])
    assert not np.array_equal(whole[0], np.concatenate(list(lower_resolution(images, parameters, 6)))[0])


def test_without_noise_the_seed_does_not_matter():
    images = np.stack([smooth(32, 32)] * 2)
    one_, two = (np.concatenate(list(lower_resolution(images, MrParameters(2), seed))) for seed in (1, 2))
    np.testing.assert_array_equal(one_, two)


@pytest.mark.parametrize("profile", ["box", "gaussian"])
def test_thick_slices(profile):
    for factor in (1.0, 2.0, 2.5, 3.0, 7.0):
        weights = slice_weights(factor, profile)
        assert weights.sum() == pytest.approx(1)
        np.testing.assert_allclose(weights, weights[::-1])
    # a thin object across the slices shows the profile; widths add in squares (variance of a box is f^2 / 12)
    volume = np.zeros((41, 16, 16), np.float32)
    volume[20] = 1
    weights = slice_weights(5, profile)
    seen = thick_slices(volume, 0, 41, weights)[:, 0, 0]
    assert seen.sum() == pytest.approx(1)
    variance = (seen * (np.arange(41) - 20) ** 2).sum()
    assert variance + 1 / 12 == pytest.approx(25 / 12 if profile == "box" else 24 / 2.3548**2, abs=0.1)
    np.testing.assert_allclose(thick_slices(np.full_like(volume, 3), 0, 41, weights), 3)  # the ends included
    np.testing.assert_array_equal(thick_slices(volume, 13, 29, weights)[:, 0, 0], seen[13:29])


def test_partial_fourier_is_filled_better_than_with_zeros():
    y, x = np.indices((96, 96)) - 48
    image = np.where(np.hypot(y, x) < 30, 100.0, 0) + np.where(np.hypot(y - 9, x + 5) < 8, 60.0, 0)
    phase = mr.smooth_phase((96, 96), 1.5, seed=3)
    full = one(image.astype(np.float32), MrParameters(96 / 63))  # an odd block: every line but the centre has a mirror

    def error(fill, phase):
        parameters = MrParameters(96 / 63, partial_fourier=0.625, partial_fill=fill)
        low = truncate(image[None], parameters, [np.random.default_rng()], phase)[0]
        return np.sqrt(np.square(low - full).mean())

    zeros, homodyne, pocs = (error(fill, phase) for fill in ("zero-filled", "homodyne", "pocs"))
    assert homodyne < 0.6 * zeros
    assert pocs < 0.6 * zeros
    # without a phase k-space is its own mirror, and what was not acquired is known
    assert error("homodyne", None) < 1e-4 * error("zero-filled", None)


def test_partial_fourier_acquires_the_wanted_share():
    measured = RNG.normal(size=(2, 40, 16)) + 1j * RNG.normal(size=(2, 40, 16))
    kept = kspace.partial_fourier(measured, 0.75, "zero-filled")
    np.testing.assert_array_equal(kept[:, 10:], measured[:, 10:])
    assert not kept[:, :10].any()
    np.testing.assert_allclose(kspace.partial_fourier(measured, 0.75, "pocs")[:, 10:], measured[:, 10:])
    with pytest.raises(ConfigurationError, match="centre"):
        kspace.partial_fourier(measured, 0.51, "pocs")


@pytest.mark.parametrize(
    "wrong",
    [{"partial_fourier": 0.4}, {"slice_factor": 0.5}, {"row_factor": 0.5}, {"noise": float("nan")}, {"mode": "half"}],
)
def test_impossible_parameters_are_named(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        MrParameters(2, **wrong)


@pytest.mark.bench
@pytest.mark.skipif(not KSPACE.is_file(), reason=f"no real k-space at {KSPACE}")
def test_real_kspace_truncated_agrees_with_the_truncated_image():
    measured = np.load(KSPACE).astype(np.complex128)  # 8 coils, Poisson-disc undersampled
    assert measured.shape == (8, 230, 180)
    assert 0.12 < (measured != 0).mean() < 0.13
    coils = kspace.to_image(measured)
    for factor, parameters in ((2, MrParameters(2)), (4, MrParameters(4, column_factor=2))):
        kept = parameters.kept((230, 180))
        assert kept == (round(230 / factor), 90)
        rows, columns = kspace.block(230, kept[0]), kspace.block(180, kept[1])
        from_scanner = kspace.root_sum_of_squares(kspace.to_image(measured[:, rows, columns], (230, 180)))
        low = truncate(np.abs(coils), parameters, [np.random.default_rng()] * 8, np.angle(coils))
        from_image = kspace.root_sum_of_squares(low)
        np.testing.assert_allclose(from_image, from_scanner, rtol=1e-5, atol=1e-6 * from_scanner.max())
    whole = kspace.root_sum_of_squares(coils)
    y, x = np.indices(whole.shape)
    centroid = (whole**2 * y).sum() / (whole**2).sum(), (whole**2 * x).sum() / (whole**2).sum()
    # the head lies in the middle of the field of view; a missing shift would put it on the corners
    assert abs(centroid[0] - 115) < 20
    assert abs(centroid[1] - 90) < 20
    assert whole[85:145, 60:120].mean() > 3 * whole[:20, :20].mean()
