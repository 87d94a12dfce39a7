"""PSNR, SSIM and RMSE of slices under a named profile."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mira.errors import DataRejected
from mira.quality.profiles import Profile, prepare, profile_named
from mira.tasks import Modality

SSIM_RADIUS, SSIM_SIGMA = 5, 1.5
K1, K2 = 0.01, 0.03


@dataclass(frozen=True)
class SliceMetrics:
    """Figures of the slices for which they are defined.

    Attributes:
        profile: name of the metric profile.
        modality: modality measured.
        index: index of each measured slice in the volume.
        psnr: dB; infinite where both slices are equal.
        ssim: mean of the SSIM map.
        rmse: in native units (HU, SUVbw, or the MR unit of the profile), after truncation.
        skipped: slices left out because the reference is blank (its data range is 0).
    """

    profile: str
    modality: Modality
    index: NDArray[np.intp]
    psnr: NDArray[np.float64]
    ssim: NDArray[np.float64]
    rmse: NDArray[np.float64]
    skipped: int = 0

    @property
    def identical(self) -> int:
        """Number of slices that equal their reference, whose PSNR is infinite."""
        return int(np.isinf(self.psnr).sum())


@dataclass(frozen=True)
class Summary:
    """Means over slices, fit for JSON.

    Attributes:
        profile: name of the metric profile.
        modality: modality measured.
        psnr_db: mean of the finite PSNR values in dB (not the dB of the mean error); None without any.
        ssim: mean SSIM; None when no slice was measured.
        rmse: mean RMSE in native units; None when no slice was measured.
        slices: slices measured.
        skipped: blank slices left out.
        identical: slices equal to their reference; they count in SSIM and RMSE, and not in PSNR.
    """

    profile: str
    modality: str
    psnr_db: float | None
    ssim: float | None
    rmse: float | None
    slices: int
    skipped: int
    identical: int


def _gaussian() -> NDArray[np.float32]:
    x = np.arange(-SSIM_RADIUS, SSIM_RADIUS + 1)
    weights = np.exp(-(x**2) / (2 * SSIM_SIGMA**2))
    return np.asarray(weights / weights.sum(), dtype=np.float32)


def ssim_map(reference: NDArray[np.float32], test: NDArray[np.float32], data_range: float) -> NDArray[np.float32]:
    """SSIM of each pixel: 11x11 Gaussian window of sigma 1.5, zeros beyond the border, population covariance.

    Args:
        reference: image [rows, columns].
        test: image [rows, columns].
        data_range: L in C1 = (0.01 L)^2 and C2 = (0.03 L)^2.
    """
    from scipy.ndimage import correlate1d  # heavy

    # in units of the data range; zero padding forbids a shift of the origin
    x, y = reference / np.float32(data_range), test / np.float32(data_range)
    maps = np.stack([x, y, x * x + y * y, x * y])
    weights = _gaussian()
    for axis in (1, 2):
        maps = correlate1d(maps, weights, axis=axis, mode="constant")
    mean_x, mean_y, squares, product = maps
    means = mean_x * mean_x + mean_y * mean_y
    cross = mean_x * mean_y
    c1, c2 = np.float32(K1**2), np.float32(K2**2)
    upper = (2 * cross + c1) * (2 * (product - cross) + c2)
    result: NDArray[np.float32] = upper / ((means + c1) * (squares - means + c2))
    return result


def measure_slices(
    reference: NDArray[np.float32],
    test: NDArray[np.float32],
    modality: Modality,
    profile: str | Profile,
    mr_scale: float | None = None,
) -> SliceMetrics:
    """Measure each slice of a volume against its reference.

    Args:
        reference: volume [slices, rows, columns] in native units.
        test: volume of the same shape and unit.
        modality: its modality.
        profile: a profile or its name.
        mr_scale: the robust scale of an MR case, where the profile needs it.

    Raises:
        DataRejected: when the shapes differ or values are not finite.
        ConfigurationError: for an unknown profile, or one that lacks the modality or the MR scale.
    """
    chosen = profile_named(profile) if isinstance(profile, str) else profile
    convention = chosen.convention(modality)
    if reference.shape != test.shape:
        raise DataRejected(
            f"Reference {reference.shape} and test {test.shape} differ in shape. Measure images of one grid."
        )
    index, psnr, ssim, rmse = [], [], [], []
    for number in range(len(reference)):
        if not (np.isfinite(reference[number]).all() and np.isfinite(test[number]).all()):
            raise DataRejected(f"Slice {number} holds values that are not finite, so no figure is defined for it.")
        truth = prepare(reference[number], convention, modality, mr_scale)
        image = prepare(test[number], convention, modality, mr_scale)
        own_range = float(truth.max() - truth.min())
        if own_range == 0:
            continue
        data_range = own_range if convention.data_range == "slice" else float(convention.data_range)
        squared = float(np.mean(np.square(truth - image, dtype=np.float64)))
        index.append(number)
        rmse.append(squared**0.5)
        psnr.append(10 * np.log10(data_range**2 / squared) if squared > 0 else np.inf)
        ssim.append(float(ssim_map(truth, image, data_range).mean(dtype=np.float64)))
    return SliceMetrics(
        chosen.name,
        modality,
        np.asarray(index, dtype=np.intp),
        np.asarray(psnr, dtype=np.float64),
        np.asarray(ssim, dtype=np.float64),
        np.asarray(rmse, dtype=np.float64),
        skipped=len(reference) - len(index),
    )


def summarise(metrics: SliceMetrics) -> Summary:
    """Means over the measured slices."""
    finite = metrics.psnr[np.isfinite(metrics.psnr)]
    measured = len(metrics.index) > 0
    return Summary(
        profile=metrics.profile,
        modality=str(metrics.modality),
        psnr_db=float(finite.mean()) if finite.size else None,
        ssim=float(metrics.ssim.mean()) if measured else None,
        rmse=float(metrics.rmse.mean()) if measured else None,
        slices=len(metrics.index),
        skipped=metrics.skipped,
        identical=metrics.identical,
    )
