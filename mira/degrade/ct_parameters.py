"""Parameters of the CT simulation, and how they follow from the record of a scan."""

from dataclasses import asdict, dataclass

from mira.cases import CaseRecord
from mira.degrade.ct_flux import photons_of_ray

BOWTIE_MM = 300.0
BOWTIE_SHARE = 0.5  # makes the noise across three routine body scans as flat as it is in them
SOURCE_MM = 570.0  # from the source to the isocentre: 541 (GE), 570 (Philips, Siemens 16-row), 595 (Siemens)
DETECTOR_ROW_MM = 1.0  # rows are 0.6 to 1.25 mm wide at the isocentre


@dataclass(frozen=True)
class CtParameters:
    """Parameters of the simulation.

    Attributes:
        dose_fraction: wanted dose over the scan's own, in (0, 1); 1 only for `ct_acquisition`.
        photons: incident photons N0 per ray of the simulated geometry and slice, at the scan's own dose.
        electronic_variance: variance Ne of the electronic noise of one reading, in photons squared.
        mu_water_per_mm: attenuation of water, here at about 70 keV (120 kVp).
        views: projections over 180 degrees.
        extension_pixels: pixels by which a truncated body is continued on each side.
        readings: detector rows whose logarithms are averaged into one slice; each sees its share of the photons.
        minimum_counts: readings below it are set to it before the logarithm.
        adaptive_counts: readings that expect fewer photons are averaged with neighbours before the logarithm.
        cutoff: where the Hann apodisation of the ramp reaches zero, in multiples of the Nyquist frequency; small for
            soft kernels, above 1 for sharp ones; 1.1 to 1.6 fitted routine body kernels of four vendors.
        bowtie: share of the attenuation of a `BOWTIE_MM` water cylinder that the bow-tie filter evens out by weakening
            the outer rays; `photons` is that of the central ray.
        source_mm: distance from the source to the isocentre; 0 for a parallel beam.
        profile_slices: width (FWHM) of the slice sensitivity profile over the distance of slices; 0 for independent
            slices, 1 for abutting ones, more for overlapping ones.
        view_step: every `view_step`-th view is kept, and the few-view streaks of a sparse acquisition are added; the
            dose fraction is that of each kept view.
        calibrated: whether photons and cutoff were fitted to the noise of the scan itself.
    """

    dose_fraction: float
    photons: float
    electronic_variance: float = 8.0
    mu_water_per_mm: float = 0.0192
    views: int = 720
    extension_pixels: int = 0
    readings: int = 1
    minimum_counts: float = 1.0
    adaptive_counts: float = 20.0
    cutoff: float = 1.3
    bowtie: float = 0.0
    source_mm: float = 0.0
    profile_slices: float = 0.0
    view_step: int = 1
    calibrated: bool = False

    def as_record(self) -> dict[str, float | int | str | bool]:
        """The parameters as stored with a pair."""
        return asdict(self)


def parameters_for(
    dose_fraction: float,
    shape: tuple[int, int],
    pixel_mm: float,
    slice_mm: float,
    record: CaseRecord | None = None,
    body_diameter_mm: float = 320.0,
    *,
    distance_mm: float | None = None,
    view_step: int = 1,
) -> CtParameters:
    """Choose parameters for a scan.

    The flux follows the record (`ct_flux`). Views are about 1.4 times the columns, so that neighbouring views are about
    one pixel apart at the edge of the image, and a multiple of `view_step`.

    Args:
        dose_fraction: wanted dose over the scan's own.
        shape: rows and columns.
        pixel_mm: pixel spacing.
        slice_mm: slice thickness where the record does not tell it.
        record: the case, for its protocol.
        body_diameter_mm: diameter that a truncated body is continued to.
        distance_mm: distance of the slices that will be degraded, `slice_mm` if not given.
        view_step: keep every n-th view.
    """
    protocol = record.protocol if record is not None else None
    thickness = min(max((protocol.slice_thickness_mm if protocol else None) or slice_mm, 0.25), 10.0)
    missing = body_diameter_mm - min(shape) * pixel_mm
    extension = max(0, round(missing / 2 / pixel_mm))
    side = max(shape) + 2 * extension
    unit = 4 * view_step
    views = max(64 // unit + 1, round(1.4 * side / unit)) * unit
    photons = photons_of_ray(record, pixel_mm, thickness, views)
    # where a cropped field of view lies in the fan is not known, so it goes without bow-tie and fan
    return CtParameters(
        dose_fraction,
        round(photons, 1),
        views=views,
        extension_pixels=extension,
        readings=max(1, round(thickness / DETECTOR_ROW_MM)),
        bowtie=0.0 if extension else BOWTIE_SHARE,
        source_mm=0.0 if extension else SOURCE_MM,
        profile_slices=round(thickness / (distance_mm or slice_mm), 3),
        view_step=view_step,
    )
