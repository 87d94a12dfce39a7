"""Low-count PET from a routine scan: counts drawn again in the projections, OSEM continued from the image itself.

The routine image already went through the scanner's resolution and one reconstruction. Reconstructing it again from a
uniform start would blur it a second time, and the network would learn to sharpen rather than to restore counts. But an
image is a fixed point of OSEM for its own expected counts. So the image is the start, counts are drawn, and what the
iterations change is noise alone:

    low = reference * F(OSEM(Poisson(k ybar), start = reference)) / F(reference)

with the post-filter F. The noise of OSEM is multiplicative: its standard deviation follows the local mean (Barrett,
Wilson and Tsui, Phys Med Biol 39:833-846, 1994). The quotient keeps that: cold regions stay cold and never turn
negative, and no cut at zero lifts their mean. Adding F(OSEM(drawn)) - F(OSEM(expected)) and cutting at zero instead
gives cold regions too much noise, leaves empty pixels, and takes two reconstructions (`benchmarks/physics_pet.py`).

Expected counts ybar: see `mira.degrade.pet_osem`. The image's blur is the scanner's resolution, already in it, hence no
resolution model in the projector unless the scanner's reconstruction had one (`psf_fwhm_mm`). The reference holds the
noise of its own counts, so that a scan at fraction a, of variance v/a, needs only (1 - a)/a * v more: counts are drawn
at the fraction k = a / (1 - a).

Slices are drawn one by one, each from its own seed, and then joined by an axial filter. `counts_per_suv` holds after
it, so it decides how slices go together and not how noisy one is. A projector through all slices at once would add the
obliqueness of the lines, which spreads noise over neighbouring slices: what the axial filter does, in a stream.

Fine matrices are simulated on a grid binned to at most `MAX_SIDE` pixels.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mira.cases import CaseRecord
from mira.degrade.ct_slices import slice_generator
from mira.degrade.options import OptionValue, override
from mira.degrade.pet_attenuation import WATER_511_PER_MM, Attenuation, CtAttenuation, PairedCt
from mira.degrade.pet_filters import BATCH, axial_weights, binned, coupled, enlarged, post_filtered
from mira.degrade.pet_osem import Scan, as_columns, as_images, osem, scan_of
from mira.degrade.projection import system_matrix
from mira.errors import ConfigurationError
from mira.volume import Volume

VERSION = "pet-osem-noise/2"
MAX_SIDE = 220
OUTLINE_SUV = 0.1
OUTLINE_MM = 4.0
OUTLINE_SHARE = 0.4
LEAST_SUV = 1e-6
# Routine whole-body FDG: 370 MBq in 75 kg, 60 minutes after injection.
DEFAULT_BQ_PER_ML_PER_SUV = 370e6 * 0.685 / 75e3
DEFAULT_SECONDS = 180.0
# Counts per second and Bq in a slice, without attenuation: 4 cps/kBq of a 70 cm line source (NEMA) seen over 15 cm.
# Scanners with septa reach about 2 cps/kBq, those without 8 and more.
SENSITIVITY = 4e-3 * 70 / 15
# A real reconstruction is noisier than this one from the same counts. Fits to the noise of twelve routine scans of one
# scanner with septa gave 0.10 to 0.34 of the counts that activity, time and the sensitivity above predict.
NOISE_EQUIVALENT = 0.2
NO_OPTIONS = ("count_fraction", "attenuation", "calibrated")
LEAST_COVERAGE = 0.5  # share of the PET's slices that a CT must cover to be used

Array = NDArray[np.float32]


@dataclass(frozen=True)
class PetParameters:
    """Parameters of the simulation.

    Attributes:
        count_fraction: wanted counts over the scan's own, in (0, 1).
        counts_per_suv: trues per voxel and SUV at the scan's own counts, without attenuation: those that, reconstructed
            here, give the scan's noise; counts that the axial filter lends between slices included.
        scatter_fraction: scatter S / (T + S), as NEMA NU 2 defines it.
        randoms_fraction: randoms R / (T + S + R), the share of the prompts.
        views: projections over 180 degrees.
        subsets: OSEM subsets.
        iterations: OSEM iterations.
        filter_fwhm_mm: in-plane Gaussian post-filter.
        axial_fwhm_mm: axial Gaussian filter.
        psf_fwhm_mm: resolution modelled within OSEM; 0 for reconstructions without such a model.
        binning: image pixels per pixel of the simulation.
        attenuation: `ct` or `water-outline`, where the attenuation comes from.
        calibrated: whether counts and filters were fitted to the noise of the scan itself.
    """

    count_fraction: float
    counts_per_suv: float
    scatter_fraction: float = 0.3
    randoms_fraction: float = 0.2
    views: int = 64
    subsets: int = 8
    iterations: int = 2
    filter_fwhm_mm: float = 5.0
    axial_fwhm_mm: float = 4.0
    psf_fwhm_mm: float = 0.0
    binning: int = 1
    attenuation: str = "water-outline"
    calibrated: bool = False

    def __post_init__(self) -> None:
        """Check what would make the simulation fail later."""
        for name in ("scatter_fraction", "randoms_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be 0 or above and below 1, but is {getattr(self, name):g}.")
        if not 1 <= self.subsets <= self.views:
            raise ConfigurationError(f"{self.subsets} subsets of {self.views} views: give each subset a view at least.")

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
        count_fraction,
        round(activity * volume_ml * SENSITIVITY * NOISE_EQUIVALENT * seconds, 3),
        views=views,
        binning=binning,
    )


def prepare(
    volume: Volume,
    count_fraction: float,
    record: CaseRecord | None = None,
    paired_ct: PairedCt | None = None,
    options: Mapping[str, OptionValue] | None = None,
) -> tuple[PetParameters, Attenuation | None]:
    """Parameters fitted to a scan's own noise, and its attenuation where a CT covers it.

    Args:
        volume: the scan in SUVbw.
        count_fraction: wanted counts over the scan's own.
        record: the case, for dose and time.
        paired_ct: the CT of the same examination.
        options: parameters in place of those chosen or fitted; what is fitted is fitted to a simulation with them.

    Raises:
        ConfigurationError: for options that do not exist or make no sense.
    """
    from mira.degrade.pet_calibration import calibrate  # builds on this module

    spacing = volume.spacing
    shape = (volume.voxels.shape[1], volume.voxels.shape[2])
    parameters = parameters_for(count_fraction, shape, record.spacing_mm if record is not None else spacing, record)
    attenuation = CtAttenuation(paired_ct, volume) if paired_ct is not None else None
    if attenuation is not None and attenuation.coverage() < LEAST_COVERAGE:
        attenuation = None
    if attenuation is not None:
        parameters = replace(parameters, attenuation="ct")
    given = dict(options or {})
    parameters = override(parameters, given, fixed=NO_OPTIONS)
    fitted = calibrate(volume.voxels, spacing, parameters, attenuation)
    return override(fitted, given, fixed=NO_OPTIONS), attenuation


def attenuation_of(activity: Array, pixel_mm: float, known: Array | None) -> Array:
    """Attenuation in 1/mm of slices [n, rows, columns]: what is known, else water within the outline of the activity.

    The outline is where activity falls to `OUTLINE_SHARE` of the slice's typical one; cold inner parts are filled.
    """
    from scipy.ndimage import binary_fill_holes, gaussian_filter  # heavy

    if known is not None and not np.isnan(known).any():
        return known
    width = OUTLINE_MM / pixel_mm
    outline = np.zeros(activity.shape, dtype=np.float32)
    for index, smooth in enumerate(gaussian_filter(activity, (0, width, width))):
        warm = smooth[smooth > OUTLINE_SUV]
        if warm.size:
            outline[index] = binary_fill_holes(smooth > max(OUTLINE_SUV, OUTLINE_SHARE * float(np.median(warm))))
    water = outline * np.float32(WATER_511_PER_MM)
    return water if known is None else np.where(np.isnan(known), water, known)


def scan_for(activity: Array, mu: Array, pixel_mm: float, parameters: PetParameters) -> Scan:
    """Expected counts of slices at the scan's own counts."""
    system = system_matrix((activity.shape[1], activity.shape[2]), parameters.views, parameters.subsets)
    p = parameters
    return scan_of(
        system, activity, mu, pixel_mm, p.counts_per_suv, p.scatter_fraction, p.randoms_fraction, p.psf_fwhm_mm
    )


def drawn(expected: tuple[Array, ...], generators: list[np.random.Generator]) -> tuple[Array, ...]:
    """Poisson counts, [views * bins, n] per subset; each slice from its own generator."""
    return tuple(
        np.stack([g.poisson(part[:, i]) for i, g in enumerate(generators)], axis=1).astype(np.float32)
        for part in expected
    )


def redrawn(
    activity: Array, mu: Array, pixel_mm: float, parameters: PetParameters, share: float, seed: int, first: int = 0
) -> Array:
    """Slices as OSEM leaves them when their counts are drawn again, before any filter.

    Args:
        activity: slices [n, rows, columns] in SUV on the grid of the simulation, not negative.
        mu: their attenuation in 1/mm.
        pixel_mm: pixel spacing of that grid.
        parameters: the simulation's parameters.
        share: counts to draw over the scan's own.
        seed: seed of the volume.
        first: index of the first slice within the volume.

    Returns:
        SUV, [n, rows, columns], not negative; its mean over draws is the activity.
    """
    scan = scan_for(activity, mu, pixel_mm, parameters).with_counts(share)
    generators = [slice_generator(seed, first + index) for index in range(len(activity))]
    counts = drawn(scan.expected, generators)
    image = osem(scan, counts, parameters.iterations, start=as_columns(activity))
    return as_images(image, scan.system.shape)


def lower_counts(
    suv: NDArray[np.float32],
    pixel_mm: float,
    parameters: PetParameters,
    seed: int,
    *,
    slice_mm: float | None = None,
    attenuation: Attenuation | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Low-count slices in SUVbw, in batches, never negative.

    Args:
        suv: the scan [slices, rows, columns], which may be memory-mapped; no more than three batches are held.
        pixel_mm: pixel spacing.
        parameters: the simulation's parameters.
        seed: seed of the volume; with the index of a slice it decides what is drawn.
        slice_mm: distance of the slices; left out, they are not neighbours and stay independent.
        attenuation: on the grid of `suv`; left out, water within the outline of the activity.
    """
    weights = axial_weights(parameters.axial_fwhm_mm, slice_mm) if slice_mm else np.ones(1, dtype=np.float32)
    a = parameters.count_fraction
    # neighbours lend their counts, so that a slice has the same noise with and without them
    share = a / (1 - a) * float(np.square(weights).sum())
    factor = parameters.binning
    starts = range(0, len(suv), BATCH)

    def filtered(start: int) -> Array:
        """Redrawn and given activity after the in-plane filter, [2, n, rows, columns]."""
        activity = np.maximum(np.asarray(suv[start : start + BATCH], dtype=np.float32), 0)
        known = attenuation.slices(start, start + len(activity)) if attenuation is not None else None
        mu = attenuation_of(activity, pixel_mm, known)
        grid, mu, size = binned(activity, factor), binned(mu, factor), pixel_mm * factor
        images = np.concatenate([redrawn(grid, mu, size, parameters, share, seed, start), grid])
        return post_filtered(images, size, parameters.filter_fwhm_mm).reshape(2, *grid.shape)

    for start, fields in zip(starts, coupled(map(filtered, starts), weights), strict=True):
        part = np.maximum(np.asarray(suv[start : start + BATCH], dtype=np.float32), 0)
        again, given = enlarged(fields, factor, part.shape)
        yield part * np.divide(again, given, out=np.ones_like(part), where=given > LEAST_SUV)
