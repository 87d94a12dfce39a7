"""Resolution from a disc's edge: edge spread, transfer function, and the frequency at which half of it is left.

The pixels around a disc, sorted by their distance to its centre, sample its edge far finer than the grid does; the
derivative of the edge spread function is the line spread function, whose transform is the task transfer function
(Richard et al., Med Phys 39:4115-4122, 2012). For a high-contrast edge of a linear reconstruction that is the MTF.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mira.errors import DataRejected


@dataclass(frozen=True)
class Transfer:
    """Transfer function.

    Attributes:
        frequency: cycles per mm, from 0.
        value: transfer, 1 at frequency 0.
        contrast: height of the edge, inside less outside, in native units.
    """

    frequency: NDArray[np.float64]
    value: NDArray[np.float64]
    contrast: float

    def at(self, share: float) -> float:
        """Lowest frequency at which the transfer has fallen to `share`, cycles per mm; MTF50 is at 0.5.

        Raises:
            DataRejected: when it does not fall so far.
        """
        below = np.flatnonzero(self.value < share)
        if not below.size or below[0] == 0:
            raise DataRejected(
                f"The transfer function does not fall to {share:g} below the highest frequency measured."
            )
        i = int(below[0])
        high, low = self.value[i - 1], self.value[i]
        step = self.frequency[i] - self.frequency[i - 1]
        return float(self.frequency[i - 1] + step * (high - share) / (high - low))


def disc_transfer(
    image: NDArray[np.float32],
    pixel_mm: float,
    centre: tuple[float, float],
    radius_mm: float,
    reach_mm: float = 8.0,
    oversample: int = 5,
) -> Transfer:
    """Transfer function from the edge of a disc.

    Args:
        image: a slice, or the mean of several, [rows, columns].
        pixel_mm: pixel spacing.
        centre: (row, column) of the disc's centre, in pixels.
        radius_mm: radius of the disc.
        reach_mm: distance from the edge up to which pixels are used; both sides must be uniform that far.
        oversample: samples of the edge per pixel.

    Raises:
        DataRejected: when the disc is too small or too near to the border for the reach, or shows no contrast.
    """
    rows, columns = image.shape
    outer = (radius_mm + reach_mm) / pixel_mm
    fits = min(centre[0], centre[1], rows - 1 - centre[0], columns - 1 - centre[1]) >= outer
    if not fits or reach_mm >= radius_mm:
        raise DataRejected(
            "The disc's edge does not lie clear of its centre and of the image's border; use less reach."
        )
    y, x = np.indices(image.shape, dtype=np.float64)
    distance = np.hypot(y - centre[0], x - centre[1]) * pixel_mm - radius_mm
    near = np.abs(distance) < reach_mm
    step = pixel_mm / oversample
    count = int(reach_mm / step)
    index = np.floor(distance[near] / step).astype(np.int64) + count
    kept = (index >= 0) & (index < 2 * count)
    values = image[near].astype(np.float64)[kept]
    numbers = np.bincount(index[kept], minlength=2 * count)
    sums = np.bincount(index[kept], values, 2 * count)
    middle = np.bincount(index[kept], distance[near][kept], 2 * count)
    filled = numbers > 0
    grid = (np.arange(2 * count) + 0.5 - count) * step
    spread = np.interp(grid, middle[filled] / numbers[filled], sums[filled] / numbers[filled])
    quarter = count // 2
    contrast = float(spread[:quarter].mean() - spread[-quarter:].mean())
    if abs(contrast) < 1e-6:
        raise DataRejected("The disc has no contrast to its surroundings, so it has no edge to measure.")
    line = -np.diff(spread)
    place = np.abs(np.linspace(-1, 1, line.size))
    line *= np.where(place < 0.5, 1.0, 0.5 + 0.5 * np.cos(np.pi * (2 * place - 1)))  # tails of the line hold noise
    padded = 16 * line.size
    transfer = np.abs(np.fft.rfft(line, padded))
    frequency = np.fft.rfftfreq(padded, step)
    # the difference of neighbours and the mean over each sample width are filters of their own
    transfer /= np.maximum(np.sinc(frequency * step) ** 2, 0.1)
    used = frequency <= 1.0 / pixel_mm
    return Transfer(np.asarray(frequency[used], dtype=np.float64), transfer[used] / transfer[0], contrast)
