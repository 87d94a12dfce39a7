"""Fit the PET simulator to the scan's own noise: how strong it is, and how it hangs together within and between slices.

A scan at count fraction a has 1/a times the variance of the scan itself, whatever made that. So the relative noise of
the scan is measured, noise of the scan's own counts is simulated in the same slices, and three parameters are set so
that both agree: the counts by the standard deviation, the post-filter by the correlation of neighbouring pixels, the
axial filter by that of neighbouring slices.

Uptake varies within organs, which adds to what is measured. So patches are small, freed of a quadratic surface, and
only the calmest count: those with the least noise in units of the simulated one, in tissue of even uptake. A simulated
scan, measured in the same way, is the yardstick.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mira.degrade import pet
from mira.degrade.pet_attenuation import Attenuation
from mira.degrade.pet_filters import axial_weights, post_filtered

Array = NDArray[np.float32]
PATCH = 6
STEP = 3
PAIRS = 6  # neighbouring slices that are looked at
DRAWS = 4
PASSES = 2  # the noise of few counts does not go exactly as their square root
CALM = 0.25
LEAST_PATCHES = 20  # in each slice of the pairs
LEAST_SUV = 0.3  # of a patch's mean: below it there is lung and air
LEAST_SHARE = 0.5  # of a patch's mean that each of its pixels must have: no edge of the body or of a lesion
LEAST_NOISE = 0.01  # below it the volume is a noise-free phantom, or was denoised; there is nothing to fit
FILTERS_MM = (2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0)
WIDEST_AXIAL_MM = 12.0
LEAST_AXIAL_CORRELATION = 0.5  # that the widest filter must give: else the slices are no neighbours
LIMITS = (0.02, 50.0)  # of the factor on counts


def patches_of(images: Array) -> Array:
    """Overlapping patches of slices [n, rows, columns]: [n, patches, PATCH, PATCH]."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (PATCH, PATCH), axis=(1, 2))[:, ::STEP, ::STEP]
    return np.ascontiguousarray(windows).reshape(len(images), -1, PATCH, PATCH)


def residuals(patches: Array) -> Array:
    """What a quadratic surface leaves of each patch, relative to its mean: [..., PATCH * PATCH]."""
    y, x = (np.indices((PATCH, PATCH)) - (PATCH - 1) / 2).reshape(2, -1)
    surface, _ = np.linalg.qr(np.stack([np.ones(x.size), x, y, x * x, x * y, y * y], axis=1))
    flat = patches.reshape(*patches.shape[:-2], PATCH * PATCH)
    relative = flat / np.maximum(flat.mean(axis=-1, keepdims=True), np.float32(1e-6))
    rest: Array = (relative - relative @ surface @ surface.T).astype(np.float32)
    return rest


def noise_of(rest: Array) -> Array:
    """Relative standard deviation of each patch."""
    noise: Array = np.sqrt(np.square(rest).sum(axis=-1) / (PATCH**2 - 6))
    return noise


def in_plane_correlation(rest: Array) -> float:
    """Mean correlation of horizontal and vertical neighbours in patches [..., PATCH * PATCH]."""
    square = rest.reshape(-1, PATCH, PATCH)
    neighbours = (square[:, 1:] * square[:, :-1]).mean() + (square[:, :, 1:] * square[:, :, :-1]).mean()
    return float(neighbours / 2 / max(float(np.square(square).mean()), 1e-12))


class _Look:
    """A few slices of a scan with simulated noise of its own counts, as what patches show of either."""

    def __init__(self, activity: Array, mu: Array, pixel_mm: float, parameters: pet.PetParameters) -> None:
        self._activity, self._pixel_mm = activity, pixel_mm
        self._draws = [pet.redrawn(activity, mu, pixel_mm, parameters, 1.0, seed) for seed in range(DRAWS)]
        # noise is put on the smoothed scan, lest the scan's own be counted as simulated
        self._smooth = post_filtered(activity, pixel_mm, 4 * pixel_mm)
        patches = patches_of(activity)
        mean, least = patches.mean(axis=(2, 3)), patches.min(axis=(2, 3))
        tissue = (mean > LEAST_SUV) & (least > LEAST_SHARE * mean)
        # in both slices of a pair, for the correlation between them
        self._tissue: NDArray[np.bool_] = tissue[0::2] & tissue[1::2]
        self.scan = self._residuals(activity)

    def _residuals(self, images: Array) -> Array:
        """Residuals of the patches of tissue, [2, patches, pixels]: first and second slice of each pair."""
        patches = patches_of(images)
        return residuals(np.stack([patches[0::2][self._tissue], patches[1::2][self._tissue]]))

    def simulated(self, filter_fwhm_mm: float) -> tuple[list[Array], list[Array]]:
        """Residuals of every draw after a post-filter, and for each the noise that the other draws let expect.

        Neither a draw nor the scan may take part in what it is compared with, or its noise would look more even.
        """
        given = np.maximum(post_filtered(self._activity, self._pixel_mm, filter_fwhm_mm), np.float32(pet.LEAST_SUV))
        filtered = (post_filtered(draw, self._pixel_mm, filter_fwhm_mm) for draw in self._draws)
        fields = [self._residuals((self._smooth * image / given).astype(np.float32)) for image in filtered]
        squares = [np.square(noise_of(field)) for field in fields]
        expected = [np.sqrt((sum(squares) - own) / (DRAWS - 1)) for own in squares]
        return fields, expected


def calmest(rest: Array, expected: Array) -> tuple[float, NDArray[np.bool_]]:
    """Noise of the calmest patches in units of the expected one, at their upper end, and which they are."""
    relative = noise_of(rest) / np.maximum(expected, np.float32(1e-6))
    limit = float(np.quantile(relative, CALM))
    return limit, relative <= limit


def calibrate(
    suv: NDArray[np.float32],
    spacing_mm: tuple[float, float, float],
    parameters: pet.PetParameters,
    attenuation: Attenuation | None = None,
) -> pet.PetParameters:
    """Fit counts and filters to a scan's own noise; the parameters as given where there is too little to fit.

    Args:
        suv: the scan [slices, rows, columns] in SUVbw; six pairs of neighbouring slices are looked at.
        spacing_mm: distances between (slices, rows, columns) of `suv`.
        parameters: what the record tells.
        attenuation: on the grid of `suv`.
    """
    # binning takes noise away, so what is left of it could not be compared
    if len(suv) < 2 or min(suv.shape[1:]) < PATCH or parameters.binning > 1:
        return parameters
    firsts = np.unique(np.linspace(0, len(suv) - 2, PAIRS + 2).round().astype(int)[1:-1])
    indices = [int(first) + step for first in firsts for step in (0, 1)]
    activity: Array = np.maximum(np.stack([suv[index] for index in indices]), 0).astype(np.float32)
    known = None
    if attenuation is not None:
        known = np.concatenate([attenuation.slices(index, index + 1) for index in indices])
    mu = pet.attenuation_of(activity, spacing_mm[1], known)
    own = replace(parameters, count_fraction=0.5)
    fitted = _fitted(activity.tobytes(), mu.tobytes(), activity.shape, spacing_mm, own)
    return replace(fitted, count_fraction=parameters.count_fraction)


@lru_cache(maxsize=2)
def _fitted(
    activity: bytes,
    mu: bytes,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    parameters: pet.PetParameters,
) -> pet.PetParameters:
    """The fit to slices in SUV with their attenuation; kept, since the levels of a case share it."""
    slices, attenuation = (np.frombuffer(content, dtype=np.float32).reshape(shape) for content in (activity, mu))
    for _ in range(PASSES):
        fitted = _fit(_Look(slices, attenuation, spacing_mm[1], parameters), spacing_mm[0], parameters)
        if fitted is None:
            break
        parameters = fitted
    return parameters


def _fit(look: _Look, slice_mm: float, parameters: pet.PetParameters) -> pet.PetParameters | None:
    """Parameters that would give the scan's noise, if noise went exactly as counts; None if there is too little."""
    fwhm = _filter_fwhm(look) if look.scan.shape[1] >= LEAST_PATCHES else None
    if fwhm is None:
        return None
    fields, expected = look.simulated(fwhm)
    own = float(np.mean([calmest(look.scan, other)[0] for other in expected]))
    yardstick = float(np.mean([calmest(field, other)[0] for field, other in zip(fields, expected, strict=True)]))
    _, chosen = calmest(look.scan, expected[0])
    factor = float(np.clip((yardstick / own) ** 2, *LIMITS))
    # rounded, so that the last bits of a transform do not make other pairs on another machine
    return replace(
        parameters,
        counts_per_suv=float(f"{parameters.counts_per_suv * factor:.3g}"),
        filter_fwhm_mm=fwhm,
        axial_fwhm_mm=_axial_fwhm(look.scan, chosen, slice_mm, parameters.axial_fwhm_mm),
        calibrated=True,
    )


def _filter_fwhm(look: _Look) -> float | None:
    """Post-filter that gives the correlation of neighbouring pixels; None when the scan has hardly any noise."""
    _, chosen = calmest(look.scan, look.simulated(pet.PetParameters.filter_fwhm_mm)[1][0])
    if np.sqrt(np.square(noise_of(look.scan)[chosen]).mean()) < LEAST_NOISE:
        return None
    given = []
    for width in FILTERS_MM:
        fields, expected = look.simulated(width)
        calm = [field[calmest(field, other)[1]] for field, other in zip(fields, expected, strict=True)]
        given.append(np.mean([in_plane_correlation(field) for field in calm]))
    rising = np.maximum.accumulate(given)
    return round(float(np.interp(in_plane_correlation(look.scan[chosen]), rising, FILTERS_MM)), 1)


def _axial_fwhm(rest: Array, chosen: NDArray[np.bool_], slice_mm: float, otherwise: float) -> float:
    """Axial filter that gives the correlation of neighbouring slices; `otherwise` where they lie too far apart."""
    first, second = rest[:, chosen[0] | chosen[1]]
    correlation = float((first * second).mean() / max(float(np.sqrt((first**2).mean() * (second**2).mean())), 1e-12))
    widths = np.arange(0, WIDEST_AXIAL_MM, 0.1)
    given = []
    for width in widths:
        weights = axial_weights(float(width), slice_mm)
        given.append(float((weights[1:] * weights[:-1]).sum() / np.square(weights).sum()))
    if given[-1] < LEAST_AXIAL_CORRELATION:
        return otherwise
    return round(float(np.interp(correlation, np.maximum.accumulate(given), widths)), 1)
