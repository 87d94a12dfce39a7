"""Noise that is correlated through slices, as that of helical and overlapping reconstructions is.

A slice of a helical scan is a mean over z, weighted by the slice sensitivity profile. Linear interpolation between
turns gives about a triangle whose full width at half maximum is the slice thickness, so that neighbours share data
even where slices abut. The correlation of noise at distance d is the profile's autocorrelation; for a triangle of
width T that is the cubic B-spline at d/T: 0.25 for abutting slices, 0.56 and 0.07 for 3 mm slices every 2 mm. Measured
in calm patches of real scans: 0.18 to 0.31 for abutting slices of three vendors, and 0.55 and 0.10 for 3 mm every 2 mm.

Each slice's scores are a moving mean of white fields that are seeded by their own index, so a slice depends on the
seed and its index alone, and its variance does not change.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LONGEST = 24.0  # widest profile that is modelled, in slices; 2 * LONGEST white fields are kept at most


def slice_generator(seed: int, index: int) -> np.random.Generator:
    """Random numbers of one slice, the same on every machine and for any order of the slices."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index])))


def profile_correlation(lags: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Correlation of the noise of slices `lags` apart for a triangular profile of `width` (FWHM), in one unit."""
    x = np.abs(lags) / width
    inner = 1 - 1.5 * x**2 + 0.75 * x**3
    outer = np.maximum(2 - x, 0.0) ** 3 / 4
    return np.where(x < 1, inner, outer)


@lru_cache(maxsize=16)
def taps(width: float) -> tuple[float, ...]:
    """Weights of a moving mean that turns white slices into slices with the profile's correlation; unit sum of squares.

    The moving-average factor of a banded covariance is the last row of its Cholesky factor (Bauer 1955).

    Args:
        width: full width at half maximum of the profile over the distance of slices; 0 for independent slices.
    """
    width = min(width, LONGEST)
    lags = np.arange(int(np.ceil(2 * width)) if width > 0 else 1)
    if len(lags) == 1:
        return (1.0,)
    from scipy.linalg import toeplitz  # heavy

    size = 24 * len(lags)
    column = np.zeros(size)
    column[: len(lags)] = profile_correlation(lags.astype(np.float64), width)
    column[0] += 1e-9  # keeps a wide profile's matrix positive in rounding
    row = np.linalg.cholesky(toeplitz(column))[-1, ::-1][: len(lags)]
    row = np.round(row / np.sqrt(np.sum(row**2)), 6)  # the last bits of a factorisation differ between machines
    return tuple(float(value) for value in row)


class SliceScores:
    """Standard normal scores of slices, correlated through them; safe to use from several threads."""

    def __init__(self, seed: int, shape: tuple[int, int], width: float, ahead: int = 1) -> None:
        """Describe the scores.

        Args:
            seed: seed of the volume.
            shape: views and bins.
            width: profile's width over the distance of slices (see `taps`).
            ahead: slices that may be worked on at once; sets how many white fields are kept.
        """
        self._taps = taps(width)

        @lru_cache(maxsize=len(self._taps) + ahead)
        def white(index: int) -> NDArray[np.float32]:
            return slice_generator(seed, index).standard_normal(shape, dtype=np.float32)

        self._white = white

    def of(self, index: int) -> NDArray[np.float32]:
        """Scores of one slice, a fresh array."""
        total = self._white(index) * np.float32(self._taps[0])
        for lag, weight in enumerate(self._taps[1:], start=1):
            total += self._white(index + lag) * np.float32(weight)
        return total
