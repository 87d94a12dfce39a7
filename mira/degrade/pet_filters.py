"""Filters of the PET simulator, in the plane and through a stream of slices, and the change to a coarser grid."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mira.degrade.pet_osem import SIGMA_PER_FWHM

Array = NDArray[np.float32]
BATCH = 8  # slices at a time; fixed, since rounding may depend on it
LEAST_AXIAL_WEIGHT = 0.01  # of the middle one; neighbours with less are left out


def post_filtered(images: Array, pixel_mm: float, fwhm_mm: float) -> Array:
    """In-plane Gaussian filter of slices [n, rows, columns]."""
    from scipy.ndimage import gaussian_filter  # heavy

    sigma = fwhm_mm * SIGMA_PER_FWHM / pixel_mm
    filtered: Array = gaussian_filter(images, (0, sigma, sigma), truncate=5.0)
    return filtered


def axial_weights(fwhm_mm: float, slice_mm: float) -> Array:
    """Weights of a slice and its neighbours in the axial filter, symmetric, one in all."""
    sigma = max(fwhm_mm * SIGMA_PER_FWHM / slice_mm, 1e-6)
    relative = np.exp(-0.5 * (np.arange(BATCH + 1) / sigma) ** 2)
    side = relative[1:][relative[1:] >= LEAST_AXIAL_WEIGHT]
    weights = np.concatenate([side[::-1], [1.0], side])
    result: Array = (weights / weights.sum()).astype(np.float32)
    return result


def coupled(batches: Iterator[Array], weights: Array) -> Iterator[Array]:
    """Filter a stream of batches [channels, n, rows, columns] along the slices; beyond the ends there is nothing."""
    half = len(weights) // 2
    before: Array | None = None
    current = next(batches, None)
    while current is not None:
        after = next(batches, None)
        padded = np.zeros((current.shape[0], current.shape[1] + 2 * half, *current.shape[2:]), dtype=np.float32)
        padded[:, half : half + current.shape[1]] = current
        if before is not None:
            padded[:, :half] = before[:, before.shape[1] - half :]
        if after is not None:
            reach = min(half, after.shape[1])
            padded[:, half + current.shape[1] :][:, :reach] = after[:, :reach]
        result = weights[0] * padded[:, : current.shape[1]]
        for tap in range(1, len(weights)):
            result += weights[tap] * padded[:, tap : tap + current.shape[1]]
        yield result
        before, current = current, after


def binned(images: Array, factor: int) -> Array:
    """Mean over blocks of factor x factor pixels; odd borders are padded with their edge."""
    if factor == 1:
        return images
    rows, columns = (-images.shape[1]) % factor, (-images.shape[2]) % factor
    padded = np.pad(images, [(0, 0), (0, rows), (0, columns)], mode="edge")
    n, height, width = padded.shape
    blocks = padded.reshape(n, height // factor, factor, width // factor, factor)
    result: Array = blocks.mean(axis=(2, 4), dtype=np.float32)
    return result


def enlarged(fields: Array, factor: int, shape: tuple[int, ...]) -> Array:
    """Fields [channels, n, rows, columns] of the simulation's grid on the image's, linear between pixels."""
    if factor == 1:
        return fields
    from scipy.ndimage import zoom  # heavy

    fine: Array = zoom(fields, (1, 1, factor, factor), order=1, grid_mode=True, mode="nearest")
    return fine[:, :, : shape[1], : shape[2]]
