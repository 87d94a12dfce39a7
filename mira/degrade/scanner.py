"""A CT scanner as the simulator knows it: flux and electronic noise of its detector, and the cutoff of a kernel.

All are free of any image's geometry. A simulated ray of pitch p (mm) in a slice of thickness t (mm), one of V views,
gets

    N0 = flux_per_mas * mAs * p * t / V        Ne = electronic_density * p / V (of each detector row)

so that the noise of the image depends neither on the pixel size of the projector nor on its number of views, and the
kernel ends at `cutoff_per_mm`, whatever the field of view. `mira calibrate` fits them to repeated scans of a water
phantom (`mira.degrade.scanner_fit`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from mira.cases import CaseRecord
from mira.degrade.ct_flux import exposure_mas
from mira.degrade.ct_parameters import CtParameters
from mira.degrade.options import OptionValue
from mira.errors import ConfigurationError, DataRejected

EXPOSURE = "exposure_mas"  # option that stands in for a record without exposure


@dataclass(frozen=True)
class CtScanner:
    """What a calibration found for one scanner, tube voltage and kernel.

    Attributes:
        flux_per_mas: photons per mm of ray pitch, mm of slice thickness and mAs, over all views.
        electronic_density: variance of the electronic noise of a detector row in photons squared, per mm of ray pitch,
            over all views.
        cutoff_per_mm: frequency in cycles per mm at which the kernel's apodisation reaches zero.
        kvp: tube voltage that it holds for.
    """

    flux_per_mas: float
    electronic_density: float
    cutoff_per_mm: float
    kvp: float

    def __post_init__(self) -> None:
        """Check the values, which come from a file."""
        if not (self.flux_per_mas > 0 and self.electronic_density >= 0 and self.cutoff_per_mm > 0 and self.kvp > 0):
            raise ConfigurationError(f"A scanner's {', '.join(NAMES)} must be above 0 (electronic_density may be 0).")

    def apply(self, parameters: CtParameters, pixel_mm: float, slice_mm: float, mas: float) -> CtParameters:
        """The parameters of a scan on this scanner.

        Args:
            parameters: what the record gave, for the geometry.
            pixel_mm: pixel spacing.
            slice_mm: thickness of the slices.
            mas: exposure.
        """
        return replace(
            parameters,
            photons=float(f"{self.flux_per_mas * mas * pixel_mm * slice_mm / parameters.views:.6g}"),
            electronic_variance=float(f"{self.electronic_density * pixel_mm / parameters.views:.6g}"),
            cutoff=float(f"{self.cutoff_per_mm * 2 * pixel_mm:.4g}"),
            calibrated=True,
        )


NAMES = tuple(field.name for field in fields(CtScanner))


def scanner_of(options: Mapping[str, OptionValue]) -> CtScanner | None:
    """The scanner that options describe; None when they name none.

    Raises:
        ConfigurationError: when only a part of it is given.
    """
    if not any(name in options for name in NAMES):
        return None
    values = [options.get(name) for name in NAMES]
    numbers = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) != len(NAMES):
        raise ConfigurationError(f"A scanner needs {', '.join(NAMES)}, each a number, as `mira calibrate` writes them.")
    return CtScanner(*numbers)


def exposure_of(record: CaseRecord | None, options: Mapping[str, OptionValue], scanner: CtScanner) -> float:
    """Exposure in mAs from the options or the record.

    Raises:
        DataRejected: when neither has it, or the record's tube voltage is not the scanner's: a flux per mAs is of no
            use then.
    """
    kvp = record.protocol.kvp if record is not None else None
    if kvp is not None and abs(kvp - scanner.kvp) > 1:
        raise DataRejected(f"The scanner was calibrated at {scanner.kvp:g} kVp, but this scan was made at {kvp:g} kVp.")
    given = options.get(EXPOSURE)
    if isinstance(given, int | float) and not isinstance(given, bool) and given > 0:
        return float(given)
    protocol = record.protocol if record is not None else None
    if given is not None or protocol is None or (protocol.exposure_mas is None and protocol.tube_current_ma is None):
        raise DataRejected(
            f"A calibrated scanner needs the scan's exposure in mAs, which is not on record. Give it as {EXPOSURE}."
        )
    return exposure_mas(record)
