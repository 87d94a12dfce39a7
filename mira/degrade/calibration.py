"""Fit the CT simulator to the scan's own noise: how strong it is, and how the kernel shaped it.

A scan at dose fraction a has 1/a times the variance of the scan itself, whatever made that. So the noise of the scan is
measured in soft tissue, noise of the scan's own dose is simulated through the same tissue, and two parameters are set
so that both agree: the apodisation by the correlation of neighbouring pixels, the photons by the standard deviation.

Anatomy adds to the measured noise, so only the calmest patches count: the lower quartile over 8x8 patches of soft
tissue, each freed of its linear trend. Noise differs across a body, so each patch is compared with the simulated noise
around the same place, and the quartile of a simulated scan, measured in the same way, is the yardstick.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mira.degrade import ct

PATCH = 8
TISSUE_HU = (-150.0, 150.0)  # of a patch's mean: fat to muscle and contrast-filled organs
LEAST_PATCHES = 40
LEAST_NOISE_HU = 1.5  # below it the volume is a noise-free phantom, or was denoised; there is nothing to fit
CUTOFFS = (0.4, 0.55, 0.75, 1.0, 1.5, 3.0)
LIMITS = (0.05, 20.0)  # of the factor on photons


def patches_of(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """All whole 8x8 patches [n, 8, 8] of slices [slices, rows, columns]."""
    n, rows, columns = volume.shape
    height, width = rows // PATCH, columns // PATCH
    cut = volume[:, : height * PATCH, : width * PATCH].reshape(n, height, PATCH, width, PATCH)
    return cut.swapaxes(2, 3).reshape(-1, PATCH, PATCH)


def detrended(patches: NDArray[np.float32]) -> NDArray[np.float32]:
    """Patches freed of mean and linear trend."""
    x = (np.arange(PATCH) - (PATCH - 1) / 2).astype(np.float32)
    x /= np.sqrt((x**2).sum() * PATCH)
    residual: NDArray[np.float32] = patches - patches.mean(axis=(1, 2), keepdims=True)
    for plane in (x[:, None] * np.ones(PATCH, np.float32), x[None, :] * np.ones((PATCH, 1), np.float32)):
        residual = residual - np.einsum("nij,ij->n", residual, plane)[:, None, None] * plane
    return residual


def spread(patches: NDArray[np.float32]) -> NDArray[np.float32]:
    """Standard deviation of each patch about its linear trend."""
    result: NDArray[np.float32] = np.sqrt(np.square(detrended(patches)).sum(axis=(1, 2)) / (PATCH**2 - 3))
    return result


def correlation(patches: NDArray[np.float32]) -> float:
    """Mean correlation of horizontal and vertical neighbours in the calmest quarter of patches."""
    values = spread(patches)
    calm = detrended(patches[values <= np.quantile(values, 0.25)])
    neighbours = (calm[:, 1:] * calm[:, :-1]).mean() + (calm[:, :, 1:] * calm[:, :, :-1]).mean()
    return float(neighbours / 2 / max(float(np.square(calm).mean()), 1e-12))


def calibrate(hu: NDArray[np.float32], pixel_mm: float, parameters: ct.CtParameters) -> ct.CtParameters:
    """Fit photons and apodisation to a scan's own noise; the parameters as given where there is too little to fit.

    Args:
        hu: the scan [slices, rows, columns] in HU; four slices of it are looked at.
        pixel_mm: pixel spacing.
        parameters: what the record tells.
    """
    chosen = np.unique(np.linspace(0, len(hu) - 1, ct.BATCH + 2).round().astype(int)[1:-1])
    slices = np.ascontiguousarray(hu[chosen], dtype=np.float32)
    patches = patches_of(slices)
    inside = _inside(patches)
    if inside.sum() < LEAST_PATCHES or np.quantile(spread(patches[inside]), 0.25) < LEAST_NOISE_HU:
        return parameters
    own = replace(parameters, dose_fraction=0.5)  # what is inserted for half the dose equals the scan's own noise
    factor, cutoff = _fit(slices.tobytes(), slices.shape, pixel_mm, own)
    # rounded, so that the last bits of an FFT do not make other pairs on another machine
    photons = float(f"{parameters.photons * factor:.3g}")
    return replace(parameters, photons=photons, cutoff=round(cutoff, 2), calibrated=True)


@lru_cache(maxsize=2)
def _fit(content: bytes, shape: tuple[int, int, int], pixel_mm: float, own: ct.CtParameters) -> tuple[float, float]:
    """Factor on photons and cutoff for slices; kept, since the levels of a case share them."""
    slices = np.frombuffer(content, dtype=np.float32).reshape(shape)
    patches = patches_of(slices)
    inside = _inside(patches)
    engine, sinograms = ct.noise_sinograms(slices, pixel_mm, own, seed=0)

    def simulate(cutoff: float) -> NDArray[np.float32]:
        return ct.noise_images(engine, sinograms, shape, pixel_mm, replace(own, cutoff=cutoff))

    simulated = np.array([correlation(patches_of(simulate(cutoff))[inside]) for cutoff in CUTOFFS])
    falling = np.minimum.accumulate(simulated)  # sharper is less correlated
    cutoff = float(np.exp(np.interp(-correlation(patches[inside]), -falling, np.log(CUTOFFS))))
    field = simulate(cutoff)
    own_spread = spread(patches_of(field))
    around = _around(own_spread, shape)[inside]
    scan = float(np.quantile(spread(patches[inside]) / around, 0.25))
    yardstick = float(np.quantile(own_spread[inside] / around, 0.25))
    return float(np.clip((yardstick / scan) ** 2, *LIMITS)), cutoff


def _around(values: NDArray[np.float32], shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Root mean square over the 5x5 patches around each patch."""
    from scipy.ndimage import uniform_filter  # heavy

    grid = np.square(values).reshape(shape[0], shape[1] // PATCH, shape[2] // PATCH)
    result: NDArray[np.float32] = np.sqrt(uniform_filter(grid, (0, 5, 5), mode="nearest")).ravel()
    return result


def _inside(patches: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Patches of soft tissue, by their mean."""
    means = patches.mean(axis=(1, 2))
    inside: NDArray[np.bool_] = (means > TISSUE_HU[0]) & (means < TISSUE_HU[1])
    return inside
