"""Noise power spectrum: how strong noise is, and of which grain.

NPS(u, v) = dx dy / (Nx Ny) <|DFT(roi - mean)|^2>, in HU^2 mm^2 (ICRU Report 87, 2012; Friedman et al., Med Phys 40:
051907, 2013); its integral over frequencies is the variance. The radial NPS is its mean over rings.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mira.errors import DataRejected


@dataclass(frozen=True)
class RadialNps:
    """Radial noise power spectrum.

    Attributes:
        frequency: centres of the rings, cycles per mm.
        power: mean power in each ring, unit squared times mm^2.
        variance: integral of the two-dimensional spectrum, unit squared.
    """

    frequency: NDArray[np.float64]
    power: NDArray[np.float64]
    variance: float

    @property
    def peak(self) -> float:
        """Frequency of the highest power in cycles per mm.

        The top of the parabola through all rings above 0.7 of the maximum: the peak of CT noise is broad, so the
        highest ring alone would be a matter of chance.
        """
        top = int(np.argmax(self.power))
        high = self.power >= 0.7 * self.power[top]
        below, above = np.flatnonzero(~high[:top]), np.flatnonzero(~high[top:])
        first = int(below[-1]) + 1 if below.size else 0
        last = top + int(above[0]) if above.size else len(self.power)
        if last - first < 3:
            return float(self.frequency[top])
        bend, slope, _ = np.polyfit(self.frequency[first:last], self.power[first:last], 2)
        vertex = -slope / (2 * bend) if bend < 0 else self.frequency[top]
        return float(np.clip(vertex, self.frequency[first], self.frequency[last - 1]))

    @property
    def mean_frequency(self) -> float:
        """Centroid of the radial spectrum in cycles per mm: the grain of the noise; low is coarse."""
        return float(np.sum(self.frequency * self.power) / np.sum(self.power))

    @property
    def shape(self) -> NDArray[np.float64]:
        """Power scaled to unit area over frequency, in mm; two kernels compare by it whatever their noise."""
        step = self.frequency[1] - self.frequency[0]
        return np.asarray(self.power / np.sum(self.power) / step)


def power_spectrum(regions: NDArray[np.float32], pixel_mm: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two-dimensional NPS of equal square regions, each freed of its plane of best fit.

    Args:
        regions: [n, side, side] in native units.
        pixel_mm: pixel spacing.

    Returns:
        Power [side, side] in the order of `numpy.fft.fftfreq`, and the radial frequency of each entry, cycles per mm.

    Raises:
        DataRejected: when the regions are not squares of at least 8 pixels.
    """
    values = np.asarray(regions, dtype=np.float64)
    if values.ndim != 3 or values.shape[1] != values.shape[2] or values.shape[1] < 8 or not len(values):
        raise DataRejected(f"Noise power spectra need square regions of 8 pixels or more, not {values.shape}.")
    side = values.shape[1]
    x = np.arange(side) - (side - 1) / 2
    norm = np.sum(x**2) * side
    values = values - values.mean(axis=(1, 2), keepdims=True)
    values = values - (np.einsum("nij,i->n", values, x) / norm)[:, None, None] * x[:, None]
    values = values - (np.einsum("nij,j->n", values, x) / norm)[:, None, None] * x[None, :]
    power = np.mean(np.abs(np.fft.fft2(values)) ** 2, axis=0) * pixel_mm**2 / side**2
    f = np.fft.fftfreq(side, pixel_mm)
    return np.asarray(power), np.hypot(f[:, None], f[None, :])


def radial_nps(regions: NDArray[np.float32], pixel_mm: float, rings: int | None = None) -> RadialNps:
    """Radial NPS of noise regions, up to the Nyquist frequency.

    Args:
        regions: noise alone (for example the difference of two scans over the root of 2), [n, side, side].
        pixel_mm: pixel spacing.
        rings: rings between 0 and the Nyquist frequency; half the side if not given.

    Raises:
        DataRejected: see `power_spectrum`.
    """
    power, frequency = power_spectrum(regions, pixel_mm)
    side = power.shape[0]
    count = rings or side // 2
    edges = np.linspace(0, 0.5 / pixel_mm, count + 1)
    index = np.digitize(frequency.ravel(), edges) - 1
    kept = (index >= 0) & (index < count) & (frequency.ravel() > 0)  # the mean was taken off
    totals = np.bincount(index[kept], power.ravel()[kept], count)
    numbers = np.bincount(index[kept], minlength=count)
    filled = numbers > 0
    centres = np.bincount(index[kept], frequency.ravel()[kept], count)[filled] / numbers[filled]
    variance = float(power.sum()) / (side * pixel_mm) ** 2
    return RadialNps(centres, totals[filled] / numbers[filled], variance)
