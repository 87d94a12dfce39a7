"""The head: scalp, skull, a folded cortex, white matter, deep nuclei, ventricles and vessels.

Model coordinates in mm: x to the patient's left, y to the back, z to the head, origin in the middle of the brain.
The folds are the zero surfaces of smooth random fields: thin sheets of fluid that run inwards from the surface.
"""

import numpy as np

from mira.phantom.noise import SmoothField, rng_for
from mira.phantom.raster import Canvas, Grid, Layer, Paint, Scene
from mira.phantom.shapes import Array, Column, Cut, Ellipsoid, Shape, Union, tree, tube

BOX = ((-130.0, 130.0), (-150.0, 150.0), (-130.0, 130.0))
_WHOLE = (slice(None), slice(None), slice(None))
_BRAIN = Ellipsoid((0, 2, 8), (66, 82, 62), power=2.15)
_CORTEX_MM = 2.8


def head(seed: str, size: float) -> Scene:
    """One patient's head; the brain's own tissue is added by `render_head`.

    Args:
        seed: key of all that is random in it.
        size: linear size relative to the model, about 0.93 to 1.07.
    """
    rng = rng_for(seed, "head")
    organs: dict[str, Shape] = {
        "left-white-matter": Ellipsoid((32, 0, 22), (17, 40, 20)),
        "right-white-matter": Ellipsoid((-32, 0, 22), (17, 40, 20)),
    }
    skin = Union((Ellipsoid((0, 2, 6), (79, 97, 79), power=2.15), Column(((-200, 0, 4, 60, 80), (-20, 0, 2, 74, 94)))))
    layers = [
        Layer(skin, "scalp"),
        Layer(skin, "scalp-fat", inset=2.0),
        *[Layer(Ellipsoid((side * 66, -18, -28), (9, 26, 34)), "muscle") for side in (-1, 1)],
        Layer(_BRAIN, "skull", inset=-8.5),
        Layer(_BRAIN, "diploe", inset=-6.6),
        Layer(_BRAIN, "skull", inset=-4.2),
        Layer(_BRAIN, "dura", inset=-2.6),
        Layer(_BRAIN, "csf", inset=-1.8),
    ]
    scale = tuple(float(size * rng.uniform(0.97, 1.03)) for _ in range(3))
    return Scene(tuple(layers), seed, BOX, (scale[0], scale[1], scale[2]), warp_mm=2.0, organs=organs)


def inside(scene: Scene) -> list[Layer]:
    """What lies within the brain: nuclei, ventricles, fissures' vessels, eyes and sinuses below."""
    rng = rng_for(scene.seed, "inside")
    wide = float(rng.uniform(0.75, 1.5))
    layers: list[Layer] = []
    for side in (-1, 1):
        layers += [
            Layer(Ellipsoid((side * 27, -2, 2), (7, 22, 14), turn=-side * 0.25), "deep-grey"),
            Layer(Ellipsoid((side * 18, -2, 2), (5, 14, 10), turn=-side * 0.35), "thalamus"),
            Layer(tube([(side * 13, -34, 10), (side * 17, -16, 22), (side * 20, 8, 24)], [6.5, 4.5, 2.5]), "deep-grey"),
            Layer(Ellipsoid((side * 11, 14, 6), (9, 15, 10), turn=side * 0.4), "thalamus"),
        ]
        lateral = tube(
            [(side * 7, -36, 12), (side * 9, -14, 23), (side * 11, 12, 24), (side * 22, 36, 14), (side * 25, 52, 10)],
            [4.0 * wide, 5.0 * wide, 5.0 * wide, 5.5 * wide, 2.5 * wide],
        )
        layers += [
            Layer(lateral, "csf"),
            Layer(tube([(side * 13, 6, 20), (side * 21, 34, 13)], [1.6, 2.6]), "slow-blood"),
            Layer(tube([(side * 4, -20, -18), (side * 26, -14, -14), (side * 44, -4, -4)], [1.8, 1.6, 1.2]), "flow"),
            Layer(
                tree(
                    rng, (side * 44.0, -4.0, -4.0), (side * 0.3, 0.9, 0.8), _BRAIN, radius=1.3, length=22, generations=4
                ),
                "flow",
            ),
        ]
    layers += [
        Layer(Ellipsoid((0, 12, 0), (1.6 * wide, 13, 8)), "csf"),
        Layer(tube([(0, -26, 26), (0, 0, 33), (0, 30, 25)], [3.0, 2.6, 3.6]), "white"),
        Layer(
            tube([(0, -80, 10), (0, -40, 72), (0, 30, 74), (0, 84, 24), (0, 86, 0)], [1.5, 2.5, 3.5, 4.5, 4.5]),
            "slow-blood",
        ),
        Layer(tube([(0, 30, 16), (0, 56, 22), (0, 80, 14)], [2.2, 2.4, 3.0]), "slow-blood"),
        Layer(Ellipsoid((0, 10, -36), (15, 12, 26)), "white"),
        Layer(Ellipsoid((0, 26, -38), (6, 5, 10)), "csf"),
    ]
    for side in (-1, 1):
        eye = Ellipsoid((side * 32, -78, -42), (12, 12, 12))
        layers += [
            Layer(Ellipsoid((side * 30, -66, -42), (18, 24, 17)), "scalp-fat"),
            Layer(eye, "muscle", inset=-0.8),
            Layer(eye, "vitreous"),
            Layer(Ellipsoid((side * 33, -87, -42), (4.5, 2.2, 4.5)), "lens"),
            Layer(tube([(side * 30, -66, -42), (side * 12, -34, -36)], [2.4, 2.4]), "white"),
        ]
    nose = Ellipsoid((0, -66, -46), (13, 22, 20))
    layers += [Layer(nose, "mucosa", inset=-1.5), Layer(Cut(nose, 2, -28.0), "air")]
    return layers


def render_head(grid: Grid, scene: Scene, palette: dict[str, Paint]) -> Array:
    """Paint a head: float32 [channels, slices, rows, columns] in the units of the palette."""
    canvas = Canvas(grid, scene)
    image = canvas.blank(tuple(0.0 for _ in palette["csf"].value))
    lesions = [layer for layer in scene.layers if layer.exact]
    for layer in scene.layers:
        if not layer.exact:
            canvas.paint(image, layer, palette[layer.tissue])
    _paint_brain(canvas, image, scene, palette)
    for layer in [*inside(scene), *lesions]:
        canvas.paint(image, layer, palette[layer.tissue])
    return canvas.average(image)


def _paint_brain(canvas: Canvas, image: Array, scene: Scene, palette: dict[str, Paint]) -> None:
    """Cortex as a ribbon of constant thickness below surface and folds, white matter below it."""
    x, y, z = canvas.coordinates()
    surface = _BRAIN.distance(x, y, z)
    axes = canvas.axes
    sheet = np.minimum(_sheets(canvas, scene, "folds", 10.5), _sheets(canvas, scene, "more folds", 13.0))
    depth = np.float32(13.0) + np.float32(5.0) * SmoothField((scene.seed, "depth"), 18.0, scene.box).sample(axes)
    sheet = np.maximum(sheet, -surface - np.clip(depth, np.float32(3.0), np.float32(24.0)))
    fissure = np.maximum(np.abs(x) - np.float32(0.9), (np.float32(26.0) - z) * (np.abs(y) < 45))
    fissure = np.maximum(fissure, -surface - np.float32(38.0))
    open_fluid = np.minimum(sheet, fissure)
    for side in (-1, 1):
        insula = Ellipsoid((side * 41, -3, 4), (2.0, 19, 17))
        opening = Ellipsoid((side * 55, -8, 2), (17, 1.5, 17), turn=side * 0.2, tilt=0.35)
        bowed = x + np.float32(side * 0.014) * np.square(y + np.float32(3.0))
        open_fluid = np.minimum(open_fluid, insula.distance(bowed, y, z))
        open_fluid = np.minimum(open_fluid, opening.distance(x, y, z))
    pial = np.maximum(surface, -open_fluid)
    pixel = np.float32(canvas.grid.pixel_mm)
    for tissue, inset in (("grey", 0.0), ("white", _CORTEX_MM)):
        coverage = np.clip(np.float32(0.5) - (pial + np.float32(inset)) / pixel, 0, 1)
        canvas.blend(image, _WHOLE, coverage, palette[tissue])


def _sheets(canvas: Canvas, scene: Scene, name: str, scale_mm: float) -> Array:
    """Distance in mm to thin sheets: to first order, a smooth field over the size of its gradient."""
    field = SmoothField((scene.seed, name), scale_mm, scene.box).sample(canvas.axes)
    field += np.float32(0.6) * SmoothField((scene.seed, name, "wide"), 24.0, scene.box).sample(canvas.axes)
    steps = [float(axis[1] - axis[0]) for axis in canvas.axes]
    along_z, along_y, along_x = np.gradient(field, *steps)
    slope = np.sqrt(along_z**2 + along_y**2 + along_x**2)
    distance: Array = np.abs(field) / np.maximum(slope, np.float32(0.03)) - np.float32(0.5)
    return distance
