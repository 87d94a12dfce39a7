"""The count-domain model, for phantoms whose activity is known: acquire, thin, reconstruct.

This is the yardstick for `mira.degrade.pet`, which starts from images: a phantom acquired with fewer counts and
reconstructed is what the simulator must give from the same phantom's full-count image.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mira.degrade.ct_slices import slice_generator
from mira.degrade.pet import PetParameters, drawn, scan_for
from mira.degrade.pet_filters import BATCH, axial_weights, coupled, post_filtered
from mira.degrade.pet_osem import SIGMA_PER_FWHM, Scan, as_images, osem

Array = NDArray[np.float32]


def acquisition(
    activity: Array, mu: Array, pixel_mm: float, parameters: PetParameters, resolution_mm: float, share: float = 1.0
) -> Scan:
    """What is known about the acquisition of slices.

    Args:
        activity: true activity [n, rows, columns] in SUV.
        mu: attenuation in 1/mm.
        pixel_mm: pixel spacing.
        parameters: counts, scatter, randoms, views and subsets; `psf_fwhm_mm` is what the reconstruction models.
        resolution_mm: the scanner's resolution.
        share: counts over those that the parameters name.
    """
    seen = post_filtered(activity, pixel_mm, resolution_mm)
    scan = scan_for(seen, mu, pixel_mm, replace(parameters, psf_fwhm_mm=0.0)).with_counts(share)
    return replace(scan, psf_pixels=parameters.psf_fwhm_mm * SIGMA_PER_FWHM / pixel_mm)


def acquired(scan: Scan, seed: int, first: int = 0) -> tuple[Array, ...]:
    """Poisson counts of a scan, [views * bins, n] per subset; each slice depends on `seed` and its index alone."""
    return drawn(scan.expected, [slice_generator(seed, first + index) for index in range(scan.trues[0].shape[1])])


def thinned(counts: tuple[Array, ...], fraction: float, seed: int, first: int = 0) -> tuple[Array, ...]:
    """Counts of which each is kept with probability `fraction`, as when list-mode events are discarded at random.

    The rest of Poisson counts is Poisson with the smaller mean, whatever the counts were.
    """
    generators = [slice_generator(seed, first + index) for index in range(counts[0].shape[1])]
    return tuple(
        np.stack([g.binomial(part[:, i].astype(np.int64), fraction) for i, g in enumerate(generators)], axis=1).astype(
            np.float32
        )
        for part in counts
    )


def reconstructed(scan: Scan, counts: tuple[Array, ...], pixel_mm: float, parameters: PetParameters) -> Array:
    """OSEM from a uniform start, and the in-plane post-filter: SUV [n, rows, columns]."""
    images = as_images(osem(scan, counts, parameters.iterations), scan.system.shape)
    return post_filtered(images, pixel_mm, parameters.filter_fwhm_mm)


def scanned(
    activity: Array,
    mu: Array,
    pixel_mm: float,
    parameters: PetParameters,
    seed: int,
    *,
    fraction: float = 1.0,
    slice_mm: float | None = None,
    resolution_mm: float = 6.0,
    noise_free: bool = False,
) -> Iterator[Array]:
    """A PET scan of a phantom, in batches of slices in SUV.

    Args:
        activity: true activity [slices, rows, columns] in SUV.
        mu: attenuation in 1/mm, likewise.
        pixel_mm: pixel spacing.
        parameters: the simulation's parameters; `count_fraction` plays no part.
        seed: seed of the scan.
        fraction: counts over those that the parameters name.
        slice_mm: distance of the slices; left out, slices stay independent.
        resolution_mm: the scanner's in-plane resolution.
        noise_free: reconstruct the expected counts.
    """
    weights = axial_weights(parameters.axial_fwhm_mm, slice_mm) if slice_mm else np.ones(1, dtype=np.float32)
    share = fraction * float(np.square(weights).sum())

    def batch(start: int) -> Array:
        part = slice(start, start + BATCH)
        scan = acquisition(activity[part], mu[part], pixel_mm, parameters, resolution_mm, share)
        counts = scan.expected if noise_free else acquired(scan, seed, start)
        images = reconstructed(scan, counts, pixel_mm, parameters)
        return np.stack([images, np.ones_like(images)])

    for images, weight in coupled(map(batch, range(0, len(activity), BATCH)), weights):
        yield images / weight
