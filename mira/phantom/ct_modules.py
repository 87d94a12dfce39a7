"""CT physics phantoms in HU: water cylinder, contrast, line-pair and wire modules laid out like those of a Catphan.

Diameters, radii and spatial frequencies follow the Catphan 500/600 series (The Phantom Laboratory, manual); CT numbers
of the inserts are the nominal ones at 120 kVp. All turn about the origin and do not change along z.
"""

import numpy as np
from numpy.typing import NDArray

from mira.phantom.raster import Grid
from mira.phantom.shapes import Column
from mira.phantom.solids import ENDLESS_MM, Bar, Solid, cylinder, paint

AIR, WATER = -1000.0, 0.0
BODY_RADIUS_MM = 100.0
# Sensitometry module: material, nominal HU at 120 kVp
SENSITOMETRY = (
    ("air", -1000.0),
    ("pmp", -200.0),
    ("ldpe", -100.0),
    ("polystyrene", -35.0),
    ("acrylic", 120.0),
    ("delrin", 340.0),
    ("teflon", 990.0),
)
SENSITOMETRY_RADIUS_MM, SENSITOMETRY_CIRCLE_MM = 6.0, 58.4
LOW_CONTRAST_DIAMETERS_MM = (15.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0)
LOW_CONTRAST_CIRCLE_MM = 50.0
LINE_PAIRS_PER_CM = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
LINE_PAIR_CIRCLE_MM = 48.0


def water_cylinder(grid: Grid, radius_mm: float = BODY_RADIUS_MM, oversample: int = 5) -> NDArray[np.float32]:
    """Water in air."""
    return paint(grid, [Solid(cylinder(0, 0, radius_mm), WATER)], AIR, oversample)


def elliptic_body(
    grid: Grid, radii_mm: tuple[float, float] = (200.0, 120.0), bone: bool = True, oversample: int = 3
) -> NDArray[np.float32]:
    """A body wider than deep, with two dense bones at its sides, which starves horizontal rays of photons."""
    wide, deep = radii_mm
    solids = [Solid(Column(((-ENDLESS_MM, 0, 0, wide, deep), (ENDLESS_MM, 0, 0, wide, deep))), 30.0)]
    if bone:
        solids += [Solid(cylinder(side * 0.62 * wide, 0, 0.2 * deep), 800.0) for side in (-1, 1)]
    return paint(grid, solids, AIR, oversample)


def disc_places(count: int, circle_mm: float) -> list[tuple[float, float]]:
    """Centres (x, y) evenly spread over a circle, the first at the right."""
    angles = 2 * np.pi * np.arange(count) / count
    return [(float(circle_mm * np.cos(angle)), float(circle_mm * np.sin(angle))) for angle in angles]


def contrast_module(grid: Grid, oversample: int = 5) -> NDArray[np.float32]:
    """Sensitometry module: rods of seven materials in water, from air to teflon."""
    places = disc_places(len(SENSITOMETRY), SENSITOMETRY_CIRCLE_MM)
    rods = [
        Solid(cylinder(x, y, SENSITOMETRY_RADIUS_MM), value)
        for (x, y), (_, value) in zip(places, SENSITOMETRY, strict=True)
    ]
    return paint(grid, [Solid(cylinder(0, 0, BODY_RADIUS_MM), WATER), *rods], AIR, oversample)


def low_contrast_module(grid: Grid, contrast_hu: float = 10.0, oversample: int = 5) -> NDArray[np.float32]:
    """Low-contrast module: discs of nine diameters that are `contrast_hu` above their water (10 HU is 1 %)."""
    places = disc_places(len(LOW_CONTRAST_DIAMETERS_MM), LOW_CONTRAST_CIRCLE_MM)
    discs = [
        Solid(cylinder(x, y, diameter / 2), contrast_hu)
        for (x, y), diameter in zip(places, LOW_CONTRAST_DIAMETERS_MM, strict=True)
    ]
    return paint(grid, [Solid(cylinder(0, 0, BODY_RADIUS_MM), WATER), *discs], AIR, oversample)


def line_pair_module(grid: Grid, value: float = 1000.0, bars: int = 4, oversample: int = 5) -> NDArray[np.float32]:
    """Line-pair module: upright bars at 1 to 10 line pairs per cm, each group a square of `bars` bars.

    Args:
        grid: the voxels.
        value: CT number of the bars; aluminium is about 2000 HU.
        bars: bars in each group.
        oversample: samples per pixel along each axis.
    """
    solids = [Solid(cylinder(0, 0, BODY_RADIUS_MM), WATER)]
    for (x, y), frequency in zip(
        disc_places(len(LINE_PAIRS_PER_CM), LINE_PAIR_CIRCLE_MM), LINE_PAIRS_PER_CM, strict=True
    ):
        width = 5.0 / frequency  # half a period, mm
        half = min(bars * width, 12.0)
        for bar in range(bars):
            centre = x + (2 * bar - bars + 1) * width
            solids.append(Solid(Bar(centre, y, width / 2, half), value))
    return paint(grid, solids, AIR, oversample)


def disc_edge(
    grid: Grid, contrast_hu: float = 300.0, radius_mm: float = 25.0, oversample: int = 9
) -> NDArray[np.float32]:
    """A disc in water whose edge gives the task transfer function at its contrast."""
    solids = [Solid(cylinder(0, 0, BODY_RADIUS_MM), WATER), Solid(cylinder(0, 0, radius_mm), contrast_hu)]
    return paint(grid, solids, AIR, oversample)


def wire(grid: Grid, radius_mm: float = 0.14, value: float = 20000.0, oversample: int = 15) -> NDArray[np.float32]:
    """A thin metal wire in water a little beside the centre, whose image is the point spread function."""
    place = cylinder(0.37 * grid.pixel_mm, 0.21 * grid.pixel_mm, radius_mm)
    solids = [Solid(cylinder(0, 0, BODY_RADIUS_MM), WATER), Solid(place, value)]
    return paint(grid, solids, AIR, oversample)
