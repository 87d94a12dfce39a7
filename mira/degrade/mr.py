"""Low-resolution MR: k-space truncated to its centre, as a scan with fewer phase encodings and samples would.

    x_low = | F^-1 (M * F (x)) |

with centred Fourier transforms and M the central block of rows/s x columns/s of the k-space (s = 4 keeps 6.25 %).
`zero-filled` keeps the matrix; `cropped` gives the small matrix with the same mean intensity. Intensities are never
rescaled, so degraded and reference stay comparable.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mira.degrade.ct import slice_generator

VERSION = "mr-kspace-truncation/1"


@dataclass(frozen=True)
class MrParameters:
    """Parameters of the simulation.

    Attributes:
        factor: resolution factor s per in-plane axis, above 1.
        noise: standard deviation of the complex Gaussian noise in the real and the imaginary channel of the
            low-resolution image, in the image's own unit; the magnitude is then Rician. 0 for none.
        mode: `zero-filled` (same matrix) or `cropped` (matrix divided by the factor).
    """

    factor: float
    noise: float = 0.0
    mode: Literal["zero-filled", "cropped"] = "zero-filled"

    def as_record(self) -> dict[str, float | int | str | bool]:
        """The parameters as stored with a pair."""
        return asdict(self)


def centre(size: int, factor: float) -> slice:
    """Indices of the central part of a centred k-space axis, zero frequency kept in its middle."""
    kept = max(1, round(size / factor))
    start = size // 2 - kept // 2
    return slice(start, start + kept)


def truncate(
    image: NDArray[np.float32], parameters: MrParameters, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Low-resolution magnitude of one slice [rows, columns]."""
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image.astype(np.float64)), norm="ortho"))
    block = (centre(image.shape[0], parameters.factor), centre(image.shape[1], parameters.factor))
    kept = kspace[block]
    if parameters.noise > 0:
        # orthonormal transforms keep the variance per sample; both modes average it over image.size / kept.size
        spread = parameters.noise * np.sqrt(image.size / kept.size)
        kept = kept + spread * (generator.standard_normal(kept.shape) + 1j * generator.standard_normal(kept.shape))
    if parameters.mode == "cropped":
        low = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kept), norm="ortho")) * np.sqrt(kept.size / image.size)
    else:
        filled = np.zeros_like(kspace)
        filled[block] = kept
        low = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(filled), norm="ortho"))
    magnitude: NDArray[np.float32] = np.abs(low).astype(np.float32)
    return magnitude


def lower_resolution(images: NDArray[np.float32], parameters: MrParameters, seed: int) -> Iterator[NDArray[np.float32]]:
    """Low-resolution slices, one [1, rows, columns] at a time."""
    for index in range(len(images)):
        yield truncate(images[index], parameters, slice_generator(seed, index))[None]
