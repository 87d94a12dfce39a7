"""Low-dose CT from a routine-dose image: noise inserted in the projections, reconstructed alone, and added.

The image already holds the noise of its own dose. A scan at dose fraction `a` has 1/a times that variance, so what
must be added in each projection is (Yu et al., J Comput Assist Tomogr 36:477-487, 2012)

    sigma^2 = (1 - a) / a * e^p / N0 * (1 + (1 + a) / a * Ne * e^p / N0)

with line integral p, incident photons N0 and electronic noise variance Ne. Only this noise goes through filtered
back-projection and is added to the image, so the anatomy is not blurred by a second reconstruction.

Geometry is parallel-beam over 180 degrees, by the Fourier slice theorem with non-uniform FFTs. Fan-beam rays of a full
turn rebin to the same lines; what parallel geometry leaves out is the mild variation of ray density towards the edge
of the fan. The number of photons per ray is scaled so that the noise of the image does not depend on the
number of views or on the pixel size of the projector.

The flux that a record tells is rough (what "exposure" means differs by vendor, and tube current is modulated), and each
kernel shapes noise in its own way. Where the scan shows enough soft tissue, `mira.degrade.calibration` fits both to the
scan's own noise.

Truncated bodies: where tissue touches the border of a field of view smaller than a body, the image lacks the tissue
outside it and every line integral through it would be too short, hence the noise too weak. The slice is continued with
water beyond each border pixel that shows tissue, as far as a body of `body_diameter_mm` would reach.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mira.cases import CaseRecord

VERSION = "ct-projection-noise/1"
BATCH = 4  # slices per transform; fixed, since rounding may depend on it

# Photons per mm of ray pitch, per mm of slice, over all views of a turn, at REFERENCE_MAS and 120 kVp. From the
# parameters used for the AAPM-Mayo full-dose scans: 1.5e5 photons a ray, 1152 views, 1.01 mm pitch at the centre.
FLUX_DENSITY = 1.5e5 * 1152 / 1.01
REFERENCE_MAS = 200.0
REFERENCE_KVP = 120.0
TISSUE_HU = -300.0
AIR_HU = -1024.0  # at or below it there is padding outside the scanner's circle, which is left alone
BOWTIE_MM = 300.0
BOWTIE_SHARE = 0.5  # makes the noise across three routine body scans as flat as it is in them


@dataclass(frozen=True)
class CtParameters:
    """Parameters of the simulation.

    Attributes:
        dose_fraction: wanted dose over the scan's own, in (0, 1).
        photons: incident photons N0 per ray of the simulated geometry, at the scan's own dose.
        electronic_variance: variance Ne of the electronic noise, in photons squared.
        mu_water_per_mm: attenuation of water, here at about 70 keV (120 kVp).
        views: projections over 180 degrees.
        extension_pixels: pixels by which a truncated body is continued on each side.
        minimum_counts: rays with fewer expected photons count as having this many, as the adaptive
            filters of scanners do; keeps the log transform's approximation out of photon starvation.
        cutoff: where the Hann apodisation of the ramp reaches zero, in multiples of the Nyquist frequency; small for
            soft kernels, above 1 for sharp ones; 1.1 to 1.6 fitted routine body kernels of four vendors.
        bowtie: share of the attenuation of a `BOWTIE_MM` water cylinder that the bow-tie filter evens out by weakening
            the outer rays; `photons` is that of the central ray.
        calibrated: whether photons and cutoff were fitted to the noise of the scan itself.
    """

    dose_fraction: float
    photons: float
    electronic_variance: float = 8.0
    mu_water_per_mm: float = 0.0192
    views: int = 720
    extension_pixels: int = 0
    minimum_counts: float = 5.0
    cutoff: float = 1.3
    bowtie: float = 0.0
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
) -> CtParameters:
    """Choose parameters for a scan.

    The flux is proportional to the exposure (mAs), to the slice thickness and to the tube voltage to the power 2.5
    (output of a tungsten tube behind a body); without an exposure on record, `REFERENCE_MAS`. Views are about 1.4
    times the columns, so that neighbouring views are about one pixel apart at the edge of the image.

    Args:
        dose_fraction: wanted dose over the scan's own.
        shape: rows and columns.
        pixel_mm: pixel spacing.
        slice_mm: slice thickness where the record does not tell it.
        record: the case, for its protocol.
        body_diameter_mm: diameter that a truncated body is continued to.
    """
    protocol = record.protocol if record is not None else None
    thickness = (protocol.slice_thickness_mm if protocol else None) or slice_mm
    exposure = (protocol.exposure_mas if protocol else None) or REFERENCE_MAS
    kvp = (protocol.kvp if protocol else None) or REFERENCE_KVP
    missing = body_diameter_mm - min(shape) * pixel_mm
    extension = max(0, round(missing / 2 / pixel_mm))
    side = max(shape) + 2 * extension
    views = max(64, 4 * round(1.4 * side / 4))
    relative = float(np.clip(exposure / REFERENCE_MAS, 0.1, 5.0) * np.clip(kvp / REFERENCE_KVP, 0.5, 1.3) ** 2.5)
    photons = FLUX_DENSITY * relative * pixel_mm * min(max(thickness, 0.25), 10.0) / views
    # where a cropped field of view lies in the fan is not known, so it goes without a bow-tie
    bowtie = 0.0 if extension else BOWTIE_SHARE
    return CtParameters(dose_fraction, round(photons, 1), views=views, extension_pixels=extension, bowtie=bowtie)


class Projector:
    """Parallel-beam projection and its filtered back-projection for one image size.

    Lengths are in pixels; detector bins are one pixel wide and wrap around the bounding circle.
    """

    def __init__(self, side: int, views: int) -> None:
        """Plan the transforms for square slices of `side` pixels."""
        import finufft  # compiled, and only this simulator needs it

        self.side, self.views = side, views
        self.bins = 2 * int(np.ceil(side * np.sqrt(2) / 2)) + 2
        frequency = np.arange(self.bins // 2 + 1) / self.bins
        angles = np.pi * np.arange(views) / views
        rows = (2 * np.pi * np.sin(angles)[:, None] * frequency).ravel().astype(np.float32)
        columns = (2 * np.pi * np.cos(angles)[:, None] * frequency).ravel().astype(np.float32)
        twice = np.where((frequency > 0) & (frequency < 0.5), 2.0, 1.0)  # the negative frequencies of a real signal
        self._frequency = frequency
        # the ramp of a sampled detector (its impulse response is 1/4 and -1/(pi n)^2 at odd n): no error at frequency 0
        lag = np.arange(self.bins // 2 + 1)
        odd = np.where(lag % 2 == 1, -1 / (np.pi * np.maximum(lag, 1)) ** 2, 0.0)
        response = np.concatenate([[0.25], odd[1:], odd[-2:0:-1]])
        self._ramp = np.fft.rfft(response).real * twice * np.pi / views / self.bins
        options: dict[str, Any] = {"n_trans": BATCH, "eps": 1e-4, "dtype": "complex64", "nthreads": 1}
        self._forward = finufft.Plan(2, (side, side), isign=-1, **options)
        self._adjoint = finufft.Plan(1, (side, side), isign=1, **options)
        self._forward.setpts(rows, columns)
        self._adjoint.setpts(rows, columns)

    def project(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Line integrals [BATCH, views, bins] of images [BATCH, side, side]."""
        spectrum = self._forward.execute(images.astype(np.complex64)).reshape(BATCH, self.views, -1)
        return np.fft.irfft(spectrum, self.bins, axis=-1).astype(np.float32)

    def reconstruct(self, sinograms: NDArray[np.float32], cutoff: float = 1.0) -> NDArray[np.float32]:
        """Filtered back-projection [BATCH, side, side] of sinograms [BATCH, views, bins].

        Args:
            sinograms: line integrals.
            cutoff: where the Hann apodisation of the ramp reaches zero, in multiples of the Nyquist frequency.
        """
        edge = 0.5 * cutoff
        hann = np.where(self._frequency < edge, 0.5 + 0.5 * np.cos(np.pi * self._frequency / edge), 0.0)
        spectrum = np.fft.rfft(sinograms, axis=-1).astype(np.complex64) * (self._ramp * hann).astype(np.float32)
        image: NDArray[np.complex64] = self._adjoint.execute(np.ascontiguousarray(spectrum.reshape(BATCH, -1)))
        return image.real


@lru_cache(maxsize=2)
def projector(side: int, views: int) -> Projector:
    """A planned projector, kept for the next slices of the same size."""
    return Projector(side, views)


def attenuation(hu: NDArray[np.float32], parameters: CtParameters) -> NDArray[np.float32]:
    """Attenuation per mm of slices [n, rows, columns] on a square canvas, truncated bodies continued with water."""
    count, rows, columns = hu.shape
    margin = parameters.extension_pixels
    side = max(rows, columns) + 2 * margin
    side += side % 2
    top, left = (side - rows) // 2, (side - columns) // 2
    mu = parameters.mu_water_per_mm * (1 + np.maximum(hu, -1000.0) / 1000)
    canvas = np.zeros((count, side, side), dtype=np.float32)
    if margin:
        reach = [
            (min(margin, top), min(margin, side - rows - top)),
            (min(margin, left), min(margin, side - columns - left)),
        ]
        tissue = np.pad(hu > TISSUE_HU, [(0, 0), *reach], mode="edge")
        row, column = (np.linspace(-1, 1, size + 2)[1:-1] for size in tissue.shape[1:])
        tissue &= np.hypot(row[:, None], column) < 1  # bodies are round
        y, x = top - reach[0][0], left - reach[1][0]
        canvas[:, y : y + tissue.shape[1], x : x + tissue.shape[2]] = tissue * parameters.mu_water_per_mm
    canvas[:, top : top + rows, left : left + columns] = mu
    return canvas


def noise_sigma(p: NDArray[np.float32], parameters: CtParameters) -> NDArray[np.float32]:
    """Standard deviation of the noise to insert for line integrals p (equation in the module's head)."""
    a = parameters.dose_fraction
    inverse = np.minimum(np.exp(p) / parameters.photons, a / parameters.minimum_counts)
    return np.sqrt((1 - a) / a * inverse * (1 + (1 + a) / a * parameters.electronic_variance * inverse)).astype(
        np.float32
    )


def noise_sinograms(
    hu: NDArray[np.float32], pixel_mm: float, parameters: CtParameters, seed: int, first: int = 0
) -> tuple[Projector, NDArray[np.float32]]:
    """The noise to insert in the projections of at most BATCH slices, and the projector that made them.

    Args:
        hu: slices in HU.
        pixel_mm: pixel spacing.
        parameters: the simulation's parameters.
        seed: seed of the volume.
        first: index of the first slice within the volume.
    """
    canvas = attenuation(hu, parameters)
    engine = projector(canvas.shape[-1], parameters.views)
    images = np.zeros((BATCH, *canvas.shape[1:]), dtype=np.float32)
    images[: len(canvas)] = canvas
    lines = engine.project(images) * np.float32(pixel_mm)
    if parameters.bowtie:
        distance = np.fft.fftfreq(engine.bins, 1 / engine.bins) * pixel_mm  # detector bins wrap around
        chord = 2 * np.sqrt(np.maximum((BOWTIE_MM / 2) ** 2 - distance**2, 0.0))
        lines += (parameters.bowtie * parameters.mu_water_per_mm * (BOWTIE_MM - chord)).astype(np.float32)
    sinograms = noise_sigma(lines, parameters)
    for index in range(len(canvas)):
        sinograms[index] *= slice_generator(seed, first + index).standard_normal(
            sinograms[index].shape, dtype=np.float32
        )
    return engine, sinograms


def noise_images(
    engine: Projector,
    sinograms: NDArray[np.float32],
    shape: tuple[int, int, int],
    pixel_mm: float,
    parameters: CtParameters,
) -> NDArray[np.float32]:
    """Noise in HU of slices of `shape`, reconstructed from `noise_sinograms`."""
    field = engine.reconstruct(sinograms, parameters.cutoff) * (1000 / parameters.mu_water_per_mm / pixel_mm)
    top, left = (engine.side - shape[1]) // 2, (engine.side - shape[2]) // 2
    return field[: shape[0], top : top + shape[1], left : left + shape[2]]


def noise(
    hu: NDArray[np.float32], pixel_mm: float, parameters: CtParameters, seed: int, first: int = 0
) -> NDArray[np.float32]:
    """Noise in HU to add to slices [n, rows, columns]; each slice's noise depends on `seed` and its index alone."""
    result = np.empty_like(hu)
    for start in range(0, len(hu), BATCH):
        part = hu[start : start + BATCH]
        engine, sinograms = noise_sinograms(part, pixel_mm, parameters, seed, first + start)
        result[start : start + BATCH] = noise_images(engine, sinograms, part.shape, pixel_mm, parameters)
    return result


def slice_generator(seed: int, index: int) -> np.random.Generator:
    """Random numbers of one slice, the same on every machine and for any order of the slices."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index])))


def lower_dose(
    hu: NDArray[np.float32], pixel_mm: float, parameters: CtParameters, seed: int
) -> Iterator[NDArray[np.float32]]:
    """Low-dose slices in HU, in batches; padding outside the scanner's circle stays, air is cut at -1024 HU."""
    for start in range(0, len(hu), BATCH):
        part = np.asarray(hu[start : start + BATCH], dtype=np.float32)
        noisy = np.maximum(part + noise(part, pixel_mm, parameters, seed, start), AIR_HU)
        yield np.where(part <= AIR_HU, part, noisy)
