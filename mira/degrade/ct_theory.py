"""What theory says of the noise of parallel-beam filtered back-projection.

An image of M views over 180 degrees is f(x) = (pi / M) sum_m (q * p_m)(s_m(x)), with q the impulse response of ramp and
apodisation and s_m(x) the place on the detector that x projects to. With independent readings of variance V_m(s) its
variance is (Barrett and Swindell, Radiological Imaging, 1981; Kak and Slaney, Principles of Computerized Tomographic
Imaging, 1988, chapter 3)

    Var f(x) = (pi / M)^2 sum_m sum_k q(s_m(x) - k)^2 V_m(k)

per pixel squared; where V changes little over the reach of q, sum_k q^2 is the integral of (|f| A(f))^2. V is the
variance of the logarithm of a reading, 1/n + Ne/n^2 for many expected counts n, hence 1/dose.
"""

import numpy as np
from numpy.typing import NDArray

from mira.degrade import ct
from mira.degrade.ct_projector import apodisation, bins_for, filter_response


def water_variance(
    shape: tuple[int, int], pixel_mm: float, parameters: ct.CtParameters, water_mm: float, place_mm: float
) -> float:
    """Variance in HU^2 of a scan of a centred water cylinder at the parameters' dose, many counts assumed.

    Args:
        shape: rows and columns of the image.
        pixel_mm: pixel spacing.
        parameters: the acquisition; dose fraction 1 is the full dose.
        water_mm: radius of the cylinder.
        place_mm: distance from its centre.
    """
    bins = bins_for(ct.canvas_side(shape, parameters))
    distance = np.fft.fftfreq(bins, 1 / bins)
    chord = 2 * np.sqrt(np.maximum(water_mm**2 - (distance * pixel_mm) ** 2, 0.0))
    entering = np.exp(ct.incident(bins, pixel_mm, parameters).astype(np.float64))
    counts = parameters.dose_fraction * parameters.photons / parameters.readings * entering
    counts = counts * np.exp(-parameters.mu_water_per_mm * chord)
    reading = (1 / counts + parameters.electronic_variance / counts**2) / parameters.readings
    angles = np.pi * np.arange(parameters.views) / parameters.views
    offsets = place_mm / pixel_mm * np.cos(angles)[:, None] - distance
    squared = impulse_response(bins, parameters.cutoff, offsets) ** 2
    total = float(np.sum(squared @ reading)) * (np.pi / parameters.views) ** 2
    return total * (1000 / parameters.mu_water_per_mm / pixel_mm) ** 2


def impulse_response(bins: int, cutoff: float, offsets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ramp with Hann apodisation as a function of the distance on the detector, in bins; it need not be whole."""
    fine = 16
    padded = np.zeros(bins * fine // 2 + 1)
    response = filter_response(bins, cutoff)
    padded[: response.size] = response
    kernel = np.fft.irfft(padded, bins * fine) * fine
    wrapped = np.mod(offsets * fine, bins * fine)
    low = np.floor(wrapped).astype(np.int64) % kernel.size
    share = wrapped - np.floor(wrapped)
    return np.asarray(kernel[low] * (1 - share) + kernel[(low + 1) % kernel.size] * share)


def noise_shape(rows: NDArray[np.floating], columns: NDArray[np.floating], cutoff: float) -> NDArray[np.float64]:
    """NPS of filtered back-projection up to a factor, at frequencies in cycles per pixel.

    Each view adds (|f| A)^2 along a line through the origin of the spectrum, and lines lie 1/|f| apart, which leaves
    |f| A^2; what lies beyond the Nyquist frequency of the pixels folds back.
    """
    total = np.zeros(np.broadcast_shapes(rows.shape, columns.shape))
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            radial = np.hypot(rows + down, columns + across)
            total += radial * apodisation(radial, cutoff) ** 2
    return total
