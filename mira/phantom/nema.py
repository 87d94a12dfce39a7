"""Phantoms of the NEMA NU 2 standard for PET: the image quality phantom with its spheres, and a uniform cylinder.

The image quality phantom is the IEC body phantom (NEMA NU 2-2012, section 7): a torso-shaped tank 180 mm long with a
lung insert of 50 mm and six spheres of 10 to 37 mm inner diameter, their centres in one plane on a circle of 114.4 mm
around the insert. Walls are left out.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mira.phantom.raster import Grid, Layer, Paint, Scene, render
from mira.phantom.shapes import Array, Bounds, Column, Cut, Ellipsoid, Shape, Union

RING_MM = 57.2  # radius of the circle of sphere centres
CENTRE_Y = -35.0  # of the insert and the ring, from the middle of the tank's upper half circle
LID_MM = 70.0  # distance of the spheres' plane from the lid
LENGTH_MM = 180.0
INSET_MM = 15.0  # least distance of background regions from the tank's edge
OFFSETS_MM = (-20.0, -10.0, 0.0, 10.0, 20.0)  # planes of the background regions
# Directions from the insert, chosen so that the large spheres have the tank's wide sides and no region meets a sphere.
SPHERE_DEGREES = {10.0: 240, 13.0: 300, 17.0: 120, 22.0: 60, 28.0: 180, 37.0: 0}
REGION_DEGREES = (0, 20, 40, 90, 140, 160, 180, 200, 220, 270, 320, 340)
WATER_PER_MM = 0.0096  # at 511 keV
INSERT_PER_MM = 0.0029  # polystyrene beads of 0.3 g/ml


@dataclass(frozen=True)
class PetPhantom:
    """A phantom for the count-domain model.

    Attributes:
        grid: its voxels.
        activity: activity [slices, rows, columns] in units of the background's, which counts as SUV 1.
        mu: attenuation at 511 keV in 1/mm, likewise.
    """

    grid: Grid
    activity: Array
    mu: Array


@dataclass(frozen=True)
class Block:
    """A box with its sides along the axes."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def bounds(self) -> Bounds:
        """See `Shape`."""
        return self.low, self.high

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """See `Shape`."""
        sides = [
            np.abs(values - np.float32((a + b) / 2)) - np.float32((b - a) / 2)
            for values, a, b in zip((x, y, z), self.low, self.high, strict=True)
        ]
        signed: Array = np.maximum(np.maximum(sides[0], sides[1]), sides[2])
        return signed

    def parts(self) -> tuple[Shape, ...]:
        """See `Shape`."""
        return (self,)


def _cylinder(x: float, y: float, radius: float, low: float, high: float) -> Column:
    return Column(((low, x, y, radius, radius), (high, x, y, radius, radius)))


def _tank() -> Union:
    """A half circle of 147 mm in front; behind it a flat bottom with corners of 77 mm."""
    low, high = LID_MM - LENGTH_MM, LID_MM
    front = Cut(_cylinder(0, 0, 147, low, high), axis=1, at=0.0)
    corners = [_cylinder(side * 70, 0, 77, low, high) for side in (-1, 1)]
    return Union((front, *corners, Block((-70, -40, low), (70, 77, high))))


def sphere_centres() -> dict[float, tuple[float, float, float]]:
    """(x, y, z) of each sphere by its diameter, in mm."""
    return {diameter: _polar(degrees, RING_MM) for diameter, degrees in SPHERE_DEGREES.items()}


def _polar(degrees: float, radius_mm: float) -> tuple[float, float, float]:
    angle = np.radians(degrees)
    return radius_mm * float(np.cos(angle)), CENTRE_Y + radius_mm * float(np.sin(angle)), 0.0


def nema_iq(grid: Grid, contrast: float = 4.0, cold: tuple[float, ...] = (28.0, 37.0)) -> PetPhantom:
    """The image quality phantom.

    Args:
        grid: voxels; x and z count from the insert's axis and the spheres' plane, y from `CENTRE_Y` below the insert.
        contrast: activity of the hot spheres over the background's.
        cold: diameters of the spheres that hold water without activity.
    """
    insert = _cylinder(0, CENTRE_Y, 25, LID_MM - LENGTH_MM, LID_MM)
    layers = [Layer(_tank(), "background", exact=True), Layer(insert, "insert", exact=True)]
    for diameter, centre in sphere_centres().items():
        tissue = "cold" if diameter in cold else "hot"
        layers.append(Layer(Ellipsoid(centre, (diameter / 2,) * 3), tissue, exact=True))
    values = {
        "background": (1.0, WATER_PER_MM),
        "insert": (0.0, INSERT_PER_MM),
        "hot": (contrast, WATER_PER_MM),
        "cold": (0.0, WATER_PER_MM),
    }
    return _painted(grid, layers, values)


def uniform_cylinder(grid: Grid, radius_mm: float = 100.0, length_mm: float = 180.0) -> PetPhantom:
    """A water cylinder of activity 1 about the axis x = y = 0, its middle at z = 0."""
    solid = _cylinder(0, 0, radius_mm, -length_mm / 2, length_mm / 2)
    return _painted(grid, [Layer(solid, "background", exact=True)], {"background": (1.0, WATER_PER_MM)})


def _painted(grid: Grid, layers: list[Layer], values: dict[str, tuple[float, float]]) -> PetPhantom:
    box = tuple((float(axis[0]), float(axis[-1])) for axis in (grid.z(), grid.y(), grid.x()))
    scene = Scene(tuple(layers), "nema", (box[0], box[1], box[2]), warp_mm=0.0)
    palette = {name: Paint(value, (0.0, 0.0), (0.0, 0.0)) for name, value in values.items()}
    activity, mu = render(grid, scene, palette, (0.0, 0.0))
    return PetPhantom(grid, activity, mu)


def region(grid: Grid, centre: tuple[float, float, float], diameter_mm: float) -> NDArray[np.bool_]:
    """Pixels of a circular region in the slice nearest to its centre: [slices, rows, columns]."""
    x, y = grid.x()[None, None, :], grid.y()[None, :, None]
    plane = np.arange(grid.slices)[:, None, None] == int(np.abs(grid.z() - centre[2]).argmin())
    inside: NDArray[np.bool_] = (np.hypot(x - centre[0], y - centre[1]) <= diameter_mm / 2) & plane
    return inside


def background_centres(diameter_mm: float = 37.0) -> list[tuple[float, float]]:
    """(x, y) of the background regions: around the insert, `INSET_MM` within the tank's edge."""
    tank, depth = _tank(), INSET_MM + diameter_mm / 2
    radii = np.arange(0, 200, 0.25)
    centres = []
    for degrees in REGION_DEGREES:
        places = np.array([_polar(degrees, float(radius)) for radius in radii], dtype=np.float32)
        deep = tank.distance(places[:, 0], places[:, 1], places[:, 2]) <= -depth
        x, y, _ = places[deep][-1]
        centres.append((float(x), float(y)))
    return centres


def contrast_recovery(image: Array, grid: Grid, contrast: float, cold: tuple[float, ...]) -> dict[float, float]:
    """Percent contrast of each sphere by its diameter (NU 2-2012, 7.4.1): 100 where it shows its true contrast."""
    result = {}
    for diameter, centre in sphere_centres().items():
        inside = float(image[region(grid, centre, diameter)].mean())
        relative = inside / float(np.mean(background_means(image, grid, diameter)))
        share = 1 - relative if diameter in cold else (relative - 1) / (contrast - 1)
        result[diameter] = 100 * share
    return result


def background_variability(image: Array, grid: Grid) -> dict[float, float]:
    """Percent background variability by diameter (NU 2-2012, 7.4.1): the spread of means of regions of that size."""
    result = {}
    for diameter in SPHERE_DEGREES:
        means = background_means(image, grid, diameter)
        result[diameter] = 100 * float(np.std(means, ddof=1) / np.mean(means))
    return result


def background_means(image: Array, grid: Grid, diameter_mm: float) -> list[float]:
    """Means of all background regions of one size."""
    return [
        float(image[region(grid, (x, y, offset), diameter_mm)].mean())
        for x, y in background_centres()
        for offset in OFFSETS_MM
    ]
