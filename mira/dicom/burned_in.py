"""Suspected burned-in text: rows of thin, flat, glyph-sized strokes in the pixels themselves.

Text that was written into pixels differs from anatomy in three ways: its strokes are thin, they all have one value, and
they stand in rows. Two ways to look for it:

- `suspected` reads no more than the values that repeat: pixels that share the maximum of their slice, and pixels whose
  value is the same, relative to the maximum, in slices that lie far apart. Cheap enough for every volume that comes in.
- `suspected_in_slice` looks in one slice for thin bright or dark strokes of any value, for files that are passed on.

Both look for form, not for letters: they say where a person has to look, not what is written. They miss text that
is larger than a fifth of the image, turned by more than a few degrees, of fewer than five signs, or fainter than a
sixth of the slice's range.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEWEST_GLYPHS = 5
FEWEST_SATURATED = 40
FEWEST_REPEATED = 12
LOWEST_GLYPH = 5
TALLEST_SHARE = 0.2
CONTRAST = (0.5, 0.17)
STROKE = 9
FLAT = 0.06
PLATEAU = 0.2
PURE = 0.7
SHARED = 1e-4
SUSPECTED = "suspected-burned-in-text"


@dataclass(frozen=True)
class Glyph:
    """A connected stroke: its box, how many signs it may be, its value, and how many pixels it has."""

    top: int
    left: int
    bottom: int
    right: int
    signs: int
    value: float
    pixels: int

    @property
    def height(self) -> int:
        """Rows that it covers."""
        return self.bottom - self.top


def suspected(voxels: NDArray[Any]) -> bool:
    """Whether a volume holds what looks like text in all its slices, or at the top of the range of one.

    Args:
        voxels: [slices, rows, columns] or one slice, in any unit.
    """
    volume = voxels if voxels.ndim == 3 else voxels[None]
    tops = []
    for plane in volume:
        tops.append(plane.max())
        saturated = np.count_nonzero(plane == tops[-1])
        if FEWEST_SATURATED <= saturated < plane.size // 4 and suspected_in_slice(plane):
            return True
    return _repeats(volume, np.array(tops)) and suspected_in_slice(volume[len(volume) // 2])


def text_warnings(voxels: NDArray[Any]) -> set[str]:
    """The warning of `suspected` for a case's record; empty without a suspicion."""
    return {SUSPECTED} if suspected(voxels) else set()


def _repeats(volume: NDArray[Any], tops: NDArray[Any]) -> bool:
    """Whether three slices far apart share bright pixels, by value or (where each slice has a slope) by its share."""
    chosen = [0, len(volume) // 2, len(volume) - 1]
    if len(set(chosen)) < 3:
        return False
    planes = [volume[index].astype(np.float32, copy=False) for index in chosen]
    floor = float(planes[0].min())
    bright = planes[0] > floor + CONTRAST[1] * (float(tops[0]) - floor)
    if _shared(planes, bright):
        return True
    if any(tops[index] <= 0 for index in chosen):
        return False
    return _shared([plane / tops[index] for plane, index in zip(planes, chosen, strict=True)], bright)


def _shared(planes: list[NDArray[Any]], bright: NDArray[np.bool_]) -> bool:
    first, middle, last = planes
    tolerance = SHARED * float(np.abs(first).max())
    same = bright & (np.abs(first - middle) <= tolerance) & (np.abs(first - last) <= tolerance)
    return bool(np.count_nonzero(same) >= FEWEST_REPEATED)


def suspected_in_slice(plane: NDArray[Any]) -> bool:
    """Whether one slice holds what looks like text, bright or dark, of any value.

    Args:
        plane: [rows, columns], or [rows, columns, samples] of a colour image.
    """
    from scipy.ndimage import grey_opening

    grey = plane.astype(np.float32)
    if grey.ndim == 3:
        grey = grey.max(axis=2)
    span = float(grey.max() - grey.min())
    if span == 0:
        return False
    grey = (grey - grey.min()) / span
    for image in (grey, 1 - grey):  # bright strokes, then dark ones
        thin = image - grey_opening(image, STROKE)
        if any(_has_line(thin > contrast, image) for contrast in CONTRAST):
            return True
    return False


def _has_line(mask: NDArray[np.bool_], plane: NDArray[Any]) -> bool:
    """Whether the strokes of a mask stand in a row of at least five signs of one value."""
    glyphs = _glyphs(mask, plane)
    for index, glyph in enumerate(glyphs):
        line = _line_from(glyph, glyphs[index + 1 :])
        middle = float(np.median([g.value for g in line]))
        line = [g for g in line if abs(g.value - middle) <= FLAT]
        if sum(g.signs for g in line) >= FEWEST_GLYPHS and len(line) >= 2 and _pure(line, mask):
            return True
    return False


def _pure(line: list[Glyph], mask: NDArray[np.bool_]) -> bool:
    """Whether there is little else in the band of a line: noise is full of specks between what looks like signs."""
    top, bottom = min(g.top for g in line), max(g.bottom for g in line)
    band = mask[top:bottom, line[0].left : max(g.right for g in line)]
    return sum(g.pixels for g in line) >= PURE * int(np.count_nonzero(band))


def _line_from(first: Glyph, later: list[Glyph]) -> list[Glyph]:
    """Glyphs that follow to the right, each close to the one before and at its height."""
    line = [first]
    for glyph in later:
        last = line[-1]
        low, high = sorted((last.height, glyph.height))
        overlap = min(last.bottom, glyph.bottom) - max(last.top, glyph.top)
        if -1 <= glyph.left - last.right <= 1.6 * high and overlap >= 0.6 * low and high <= 1.8 * low:
            line.append(glyph)
    return line


def _glyphs(mask: NDArray[np.bool_], plane: NDArray[Any]) -> list[Glyph]:
    """Connected strokes of the size and fill of signs, from left to right."""
    from scipy.ndimage import find_objects, label

    labels, _ = label(mask, np.ones((3, 3)))
    tallest = TALLEST_SHARE * mask.shape[0]
    found = []
    for number, box in enumerate(find_objects(labels), start=1):
        rows, columns = box
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if not (LOWEST_GLYPH <= height <= tallest) or width > 20 * height:
            continue
        shape = labels[box] == number
        signs = _signs(shape)
        if signs:
            values = plane[box][shape]
            value = float(values.max())
            if np.mean(values >= value - FLAT) >= PLATEAU:
                found.append(Glyph(rows.start, columns.start, rows.stop, columns.stop, signs, value, values.size))
    return sorted(found, key=lambda glyph: glyph.left)


def _signs(shape: NDArray[np.bool_]) -> int:
    """How many signs a stroke may be: 1, more for a word whose letters touch, 0 for what is no stroke."""
    height, width = shape.shape
    fill = shape.mean()
    if width <= 0.4 * height:
        return 1 if fill >= 0.5 else 0
    if not 0.15 <= fill <= 0.75 or _thickness(shape) > max(2.5, 0.34 * height):
        return 0
    if width <= 1.4 * height:
        return 1
    crossings = np.count_nonzero(np.diff(shape.astype(np.int8), axis=1, prepend=0) == 1, axis=1)
    return int(crossings.max()) // 2 if crossings.max() >= 4 else 0


def _thickness(shape: NDArray[np.bool_]) -> float:
    """Typical width of a stroke in pixels: its area over half its outline."""
    padded = np.pad(shape, 1)
    edges = np.count_nonzero(padded[1:] != padded[:-1]) + np.count_nonzero(padded[:, 1:] != padded[:, :-1])
    return 2.0 * float(np.count_nonzero(shape)) / edges
