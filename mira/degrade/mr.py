"""Low-resolution MR: k-space truncated to its centre, as a scan with fewer phase encodings and samples would.

    x_low = | F^-1 (P (M * F (T x)) + n) |

with centred orthonormal Fourier transforms F and M the central block of rows/s x columns/s of the k-space (s = 4 keeps
6.25 %) that the scan really fills: where a scanner or an archive interpolated, the outer part of the stored k-space is
empty, and `mira.degrade.mr_support` measures how much. By default that is all. Optional: T averages through the slices
(thick slices), P leaves out a share of the lines (partial Fourier) and n is complex Gaussian noise, which makes the
magnitude Rician.

`zero-filled` keeps the matrix; `cropped` gives the small matrix with the same mean intensity. Intensities are never
rescaled, so degraded and reference stay comparable.

The scan comes as a magnitude image, without the phase that a scanner sees. Where the phase matters (partial Fourier),
`phase_rad` gives it a smooth one; without it, the filled-in half of k-space would be an exact mirror of the other.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mira.cases import CaseRecord, Protocol
from mira.degrade import kspace
from mira.degrade.ct_slices import slice_generator
from mira.degrade.mr_support import filled_lines, measure_support
from mira.degrade.options import OptionValue, override
from mira.errors import ConfigurationError
from mira.pairs import Physics

VERSION = "mr-kspace-truncation/3"
BATCH = 8  # slices per transform
SNR_SLICES = 5  # evenly through the volume, to measure its signal
LEAST_LINES = 16  # that a low-resolution scan has on each axis, as the smallest slices have pixels

HEADER_DISAGREES = "acquisition-matrix-disagrees"
MEASURED = ("support_rows", "support_columns", "header_rows", "header_columns", "header_disagrees")  # no options

Mode = Literal["zero-filled", "cropped"]
Profile = Literal["box", "gaussian"]


@dataclass(frozen=True)
class MrParameters:
    """Parameters of the simulation.

    Attributes:
        factor: resolution factor s of both in-plane axes, above 1.
        noise: standard deviation of the complex Gaussian noise in the real and the imaginary channel of the
            low-resolution image, in the image's own unit; the magnitude is then Rician. 0 for none.
        mode: `zero-filled` (same matrix) or `cropped` (matrix divided by the factor).
        row_factor: factor along the rows' axis (number of rows) where it differs from `factor`; 0 for `factor`.
        column_factor: the same for the columns.
        acquired_rows: rows of k-space that the scan fills, which the factor refers to; 0 for all rows of the image.
        acquired_columns: the same for the columns.
        support_rows: measured share of the stored rows of k-space that is filled; 0 where it was not measured.
        support_columns: the same for the columns.
        header_rows: rows of the acquisition matrix that the header states; 0 for none.
        header_columns: the same for the columns.
        header_disagrees: whether the header's matrix is not the measured one, which then decides.
        partial_fourier: share of the kept lines (rows) that is acquired, above 0.5 and up to 1.
        partial_fill: `zero-filled`, `homodyne` or `pocs`, see `mira.degrade.kspace`.
        phase_rad: peak of a smooth phase given to the image before the transform; matters for partial Fourier.
        slice_factor: thickness of the simulated slices in slices of the scan; 1 for the scan's own.
        slice_profile: shape of the simulated slices, `box` or `gaussian` (its full width at half maximum is the
            thickness).

    Raises:
        ConfigurationError: for a value that is no degradation.
    """

    factor: float
    noise: float = 0.0
    mode: Mode = "zero-filled"
    row_factor: float = 0.0
    column_factor: float = 0.0
    acquired_rows: int = 0
    acquired_columns: int = 0
    partial_fourier: float = 1.0
    partial_fill: kspace.Fill = "zero-filled"
    phase_rad: float = 0.0
    slice_factor: float = 1.0
    slice_profile: Profile = "box"
    support_rows: float = 0.0
    support_columns: float = 0.0
    header_rows: int = 0
    header_columns: int = 0
    header_disagrees: bool = False

    def __post_init__(self) -> None:
        """Check the values, which may come from a file of options."""
        for name in ("row_factor", "column_factor", "slice_factor"):
            value = getattr(self, name)
            if not (1 <= value <= 64 or (value == 0 and name != "slice_factor")):
                raise ConfigurationError(f"{name} must be from 1 to 64, but is {value:g}.")
        if not 0.5 < self.partial_fourier <= 1:
            raise ConfigurationError(f"partial_fourier must be above 0.5 and up to 1, not {self.partial_fourier:g}.")
        if not (self.noise >= 0 and abs(self.phase_rad) <= 20):
            raise ConfigurationError("noise must be 0 or above, and phase_rad within 20 radians.")
        for name, allowed in (("mode", Mode), ("partial_fill", kspace.Fill), ("slice_profile", Profile)):
            if getattr(self, name) not in get_args(allowed):
                raise ConfigurationError(f"{name} must be one of {', '.join(get_args(allowed))}.")

    def as_record(self, shape: tuple[int, int]) -> dict[str, float | int | str | bool]:
        """The parameters as stored with a pair, and what they leave of a matrix: its lines and their share of it."""
        rows, columns = self.kept(shape)
        retained = round(rows * columns / (shape[0] * shape[1]), 6)
        return {**asdict(self), "kept_rows": rows, "kept_columns": columns, "retained": retained}

    def acquired(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of k-space that a scan of this matrix fills."""
        return min(self.acquired_rows or shape[0], shape[0]), min(self.acquired_columns or shape[1], shape[1])

    def kept(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the k-space block that is kept of a matrix."""
        rows, columns = self.row_factor or self.factor, self.column_factor or self.factor
        acquired = self.acquired(shape)
        return kspace.kept_samples(acquired[0], rows), kspace.kept_samples(acquired[1], columns)

    def out_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Matrix of the degraded slices."""
        return self.kept(shape) if self.mode == "cropped" else shape

    def severity_factor(self) -> float:
        """One resolution factor for both axes: their geometric mean."""
        return float(np.sqrt((self.row_factor or self.factor) * (self.column_factor or self.factor)))

    def why_not(self, shape: tuple[int, int]) -> str | None:
        """Why an interpolated scan is no reference at this factor: too little of k-space would be left. None if it is.

        A scan that fills its matrix is as good as its pixels, however few; `mira.degrade.interface` refuses too few.
        """
        for axis, whole, acquired, kept in zip(
            ("rows", "columns"), shape, self.acquired(shape), self.kept(shape), strict=True
        ):
            if acquired < whole and kept < LEAST_LINES:
                return (
                    f"only {acquired} of its {whole} {axis} of k-space are filled, of which resolution factor "
                    f"{self.factor:g} would keep {kept}; at least {LEAST_LINES} are needed. Lower factors may do"
                )
        return None


def parameters_for(
    factor: float,
    images: NDArray[np.float32],
    record: CaseRecord | None = None,
    options: Mapping[str, OptionValue] | None = None,
) -> MrParameters:
    """Parameters for a scan.

    Args:
        factor: resolution factor.
        images: the scan [slices, rows, columns], whose filled part of k-space is measured.
        record: the case, for the acquisition matrix of its header, which gives the exact number where it agrees.
        options: any other attribute of `MrParameters` but those of support and header, or `snr` in place of `noise`:
            mean signal of the foreground over `noise`. `acquired_rows` and `acquired_columns` replace what is measured.

    Raises:
        ConfigurationError: for options that do not exist or cannot be.
    """
    given = dict(options or {})
    snr = given.pop("snr", None)
    if snr is not None:
        if "noise" in given or isinstance(snr, bool | str) or not 0 < snr < float("inf"):
            raise ConfigurationError("snr must be a number above 0, and takes the place of noise: give one of them.")
        looked_at = np.unique(np.linspace(0, len(images) - 1, SNR_SLICES).round().astype(int))
        given["noise"] = float(f"{foreground_signal(np.asarray(images[looked_at])) / snr:.4g}")
    protocol = record.protocol if record is not None else Protocol()
    support = measure_support(images)
    rows, other_rows = filled_lines(images.shape[1], support.rows, protocol.acquired_rows)
    columns, other_columns = filled_lines(images.shape[2], support.columns, protocol.acquired_columns)
    parameters = MrParameters(
        factor,
        acquired_rows=rows,
        acquired_columns=columns,
        support_rows=round(support.rows, 4),
        support_columns=round(support.columns, 4),
        header_rows=protocol.acquired_rows or 0,
        header_columns=protocol.acquired_columns or 0,
        header_disagrees=other_rows or other_columns,
    )
    return override(parameters, given, fixed=("factor", *MEASURED), extra=("snr",))


def warnings_of(physics: Physics) -> list[str]:
    """Codes of what was odd about a scan but could be handled, from the physics of its degradation."""
    return [HEADER_DISAGREES] if physics.parameters.get("header_disagrees") else []


def foreground_signal(images: NDArray[np.float32]) -> float:
    """Mean signal of what is brighter than a tenth of the 99th percentile; what a signal-to-noise ratio refers to.

    Raises:
        ConfigurationError: when nothing is above zero.
    """
    bright = images[images > max(0.1 * float(np.percentile(images, 99)), 0.0)]
    if bright.size == 0:
        raise ConfigurationError("The image has no signal to which a signal-to-noise ratio could refer.")
    return float(bright.mean(dtype=np.float64))


def slice_weights(factor: float, profile: Profile) -> NDArray[np.float64]:
    """Weights [2h + 1] by which slices are averaged into one that is `factor` times as thick; their sum is 1.

    The slices of the scan count as contiguous boxes. `box`: a box of `factor` slices, centred on a slice, with partial
    weights at its ends. `gaussian`: widths add in squares, so that the scan's own thickness is not counted twice.
    """
    if factor <= 1:
        return np.ones(1)
    if profile == "box":
        reach = int(np.ceil((factor - 1) / 2 - 1e-9))
        edges = np.clip(np.arange(-reach, reach + 2) - 0.5, -factor / 2, factor / 2)
        weights: NDArray[np.float64] = np.diff(edges)
    else:
        sigma = np.sqrt(factor**2 - 1) / 2.3548
        reach = int(np.ceil(3 * sigma))
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    return weights


def thick_slices(
    volume: NDArray[np.float32], start: int, stop: int, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Slices `start` to `stop` of a volume, each averaged with its neighbours; at the ends with those that exist."""
    reach = len(weights) // 2
    if reach == 0:
        return np.asarray(volume[start:stop], dtype=np.float64)
    result = np.zeros((stop - start, *volume.shape[1:]))
    for position in range(start, stop):
        first, last = max(0, position - reach), min(len(volume), position + reach + 1)
        share = weights[first - position + reach : last - position + reach]
        for index, weight in zip(range(first, last), share / share.sum(), strict=True):
            result[position - start] += weight * np.asarray(volume[index], dtype=np.float64)
    return result


def smooth_phase(shape: tuple[int, int], peak_rad: float, seed: int) -> NDArray[np.float64]:
    """A smooth phase [rows, columns]: a random second-order polynomial with the given peak, one for the volume."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    a = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, 2**31]))).uniform(-1, 1, 5)
    surface = a[0] * y + a[1] * x + a[2] * y * x + a[3] * y * y + a[4] * x * x
    result: NDArray[np.float64] = peak_rad * surface / np.abs(surface).max()
    return result


def draw_noise(
    shape: tuple[int, int], kept: tuple[int, int], parameters: MrParameters, generator: np.random.Generator
) -> NDArray[np.complex128]:
    """Complex noise of the kept k-space block [rows, columns] of a slice.

    Orthonormal transforms keep the variance of a sample; both modes spread it over shape / kept as many pixels.
    """
    spread = parameters.noise * np.sqrt(shape[0] * shape[1] / (kept[0] * kept[1]))
    result: NDArray[np.complex128] = spread * (generator.standard_normal(kept) + 1j * generator.standard_normal(kept))
    return result


def truncate(
    images: NDArray[np.float32] | NDArray[np.float64],
    parameters: MrParameters,
    generators: list[np.random.Generator],
    phase: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """Low-resolution magnitude of slices [n, rows, columns].

    Args:
        images: magnitude slices.
        parameters: the simulation's parameters; slices are taken as thick as they come.
        generators: random numbers of each slice.
        phase: phase of the image in radians [rows, columns].
    """
    shape = (images.shape[1], images.shape[2])
    kept = parameters.kept(shape)
    signal = images if phase is None else images * np.exp(1j * phase)
    block = kspace.to_kspace(signal, kept)
    if parameters.noise > 0:
        block = block + np.stack([draw_noise(shape, kept, parameters, generator) for generator in generators])
    block = kspace.partial_fourier(block, parameters.partial_fourier, parameters.partial_fill)
    if parameters.mode == "cropped":
        low = kspace.to_image(block) * np.sqrt(kept[0] * kept[1] / (shape[0] * shape[1]))
    else:
        low = kspace.to_image(block, shape)
    magnitude: NDArray[np.float32] = np.abs(low).astype(np.float32)
    return magnitude


def lower_resolution(images: NDArray[np.float32], parameters: MrParameters, seed: int) -> Iterator[NDArray[np.float32]]:
    """Low-resolution slices in batches [n, rows, columns]; each slice's noise depends on `seed` and its index alone."""
    phase = (
        smooth_phase((images.shape[1], images.shape[2]), parameters.phase_rad, seed) if parameters.phase_rad else None
    )
    weights = slice_weights(parameters.slice_factor, parameters.slice_profile)
    for start in range(0, len(images), BATCH):
        stop = min(start + BATCH, len(images))
        generators = [slice_generator(seed, index) for index in range(start, stop)]
        yield truncate(thick_slices(images, start, stop, weights), parameters, generators, phase)
