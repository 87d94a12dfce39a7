"""A whole CT acquisition of a noise-free phantom: counts, their logarithm, and filtered back-projection.

For each detector reading y ~ Poisson(n) + Normal(0, Ne) with n = a N0 e^-p / readings; the line integral is
ln(a N0 / readings / max(y, floor)), averaged over the readings of a slice (Zeng et al., IEEE TNS 62:2226-2233, 2015).
Readings that count little are averaged with their neighbours before the logarithm, as in `mira.degrade.ct_counts`; here
the filter sees the counts themselves, as a scanner does. This is the yardstick for `mira.degrade.ct`, which adds noise
to an image that already has some: on a real scan it would count the scan's own noise twice.
"""

import numpy as np
from numpy.typing import NDArray

from mira.degrade import ct, ct_counts
from mira.degrade.ct_projector import bins_for, borrowed
from mira.degrade.ct_slices import slice_generator


def simulate_acquisition(
    hu: NDArray[np.float32], pixel_mm: float, parameters: ct.CtParameters, seed: int, first: int = 0
) -> NDArray[np.float32]:
    """Scan noise-free slices at `parameters.dose_fraction` times `parameters.photons`.

    Slices are independent, whatever `parameters.profile_slices`. Every view is taken; `view_step` above 1 keeps only
    some.

    Args:
        hu: noise-free slices [n, rows, columns] in HU.
        pixel_mm: pixel spacing.
        parameters: the acquisition; its dose fraction may be 1.
        seed: seed of the volume.
        first: index of the first slice within the volume.

    Returns:
        Reconstructed slices in HU, blurred by the kernel; beyond the canvas' circle they are not meaningful.
    """
    side = ct.canvas_side(hu.shape, parameters)
    central = np.float32(np.log(parameters.dose_fraction * parameters.photons / parameters.readings))
    entering = ct.incident(bins_for(side), pixel_mm, parameters) + central
    top, left = (side - hu.shape[1]) // 2, (side - hu.shape[2]) // 2
    result = np.empty(hu.shape, dtype=np.float32)
    for index, part in enumerate(hu):
        with borrowed(side, parameters.views) as engine:
            lines = engine.project(ct.attenuation(np.asarray(part, np.float32), parameters)) * np.float32(pixel_mm)
        generator = slice_generator(seed, first + index)
        measured = measure(lines, entering, parameters, generator)
        kept = ct.kept_views(parameters)
        with borrowed(side, parameters.views) as engine:
            mu = engine.reconstruct(lines * kept, parameters.cutoff, noise=(measured - lines) * kept)
        mu = mu[top : top + hu.shape[1], left : left + hu.shape[2]] / np.float32(pixel_mm * parameters.mu_water_per_mm)
        result[index] = (mu - 1) * 1000
    return result


def measure(
    lines: NDArray[np.float32],
    entering: NDArray[np.float32],
    parameters: ct.CtParameters,
    generator: np.random.Generator,
) -> NDArray[np.float32]:
    """Line integrals [views, bins] as measured.

    Args:
        lines: true line integrals.
        entering: logarithm of the photons that enter for each reading, [bins].
        parameters: the acquisition.
        generator: source of counts and electronic noise.
    """
    expected = np.exp((entering - lines).astype(np.float64))
    total = np.zeros(lines.shape, dtype=np.float32)
    sigma = np.float32(parameters.electronic_variance**0.5)
    for _ in range(parameters.readings):
        counts = generator.poisson(expected).astype(np.float32)
        counts += sigma * generator.standard_normal(lines.shape, dtype=np.float32)
        total -= np.log(np.maximum(_filtered(counts, parameters.adaptive_counts), parameters.minimum_counts))
    return entering + total / np.float32(parameters.readings)


def _filtered(counts: NDArray[np.float32], adaptive: float) -> NDArray[np.float32]:
    """Counts with the starved readings averaged; starved by the mean of their surroundings, as none is known better."""
    if adaptive <= 0 or counts.min() >= 4 * adaptive:
        return counts
    from scipy.ndimage import uniform_filter  # heavy

    around = uniform_filter(counts, (3, 9), mode=("nearest", "wrap"))
    return ct_counts.averaged(counts, np.log(np.maximum(around, np.float32(1e-3))), adaptive)
