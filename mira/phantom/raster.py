"""Turns layers of analytic shapes into voxels, with partial volume at every edge."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mira.phantom.noise import SmoothField, fractal
from mira.phantom.shapes import Array, Bounds, Shape

Box = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Grid:
    """Voxel grid in the anatomy's frame: axial slices, rows along y (to the back), columns along x (to the left).

    Attributes:
        centre: (x, y, z) of the middle of the grid in mm.
        size: rows and columns.
        pixel_mm: in-plane distance.
        slices: number of slices.
        slice_mm: distance and thickness of slices.
    """

    centre: tuple[float, float, float]
    size: int
    pixel_mm: float
    slices: int
    slice_mm: float

    def x(self) -> NDArray[np.float64]:
        """Column centres in mm."""
        return _steps(self.centre[0], self.size, self.pixel_mm)

    def y(self) -> NDArray[np.float64]:
        """Row centres in mm."""
        return _steps(self.centre[1], self.size, self.pixel_mm)

    def z(self) -> NDArray[np.float64]:
        """Slice centres in mm, from the feet to the head."""
        return _steps(self.centre[2], self.slices, self.slice_mm)


def _steps(middle: float, count: int, step: float) -> NDArray[np.float64]:
    """Equal steps about a middle."""
    positions: NDArray[np.float64] = middle + (np.arange(count, dtype=np.float64) - (count - 1) / 2) * step
    return positions


@dataclass(frozen=True)
class Layer:
    """One solid of one tissue, painted over what is already there.

    Attributes:
        shape: the solid.
        tissue: name in the tissue table.
        inset: peel this many mm off first: the marrow inside a bone's shell, the lumen inside a wall.
        exact: not bent by the patient's warp; lesions, whose place is part of the truth.
    """

    shape: Shape
    tissue: str
    inset: float = 0.0
    exact: bool = False


@dataclass(frozen=True)
class Scene:
    """All layers of one patient's region, from the outermost to what lies on top.

    Attributes:
        layers: in painting order.
        seed: key of the patient's warp and textures.
        box: ((z), (y), (x)) ranges in mm in which the region is defined.
        scale: the patient's size relative to the model, per (x, y, z).
        warp_mm: size of the bending that makes shapes individual.
        organs: solids that lesions may be placed in.
    """

    layers: tuple[Layer, ...]
    seed: str
    box: Box
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    warp_mm: float = 3.0
    organs: dict[str, Shape] = field(default_factory=dict)


@dataclass(frozen=True)
class Paint:
    """What a tissue looks like in each painted channel.

    Attributes:
        value: mean per channel.
        texture: standard deviation of the coarse-to-fine texture per channel.
        grain: standard deviation of the finest texture per channel, as in trabecular bone.
    """

    value: tuple[float, ...]
    texture: tuple[float, ...]
    grain: tuple[float, ...]


class Canvas:
    """Voxels of one grid being painted; every slice is the mean of `oversample` thinner ones."""

    def __init__(self, grid: Grid, scene: Scene, oversample: int = 2) -> None:
        """Prepare coordinates, the warp and the textures."""
        self.grid = grid
        self._scene = scene
        self._oversample = oversample
        step = grid.slice_mm / oversample
        offsets = (np.arange(oversample) - (oversample - 1) / 2) * step
        self.axes = ((grid.z()[:, None] + offsets).ravel(), grid.y(), grid.x())
        keys = ("phantom", scene.seed)
        self._bent: list[Array] = []
        for axis, name in ((2, "x"), (1, "y"), (0, "z")):
            coordinate = self.axes[axis].astype(np.float32)
            shape = [1, 1, 1]
            shape[axis] = -1
            shift = SmoothField((*keys, "bend", name), 48.0, scene.box).sample(self.axes)
            shift += np.float32(0.3) * SmoothField((*keys, "wobble", name), 15.0, scene.box).sample(self.axes)
            np.clip(shift, -2.2, 2.2, out=shift)
            shift *= np.float32(scene.warp_mm)
            shift += coordinate.reshape(shape)
            shift /= np.float32(scene.scale["xyz".index(name)])
            self._bent.append(shift)
        self.texture = fractal((*keys, "texture"), (22.0, 11.0, 5.5, 2.75), 0.55, scene.box, self.axes)
        self.grain = SmoothField((*keys, "grain"), 1.8, scene.box).sample(self.axes)

    def coordinates(self) -> tuple[Array, Array, Array]:
        """Bent (x, y, z) of every fine voxel, for solids that are not made of shapes."""
        return self._bent[0], self._bent[1], self._bent[2]

    def fine_shape(self) -> tuple[int, ...]:
        """Shape before slices are averaged."""
        return self.texture.shape

    def blank(self, values: tuple[float, ...]) -> Array:
        """Channels filled with a constant, shape [channels, fine slices, rows, columns]."""
        return np.stack([np.full(self.fine_shape(), value, dtype=np.float32) for value in values])

    def paint(self, image: Array, layer: Layer, paint: Paint) -> None:
        """Paint one layer over `image` [channels, fine slices, rows, columns], in place."""
        if self._window(layer.shape.bounds(), layer.exact) is None:
            return
        for part in layer.shape.parts():
            window = self._window(part.bounds(), layer.exact)
            if window is None:
                continue
            coverage = self._coverage(part, layer, window)
            if coverage is None:
                continue
            self.blend(image, window, coverage, paint)

    def blend(self, image: Array, window: tuple[slice, slice, slice], coverage: Array, paint: Paint) -> None:
        """Mix a tissue into a window of the image by its coverage, 0 to 1."""
        for channel in range(len(image)):
            there = image[channel][window]
            value: Array | np.float32 = np.float32(paint.value[channel])
            if paint.texture[channel]:
                value = value + np.float32(paint.texture[channel]) * self.texture[window]
            if paint.grain[channel]:
                value = value + np.float32(paint.grain[channel]) * self.grain[window]
            there += coverage * (value - there)

    def average(self, image: Array) -> Array:
        """Fine slices averaged to the grid's slices: [channels, slices, rows, columns]."""
        channels, _, rows, columns = image.shape
        mean: Array = image.reshape(channels, self.grid.slices, self._oversample, rows, columns).mean(
            axis=2, dtype=np.float32
        )
        return mean

    def _window(self, bounds: Bounds, exact: bool) -> tuple[slice, slice, slice] | None:
        margin = 1.5 * self.grid.pixel_mm + (0.0 if exact else 2.3 * self._scene.warp_mm)
        slices = []
        for axis, coordinates in ((2, self.axes[0]), (1, self.axes[1]), (0, self.axes[2])):
            scale = 1.0 if exact else self._scene.scale[axis]
            low, high = bounds[0][axis] * scale - margin, bounds[1][axis] * scale + margin
            if high < coordinates[0] or low > coordinates[-1]:
                return None
            first, last = (int(edge) for edge in np.searchsorted(coordinates, (low, high)))
            if first >= last:
                return None
            slices.append(slice(first, last))
        return slices[0], slices[1], slices[2]

    def _coverage(self, part: Shape, layer: Layer, window: tuple[slice, slice, slice]) -> Array | None:
        if layer.exact:
            z, y, x = np.meshgrid(
                *(axis[part_of].astype(np.float32) for axis, part_of in zip(self.axes, window, strict=True)),
                indexing="ij",
                sparse=True,
            )
            distance = part.distance(x, y, z)
        else:
            x, y, z = (coordinate[window] for coordinate in self._bent)
            distance = part.distance(x, y, z)
        coverage: Array = np.float32(0.5) - (distance + np.float32(layer.inset)) / np.float32(self.grid.pixel_mm)
        np.clip(coverage, 0, 1, out=coverage)
        return coverage if coverage.any() else None


def render(grid: Grid, scene: Scene, palette: dict[str, Paint], background: tuple[float, ...]) -> Array:
    """Paint a scene: float32 [channels, slices, rows, columns] in the units of the palette."""
    canvas = Canvas(grid, scene)
    image = canvas.blank(background)
    for layer in scene.layers:
        canvas.paint(image, layer, palette[layer.tissue])
    return canvas.average(image)
