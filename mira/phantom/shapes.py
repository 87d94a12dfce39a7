"""Analytic shapes by (approximate) signed distance: negative inside, in mm."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Point = tuple[float, float, float]
Bounds = tuple[Point, Point]


class Shape(Protocol):
    """A solid. Coordinates are (x, y, z) in mm: x to the left, y to the back, z to the head."""

    def bounds(self) -> Bounds:
        """Lowest and highest corner of a box around the solid."""
        ...

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance in mm, exact in sign and good to first order near the surface."""
        ...

    def parts(self) -> Sequence["Shape"]:
        """Solids whose union it is, each with a tight box."""
        ...


@dataclass(frozen=True)
class Ellipsoid:
    """(Super)ellipsoid, turned by `turn` radians in the axial plane and, before it, by `tilt` in the sagittal one."""

    centre: Point
    radii: Point
    turn: float = 0.0
    tilt: float = 0.0
    power: float = 2.0

    def bounds(self) -> Bounds:
        """See `Shape`."""
        c, s = abs(np.cos(self.turn)), abs(np.sin(self.turn))
        ct, st = abs(np.cos(self.tilt)), abs(np.sin(self.tilt))
        a, b, h = self.radii
        b, h = ct * b + st * h, st * b + ct * h
        reach = (c * a + s * b, s * a + c * b, h)
        low, high = zip(*((m - r, m + r) for m, r in zip(self.centre, reach, strict=True)), strict=True)
        return low, high

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """See `Shape`."""
        u, v, w = x - np.float32(self.centre[0]), y - np.float32(self.centre[1]), z - np.float32(self.centre[2])
        if self.turn:
            c, s = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
            u, v = c * u + s * v, c * v - s * u
        if self.tilt:
            c, s = np.float32(np.cos(self.tilt)), np.float32(np.sin(self.tilt))
            v, w = c * v + s * w, c * w - s * v
        a, b, h = (np.float32(r) for r in self.radii)
        u, v, w = u / a, v / b, w / h
        if self.power == 2.0:
            level = np.sqrt(u * u + v * v + w * w)
            slope = np.sqrt((u / a) ** 2 + (v / b) ** 2 + (w / h) ** 2)
            signed: Array = level * (level - 1) / np.maximum(slope, np.float32(1e-6))
            return signed
        n = np.float32(self.power)
        u, v, w = np.abs(u), np.abs(v), np.abs(w)
        level = (u**n + v**n + w**n) ** (1 / n)
        slope = np.sqrt((u ** (n - 1) / a) ** 2 + (v ** (n - 1) / b) ** 2 + (w ** (n - 1) / h) ** 2)
        steepness = np.maximum(slope, np.float32(1e-6))
        powered: Array = (level - 1) * np.maximum(level, np.float32(1e-6)) ** (n - 1) / steepness
        return powered

    def parts(self) -> Sequence[Shape]:
        """See `Shape`."""
        return (self,)


@dataclass(frozen=True)
class Column:
    """Upright column with a superelliptic section whose centre and radii follow z.

    Attributes:
        knots: rows of (z, centre x, centre y, radius x, radius y), z rising; between them linear.
        power: 2 is an ellipse, more is squarer.
        turn: rotation of the section in radians.
    """

    knots: tuple[tuple[float, float, float, float, float], ...]
    power: float = 2.0
    turn: float = 0.0

    def bounds(self) -> Bounds:
        """See `Shape`."""
        k = np.array(self.knots)
        rx, ry = (k[:, 3], k[:, 4]) if not self.turn else (np.hypot(k[:, 3], k[:, 4]),) * 2
        low = (float((k[:, 1] - rx).min()), float((k[:, 2] - ry).min()), float(k[0, 0]))
        high = (float((k[:, 1] + rx).max()), float((k[:, 2] + ry).max()), float(k[-1, 0]))
        return low, high

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """See `Shape`."""
        k = np.array(self.knots, dtype=np.float32)
        if np.ptp(k[:, 1:], axis=0).any():
            cx, cy, rx, ry = (np.interp(z, k[:, 0], k[:, i]).astype(np.float32) for i in range(1, 5))
        else:
            cx, cy, rx, ry = k[0, 1:]
        u, v = x - cx, y - cy
        if self.turn:
            c, s = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
            u, v = c * u + s * v, c * v - s * u
        u, v = np.abs(u / rx), np.abs(v / ry)
        if self.power == 2.0:
            level = np.sqrt(u * u + v * v)
            slope = np.sqrt((u / rx) ** 2 + (v / ry) ** 2)
            flat = level * (level - 1) / np.maximum(slope, np.float32(1e-6))
        else:
            n = np.float32(self.power)
            level = (u**n + v**n) ** (1 / n)
            slope = np.sqrt((u ** (n - 1) / rx) ** 2 + (v ** (n - 1) / ry) ** 2)
            flat = (level - 1) * np.maximum(level, np.float32(1e-6)) ** (n - 1) / np.maximum(slope, np.float32(1e-6))
        middle, half = np.float32((k[0, 0] + k[-1, 0]) / 2), np.float32((k[-1, 0] - k[0, 0]) / 2)
        signed: Array = np.maximum(flat, np.abs(z - middle) - half)
        return signed

    def parts(self) -> Sequence[Shape]:
        """See `Shape`."""
        return (self,)


@dataclass(frozen=True)
class Segment:
    """Straight piece of a tube with round ends; the radius goes linearly from one end to the other."""

    start: Point
    end: Point
    radius_start: float
    radius_end: float

    def bounds(self) -> Bounds:
        """See `Shape`."""
        (ax, ay, az), (bx, by, bz) = self.start, self.end
        r = max(self.radius_start, self.radius_end)
        low = (min(ax, bx) - r, min(ay, by) - r, min(az, bz) - r)
        return low, (max(ax, bx) + r, max(ay, by) + r, max(az, bz) + r)

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """See `Shape`."""
        a, b = np.array(self.start, dtype=np.float32), np.array(self.end, dtype=np.float32)
        d = b - a
        length2 = max(float(d @ d), 1e-6)
        u, v, w = x - a[0], y - a[1], z - a[2]
        along = np.clip((u * d[0] + v * d[1] + w * d[2]) / np.float32(length2), 0, 1)
        reach = np.sqrt((u - along * d[0]) ** 2 + (v - along * d[1]) ** 2 + (w - along * d[2]) ** 2)
        taper = np.float32(self.radius_end - self.radius_start)
        signed: Array = reach - (np.float32(self.radius_start) + along * taper)
        return signed

    def parts(self) -> Sequence[Shape]:
        """See `Shape`."""
        return (self,)


@dataclass(frozen=True)
class Union:
    """Several solids of the same tissue: a tube of segments, a vascular tree, an organ of two lobes."""

    members: tuple[Shape, ...]

    @cached_property
    def _bounds(self) -> Bounds:
        boxes = np.array([member.bounds() for member in self.members])
        low, high = boxes[:, 0].min(axis=0), boxes[:, 1].max(axis=0)
        return (float(low[0]), float(low[1]), float(low[2])), (float(high[0]), float(high[1]), float(high[2]))

    def bounds(self) -> Bounds:
        """See `Shape`."""
        return self._bounds

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """See `Shape`."""
        result = self.members[0].distance(x, y, z)
        for member in self.members[1:]:
            result = np.minimum(result, member.distance(x, y, z))
        return result

    def parts(self) -> Sequence[Shape]:
        """See `Shape`."""
        return [part for member in self.members for part in member.parts()]


@dataclass(frozen=True)
class Cut:
    """The part of a solid on one side of a plane across an axis: an air bubble above a fluid level.

    Attributes:
        shape: the solid.
        axis: 0, 1, 2 for x, y, z.
        at: position of the plane in mm.
        keep_below: keep coordinates below the plane, or above it.
        inset: peel this many mm off the solid first.
    """

    shape: Shape
    axis: int
    at: float
    keep_below: bool = True
    inset: float = 0.0

    def bounds(self) -> Bounds:
        """See `Shape`."""
        return self.shape.bounds()

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """See `Shape`."""
        plane = (x, y, z)[self.axis] - np.float32(self.at)
        inner = self.shape.distance(x, y, z) + np.float32(self.inset)
        signed: Array = np.maximum(inner, plane if self.keep_below else -plane)
        return signed

    def parts(self) -> Sequence[Shape]:
        """See `Shape`."""
        return (self,)


@dataclass(frozen=True)
class Blob:
    """Lesion: an ellipsoid with a gently uneven surface, star-shaped about its centre.

    Attributes:
        centre: centre in mm.
        radii: radii in mm before the unevenness.
        bumps: coefficients of the direction polynomials xy, yz, zx, x^2 - y^2, x, y; keep their sum of sizes under 0.4.
    """

    centre: Point
    radii: Point
    bumps: tuple[float, ...] = (0.0,) * 6

    def bounds(self) -> Bounds:
        """See `Shape`."""
        grow = 1.0 + sum(abs(b) for b in self.bumps)
        low, high = zip(
            *((m - grow * r, m + grow * r) for m, r in zip(self.centre, self.radii, strict=True)), strict=True
        )
        return low, high

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """See `Shape`."""
        u, v, w = (
            (p - np.float32(m)) / np.float32(r) for p, m, r in zip((x, y, z), self.centre, self.radii, strict=True)
        )
        level = np.maximum(np.sqrt(u * u + v * v + w * w), np.float32(1e-6))
        u, v, w = u / level, v / level, w / level
        a, b, c, d, e, f = (np.float32(bump) for bump in self.bumps)
        edge = 1 + a * u * v + b * v * w + c * w * u + d * (u * u - v * v) + e * u + f * v
        signed: Array = (level - edge) * np.float32(np.cbrt(np.prod(self.radii)))
        return signed

    def parts(self) -> Sequence[Shape]:
        """See `Shape`."""
        return (self,)

    def contour(self, z: float, points: int = 48) -> NDArray[np.float64] | None:
        """Outline in the plane at height z as [points, 2] (x, y) in mm; None where the plane misses the lesion.

        Found along rays from the axis through the centre by bisection of the signed distance.
        """
        angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
        height = np.full(points, z, dtype=np.float32)
        low, high = np.zeros(points), np.full(points, 2.0 * max(self.radii))

        def at(reach: NDArray[np.float64]) -> Array:
            x = (self.centre[0] + reach * np.cos(angles)).astype(np.float32)
            y = (self.centre[1] + reach * np.sin(angles)).astype(np.float32)
            return self.distance(x, y, height)

        if at(low).max() >= 0:
            return None
        for _ in range(24):
            middle = (low + high) / 2
            inside = at(middle) < 0
            low, high = np.where(inside, middle, low), np.where(inside, high, middle)
        reach = (low + high) / 2
        return np.stack([self.centre[0] + reach * np.cos(angles), self.centre[1] + reach * np.sin(angles)], axis=1)


def tube(points: Sequence[Point], radii: Sequence[float]) -> Union:
    """A tube through points, with a radius at each."""
    return Union(
        tuple(Segment(points[i], points[i + 1], radii[i], radii[i + 1]) for i in range(len(points) - 1)),
    )


def tree(
    rng: np.random.Generator,
    root: Point,
    direction: Point,
    inside: Shape,
    *,
    radius: float,
    length: float,
    generations: int,
) -> Union:
    """A branching vessel or airway that stays inside a solid.

    Each branch bends, ends in two daughters and gives them radii by Murray's law (r^3 = r1^3 + r2^3).

    Args:
        rng: source of angles, lengths and radii.
        root: where it begins.
        direction: first direction, of any length.
        inside: solid that the branches turn back into.
        radius: radius of the trunk in mm.
        length: length of the trunk in mm.
        generations: number of branchings.
    """
    segments: list[Shape] = []
    centre = np.mean(inside.bounds(), axis=0)
    front = [(np.array(root), np.array(direction) / np.linalg.norm(direction), radius, length)]
    for generation in range(generations + 1):
        following = []
        for start, heading, thick, long in front:
            end = start + heading * long * rng.uniform(0.8, 1.2)
            x, y, z = (np.asarray([value], dtype=np.float32) for value in end)
            if inside.distance(x, y, z)[0] > -2.0 * thick and generation:
                heading = heading + 1.2 * (centre - start) / max(float(np.linalg.norm(centre - start)), 1e-3)
                heading /= np.linalg.norm(heading)
                end = start + heading * long * 0.5
                x, y, z = (np.asarray([value], dtype=np.float32) for value in end)
                if inside.distance(x, y, z)[0] > 0:
                    continue
            bend = start + (end - start) * 0.5 + rng.normal(0, 0.07 * long, 3)
            share = rng.uniform(0.35, 0.65)
            tip = thick * 0.9
            segments += [
                Segment(_point(start), _point(bend), thick, (thick + tip) / 2),
                Segment(_point(bend), _point(end), (thick + tip) / 2, tip),
            ]
            for part in (share, 1 - share):
                turned = heading + rng.normal(0, 0.55, 3)
                turned /= np.linalg.norm(turned)
                following.append((end, turned, tip * part ** (1 / 3), long * rng.uniform(0.65, 0.9)))
        front = following
    return Union(tuple(segments))


def _point(values: NDArray[np.float64]) -> Point:
    return float(values[0]), float(values[1]), float(values[2])
