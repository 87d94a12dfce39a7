"""Seeds and smooth random fields in physical space."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def digest(*keys: str | int) -> int:
    """A 256-bit integer that depends on all keys and on nothing else."""
    text = "\0".join(str(key) for key in keys)
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")


def rng_for(*keys: str | int) -> np.random.Generator:
    """A generator of its own for each combination of keys: what one part draws moves no other part."""
    return np.random.Generator(np.random.PCG64(digest(*keys)))


class SmoothField:
    """Random field with about unit variance that varies over `scale_mm`, defined everywhere in a box.

    Cubic B-splines over a lattice of normal numbers; two grids that sample the same place see the same value. Each
    plane of the lattice has a seed of its own, so that a thin slab draws only the planes that it needs.
    """

    def __init__(
        self,
        keys: Sequence[str | int],
        scale_mm: float,
        box: tuple[tuple[float, float], tuple[float, float], tuple[float, float]],
    ) -> None:
        """Describe the field.

        Args:
            keys: what the lattice is drawn from.
            scale_mm: distance of lattice points.
            box: ((low, high) for z, y, x) in mm; outside, the field continues with its border value.
        """
        self._keys = tuple(keys)
        self._scale = scale_mm
        self._low = [low for low, _ in box]
        self._counts = [int(np.ceil((high - low) / scale_mm)) + 4 for low, high in box]

    def _planes(self, first: int, last: int) -> Array:
        """Lattice planes from `first` to before `last`."""
        shape = (self._counts[1], self._counts[2])
        planes = [
            rng_for(*self._keys, "plane", index).standard_normal(shape, dtype=np.float32)
            for index in range(first, last)
        ]
        # a cubic B-spline keeps (0.479)^3 of the lattice's variance on average over the cell
        return np.stack(planes) / np.float32(0.479**1.5)

    def sample(self, axes: Sequence[NDArray[np.floating]]) -> Array:
        """Values on the grid spanned by (z, y, x) coordinate axes in mm."""
        places = []
        for axis, coordinates in enumerate(axes):
            position = (np.asarray(coordinates, dtype=np.float64) - self._low[axis]) / self._scale + 1.0
            places.append(np.clip(position, 1.0, self._counts[axis] - 2.001))
        start = int(places[0].min()) - 1
        values = self._planes(start, int(places[0].max()) + 3)
        places[0] = places[0] - start
        for axis, position in enumerate(places):
            first = np.floor(position).astype(np.int64)
            t = (position - first).astype(np.float32)
            weights = (
                (1 - t) ** 3 / 6,
                (3 * t**3 - 6 * t**2 + 4) / 6,
                (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
                t**3 / 6,
            )
            shape = [1, 1, 1]
            shape[axis] = -1
            moved = np.take(values, first - 1, axis=axis) * weights[0].reshape(shape)
            for tap in range(1, 4):
                moved += np.take(values, first - 1 + tap, axis=axis) * weights[tap].reshape(shape)
            values = moved.astype(np.float32, copy=False)
        return values


def fractal(
    keys: Sequence[str | int],
    scales_mm: Sequence[float],
    roughness: float,
    box: tuple[tuple[float, float], tuple[float, float], tuple[float, float]],
    axes: Sequence[NDArray[np.floating]],
) -> Array:
    """Sum of smooth fields of several scales with about unit variance.

    Args:
        keys: what the lattices are drawn from.
        scales_mm: scales of the octaves.
        roughness: amplitudes go as scale to this power: 0 is rough, 1 is smooth.
        box: the box that the field is defined in, see `SmoothField`.
        axes: (z, y, x) coordinates of the grid in mm.
    """
    amplitudes = np.array([scale**roughness for scale in scales_mm])
    amplitudes /= np.sqrt(np.sum(amplitudes**2))
    total: Array = np.zeros([len(axis) for axis in axes], dtype=np.float32)
    for octave, (scale, amplitude) in enumerate(zip(scales_mm, amplitudes, strict=True)):
        total += np.float32(amplitude) * SmoothField((*keys, octave), scale, box).sample(axes)
    return total
