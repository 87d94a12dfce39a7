"""MR test objects: a uniform cylinder, single points and a slanted edge, as images and without noise."""

import numpy as np
from numpy.typing import NDArray

from mira.phantom.raster import Grid
from mira.volume import Volume

SUBSAMPLES = 4  # per pixel and axis, for the partial volume of edges


def grid_affine(grid: Grid) -> NDArray[np.float64]:
    """Affine of a phantom's grid, as `Volume.affine`: the phantom lies with x to the left and y to the back."""
    affine = np.diag([grid.pixel_mm, grid.pixel_mm, grid.slice_mm, 1.0])
    affine[:3, 3] = grid.x()[0], grid.y()[0], grid.z()[0]
    return affine


def uniform_cylinder(
    grid: Grid, diameter_mm: float = 170.0, signal: float = 1000.0, shading: float = 0.0, background: float = 0.0
) -> Volume:
    """A cylinder along the slices, as the water phantom of a scanner's weekly check.

    Args:
        grid: where it is imaged.
        diameter_mm: diameter.
        signal: signal at the centre.
        shading: share of the signal that is lost at the edge of the cylinder, as a coil's falling sensitivity does,
            with the square of the distance.
        background: signal of the air around.
    """
    fine = (np.arange(grid.size * SUBSAMPLES) + 0.5) / SUBSAMPLES - 0.5
    x = grid.x()[0] + fine * grid.pixel_mm
    y = grid.y()[0] + fine * grid.pixel_mm
    share = (x[None, :] - grid.centre[0]) ** 2 + (y[:, None] - grid.centre[1]) ** 2
    share /= (diameter_mm / 2) ** 2
    image = np.where(share < 1, signal * (1 - shading * share), background)
    blocks = image.reshape(grid.size, SUBSAMPLES, grid.size, SUBSAMPLES).mean(axis=(1, 3))
    voxels = np.repeat(blocks[None].astype(np.float32), grid.slices, axis=0)
    return Volume(voxels, grid_affine(grid))


def points(shape: tuple[int, int], positions: list[tuple[int, int]], signal: float = 1.0) -> NDArray[np.float32]:
    """Single bright pixels [1, rows, columns] on nothing: what a simulator makes of them is its point-spread function.

    Args:
        shape: rows and columns.
        positions: (row, column) of each.
        signal: their value.
    """
    image = np.zeros((1, *shape), dtype=np.float32)
    for row, column in positions:
        image[0, row, column] = signal
    return image


def slanted_edge(
    shape: tuple[int, int], angle_degrees: float = 5.0, dark: float = 100.0, bright: float = 1000.0
) -> NDArray[np.float32]:
    """A bright band [1, rows, columns] with two straight edges, slightly turned against the columns.

    Two edges, so that the image goes on periodically from its right side to its left, as the Fourier transform takes it
    to do; the angle makes neighbouring rows sample an edge at different distances.
    """
    rows, columns = shape
    fine_rows = (np.arange(rows * SUBSAMPLES) + 0.5) / SUBSAMPLES - 0.5
    fine_columns = (np.arange(columns * SUBSAMPLES * 4) + 0.5) / (SUBSAMPLES * 4) - 0.5
    shift = (fine_rows - (rows - 1) / 2) * np.tan(np.radians(angle_degrees))
    offset = np.abs(fine_columns[None, :] - (columns - 1) / 2 - shift[:, None])
    image = np.where(offset < columns / 4, bright, dark)
    blocks = image.reshape(rows, SUBSAMPLES, columns, SUBSAMPLES * 4).mean(axis=(1, 3))
    edge: NDArray[np.float32] = blocks.astype(np.float32)[None]
    return edge
