"""Fit the CT simulator to the scan's own noise: how strong it is, and how the kernel shaped it.

A scan at dose fraction a has 1/a times the variance of the scan itself, whatever made that. So the noise of the scan is
measured in soft tissue, noise of the scan's own dose is simulated through the same tissue, and two parameters are set
so that both agree: the apodisation by the mean frequency of the noise, the photons by its strength.

Anatomy adds to the measured noise, mostly at low frequencies, and differently from place to place. So patches of 8x8
pixels are seen through their cosine transform without its lowest frequencies, and only the calmest count: the lower
quartile over all patches of soft tissue. Noise differs across a body, so each patch is compared with the simulated
noise around the same place, and the quartile of a simulated scan, measured in the same way, is the yardstick.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mira.degrade import ct

PATCH = 8
SLICES = 4  # looked at, spread over the scan
TISSUE_HU = (-150.0, 150.0)  # of a patch's mean: fat to muscle and contrast-filled organs
LEAST_PATCHES = 40
LOWEST = 0.1875  # cycles per pixel; below it anatomy outweighs noise
LEAST_NOISE_HU = 1.0  # below it the volume is a noise-free phantom, or was denoised; there is nothing to fit
CUTOFFS = (0.4, 0.55, 0.75, 1.0, 1.4, 2.0)
LIMITS = (0.05, 20.0)  # of the factor on photons


def patches_of(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """All whole 8x8 patches [n, 8, 8] of slices [slices, rows, columns]."""
    n, rows, columns = volume.shape
    height, width = rows // PATCH, columns // PATCH
    cut = volume[:, : height * PATCH, : width * PATCH].reshape(n, height, PATCH, width, PATCH)
    return cut.swapaxes(2, 3).reshape(-1, PATCH, PATCH)


def _bands() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Orthonormal cosine transform [8, 8], and the radial index of each coefficient; 16 is one cycle per pixel."""
    place = np.arange(PATCH)
    matrix = np.cos(np.pi * (place + 0.5) * place[:, None] / PATCH) * np.sqrt(2 / PATCH)
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32), np.hypot(place[:, None], place).astype(np.float32)


def power(patches: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Power of patches [n, 8, 8] at frequencies from `LOWEST` to Nyquist: [n, k], and the frequencies [k]."""
    matrix, index = _bands()
    used = (index >= LOWEST * 2 * PATCH) & (index < PATCH)
    coefficients = np.einsum("ai,nij,bj->nab", matrix, patches, matrix, optimize=True)
    return np.square(coefficients[:, used]), index[used] / np.float32(2 * PATCH)


def spread(patches: NDArray[np.float32]) -> NDArray[np.float32]:
    """Strength of the noise of each patch: root mean square of its coefficients from `LOWEST` to Nyquist."""
    result: NDArray[np.float32] = np.sqrt(power(patches)[0].mean(axis=1))
    return result


def mean_frequency(patches: NDArray[np.float32], around: NDArray[np.float32]) -> float:
    """Mean frequency of the noise in the calmest quarter of patches, cycles per pixel.

    Args:
        patches: [n, 8, 8].
        around: strength of the noise that simulation gives around each patch, to which it is compared.
    """
    values = spread(patches) / around
    calm = values <= np.quantile(values, 0.25)
    powers, frequency = power(patches[calm] / around[calm, None, None])
    mean = powers.mean(axis=0, dtype=np.float64)
    return float(mean @ frequency / max(float(mean.sum()), 1e-12))


def calibrate(hu: NDArray[np.float32], pixel_mm: float, parameters: ct.CtParameters) -> ct.CtParameters:
    """Fit photons and apodisation to a scan's own noise; the parameters as given where there is too little to fit.

    Args:
        hu: the scan [slices, rows, columns] in HU; four slices of it are looked at.
        pixel_mm: pixel spacing.
        parameters: what the record tells.
    """
    chosen = np.unique(np.linspace(0, len(hu) - 1, SLICES + 2).round().astype(int)[1:-1])
    slices = np.stack([np.asarray(hu[int(index)], dtype=np.float32) for index in chosen])
    patches = patches_of(slices)
    inside = _inside(patches)
    if inside.sum() < LEAST_PATCHES or np.quantile(spread(patches[inside]), 0.25) < LEAST_NOISE_HU:
        return parameters
    own = replace(parameters, dose_fraction=1.0, profile_slices=0.0, view_step=1)
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
    inserter = ct.Inserter(shape[1:], pixel_mm, own, seed=0, own=True)
    sinograms = [inserter.sinograms(part, index) for index, part in enumerate(slices)]

    def simulate(cutoff: float) -> NDArray[np.float32]:
        return np.stack([inserter.image(made, shape[1:], cutoff) for made in sinograms])

    fields = [patches_of(simulate(cutoff)) for cutoff in CUTOFFS]
    around = _around(spread(fields[CUTOFFS.index(1.0)]), shape)[inside]
    simulated = np.array([mean_frequency(field[inside], around) for field in fields])
    rising = np.maximum.accumulate(simulated)  # sharper is finer
    cutoff = float(np.exp(np.interp(mean_frequency(patches[inside], around), rising, np.log(CUTOFFS))))
    own_spread = spread(patches_of(simulate(cutoff)))
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
