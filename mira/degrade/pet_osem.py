"""The PET system model and its reconstruction: what a ring of detectors counts, and OSEM from those counts.

Expected counts of a bin, for an image `x` in SUV (Qi and Leahy, Phys Med Biol 51:R541-R578, 2006):

    ybar = f * (P G x) + s + r,    f = counts per SUV * exp(-P mu)

with the projection P, the resolution G (a Gaussian in the image, or none), the attenuation mu at 511 keV, scatter s and
randoms r. OSEM (Hudson and Larkin, IEEE TMI 13:601-609, 1994) takes, for one subset of the views after another,

    x <- x * G P' f (y / ybar) / (G P' f)

Scatter is smooth and follows the object: the trues of each view, blurred along the detector, in the share that NEMA
NU 2 calls the scatter fraction, S / (T + S). Randoms are flat, in the share R / (T + S + R) of the prompts.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mira.degrade.projection import SystemMatrix

Array = NDArray[np.float32]
SIGMA_PER_FWHM = 1 / 2.3548
SCATTER_SIGMA_MM = 60.0  # width of scatter profiles outside a 20 cm phantom (Bailey and Meikle, PMB 39:411-424, 1994)
LEAST_BACKGROUND = 1e-6  # counts; keeps the logarithm's argument positive where nothing is expected
LEAST_COUNTS = 1e-9


@dataclass(frozen=True)
class Scan:
    """What is known about the acquisition of a batch of n slices, per subset of views.

    Attributes:
        system: the projection.
        factors: counts that one unit of projected activity gives, [views * bins, n] per subset.
        background: expected randoms and scatter, [views * bins, n] per subset.
        trues: expected trues, likewise.
        psf_pixels: standard deviation of the resolution model, in pixels; 0 for none.
    """

    system: SystemMatrix
    factors: tuple[Array, ...]
    background: tuple[Array, ...]
    trues: tuple[Array, ...]
    psf_pixels: float

    @property
    def expected(self) -> tuple[Array, ...]:
        """Expected prompts."""
        return tuple(t + b for t, b in zip(self.trues, self.background, strict=True))

    def with_counts(self, fraction: float) -> "Scan":
        """The same scan with `fraction` of the counts."""
        scale = np.float32(fraction)
        scaled = ([part * scale for part in parts] for parts in (self.factors, self.background, self.trues))
        factors, background, trues = (tuple(parts) for parts in scaled)
        return Scan(self.system, factors, background, trues, self.psf_pixels)


def as_columns(images: Array) -> Array:
    """Slices [n, rows, columns] as the columns of a matrix [rows * columns, n]."""
    return np.ascontiguousarray(images.reshape(len(images), -1).T)


def as_images(columns: Array, shape: tuple[int, int]) -> Array:
    """Columns [rows * columns, n] as slices [n, rows, columns]."""
    return np.ascontiguousarray(columns.T).reshape(-1, *shape)


def blurred(columns: Array, shape: tuple[int, int], sigma_pixels: float) -> Array:
    """Gaussian blur of columns [rows * columns, n]; it is its own transpose, since nothing lies beyond the border."""
    if sigma_pixels <= 0:
        return columns
    from scipy.ndimage import gaussian_filter1d  # heavy

    images = columns.reshape(*shape, -1)
    for axis in (0, 1):
        images = gaussian_filter1d(images, sigma_pixels, axis=axis, mode="constant")
    result: Array = images.reshape(len(columns), -1)
    return result


def scan_of(
    system: SystemMatrix,
    activity: Array,
    mu: Array,
    pixel_mm: float,
    counts_per_suv: float,
    scatter_fraction: float,
    randoms_fraction: float,
    psf_fwhm_mm: float = 0.0,
) -> Scan:
    """Expected counts of slices.

    Args:
        system: the projection.
        activity: SUV [n, rows, columns], not negative.
        mu: attenuation per mm, likewise.
        pixel_mm: pixel spacing.
        counts_per_suv: trues per voxel and SUV over all views, without attenuation.
        scatter_fraction: S / (T + S).
        randoms_fraction: R / (T + S + R).
        psf_fwhm_mm: resolution between activity and detector; 0 for none.
    """
    from scipy.ndimage import gaussian_filter1d  # heavy

    rows = [forward.shape[0] for forward in system.forward]
    views = sum(rows) // system.bins
    psf = psf_fwhm_mm * SIGMA_PER_FWHM / pixel_mm
    images = blurred(as_columns(activity), system.shape, psf)
    water = as_columns(mu) * np.float32(pixel_mm)
    scale = np.float32(counts_per_suv / views)
    factors = tuple(np.exp(-(forward @ water)) * scale for forward in system.forward)
    trues = tuple(forward @ images * factor for forward, factor in zip(system.forward, factors, strict=True))
    scatter_share = scatter_fraction / (1 - scatter_fraction)
    randoms_share = randoms_fraction / (1 - randoms_fraction) * (1 + scatter_share)
    randoms = np.float32(randoms_share) * sum(part.sum(axis=0) for part in trues) / np.float32(sum(rows))
    background = []
    for part in trues:
        profiles = part.reshape(-1, system.bins, part.shape[1])
        smooth = gaussian_filter1d(profiles, SCATTER_SIGMA_MM / pixel_mm, axis=1, mode="reflect", truncate=3.0)
        flat = np.float32(scatter_share) * smooth.reshape(part.shape) + randoms
        background.append(np.maximum(flat, np.float32(LEAST_BACKGROUND)).astype(np.float32))
    return Scan(system, factors, tuple(background), trues, psf)


def osem(scan: Scan, counts: tuple[Array, ...], iterations: int, start: Array | None = None) -> Array:
    """Ordered-subsets expectation maximisation.

    Args:
        scan: the system model.
        counts: measured prompts, [views * bins, n] per subset.
        iterations: passes over all subsets.
        start: first image [rows * columns, n]; uniform when left out.

    Returns:
        Activity [rows * columns, n], not negative.
    """
    system, shape, psf = scan.system, scan.system.shape, scan.psf_pixels
    sensitivity = [
        blurred(back @ factor, shape, psf) for back, factor in zip(system.backward, scan.factors, strict=True)
    ]
    image = np.ones_like(sensitivity[0]) if start is None else start.copy()
    for _ in range(iterations):
        for subset, forward in enumerate(system.forward):
            expected = forward @ blurred(image, shape, psf)
            expected *= scan.factors[subset]
            expected += scan.background[subset]
            ratio = np.divide(counts[subset], expected, out=np.zeros_like(expected), where=expected > LEAST_COUNTS)
            ratio *= scan.factors[subset]
            update = blurred(system.backward[subset] @ ratio, shape, psf)
            weight = sensitivity[subset]
            image *= np.divide(update, weight, out=np.zeros_like(update), where=weight > LEAST_COUNTS)
    return image
