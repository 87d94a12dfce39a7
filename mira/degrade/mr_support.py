"""How much of its stored k-space an MR image really fills, per in-plane axis.

Scanners interpolate by filling k-space with zeros around what was acquired (Bartholdi and Ernst, J Magn Reson 11:9-19,
1973; Bernstein, Fain and Riederer, J Magn Reson Imaging 14:270-280, 2001), and archives resample. The stored matrix is
then finer than the acquisition, and the power spectrum of the image drops where the acquisition ended.

That drop is looked for here, since no level of a floor tells it: a magnitude spreads some power beyond the acquired
lines, and quantisation, noise and filters make every floor another one. The logarithm of the power of an object (a
power law), of white noise (a constant) and of their sum are convex functions of the frequency. A cut-off is not: the
power bulges above the chord that joins two points of its lower convex hull. The first bulge of more than
`least_bulge_db` whose power does not come back to half (as in the lobes of a sharp, round object) tells a cut-off. It
lies where the power has fallen to twice that at the chord's end.

Power without such a bulge, white noise up to the edge among it, means full support. So does a bulge of less than that:
a filter that falls off gently, or a cut-off below strong noise that covers all of k-space.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

SLICES = 32  # evenly through the volume, looked at one at a time
BAND = 0.25  # share of the other axis' k-space, around its centre, that is averaged: where signal exceeds noise most
LOWEST = 0.2  # no scanner interpolates five times; below, the object itself makes bulges
HIGHEST = 0.95  # a real image's spectrum is flat around the edge of k-space, so that nothing can be told from there on
LEAST_SAMPLES = 96  # of an axis; in fewer, the lobes of a sharp object look like a cut-off
LEAST_BULGE_DB = 2.0  # of many slices; what it finds and misses: python -m benchmarks.mr_support
ONE_SLICE_DB = 4.0  # more for a single slice, whose spectrum ripples
HALF_DB = 3.0
FLOOR = 1e-14  # of the largest power: rounding
AGREES = 0.15  # measured and stated matrix, relative: a filter over k-space hides the outermost tenth


@dataclass(frozen=True)
class Support:
    """Share of the stored k-space that is filled, above 0 and up to 1, of the rows' and of the columns' axis."""

    rows: float
    columns: float


def measure_support(images: NDArray[np.float32]) -> Support:
    """Measure what share of its k-space a volume fills.

    It does not depend on the intensities' scale; turning the slices by 90 degrees swaps the axes.

    Args:
        images: magnitude slices [n, rows, columns] in any unit; up to 32 of them are read.
    """
    looked_at = np.unique(np.linspace(0, len(images) - 1, SLICES).round().astype(int))
    spectra = [mean_spectrum(images, looked_at, axis) for axis in (-2, -1)]
    return Support(*(cut_off(*spectrum) for spectrum in spectra))


def mean_spectrum(
    images: NDArray[np.float32], looked_at: NDArray[np.int_], axis: int
) -> tuple[NDArray[np.float64], int]:
    """Power spectrum in dB along an in-plane axis, from frequency 0 to the edge; and of how many slices it is the mean.

    A Hann window keeps the jump between opposite borders of a cropped image out of the high frequencies. The mean over
    slices is geometric, so that bright slices do not count for more. Slices of one value have none.

    Args:
        images: slices [n, rows, columns].
        looked_at: indices of the slices to use.
        axis: -2 for the frequencies along the rows' axis, -1 along the columns'.
    """
    size, other = images.shape[axis], images.shape[-3 - axis]
    central = np.abs(np.fft.fftfreq(other)) * 2 <= BAND
    window = np.hanning(size + 1)[:size]
    total, count = np.zeros(size // 2 + 1), 0
    for index in looked_at:
        image = np.moveaxis(np.asarray(images[index], dtype=np.float64), axis, -1)  # [other, size]
        image = image - image.mean(axis=-1, keepdims=True)
        lines = np.fft.fft(image, axis=0)[central] * window
        power = np.square(np.abs(np.fft.fft(lines, axis=-1)[:, : size // 2 + 1])).mean(axis=0)
        if power.max() > 0:
            total += 10 * np.log10(np.maximum(power, FLOOR * power.max()))
            count += 1
    return total / max(count, 1), count


def least_bulge_db(slices: int) -> float:
    """Bulge of the mean spectrum of a number of slices that is more than its ripples."""
    return LEAST_BULGE_DB + ONE_SLICE_DB / max(slices, 1)


def cut_off(spectrum_db: NDArray[np.float64], slices: int) -> float:
    """Where a spectrum is cut off, as a share of its length; 1 where it is not.

    Args:
        spectrum_db: power in dB from frequency 0 to the edge of k-space.
        slices: how many slices it is the mean of.
    """
    edge = len(spectrum_db) - 1  # half the samples of the axis
    if slices == 0 or 2 * edge < LEAST_SAMPLES:
        return 1.0
    reach = round(edge / 64)
    padded = np.pad(spectrum_db, reach, mode="edge")
    smooth = np.convolve(padded, np.full(2 * reach + 1, 1 / (2 * reach + 1)), mode="valid")
    first = 3  # the mean was taken out, and the window spreads that over two samples
    vertices = first + lower_hull(smooth[first:])
    for start, stop in pairwise(vertices):
        inside = np.arange(start, stop + 1)
        bulge = smooth[inside] - np.interp(inside, [start, stop], smooth[[start, stop]])
        top = start + int(bulge.argmax())
        lost_db = smooth[top] - smooth[stop:].max()
        fallen = top + int((smooth[top : stop + 1] <= smooth[stop] + HALF_DB).argmax())
        found = fallen - 1 - reach  # the window and the smoothing spread the edge
        if bulge.max() >= least_bulge_db(slices) and lost_db >= HALF_DB and found >= LOWEST * edge:
            return float(found / edge) if found < HIGHEST * edge else 1.0
    return 1.0


def lower_hull(values: NDArray[np.float64]) -> NDArray[np.int_]:
    """Indices of the lower convex hull of equally spaced values (Andrew, Inf Process Lett 9:216-219, 1979)."""
    hull: list[int] = []
    for index, value in enumerate(values):
        while len(hull) > 1:
            before, last = hull[-2:]
            chord = (value - values[before]) * (last - before) / (index - before)
            if values[last] - values[before] < chord:
                break
            hull.pop()
        hull.append(index)
    return np.array(hull)


def filled_lines(size: int, share: float, stated: int | None) -> tuple[int, bool]:
    """Lines of an axis that are filled, and whether the header states another number.

    Where both agree within 15 %, the stated number is the exact one; where they do not, what was measured decides.

    Args:
        size: lines of the stored matrix.
        share: measured share of them.
        stated: lines of the header's acquisition matrix; None where it states none.
    """
    measured = min(size, 2 * round(share * size / 2)) if share < 1 else size
    if stated is None:
        return measured, False
    agree = abs(measured - stated) <= AGREES * stated
    return (min(stated, size), False) if agree else (measured, True)
