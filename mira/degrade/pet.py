"""Low-count PET from a routine scan: count noise drawn in the projections and carried through OSEM.

The routine image already went through the scanner's resolution and one reconstruction. Reconstructing it again would
blur it a second time, and the network would learn to sharpen rather than to restore counts. So, as for CT, only the
noise is taken from the simulation:

    low = max(0, reference + OSEM(Poisson(counts)) / k - OSEM(counts) / k)

Both reconstructions start from the same expected counts, so their difference is what low counts do: noise that follows
the activity, correlated by OSEM and its filter, streaky along hot objects. Its mean is zero where activity is well
above the noise; in cold air the cut at zero leaves a small positive bias, which real OSEM images have too.

The projection is of the image as it stands: its blur is the scanner's resolution, already in it, hence no resolution
model in the projector. The post-filter gives the noise its grain.

Expected counts: `ybar = k (n P x + c mean(n P x))`, with projection P, attenuation n by water within the outline of the
activity, and randoms and scatter as a constant share c of the trues. The reference holds the noise of its own counts,
so that a scan at fraction a, of variance v/a, needs only (1 - a)/a * v more: Poisson counts are drawn at fraction
a / (1 - a).

Slices are independent (2-D acquisition); fine matrices are simulated on a grid binned to at most `MAX_SIDE` pixels.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from mira.cases import CaseRecord
from mira.degrade.ct import slice_generator
from mira.degrade.projection import SystemMatrix, system_matrix

VERSION = "pet-osem-noise/1"
BATCH = 8  # slices per matrix product; fixed, since rounding may depend on it
MAX_SIDE = 220
WATER_511_PER_MM = 0.0096
OUTLINE_SUV = 0.1
# Routine whole-body FDG: 370 MBq in 75 kg, 60 minutes after injection.
DEFAULT_BQ_PER_ML_PER_SUV = 370e6 * 0.685 / 75e3
DEFAULT_SECONDS = 180.0
# Counts per second and Bq in a slice, without attenuation: 4 cps/kBq of a 70 cm line source (NEMA) seen over 15 cm.
# Scanners with septa reach about 2 cps/kBq, those without 8 and more.
SENSITIVITY = 4e-3 * 70 / 15


@dataclass(frozen=True)
class PetParameters:
    """Parameters of the simulation.

    Attributes:
        count_fraction: wanted counts over the scan's own, in (0, 1).
        counts_per_suv: detected trues per voxel and SUV at the scan's own counts, without attenuation.
        contamination: randoms and scatter over trues.
        views: projections over 180 degrees.
        subsets: OSEM subsets.
        iterations: OSEM iterations.
        filter_fwhm_mm: in-plane Gaussian post-filter.
        binning: image pixels per pixel of the simulation.
    """

    count_fraction: float
    counts_per_suv: float
    contamination: float = 0.5
    views: int = 64
    subsets: int = 8
    iterations: int = 2
    filter_fwhm_mm: float = 5.0
    binning: int = 1

    def as_record(self) -> dict[str, float | int | str | bool]:
        """The parameters as stored with a pair."""
        return asdict(self)


def parameters_for(
    count_fraction: float,
    shape: tuple[int, int],
    spacing_mm: tuple[float, float, float],
    record: CaseRecord | None = None,
) -> PetParameters:
    """Choose parameters for a scan: activity from its dose and time from its frame duration, where the record has them.

    Args:
        count_fraction: wanted counts over the scan's own.
        shape: rows and columns.
        spacing_mm: distances between (slices, rows, columns).
        record: the case.
    """
    activity, seconds = DEFAULT_BQ_PER_ML_PER_SUV, DEFAULT_SECONDS
    if record is not None and record.pet_dose is not None:
        activity = record.pet_dose.decayed_dose_bq / (1000 * record.pet_dose.weight_kg)
    if record is not None and record.protocol.frame_duration_ms:
        seconds = float(np.clip(record.protocol.frame_duration_ms / 1000, 30, 1800))
    volume_ml = spacing_mm[0] * spacing_mm[1] * spacing_mm[2] / 1000
    binning = int(np.ceil(max(shape) / MAX_SIDE))
    views = max(64, 8 * round(max(shape) / binning / 2 / 8))
    return PetParameters(
        count_fraction, round(activity * volume_ml * SENSITIVITY * seconds, 3), views=views, binning=binning
    )


def _columns(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Slices [n, rows, columns] as the columns of a matrix [rows * columns, n]."""
    return np.ascontiguousarray(images.reshape(len(images), -1).T)


def osem(
    system: SystemMatrix,
    counts: list[NDArray[np.float32]],
    factors: list[NDArray[np.float32]],
    background: NDArray[np.float32],
    iterations: int,
) -> NDArray[np.float32]:
    """Ordered-subsets expectation maximisation from a uniform start.

    Args:
        system: projection.
        counts: for each subset, measured counts [views * bins, n].
        factors: for each subset, counts that one unit of projected activity gives, [views * bins, n].
        background: expected randoms and scatter per bin, [n].
        iterations: passes over all subsets.

    Returns:
        Activity [rows * columns, n].
    """
    sensitivity: list[NDArray[np.float32]] = [
        back @ factor for back, factor in zip(system.backward, factors, strict=True)
    ]
    image = np.ones_like(sensitivity[0])
    for _ in range(iterations):
        for subset, forward in enumerate(system.forward):
            expected = forward @ image
            expected *= factors[subset]
            expected += background
            ratio = np.divide(counts[subset], expected, out=np.zeros_like(expected), where=expected > 1e-9)
            ratio *= factors[subset]
            update = system.backward[subset] @ ratio
            image *= np.divide(update, sensitivity[subset], out=np.zeros_like(update), where=sensitivity[subset] > 1e-9)
    return image


def noise(
    suv: NDArray[np.float32], pixel_mm: float, parameters: PetParameters, seed: int, first: int = 0
) -> NDArray[np.float32]:
    """Noise in SUV to add to slices [n, rows, columns]; each slice's depends on `seed` and its index alone.

    Args:
        suv: slices in SUVbw, on the grid of the simulation.
        pixel_mm: pixel spacing of that grid.
        parameters: the simulation's parameters.
        seed: seed of the volume.
        first: index of the first slice within the volume.
    """
    from scipy import ndimage  # heavy

    count, rows, columns = suv.shape
    system = system_matrix((rows, columns), parameters.views, parameters.subsets)
    a = parameters.count_fraction
    scale = parameters.counts_per_suv / parameters.views * a / (1 - a)
    sigma = parameters.filter_fwhm_mm / 2.3548 / pixel_mm
    result = np.empty_like(suv)
    for start in range(0, count, BATCH):
        activity = np.maximum(suv[start : start + BATCH], 0.0)
        images = _columns(activity)
        outline = ndimage.gaussian_filter(activity, (0, 10 / pixel_mm, 10 / pixel_mm)) > OUTLINE_SUV
        water = _columns(outline.astype(np.float32)) * np.float32(WATER_511_PER_MM * pixel_mm)
        factors = [np.exp(-(forward @ water)) * np.float32(scale) for forward in system.forward]
        trues = [forward @ images * factor for forward, factor in zip(system.forward, factors, strict=True)]
        bins = sum(len(part) for part in trues)
        background = np.maximum(parameters.contamination * sum(part.sum(axis=0) for part in trues) / bins, 1e-6)
        background = background.astype(np.float32)
        expected = [part + background for part in trues]
        generators = [slice_generator(seed, first + start + index) for index in range(images.shape[1])]
        drawn = [
            np.stack([g.poisson(part[:, i]) for i, g in enumerate(generators)], axis=1).astype(np.float32)
            for part in expected
        ]
        noisy = osem(system, drawn, factors, background, parameters.iterations)
        clean = osem(system, expected, factors, background, parameters.iterations)
        field = np.ascontiguousarray((noisy - clean).T).reshape(-1, rows, columns)
        result[start : start + BATCH] = ndimage.gaussian_filter(field, (0, sigma, sigma))
    return result


def _bin(images: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Mean over blocks of factor x factor pixels; odd borders are padded with their edge."""
    rows, columns = (-images.shape[1]) % factor, (-images.shape[2]) % factor
    padded = np.pad(images, [(0, 0), (0, rows), (0, columns)], mode="edge")
    n, height, width = padded.shape
    blocks = padded.reshape(n, height // factor, factor, width // factor, factor)
    result: NDArray[np.float32] = blocks.mean(axis=(2, 4), dtype=np.float32)
    return result


def lower_counts(
    suv: NDArray[np.float32], pixel_mm: float, parameters: PetParameters, seed: int
) -> Iterator[NDArray[np.float32]]:
    """Low-count slices in SUVbw, in batches, never negative."""
    from scipy import ndimage  # heavy

    factor = parameters.binning
    for start in range(0, len(suv), BATCH):
        part = np.asarray(suv[start : start + BATCH], dtype=np.float32)
        grid = _bin(part, factor) if factor > 1 else part
        field = noise(grid, pixel_mm * factor, parameters, seed, start)
        if factor > 1:
            field = ndimage.zoom(field, (1, factor, factor), order=1, grid_mode=True, mode="nearest")
            field = field[:, : part.shape[1], : part.shape[2]]
        yield np.maximum(part + field, 0.0)
