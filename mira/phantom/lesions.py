"""Lesions at known places: chosen inside an organ, away from everything else that is painted there."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mira.phantom.head import inside
from mira.phantom.noise import rng_for
from mira.phantom.raster import Layer, Scene
from mira.phantom.shapes import Blob, Point, Shape, Union

_FAINT_HU = (-30.0, -22.0, -15.0, 18.0, 28.0, 40.0)  # low contrasts against an organ


@dataclass(frozen=True)
class Lesion:
    """A lesion with its truth.

    Attributes:
        name: ROI name.
        organ: name of the organ in the scene.
        blob: its shape, in the anatomy's frame.
        contrast: what it adds to the organ's mean, per channel name (`CT` in HU, `PET` in SUVbw); for MR the tissue
            decides and the contrast is worked out from the signals.
        tissue: tissue of the head that it is made of; empty in the trunk.
    """

    name: str
    organ: str
    blob: Blob
    contrast: dict[str, float]
    tissue: str = ""

    @property
    def radius_mm(self) -> float:
        """Radius of the ball of equal volume, up to the surface's unevenness."""
        return float(np.cbrt(np.prod(self.blob.radii)))


def place(
    scene: Scene,
    organ: str,
    radius_mm: float,
    z_range: tuple[float, float],
    key: str,
    taken: list[Lesion],
    obstacles: list[Layer] | None = None,
) -> Blob | None:
    """A place for a lesion of a radius inside an organ; None where it does not fit.

    Args:
        scene: the patient.
        organ: name in `scene.organs`.
        radius_mm: radius.
        z_range: lowest and highest z of its centre, mm.
        key: key of the random choice.
        taken: lesions that are already there.
        obstacles: layers to stay away from; by default all that are painted after the organ.
    """
    rng = rng_for("lesion", scene.seed, key)
    shape = scene.organs[organ]
    low, high = (np.array(corner) * scene.scale for corner in shape.bounds())
    low[2], high[2] = max(low[2], z_range[0]), min(high[2], z_range[1])
    if low[2] >= high[2]:
        return None
    points = rng.uniform(low, high, (600, 3))
    x, y, z = ((points[:, i] / scene.scale[i]).astype(np.float32) for i in range(3))
    points = points[shape.distance(x, y, z) < -(radius_mm + 1.8 * scene.warp_mm)][:80]
    for layer in _painted_after(scene, shape) if obstacles is None else obstacles:
        points = _away_from(points, layer, radius_mm + 2.0, scene.scale)
    for other in taken:
        apart = np.linalg.norm(points - np.array(other.blob.centre), axis=1)
        points = points[apart > radius_mm + other.radius_mm + 8.0]
    if not len(points):
        return None
    chosen = points[0]
    radii = radius_mm * np.exp(rng.normal(0, 0.1, 3))
    radii *= radius_mm / np.cbrt(np.prod(radii))
    centre: Point = (float(chosen[0]), float(chosen[1]), float(chosen[2]))
    return Blob(
        centre,
        (float(radii[0]), float(radii[1]), float(radii[2])),
        tuple(float(b) for b in rng.uniform(-0.06, 0.06, 6)),
    )


def _painted_after(scene: Scene, organ: Shape) -> list[Layer]:
    """Layers on top of an organ, its own lumen or marrow not counted."""
    own = [i for i, layer in enumerate(scene.layers) if layer.shape == organ or organ in _members(layer.shape)]
    return list(scene.layers[own[-1] + 1 :]) if own else []


def _away_from(
    points: NDArray[np.float64], layer: Layer, margin: float, scale: tuple[float, float, float]
) -> NDArray[np.float64]:
    """The points that keep a margin in mm to a layer."""
    if not len(points):
        return points
    model = points / scale
    x, y, z = model.astype(np.float32).T
    least, most = model.min(axis=0) - margin, model.max(axis=0) + margin
    clear = np.ones(len(points), dtype=bool)
    if not _meets(layer.shape, least, most):
        return points
    for part in layer.shape.parts():
        if not _meets(part, least, most):
            continue
        clear &= part.distance(x, y, z) + np.float32(layer.inset) > margin
    return points[clear]


def _meets(shape: Shape, least: NDArray[np.float64], most: NDArray[np.float64]) -> bool:
    """Whether a shape's box meets the box from `least` to `most`."""
    low, high = shape.bounds()
    return all(most[i] >= low[i] and least[i] <= high[i] for i in (2, 0, 1))


def _members(shape: Shape) -> tuple[Shape, ...]:
    return shape.members if isinstance(shape, Union) else ()


def torso_lesions(scene: Scene, region: str, z_range: tuple[float, float]) -> list[Lesion]:
    """Up to two lesions that take up the tracer and four that only CT shows, as far as they fit."""
    rng = rng_for("torso-lesions", scene.seed)
    faint = [float(hu) for hu in rng.choice(_FAINT_HU, 5)]
    if region == "abdomen":
        avid = [("liver", faint[0]), ("liver", 30.0), ("spleen", -25.0)]
        plain = [("liver", faint[1]), ("liver", faint[2]), ("liver", faint[3]), ("spleen", faint[4])]
    else:
        avid = [("right-lung", 870.0), ("left-lung", 870.0), ("liver", 25.0)]
        plain = [("right-lung", 820.0), ("left-lung", 860.0), ("left-lung", 280.0), ("liver", faint[0])]
    avid += [(name, 0.0) for name in sorted(scene.organs) if name.startswith("vertebra")]
    found: list[Lesion] = []
    for kind, plan, wanted, sizes in (("avid", avid, 2, (5.0, 10.0)), ("plain", plain, 4, (3.0, 7.0))):
        count = 0
        for index, (organ, hu) in enumerate(plan):
            radius = float(rng.uniform(*sizes))
            radius = min(radius, 6.5) if organ.startswith("vertebra") else radius
            uptake = float(rng.uniform(3.0, 9.0)) if kind == "avid" else 0.0
            blob = place(scene, organ, radius, z_range, f"{kind}{index}", found) if count < wanted else None
            if blob is not None:
                count += 1
                found.append(Lesion(f"lesion-{len(found) + 1:02d}", organ, blob, {"CT": hu, "PET": uptake}))
    return found


def head_lesions(scene: Scene, z_range: tuple[float, float]) -> list[Lesion]:
    """Three to five lesions of the white matter: bright, dark and faint ones."""
    rng = rng_for("head-lesions", scene.seed)
    obstacles = inside(scene)
    found: list[Lesion] = []
    for index in range(int(rng.integers(3, 6))):
        organ = str(rng.choice(["left-white-matter", "right-white-matter"]))
        tissue = ("lesion-bright", "lesion-faint", "lesion-dark")[index % 3]
        blob = place(scene, organ, float(rng.uniform(2.5, 5.0)), z_range, f"head{index}", found, obstacles)
        if blob is not None:
            found.append(Lesion(f"lesion-{len(found) + 1:02d}", organ, blob, {}, tissue))
    return found
