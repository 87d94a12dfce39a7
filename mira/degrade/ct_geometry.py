"""Where the simulated rays go, and how many photons enter along each.

Geometry is parallel-beam over 180 degrees. Scanners rebin a full turn of fan-beam rays to these lines; since the rays
are `source_mm * cos(fan angle)` times the angle apart, they lie denser towards the edge of the fan, and the photons per
unit of detector grow by 1 / cos(fan angle). `benchmarks/physics_ct.py` measures what that does to the noise at 130 mm
from the centre (next to nothing), and how far a reconstruction that does not rebin would differ (more noise and finer
resolution at the edge of the fan).

Truncated bodies: where tissue touches the border of a field of view smaller than a body, the image lacks the tissue
outside it and every line integral through it would be too short, hence the noise too weak. The slice is continued with
water beyond each border pixel that shows tissue, as far as a body of `body_diameter_mm` would reach.
"""

import numpy as np
from numpy.typing import NDArray

from mira.degrade.ct_parameters import BOWTIE_MM, CtParameters

TISSUE_HU = -300.0


def attenuation(hu: NDArray[np.float32], parameters: CtParameters) -> NDArray[np.float32]:
    """Attenuation per mm of a slice [rows, columns] on a square canvas, a truncated body continued with water."""
    rows, columns = hu.shape
    margin = parameters.extension_pixels
    side = canvas_side(hu.shape, parameters)
    top, left = (side - rows) // 2, (side - columns) // 2
    canvas = np.zeros((side, side), dtype=np.float32)
    if margin:
        reach = [
            (min(margin, top), min(margin, side - rows - top)),
            (min(margin, left), min(margin, side - columns - left)),
        ]
        tissue = np.pad(hu > TISSUE_HU, reach, mode="edge")
        row, column = (np.linspace(-1, 1, size + 2)[1:-1] for size in tissue.shape)
        tissue &= np.hypot(row[:, None], column) < 1  # bodies are round
        y, x = top - reach[0][0], left - reach[1][0]
        canvas[y : y + tissue.shape[0], x : x + tissue.shape[1]] = tissue * parameters.mu_water_per_mm
    mu = parameters.mu_water_per_mm * (1 + np.maximum(hu, -1000.0) / 1000)
    canvas[top : top + rows, left : left + columns] = mu
    return canvas


def canvas_side(shape: tuple[int, ...], parameters: CtParameters) -> int:
    """Side of the square canvas that slices of `shape` (rows and columns last) are projected on; even."""
    side = max(shape[-2:]) + 2 * parameters.extension_pixels
    return side + side % 2


def incident(bins: int, pixel_mm: float, parameters: CtParameters) -> NDArray[np.float32]:
    """Logarithm of the photons that enter along each detector bin over those of the central one: bow-tie and fan."""
    distance = np.fft.fftfreq(bins, 1 / bins) * pixel_mm  # detector bins wrap around
    logs = np.zeros(bins)
    if parameters.bowtie:
        chord = 2 * np.sqrt(np.maximum((BOWTIE_MM / 2) ** 2 - distance**2, 0.0))
        logs -= parameters.bowtie * parameters.mu_water_per_mm * (BOWTIE_MM - chord)
    if parameters.source_mm:
        sine = np.clip(distance / parameters.source_mm, -0.8, 0.8)
        logs -= np.log(1 - sine**2) / 2
    return logs.astype(np.float32)


def kept_views(parameters: CtParameters) -> NDArray[np.float32]:
    """Weight of each view [views, 1]: those that are kept stand for those that are not."""
    kept = np.zeros((parameters.views, 1), dtype=np.float32)
    kept[:: parameters.view_step] = parameters.view_step
    return kept
