"""The measured support of k-space: known ones are found, full ones are full, and the MR level counts from it."""

import numpy as np
import pytest

from mira.degrade import kspace, mr
from mira.degrade.interface import degrade
from mira.degrade.mr import MrParameters, lower_resolution, warnings_of
from mira.degrade.mr_support import filled_lines, lower_hull, measure_support
from mira.errors import ConfigurationError, DataRejected
from mira.tasks import Task
from mira.volume import Volume
from tests.mira.case_records import case_record

TASK = Task.MRI_SUPER_RESOLUTION
SNR_NOISE = 3.0  # the ellipses are of 20 to 150


def anatomy(slices: int = 8, rows: int = 96, columns: int = 96) -> np.ndarray:
    """Ellipses with sharp edges, other ones in every slice: power up to the edge of k-space."""
    rng = np.random.default_rng(5)
    y, x = np.meshgrid(*(np.linspace(-1, 1, size, endpoint=False) for size in (rows, columns)), indexing="ij")
    images = np.zeros((slices, rows, columns))
    for image in images:
        for top, left, tall, wide, turn, signal in rng.uniform(
            [-0.5, -0.5, 0.03, 0.03, 0, 20], [0.5, 0.5, 0.4, 0.4, np.pi, 150], (25, 6)
        ):
            u = (y - top) * np.cos(turn) + (x - left) * np.sin(turn)
            v = (x - left) * np.cos(turn) - (y - top) * np.sin(turn)
            image += signal * ((u / tall) ** 2 + (v / wide) ** 2 < 1)
    return images


def interpolated(images: np.ndarray, shape: tuple[int, int], noise: float = 0.0, hann: bool = False) -> np.ndarray:
    """What a scanner stores that fills acquired k-space (with its noise, perhaps filtered) with zeros."""
    rng = np.random.default_rng(6)
    acquired = kspace.to_kspace(images)
    acquired += noise * (rng.normal(size=acquired.shape) + 1j * rng.normal(size=acquired.shape))
    if hann:
        for axis in (-2, -1):
            size = acquired.shape[axis]
            window = 0.5 + 0.5 * np.cos(2 * np.pi * (np.arange(size) - size // 2) / size)
            acquired *= window[:, None] if axis == -2 else window
    return np.abs(kspace.to_image(acquired, shape)).astype(np.float32)


def seen(images: np.ndarray) -> tuple[float, float]:
    support = measure_support(images.astype(np.float32))
    return support.rows, support.columns


def volume(images: np.ndarray) -> Volume:
    return Volume(images.astype(np.float32), np.diag([1.0, 1.0, 3.0, 1.0]))


@pytest.mark.parametrize("noise", [0.0, SNR_NOISE])
@pytest.mark.parametrize("whole_numbers", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(144, 144), (192, 192), (144, 192), (96, 192)])
def test_zero_filled_k_space_is_measured(rows, columns, whole_numbers, noise):
    images = interpolated(anatomy(), (rows, columns), noise)
    stored = images.round() if whole_numbers else images
    assert seen(stored) == pytest.approx((96 / rows, 96 / columns), abs=0.02)


@pytest.mark.parametrize("shape", [(144, 144), (192, 192)])
def test_noise_over_all_of_k_space_does_not_hide_a_cut_off_above_it(shape):
    images = interpolated(anatomy(), shape, SNR_NOISE)
    noisy = np.abs(images + np.random.default_rng(7).normal(0, 1, images.shape))
    assert seen(noisy) == pytest.approx((96 / shape[0], 96 / shape[1]), abs=0.03)


@pytest.mark.parametrize("shape", [(144, 144), (192, 192)])
def test_a_hann_filter_hides_no_more_than_the_part_that_it_removes(shape):
    share = 96 / shape[0]
    for stored in (interpolated(anatomy(), shape, hann=True), interpolated(anatomy(), shape, hann=True).round()):
        for found in seen(stored):
            # what is missed was passed by less than 7 % of its amplitude: cos^2 at 0.83 of the way to the edge
            assert 0.83 * share < found <= 1.02 * share


@pytest.mark.parametrize("slices", [1, 3, 12])
@pytest.mark.parametrize("side", [32, 64, 128])
def test_full_support_is_full(side, slices):
    rng = np.random.default_rng(8)
    images = anatomy(slices, side, side)
    noise = rng.normal(0, 8, images.shape)
    fine = anatomy(slices, 2 * side, 2 * side)
    acquired = np.abs(kspace.to_image(kspace.to_kspace(fine, (side, side))))  # to the edge, as a scanner does
    for full in (images, np.abs(images + noise), np.abs(noise), acquired, acquired.round()):
        assert seen(full) == (1.0, 1.0)
    assert seen(np.zeros((slices, side, side))) == (1.0, 1.0)
    assert seen(np.full((slices, side, side), np.nan)) == (1.0, 1.0)


def test_round_objects_whose_spectrum_has_lobes_are_full():
    y, x = np.indices((96, 96)) - 48
    for radius in (12, 20, 32):
        disc = np.where(np.hypot(y, x) < radius, 500.0, 5.0)
        assert seen(np.repeat(disc[None], 6, axis=0)) == (1.0, 1.0)


@pytest.mark.parametrize("side", [48, 64])
@pytest.mark.parametrize("noise", [0, 20])
def test_a_small_sharp_object_is_full(side, noise):
    rows, columns = np.mgrid[:side, :side] - side / 2
    image = 300.0 * (np.hypot(rows, 1.2 * columns) < 0.42 * side)
    image[np.hypot(rows - 0.1 * side, columns + 0.12 * side) < 0.14 * side] = 600
    noisy = image + noise * np.random.default_rng(5).normal(size=(5, side, side))
    assert seen(np.abs(noisy)) == (1.0, 1.0)


def test_scale_and_turns_change_nothing():
    images = interpolated(anatomy(6, 80, 96), (128, 120), SNR_NOISE).astype(np.float64)
    rows, columns = seen(images)
    assert (rows, columns) == pytest.approx((80 / 128, 96 / 120), abs=0.02)
    for scale in (1e-3, 7.0, 1e4):
        assert seen(scale * images) == (rows, columns)
    assert seen(np.swapaxes(images, 1, 2)) == (columns, rows)
    assert seen(np.rot90(images, axes=(1, 2))) == pytest.approx((columns, rows), abs=1e-9 + 2 / 120)
    assert seen(images[:, ::-1, ::-1]) == pytest.approx((rows, columns), abs=1e-9 + 2 / 120)


def test_half_of_an_image_that_was_zero_filled_by_two_is_a_quarter_of_its_matrix():
    images = interpolated(anatomy(), (192, 192), SNR_NOISE)
    low, physics = degrade(volume(images), TASK, 2, 0)
    truth = physics.parameters
    assert truth["retained"] == pytest.approx(1 / 16, rel=0.06)  # a quarter of the lines of each axis
    assert truth["kept_rows"] / 192 == pytest.approx(1 / 4, abs=0.01)
    assert (truth["support_rows"], truth["support_columns"]) == pytest.approx((0.5, 0.5), abs=0.02)
    assert physics.severity == pytest.approx(1 / 3)
    np.testing.assert_array_equal(
        low.voxels, np.concatenate(list(lower_resolution(images, MrParameters(192 / truth["kept_rows"]), 0)))
    )
    before = np.concatenate(list(lower_resolution(images, MrParameters(2), 0)))  # of the stored matrix
    removed, unaware = (np.sqrt(np.square(image - images).mean()) for image in (low.voxels, before))
    assert removed > 5 * unaware


@pytest.mark.parametrize("level", [1.5, 2, 3, 4, 8])
@pytest.mark.parametrize("shape", [(96, 96), (75, 62), (24, 40)])
def test_full_support_gives_what_it_always_gave(shape, level):
    images = anatomy(4, *shape).astype(np.float32)
    low, physics = degrade(volume(images), TASK, level, 3)
    kept = tuple(max(1, round(size / level)) for size in shape)
    acquired = kspace.to_kspace(images.astype(np.float64), kept)
    expected = np.abs(kspace.to_image(acquired, shape)).astype(np.float32)
    np.testing.assert_array_equal(low.voxels, expected)
    assert (physics.parameters["kept_rows"], physics.parameters["kept_columns"]) == kept
    assert physics.parameters["support_rows"] == physics.parameters["support_columns"] == 1


def test_the_header_gives_the_exact_number_where_it_agrees_and_a_warning_where_not():
    images = interpolated(anatomy(), (192, 192), SNR_NOISE)
    for stated, taken, codes in (
        ({"acquired_rows": 96, "acquired_columns": 100}, (96, 100), []),
        ({"acquired_rows": 192, "acquired_columns": 96}, (None, 96), ["acquisition-matrix-disagrees"]),
    ):
        _, physics = degrade(volume(images), TASK, 2, 0, case_record("MR", stated))
        truth = physics.parameters
        assert (truth["header_rows"], truth["header_columns"]) == tuple(stated.values())
        assert truth["acquired_rows"] == pytest.approx(taken[0] or 96, abs=0 if taken[0] else 4)
        assert truth["acquired_columns"] == taken[1]
        assert warnings_of(physics) == codes
    assert filled_lines(512, 1.0, 256) == (512, True)
    assert filled_lines(512, 1.0, 512) == (512, False)
    assert filled_lines(100, 0.47, None) == (48, False)


def test_what_is_given_replaces_what_is_measured_and_what_is_measured_is_no_option():
    images = interpolated(anatomy(), (192, 192))
    parameters = mr.parameters_for(2, images, options={"acquired_rows": 150})
    assert parameters.kept((192, 192)) == (75, round(parameters.acquired_columns / 2))
    with pytest.raises(ConfigurationError, match="support_rows"):
        mr.parameters_for(2, images, options={"support_rows": 0.5})


def test_a_reference_of_too_few_lines_is_refused_with_its_numbers():
    images = interpolated(anatomy(8, 48, 48), (96, 96))
    degrade(volume(images), TASK, 3, 0)
    with pytest.raises(DataRejected, match=r"only 4\d of its 96 rows .* factor 4 would keep 12; at least 16"):
        degrade(volume(images), TASK, 4, 0)


def test_the_lower_hull_is_convex_and_below():
    values = np.random.default_rng(9).normal(size=60).cumsum()
    hull = lower_hull(values)
    assert (hull[0], hull[-1]) == (0, 59)
    slopes = np.diff(values[hull]) / np.diff(hull)
    assert (np.diff(slopes) > 0).all()
    assert (np.interp(np.arange(60), hull, values[hull]) <= values + 1e-12).all()
