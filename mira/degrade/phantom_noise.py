"""Noise of a water phantom: where it is, what differs between repeated scans, and the spectrum of that.

Filtered back-projection with a filter H gives white noise of V views the spectrum pi / V * H(f)^2 / f (Riederer, Pelc
and Chesler, Phys Med Biol 23:446-454, 1978). A small region of interest sees it through its window.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mira.degrade.ct_theory import noise_shape
from mira.errors import DataRejected

Field = NDArray[np.float32]

WATER_HU = (-60.0, 60.0)
SMALLEST_RADIUS_MM = 40.0
CUTOFFS = np.geomspace(0.3, 3.5, 16)
STEPS = 24  # of a spectrum up to Nyquist


@dataclass(frozen=True)
class PhantomScan:
    """One scan of the phantom.

    Attributes:
        hu: slices [n, rows, columns] in HU.
        pixel_mm: pixel spacing.
        distance_mm: distance of slices.
        thickness_mm: slice thickness.
        mas: exposure.
        kvp: tube voltage.
        kernel: name of the reconstruction kernel; "" if unknown.
    """

    hu: Field
    pixel_mm: float
    distance_mm: float
    thickness_mm: float
    mas: float
    kvp: float
    kernel: str = ""


def find_phantom(mean: Field, pixel_mm: float) -> tuple[int, int, float]:
    """Row, column and radius in pixels of a water cylinder in a mean slice [rows, columns].

    Raises:
        DataRejected: when there is no disc of water.
    """
    from scipy import ndimage  # heavy

    water = ndimage.binary_opening((mean > WATER_HU[0]) & (mean < WATER_HU[1]), iterations=2)
    labels, count = ndimage.label(water)
    sizes = np.bincount(labels.ravel())[1:]
    if count:
        disc = labels == 1 + int(sizes.argmax())
        row, column = ndimage.center_of_mass(disc)
        radius = float(np.sqrt(disc.sum() / np.pi))
        y, x = np.indices(mean.shape)
        inside = np.hypot(y - row, x - column) < 0.9 * radius
        if radius * pixel_mm >= SMALLEST_RADIUS_MM and disc[inside].mean() > 0.95:
            return round(row), round(column), radius
    raise DataRejected("There is no disc of water of 80 mm or more in the scans. Use a uniform water phantom.")


def noise_of(group: Sequence[PhantomScan]) -> Field:
    """Noise [n, rows, columns] of scans at one exposure, free of everything that repeats.

    Repeats are subtracted from each other; of a single scan, slices so far apart that they share no data.
    """
    if len(group) > 1:
        count = min(len(scan.hu) for scan in group)
        pairs = [(one.hu[:count], two.hu[:count]) for one, two in zip(group[::2], group[1::2], strict=False)]
        return np.concatenate([(one - two) / np.float32(np.sqrt(2)) for one, two in pairs])
    scan = group[0]
    lag = max(1, int(np.ceil(2 * scan.thickness_mm / scan.distance_mm)))
    if len(scan.hu) < 2 * lag:
        raise DataRejected(
            f"The scan at {scan.mas:g} mAs is alone and has {len(scan.hu)} slices; {2 * lag} are needed. Scan twice."
        )
    blocks = len(scan.hu) // (2 * lag)
    paired = scan.hu[: blocks * 2 * lag].reshape(blocks, 2, lag, *scan.hu.shape[1:])
    result: Field = ((paired[:, 0] - paired[:, 1]) / np.float32(np.sqrt(2))).reshape(-1, *scan.hu.shape[1:])
    return result


def spectrum(fields: Field) -> NDArray[np.float64]:
    """Radially averaged noise-power spectrum of square fields [n, side, side], freed of its mean."""
    side = fields.shape[-1]
    centred = fields - fields.mean(axis=(1, 2), keepdims=True)
    return radial_average(np.square(np.abs(np.fft.fft2(centred))).mean(axis=0) / side**2)


def radial_average(power: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over rings of a spectrum [side, side] of `numpy.fft.fft2`, in `STEPS` rings up to Nyquist."""
    axis = np.fft.fftfreq(power.shape[0])
    rings = np.minimum((np.hypot(axis[:, None], axis) / 0.5 * STEPS).astype(int), STEPS)
    totals, counts = (np.bincount(rings.ravel(), weights, STEPS + 1)[:STEPS] for weights in (power.ravel(), None))
    result: NDArray[np.float64] = totals / np.maximum(counts, 1)
    return result


def _mean_frequency(nps: NDArray[np.float64]) -> float:
    """Mean frequency of a spectrum in multiples of Nyquist, weighted as the noise of the plane is."""
    frequency = (np.arange(len(nps)) + 0.5) / len(nps)
    return float((nps * frequency**2).sum() / (nps * frequency).sum())


def expected_spectrum(cutoff: float, side: int, views: int) -> tuple[NDArray[np.float64], float]:
    """What `spectrum` gives on average of reconstructed white noise of unit variance, and the variance of a pixel.

    A square of `side` pixels sees the spectrum through its own window: the autocovariance times a triangle.
    """
    finer = max(2, -(-128 // side))
    size = finer * side
    axis: NDArray[np.float64] = np.asarray(np.fft.fftfreq(size), dtype=np.float64)
    covariance = np.fft.ifft2(np.pi / views * noise_shape(axis[:, None], axis, cutoff)).real
    triangle = np.maximum(1 - np.abs(np.fft.fftfreq(size, 1 / size)) / side, 0)
    power = np.fft.fft2(covariance * triangle[:, None] * triangle).real[::finer, ::finer].copy()
    power[0, 0] = 0  # the mean is taken off
    return radial_average(power), float(covariance[0, 0])


def fit_cutoff(measured: NDArray[np.float64], side: int, views: int) -> tuple[float, float, NDArray[np.float64]]:
    """Cutoff whose noise has the mean frequency of a measured spectrum, the variance that it makes, its spectrum."""
    means = [_mean_frequency(expected_spectrum(float(cutoff), side, views)[0]) for cutoff in CUTOFFS]
    cutoff = float(np.exp(np.interp(_mean_frequency(measured), means, np.log(CUTOFFS))))
    fitted, gain = expected_spectrum(cutoff, side, views)
    return cutoff, gain, fitted
