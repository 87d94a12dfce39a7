"""The k-space of images: centred transforms, the central block, partial Fourier and its three ways to fill.

All transforms are orthonormal (the sum of squares is kept) and centred: the origin of an axis of n samples is sample
n // 2, in the image and in k-space alike. The central block of m of n samples holds the frequencies -(m // 2) to
m - m // 2 - 1, so that its own origin is sample m // 2 again.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mira.errors import ConfigurationError

Complex = NDArray[np.complex128]
Fill = Literal["zero-filled", "homodyne", "pocs"]

POCS_ITERATIONS = 12
LEAST_SYMMETRIC_LINES = 2


def kept_samples(size: int, factor: float) -> int:
    """Samples of an axis that a scan of `factor` times lower resolution acquires, at least one."""
    return max(1, round(size / factor))


def block(size: int, kept: int) -> slice:
    """Where the central block of `kept` samples lies on a centred axis of `size`."""
    start = size // 2 - kept // 2
    return slice(start, start + kept)


def to_kspace(images: NDArray[Any], kept: tuple[int, int] | None = None) -> Complex:
    """Centred k-space [..., rows, columns] of images, or only its central block of `kept` samples.

    Each axis is cut before the next one is transformed, which gives the same samples for less work.
    """
    rows, columns = kept or (images.shape[-2], images.shape[-1])
    return _forward(_forward(images, -1, columns), -2, rows)


def to_image(kspace: Complex, shape: tuple[int, int] | None = None) -> Complex:
    """Centred complex images of k-space; a `shape` larger than the k-space fills it with zeros around."""
    rows, columns = shape or (kspace.shape[-2], kspace.shape[-1])
    return _inverse(_inverse(kspace, -2, rows), -1, columns)


def _ramp(size: int, frequencies: NDArray[np.int64], ndim: int, axis: int) -> Complex:
    """e^(2 pi i k c / n) for the origin c = n // 2: moves it from sample 0 to the middle; +-1 for even sizes."""
    phase: Complex = np.exp(2j * np.pi * (frequencies * (size // 2) % size) / size)
    shape = [1] * ndim
    shape[axis] = len(frequencies)
    return phase.reshape(shape)


def _frequencies(kept: int) -> NDArray[np.int64]:
    return np.arange(-(kept // 2), kept - kept // 2)


def _forward(values: NDArray[Any], axis: int, kept: int) -> Complex:
    size, frequencies = values.shape[axis], _frequencies(kept)
    spectrum: Complex = np.take(np.fft.fft(values, axis=axis, norm="ortho"), frequencies % size, axis=axis)
    spectrum *= _ramp(size, frequencies, values.ndim, axis)
    return spectrum


def _inverse(kspace: Complex, axis: int, size: int) -> Complex:
    frequencies = _frequencies(kspace.shape[axis])
    shape = list(kspace.shape)
    shape[axis] = size
    filled = np.zeros(shape, dtype=np.complex128)
    index: list[Any] = [slice(None)] * kspace.ndim
    index[axis] = frequencies % size
    filled[tuple(index)] = kspace * _ramp(size, frequencies, kspace.ndim, axis).conj()
    image: Complex = np.fft.ifft(filled, axis=axis, norm="ortho")
    return image


def first_line(lines: int, fraction: float) -> int:
    """First acquired line of a partial Fourier scan; the lines before it, on one side of the centre, are missing.

    Args:
        lines: lines of the full block.
        fraction: share of them that is acquired, above 0.5 and up to 1.

    Raises:
        ConfigurationError: when the acquired part does not hold the centre with some lines around it.
    """
    first = lines - max(1, round(lines * fraction))
    if first and lines // 2 - first < LEAST_SYMMETRIC_LINES:
        raise ConfigurationError(
            f"Partial Fourier {fraction:g} of {lines} lines leaves less than {LEAST_SYMMETRIC_LINES} lines before the "
            "centre of k-space. Choose a fraction nearer to 1."
        )
    return first


def partial_fourier(kspace: Complex, fraction: float, fill: Fill) -> Complex:
    """K-space [..., lines, samples] of which only a share of the lines was acquired, filled again.

    `zero-filled` leaves the missing lines at zero: blurred along this axis where the image has phase, and ringing.
    `homodyne` weights the acquired lines so that conjugate pairs add up, takes the phase of the symmetric centre out
    and keeps the real part (Noll, Nishimura and Macovski, IEEE TMI 10:154-163, 1991).
    `pocs` puts the image's magnitude on that phase and the acquired lines back in, again and again (projection onto
    convex sets; Haacke, Lindskog and Lin, J Magn Reson 92:126-145, 1991).

    Args:
        kspace: full block, centred.
        fraction: share of the lines that is acquired.
        fill: how the missing lines are filled.
    """
    lines = kspace.shape[-2]
    first = first_line(lines, fraction)
    if first == 0:
        return kspace
    acquired = kspace.copy()
    acquired[..., :first, :] = 0
    if fill == "zero-filled":
        return acquired
    frequency = np.arange(lines) - lines // 2
    reach = lines // 2 - first  # lines from -reach to reach were acquired on both sides of the centre
    taper = np.cos(np.pi / 2 * np.clip(np.abs(frequency) / (reach + 1), 0, 1)) ** 2  # ends softly, so does not ring
    calm = to_image(kspace * taper[:, None])
    phase = np.exp(1j * np.angle(calm))
    if fill == "homodyne":
        weights = np.clip(1 + frequency / (reach + 1), 0, 2)[:, None]  # w(k) + w(-k) = 2
        return to_kspace((to_image(acquired * weights) * phase.conj()).real * phase)
    result = acquired
    for _ in range(POCS_ITERATIONS):
        estimate = to_kspace(np.abs(to_image(result)) * phase)
        result = np.concatenate([estimate[..., :first, :], acquired[..., first:, :]], axis=-2)
    return result


def root_sum_of_squares(coils: NDArray[Any], axis: int = 0) -> NDArray[np.float64]:
    """Magnitude image of several coils, |x| = sqrt(sum |x_c|^2) (Roemer et al., Magn Reson Med 16:192-225, 1990)."""
    result: NDArray[np.float64] = np.sqrt(np.square(np.abs(coils)).sum(axis=axis))
    return result
