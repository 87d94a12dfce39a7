"""Low-dose CT from a routine-dose image: noise inserted in the projections, reconstructed alone, and added.

The image already holds the noise of its own dose. A scan at dose fraction `a` has about 1/a times that variance, so
what must be added in each projection is (Yu et al., J Comput Assist Tomogr 36:477-487, 2012)

    sigma^2 = (1 - a) / a * e^p / N0 * (1 + (1 + a) / a * Ne * e^p / N0)

with line integral p, incident photons N0 and electronic noise variance Ne. That is the variance of the logarithm at the
wanted dose less that at the scan's own. Where counts are few the logarithm is neither Gaussian nor unbiased, so both
terms, the shift of the mean and the skewness come from the exact statistics (`mira.degrade.ct_counts`); for many counts
they are the equation. Only this noise goes through filtered back-projection and is added to the image, so the anatomy
is not blurred by a second reconstruction. Through slices it is correlated as helical data are (`ct_slices`).

The flux that a record tells is rough (what "exposure" means differs by vendor, and tube current is modulated), and each
kernel shapes noise in its own way. Where the scan shows enough soft tissue, `mira.degrade.calibration` fits both to the
scan's own noise.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from mira.degrade import ct_counts
from mira.degrade.ct_flux import REFERENCE_MAS
from mira.degrade.ct_geometry import attenuation, canvas_side, incident, kept_views
from mira.degrade.ct_parameters import BOWTIE_SHARE, SOURCE_MM, CtParameters, parameters_for
from mira.degrade.ct_projector import bins_for, borrowed
from mira.degrade.ct_slices import SliceScores, slice_generator

__all__ = [
    "BOWTIE_SHARE",
    "REFERENCE_MAS",
    "SOURCE_MM",
    "VERSION",
    "CtParameters",
    "Inserter",
    "attenuation",
    "canvas_side",
    "incident",
    "kept_views",
    "lower_dose",
    "noise",
    "noise_sigma",
    "parameters_for",
    "slice_generator",
    "statistics_of",
    "tables",
]

VERSION = "ct-projection-noise/2"
BATCH = 4  # slices yielded together
MOST_WORKERS = 4
AIR_HU = -1024.0  # at or below it there is padding outside the scanner's circle, which is left alone

Sinograms = tuple[NDArray[np.float32] | None, NDArray[np.float32]]


def tables(parameters: CtParameters, own: bool = False) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of what is inserted, over the logarithm of counts per reading at the wanted dose.

    Args:
        parameters: the simulation's parameters.
        own: for the noise that a scan at the wanted dose has, instead of what a scan of full dose lacks.
    """
    statistics = statistics_of(parameters)
    bias, variance = statistics.bias, statistics.variance
    if not own:
        logs = np.arange(bias.size, dtype=np.float64)
        full = logs - ct_counts.STEPS * np.log(parameters.dose_fraction)  # more counts: further along the table
        bias = bias - np.interp(full, logs, bias)
        variance = np.maximum(variance - np.interp(full, logs, variance), 0.0)
    return bias.astype(np.float32), np.sqrt(variance / parameters.readings).astype(np.float32)


def statistics_of(parameters: CtParameters) -> ct_counts.LogStatistics:
    """Statistics of one reading."""
    return ct_counts.log_statistics(
        parameters.electronic_variance, parameters.minimum_counts, parameters.adaptive_counts
    )


def noise_sigma(p: NDArray[np.float32], parameters: CtParameters) -> NDArray[np.float32]:
    """Standard deviation of the noise to insert for line integrals p of the central ray."""
    logs = np.float32(np.log(parameters.dose_fraction * parameters.photons / parameters.readings)) - p
    return tables(parameters)[1][ct_counts.places(logs)]


class Inserter:
    """Makes the noise of one volume, slice by slice; safe to use from several threads."""

    def __init__(
        self,
        shape: tuple[int, int],
        pixel_mm: float,
        parameters: CtParameters,
        seed: int,
        ahead: int = 1,
        own: bool = False,
    ) -> None:
        """Prepare tables and random numbers.

        Args:
            shape: rows and columns.
            pixel_mm: pixel spacing.
            parameters: the simulation's parameters.
            seed: seed of the volume.
            ahead: slices that may be worked on at once.
            own: see `tables`.
        """
        self._parameters, self._pixel_mm = parameters, pixel_mm
        self._side = canvas_side(shape, parameters)
        bins = bins_for(self._side)
        self._bias, self._sigma = tables(parameters, own)
        self._statistics = statistics_of(parameters)
        reading = parameters.dose_fraction * parameters.photons / parameters.readings
        self._incident = incident(bins, pixel_mm, parameters) + np.float32(np.log(reading))
        self._scores = SliceScores(seed, (parameters.views, bins), parameters.profile_slices, ahead)

    def sinograms(self, hu: NDArray[np.float32], index: int) -> Sinograms:
        """What to insert in the line integrals [views, bins] of one slice [rows, columns].

        Args:
            hu: the slice.
            index: its number within the volume.

        Returns:
            What missing views change (None when all are kept), and what fewer photons change.
        """
        parameters = self._parameters
        with borrowed(self._side, parameters.views) as engine:
            lines = engine.project(attenuation(hu, parameters))
        lines *= np.float32(self._pixel_mm)
        logs = self._incident - lines
        place = ct_counts.places(logs)
        scores = self._scores.of(index)
        scores = ct_counts.averaged(scores, logs, parameters.adaptive_counts, unit_variance=True)
        change = ct_counts.shaped(scores, logs, self._statistics, parameters.readings)
        change *= self._sigma[place]
        change += self._bias[place]
        if parameters.view_step == 1:
            return None, change
        kept = kept_views(parameters)
        return (kept - 1) * lines, kept * change

    def image(self, sinograms: Sinograms, shape: tuple[int, ...], cutoff: float) -> NDArray[np.float32]:
        """HU to add to a slice of `shape`, from what `sinograms` returned."""
        streaks, change = sinograms
        with borrowed(self._side, self._parameters.views) as engine:
            field = engine.reconstruct(streaks, cutoff, noise=change)
        top, left = (self._side - shape[0]) // 2, (self._side - shape[1]) // 2
        scale = np.float32(1000 / self._parameters.mu_water_per_mm / self._pixel_mm)
        result: NDArray[np.float32] = field[top : top + shape[0], left : left + shape[1]] * scale
        return result

    def noise(self, hu: NDArray[np.float32], index: int) -> NDArray[np.float32]:
        """HU to add to one slice."""
        return self.image(self.sinograms(hu, index), hu.shape, self._parameters.cutoff)

    def lower(self, hu: NDArray[np.float32], index: int) -> NDArray[np.float32]:
        """The slice at low dose: padding outside the scanner's circle stays, air is cut at `AIR_HU`."""
        noisy = np.maximum(hu + self.noise(hu, index), np.float32(AIR_HU))
        return np.where(hu <= AIR_HU, hu, noisy)


def noise(
    hu: NDArray[np.float32], pixel_mm: float, parameters: CtParameters, seed: int, first: int = 0
) -> NDArray[np.float32]:
    """Noise in HU to add to slices [n, rows, columns]; each slice's noise depends on `seed` and its index alone."""
    inserter = Inserter((hu.shape[1], hu.shape[2]), pixel_mm, parameters, seed)
    return np.stack([inserter.noise(np.asarray(part, np.float32), first + i) for i, part in enumerate(hu)])


def lower_dose(
    hu: NDArray[np.float32] | Sequence[NDArray[np.float32]],
    pixel_mm: float,
    parameters: CtParameters,
    seed: int,
    *,
    workers: int | None = None,
    first: int = 0,
) -> Iterator[NDArray[np.float32]]:
    """Low-dose slices in HU, in batches of at most `BATCH`.

    Slices are read when their turn comes and handed on when they are done, so memory does not grow with their number.
    A slice is a function of the seed, its index and its own pixels, to the last bit: neither the number of threads nor
    the way in which a volume is cut into calls changes it.

    Args:
        hu: slices in HU, [slices, rows, columns]; an array, a memory map, or anything with a length that gives slices.
        pixel_mm: pixel spacing.
        parameters: the simulation's parameters.
        seed: seed of the volume.
        workers: threads; the cores of this process, `MOST_WORKERS` at most, if not given.
        first: index of the first slice within the volume.
    """
    if not len(hu):
        return
    threads = max(1, min(workers or min(_cores(), MOST_WORKERS), len(hu)))
    shape = np.shape(hu[0])
    inserter = Inserter((shape[0], shape[1]), pixel_mm, parameters, seed, ahead=2 * threads)

    def one(index: int) -> NDArray[np.float32]:
        return inserter.lower(np.asarray(hu[index], dtype=np.float32), first + index)

    batch: list[NDArray[np.float32]] = []
    for result in _in_order(one, len(hu), threads):
        batch.append(result)
        if len(batch) == BATCH:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def _cores() -> int:
    """Cores that this process may use; where the system does not tell, those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_order(work: Callable[[int], NDArray[np.float32]], count: int, threads: int) -> Iterator[NDArray[np.float32]]:
    """Results of work(0), work(1), ... in order, with at most twice `threads` under way or waiting."""
    if threads == 1:
        yield from map(work, range(count))
        return
    pending: deque[Future[NDArray[np.float32]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="ct") as pool:
        try:
            for index in range(count):
                pending.append(pool.submit(work, index))
                if len(pending) == 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:  # a caller that stops early does not wait for slices that it does not want
            for future in pending:
                future.cancel()
