"""Overlapping tiles of an image that is too large for memory or for a request, and their seamless join.

Tiles begin at multiples of `GRID` pixels, so that a network that halves the resolution three times sees each tile on
the same grid as the whole image. What it restores then differs from the whole image only near a tile's inner borders,
where the receptive field is cut; `MARGIN` pixels there are thrown away, and the next ones blend into the neighbour.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mira.errors import ConfigurationError

GRID = 8
MARGIN = 32  # thrown away at inner borders
BLEND = 32  # over which neighbours are mixed
OVERLAP = 2 * MARGIN + BLEND


@dataclass(frozen=True)
class Tile:
    """A part of an image: rows [top, bottom) and columns [left, right)."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns, to cut an image [..., H, W] with `image[(..., *tile.window)]`."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def tiles(height: int, width: int, side: int) -> list[Tile]:
    """Tiles of at most `side` pixels that cover an image and overlap by at least `OVERLAP`.

    Raises:
        ConfigurationError: when the side is no multiple of 8, or too small to overlap.
    """
    if side % GRID or side < 2 * OVERLAP:
        raise ConfigurationError(f"A tile of {side} pixels cannot be used: take a multiple of 8 from {2 * OVERLAP} up.")
    return [
        Tile(top, min(top + side, height), left, min(left + side, width))
        for top in _starts(height, side)
        for left in _starts(width, side)
    ]


def _starts(length: int, side: int) -> list[int]:
    """Where tiles begin along one axis, as evenly as the grid allows."""
    if length <= side:
        return [0]
    count = -(-(length - OVERLAP) // (side - OVERLAP))
    last = -(-(length - side) // GRID) * GRID
    return [round(last * number / (count - 1) / GRID) * GRID for number in range(count)]


def weights(tile: Tile, height: int, width: int) -> NDArray[np.float32]:
    """Weight [rows, columns] of a tile's pixels in the joined image, before they are made to add up to one."""
    rows = _ramp(tile.top, tile.bottom, height)
    columns = _ramp(tile.left, tile.right, width)
    return rows[:, None] * columns[None, :]


def _ramp(start: int, stop: int, length: int) -> NDArray[np.float32]:
    """One along the tile; rising from zero after the margin where a neighbour lies before or behind it."""
    place = np.arange(stop - start, dtype=np.float32) + 0.5
    result = np.ones(stop - start, dtype=np.float32)
    if start > 0:
        result = np.minimum(result, (place - MARGIN) / BLEND)
    if stop < length:
        result = np.minimum(result, (stop - start - place - MARGIN) / BLEND)
    return np.maximum(result, 0.0)


def join(parts: Iterator[tuple[Tile, NDArray[np.float32]]], height: int, width: int) -> NDArray[np.float32]:
    """Join restored tiles [..., rows, columns] to an image [..., height, width]."""
    total: NDArray[np.float32] | None = None
    weight = np.zeros((height, width), dtype=np.float32)
    for tile, part in parts:
        if total is None:
            total = np.zeros((*part.shape[:-2], height, width), dtype=np.float32)
        share = weights(tile, height, width)
        total[(..., *tile.window)] += part * share
        weight[tile.window] += share
    assert total is not None
    return np.asarray(total / weight, dtype=np.float32)
