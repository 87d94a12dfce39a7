"""Parallel-beam projection of emission images as a non-negative sparse matrix, which OSEM needs.

A pixel is a square that casts a shadow on the detector of every view. The shadow is a trapezoid, the convolution of two
boxes as wide as |cos| and |sin| of the view's angle; each bin takes its share of the area. The shares of a pixel
add up to one in each view, so counts are kept.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SystemMatrix:
    """Projection split into ordered subsets.

    Attributes:
        shape: rows and columns of the image.
        bins: detector bins in each view, one pixel wide.
        forward: for each subset a scipy CSR matrix [views of the subset * bins, rows * columns]; views are interleaved.
        backward: their transposes, in CSR too.
    """

    shape: tuple[int, int]
    bins: int
    forward: tuple[Any, ...]
    backward: tuple[Any, ...]


def _shadow(offset: NDArray[np.float64], wide: float, narrow: float) -> NDArray[np.float64]:
    """Area of the trapezoid of half-widths `wide` (foot) and `narrow` (top) to the left of `offset`; 1 in all."""
    t = np.clip(-np.abs(offset), -wide, 0.0)  # the left half; the right half by symmetry
    slope = max(wide - narrow, 1e-9)
    height = 1.0 / (wide + narrow)
    foot = np.minimum(t + wide, slope)
    left = height * (foot**2 / (2 * slope) + np.maximum(t + narrow, 0.0))
    return np.where(offset <= 0, left, 1.0 - left)


@lru_cache(maxsize=4)
def system_matrix(shape: tuple[int, int], views: int, subsets: int) -> SystemMatrix:
    """Build the projection of images of `shape`: `views` over 180 degrees, dealt into `subsets`; kept for later."""
    from scipy import sparse  # heavy, and only this simulator needs it

    rows, columns = shape
    bins = int(np.ceil(np.hypot(rows, columns))) + 3
    y, x = np.indices(shape).reshape(2, -1)
    pixels = np.arange(rows * columns)
    forward, backward = [], []
    for subset in range(subsets):
        values, detectors = [], []
        for order, view in enumerate(range(subset, views, subsets)):
            angle = np.pi * (view + 0.5) / views
            cos, sin = np.cos(angle), np.sin(angle)
            position = (x - (columns - 1) / 2) * cos + (y - (rows - 1) / 2) * sin + (bins - 1) / 2
            nearest = np.rint(position).astype(np.int64)
            wide, narrow = (abs(cos) + abs(sin)) / 2, abs(abs(cos) - abs(sin)) / 2
            edges = np.stack([nearest + shift - position for shift in (-1.5, -0.5, 0.5, 1.5)])
            values.append(np.diff(_shadow(edges, wide, narrow), axis=0))
            detectors.append(np.stack([nearest - 1, nearest, nearest + 1]) + order * bins)
        weights = np.stack(values).astype(np.float32).ravel()
        index = (np.stack(detectors).ravel(), np.broadcast_to(pixels, (len(values), 3, pixels.size)).ravel())
        matrix = sparse.coo_matrix((weights, index), shape=(len(values) * bins, pixels.size)).tocsr()
        matrix.eliminate_zeros()
        forward.append(matrix)
        backward.append(matrix.T.tocsr())
    return SystemMatrix(shape, bins, tuple(forward), tuple(backward))
