"""Physics phantoms: analytic solids of exact values, painted with sub-pixel averaging.

Where the anatomical phantoms bend and texture what they paint, a physics phantom must be known exactly: each value is
what was asked for, and each edge voxel holds the share of its area that the solid covers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mira.phantom.raster import Grid
from mira.phantom.shapes import Array, Bounds, Column, Shape

ENDLESS_MM = 1e4


@dataclass(frozen=True)
class Solid:
    """A solid of one value.

    Attributes:
        shape: its shape, in mm.
        value: its value, in the unit of the phantom.
    """

    shape: Shape
    value: float


@dataclass(frozen=True)
class Bar:
    """Upright bar of rectangular section about (x, y), endless along z."""

    x: float
    y: float
    half_width: float
    half_depth: float

    def bounds(self) -> Bounds:
        """See `Shape`."""
        low = (self.x - self.half_width, self.y - self.half_depth, -ENDLESS_MM)
        return low, (self.x + self.half_width, self.y + self.half_depth, ENDLESS_MM)

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """See `Shape`."""
        across = np.abs(x - np.float32(self.x)) - np.float32(self.half_width)
        signed: Array = np.maximum(across, np.abs(y - np.float32(self.y)) - np.float32(self.half_depth))
        return signed

    def parts(self) -> Sequence[Shape]:
        """See `Shape`."""
        return (self,)


def cylinder(x: float, y: float, radius_mm: float, half_length_mm: float = ENDLESS_MM) -> Column:
    """An upright cylinder about (x, y); as good as endless unless a half length is given."""
    return Column(
        (
            (-half_length_mm, x, y, radius_mm, radius_mm),
            (half_length_mm, x, y, radius_mm, radius_mm),
        )
    )


def slice_grid(size: int, pixel_mm: float, slices: int = 1, slice_mm: float = 1.0) -> Grid:
    """A grid whose pixel `size // 2` lies at the origin, which is where the CT projector turns about."""
    half = pixel_mm / 2 if size % 2 == 0 else 0.0
    return Grid((-half, -half, 0.0), size, pixel_mm, slices, slice_mm)


def paint(
    grid: Grid, solids: Sequence[Solid], background: float, oversample: int = 5, oversample_z: int = 1
) -> NDArray[np.float32]:
    """Paint solids, later ones over earlier ones.

    Args:
        grid: the voxels.
        solids: solids of one value each.
        background: value where there is none.
        oversample: samples per pixel along each in-plane axis.
        oversample_z: samples through each slice; 1 for solids that do not change along z.

    Returns:
        Values [slices, rows, columns].
    """
    fine_x, fine_y = (_fine(axis, grid.pixel_mm, oversample) for axis in (grid.x(), grid.y()))
    result = np.empty((grid.slices, grid.size, grid.size), dtype=np.float32)
    for index, height in enumerate(grid.z()):
        total = np.zeros((grid.size, grid.size), dtype=np.float32)
        for z in _fine(np.array([height]), grid.slice_mm, oversample_z):
            plane = np.full((fine_y.size, fine_x.size), background, dtype=np.float32)
            for solid in solids:
                _stamp(plane, solid, fine_x, fine_y, float(z))
            total += plane.reshape(grid.size, oversample, grid.size, oversample).mean(axis=(1, 3))
        result[index] = total / oversample_z
    return result


def _fine(centres: NDArray[np.float64], step: float, count: int) -> NDArray[np.float32]:
    """`count` evenly spread samples within each step."""
    offsets = ((np.arange(count) + 0.5) / count - 0.5) * step
    return (centres[:, None] + offsets).ravel().astype(np.float32)


def _stamp(plane: NDArray[np.float32], solid: Solid, x: NDArray[np.float32], y: NDArray[np.float32], z: float) -> None:
    """Set the samples of a plane that lie inside a solid, in place."""
    for part in solid.shape.parts():
        low, high = part.bounds()
        if not low[2] <= z <= high[2]:
            continue
        rows = slice(*np.searchsorted(y, (low[1], high[1])))
        columns = slice(*np.searchsorted(x, (low[0], high[0])))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        u, v = np.meshgrid(x[columns], y[rows])
        inside = part.distance(u, v, np.full_like(u, z)) <= 0  # 0 at the very centre of some shapes too
        plane[rows, columns][inside] = solid.value
