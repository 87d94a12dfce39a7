"""Fit a CT scanner to repeated scans of a water phantom: flux per mAs, electronic noise, cutoff of the kernel.

For one kernel and tube voltage, a uniform phantom is scanned at several exposures, best twice at each. The difference
of two repeats, over sqrt(2), is noise and nothing else: rings, cupping and the phantom's edge cancel. From it come

* the cutoff: the mean frequency of the noise-power spectrum (NPS), compared with that of filtered back-projection,
  pi / V * H(f)^2 / f for a filter H and white noise of V views (Riederer, Pelc and Chesler, Phys Med Biol 23:446-454,
  1978), seen through the same region of interest;
* flux and electronic noise: the variance at the centre of the phantom. Filtered back-projection turns independent
  noise of the line integrals into

      var(HU) = k mean over views of var(p),   var(p) = (1 / n + Ne / n^2) / rows,   n = N0 e^-p / rows

  for p the line integral through the pixel (Barrett, Gordon and Hershel, Comput Biol Med 6:307-323, 1976); k is the
  variance that the reconstruction makes of white noise, rows the detector rows of a slice. The quantum term falls as
  1/mAs and the electronic one as 1/mAs^2, so that exposures far apart tell them from each other. Both are linear
  unknowns, 1/flux and electronic_density/flux^2, and are found by least squares on relative errors.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mira.degrade.ct_geometry import attenuation, canvas_side, incident
from mira.degrade.ct_parameters import CtParameters, parameters_for
from mira.degrade.ct_projector import bins_for, borrowed
from mira.degrade.phantom_noise import Field, PhantomScan, find_phantom, fit_cutoff, noise_of, spectrum
from mira.degrade.scanner import CtScanner
from mira.errors import DataRejected

CENTRE_SHARE = 0.35  # radius of the region of interest over that of the phantom
RING_SHARES = (0.65, 0.85)
LEAST_EXPOSURE_RATIO = 3.0
LEAST_COUNTS = 50.0  # per reading at the centre; below it scanners filter the readings, and the model does not hold


@dataclass(frozen=True)
class Point:
    """Noise at one exposure: standard deviations in HU, measured and as the fitted scanner gives them.

    Attributes:
        mas: exposure.
        scans: scans at this exposure.
        centre_hu: measured at the centre.
        centre_fit_hu: fitted, at the centre.
        ring_hu: measured near the edge, which the fit does not use: it shows whether the bow-tie is right.
        ring_fit_hu: fitted, near the edge.
    """

    mas: float
    scans: int
    centre_hu: float
    centre_fit_hu: float
    ring_hu: float
    ring_fit_hu: float


@dataclass(frozen=True)
class Fit:
    """A fitted scanner with what speaks for it.

    Attributes:
        scanner: the scanner.
        flux_error: relative standard error of its flux.
        electronic_error: relative standard error of its electronic noise; infinite where none was seen.
        points: noise at each exposure, lowest first.
        frequencies: cycles per mm of the two spectra.
        nps: measured noise-power spectrum, radially averaged, as a share of its sum.
        nps_fit: that of the fitted cutoff.
    """

    scanner: CtScanner
    flux_error: float
    electronic_error: float
    points: list[Point]
    frequencies: NDArray[np.float64]
    nps: NDArray[np.float64]
    nps_fit: NDArray[np.float64]


def fit_scanner(scans: Sequence[PhantomScan]) -> Fit:
    """Fit a scanner to scans of a uniform water phantom.

    Args:
        scans: scans of one phantom at one position with one kernel and voltage, at two exposures or more.

    Raises:
        DataRejected: when the scans do not belong together or cannot tell flux from electronic noise.
    """
    groups = _groups(scans)
    first = scans[0]
    mean: Field = np.concatenate([scan.hu for scan in scans]).mean(axis=0, dtype=np.float64).astype(np.float32)
    row, column, radius = find_phantom(mean, first.pixel_mm)
    y, x = np.indices(mean.shape)
    distance = np.hypot(y - row, x - column)
    centre = distance < CENTRE_SHARE * radius
    ring = (distance > RING_SHARES[0] * radius) & (distance < RING_SHARES[1] * radius)
    noises = {mas: noise_of(group) for mas, group in groups.items()}

    side = 2 * int(0.6 * radius / np.sqrt(2))  # a square well within the phantom
    square = np.s_[row - side // 2 : row + side // 2, column - side // 2 : column + side // 2]
    spectra = [spectrum(noise[:, *square]) for noise in noises.values()]
    measured: NDArray[np.float64] = np.mean([power / power.sum() for power in spectra], axis=0)  # all count the same
    # the phantom lies wholly within the field of view, however small: nothing to continue, and the bow-tie is centred
    matrix = (mean.shape[0], mean.shape[1])
    parameters = parameters_for(1.0, matrix, first.pixel_mm, first.thickness_mm, body_diameter_mm=0.0)
    cutoff, gain, fitted = fit_cutoff(measured, side, parameters.views)

    lines = _lines(mean, first.pixel_mm, parameters)
    scale = gain * (1000 / parameters.mu_water_per_mm / first.pixel_mm) ** 2
    moments = [_moments(lines, region, parameters) for region in (centre, ring)]
    share = np.array([mas * first.pixel_mm * first.thickness_mm / parameters.views for mas in groups])
    pitch = first.pixel_mm / parameters.views
    variances = np.array(
        [[float(np.square(noise[:, region]).mean()) for region in (centre, ring)] for noise in noises.values()]
    )
    # var = scale * (first moment / N0 + rows * second moment * Ne / N0^2) with N0 = flux * share, Ne = density * pitch
    quantum = scale * moments[0][0] / share
    electronic = scale * moments[0][1] * parameters.readings * pitch / share**2
    inverse, squared, errors = _two_terms(quantum, electronic, variances[:, 0])
    device = CtScanner(
        flux_per_mas=float(f"{1 / inverse:.4g}"),
        electronic_density=float(f"{squared / inverse**2:.4g}"),
        cutoff_per_mm=float(f"{cutoff / (2 * first.pixel_mm):.4g}"),
        kvp=first.kvp,
    )
    counts = share.min() / inverse / parameters.readings / moments[0][0]
    if counts < LEAST_COUNTS:
        raise DataRejected(
            f"At the lowest exposure only {counts:.0f} photons of a reading pass the phantom; scanners filter such "
            f"readings, and the fit needs {LEAST_COUNTS:.0f}. Leave this exposure out, or scan a smaller phantom."
        )
    points = []
    for index, mas in enumerate(groups):
        model = [
            scale * (one / share[index] * inverse + two * parameters.readings * pitch / share[index] ** 2 * squared)
            for one, two in moments
        ]
        deviations = np.sqrt([variances[index, 0], model[0], variances[index, 1], model[1]])
        points.append(Point(mas, len(groups[mas]), *(float(value) for value in deviations)))
    frequencies = (np.arange(len(measured)) + 0.5) / len(measured) / (2 * first.pixel_mm)
    return Fit(device, errors[0], errors[1], points, frequencies, measured, fitted / fitted.sum())


def _groups(scans: Sequence[PhantomScan]) -> dict[float, list[PhantomScan]]:
    """Scans by exposure, lowest first, checked to belong together."""
    if not scans:
        raise DataRejected("There are no scans to fit. Give the folders of the phantom scans.")
    first = scans[0]
    for scan in scans:
        same = scan.hu.shape[1:] == first.hu.shape[1:] and (scan.kvp, scan.kernel) == (first.kvp, first.kernel)
        close = np.allclose((scan.pixel_mm, scan.thickness_mm), (first.pixel_mm, first.thickness_mm), rtol=1e-3)
        if not (same and close):
            raise DataRejected(
                "The scans differ in matrix, pixel size, slice thickness, tube voltage or kernel. Calibrate each "
                "protocol on its own."
            )
    groups: dict[float, list[PhantomScan]] = defaultdict(list)
    for scan in sorted(scans, key=lambda scan: scan.mas):
        groups[scan.mas].append(scan)
    if max(groups) < LEAST_EXPOSURE_RATIO * min(groups):
        raise DataRejected(
            f"Exposures from {min(groups):g} to {max(groups):g} mAs are too close to tell electronic from quantum "
            f"noise. Scan at two exposures that differ by {LEAST_EXPOSURE_RATIO:g} times or more."
        )
    return groups


def _lines(mean: Field, pixel_mm: float, parameters: CtParameters) -> NDArray[np.float64]:
    """Attenuation of every ray [views, bins] by the phantom, bow-tie and fan included, as a natural logarithm."""
    side = canvas_side(mean.shape, parameters)
    with borrowed(side, parameters.views) as engine:
        lines = engine.project(attenuation(mean, parameters)) * np.float32(pixel_mm)
    return (lines - incident(bins_for(side), pixel_mm, parameters)).astype(np.float64)


def _moments(lines: NDArray[np.float64], region: NDArray[np.bool_], parameters: CtParameters) -> tuple[float, float]:
    """Means of e^p and e^2p over all views and the pixels of a region."""
    views, bins = lines.shape
    rows, columns = np.nonzero(region)
    keep = slice(None, None, max(1, len(rows) // 2000))
    y, x = rows[keep] - region.shape[0] // 2, columns[keep] - region.shape[1] // 2
    first = second = 0.0
    for view, angle in enumerate(np.pi * np.arange(views) / views):
        place = np.rint(x * np.cos(angle) + y * np.sin(angle)).astype(int) % bins  # bins wrap around
        weights = np.exp(lines[view, place])
        first, second = first + weights.mean() / views, second + np.square(weights).mean() / views
    return first, second


def _two_terms(
    quantum: NDArray[np.float64], electronic: NDArray[np.float64], variance: NDArray[np.float64]
) -> tuple[float, float, tuple[float, float]]:
    """Coefficients, not below 0, of two terms that add up to a variance; relative errors of flux and density."""
    from scipy.optimize import nnls  # heavy

    design = np.stack([quantum, electronic], axis=1) / variance[:, None]
    scales = design.max(axis=0)
    solution, residual = nnls(design / scales, np.ones(len(variance)))
    inverse, squared = solution / scales
    if inverse <= 0:
        raise DataRejected(
            "The noise does not fall with the exposure as quantum noise does. Check the scans' exposures."
        )
    spread = max(residual / np.sqrt(max(len(variance) - 2, 1)), 0.01)  # no variance is known better than to 1 %
    covariance = np.linalg.inv((design / scales).T @ (design / scales)) * spread**2
    one, two = np.sqrt(np.diag(covariance)) / np.maximum(solution, 1e-12)
    return float(inverse), float(squared), (float(one), float(np.hypot(two, 2 * one)) if squared > 0 else float("inf"))
