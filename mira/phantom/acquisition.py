"""From the painted truth to what a routine scan shows: resolution, texture and noise of the site's scanner.

These are quick image-domain models of a *routine* scan, good enough to be a reference; the simulators that make the
degraded partner of a pair live in `mira.degrade` and work in the projection, count and k-space domain.
"""

import numpy as np
from numpy.typing import NDArray

from mira.phantom.noise import SmoothField
from mira.phantom.raster import Box, Grid
from mira.phantom.scanners import CtProtocol, MrProtocol, PetProtocol
from mira.phantom.shapes import Array

_WATER_PER_MM = 0.0192  # linear attenuation of water at about 70 keV
_SIGMA_PER_FWHM = 1 / 2.3548


def _frequency(size: int, spacing: float) -> NDArray[np.float64]:
    """Radial spatial frequency of a real 2-D transform, cycles per mm."""
    across = np.fft.rfftfreq(size, spacing)
    down = np.fft.fftfreq(size, spacing)
    radial: NDArray[np.float64] = np.hypot(down[:, None], across[None, :])
    return radial


def _kernel(frequency: NDArray[np.float64], protocol: CtProtocol) -> NDArray[np.float64]:
    """Transfer function of a reconstruction kernel: one half at the cut-off, with an optional lift below it."""
    relative = frequency / protocol.cutoff_per_mm
    lift = 1 + protocol.boost * 4 * relative**2 * np.exp(-2 * relative**2)
    return lift / (1 + relative**4)


def ct_scan(truth_hu: Array, grid: Grid, protocol: CtProtocol, rng: np.random.Generator) -> Array:
    """A routine CT of a painted truth.

    The noise has the spectrum of filtered back-projection, frequency times the squared kernel, and is stronger where
    rays have gone through more tissue.

    Args:
        truth_hu: painted CT numbers [slices, rows, columns].
        grid: their grid.
        protocol: the scanner's kernel and noise.
        rng: source of the noise.

    Returns:
        CT numbers in HU.
    """
    size = grid.size
    frequency = _frequency(size, grid.pixel_mm)
    kernel = _kernel(frequency, protocol)
    sharp = np.fft.irfft2(np.fft.rfft2(truth_hu, axes=(1, 2)) * kernel.astype(np.float32), s=(size, size), axes=(1, 2))
    spectrum = np.sqrt(frequency) * kernel
    spectrum = spectrum / np.sqrt(np.mean(_full(spectrum, size) ** 2))
    white = rng.standard_normal(truth_hu.shape, dtype=np.float32)
    noise = np.fft.irfft2(np.fft.rfft2(white, axes=(1, 2)) * spectrum.astype(np.float32), s=(size, size), axes=(1, 2))
    level = np.stack([_noise_level(slice_hu, grid.pixel_mm) for slice_hu in truth_hu])
    scan: Array = (sharp + np.float32(protocol.noise_hu) * level * noise).astype(np.float32)
    return scan


def _full(half: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """All frequencies of a real transform's half plane."""
    rest = half[:, 1 : (size + 1) // 2][:, ::-1]
    return np.concatenate([half, np.roll(rest[::-1], 1, axis=0)], axis=1)


def _noise_level(slice_hu: Array, pixel_mm: float, views: int = 24) -> Array:
    """Standard deviation of FBP noise relative to the centre of 300 mm of water, [rows, columns].

    The variance at a point is the mean over all rays through it of e^(line integral), since that is the variance
    of a logarithm of Poisson counts (Barrett and Swindell, Radiological Imaging, 1981). Computed on a coarse grid.
    """
    size = slice_hu.shape[0]
    step = max(1, size // 64)
    usable = size // step * step
    coarse = slice_hu[:usable, :usable].reshape(usable // step, step, usable // step, step).mean(axis=(1, 3))
    attenuation = np.maximum(coarse / 1000 + 1, 0) * _WATER_PER_MM
    n = attenuation.shape[0]
    middle = (n - 1) / 2
    rows, columns = np.mgrid[0:n, 0:n] - middle
    variance = np.zeros((n, n))
    bins = 2 * n
    for angle in np.arange(views) * np.pi / views:
        across = columns * np.cos(angle) + rows * np.sin(angle) + n
        bin_of = np.clip(np.rint(across).astype(np.int64), 0, bins - 1)
        mass = np.bincount(bin_of.ravel(), weights=attenuation.ravel(), minlength=bins)
        smooth = (np.roll(mass, 1) + mass + np.roll(mass, -1)) / 3
        variance += np.exp(np.minimum(smooth * step * pixel_mm, 12.0))[bin_of]
    level = np.sqrt(variance / views / np.exp(300 * _WATER_PER_MM))
    place = (np.arange(size) + 0.5) / step - 0.5
    low = np.clip(np.floor(place).astype(np.int64), 0, n - 2)
    t = np.clip(place - low, 0, 1)
    level = level[low] * (1 - t)[:, None] + level[low + 1] * t[:, None]
    level = level[:, low] * (1 - t) + level[:, low + 1] * t
    relative: Array = level.astype(np.float32)
    return relative


def _gauss(volume: Array, fwhm_mm: float, spacing: tuple[float, float, float]) -> Array:
    """Gaussian blur by the transfer function; slices are mirrored at the ends, in-plane borders are air anyway."""
    count = volume.shape[0]
    mirrored = np.concatenate([volume, volume[::-1]])
    transfer = np.ones((1, 1, 1))
    for axis, (length, distance) in enumerate(zip(mirrored.shape, spacing, strict=True)):
        f = np.fft.rfftfreq(length, distance) if axis == 2 else np.fft.fftfreq(length, distance)
        shape = [1, 1, 1]
        shape[axis] = -1
        gauss = np.exp(-2 * (np.pi * f * fwhm_mm * _SIGMA_PER_FWHM) ** 2).reshape(shape)
        transfer = transfer * gauss
    spectrum = np.fft.rfftn(mirrored) * transfer.astype(np.float32)
    blurred: Array = np.fft.irfftn(spectrum, s=mirrored.shape, axes=(0, 1, 2))[:count].astype(np.float32)
    return blurred


def pet_scan(truth_suv: Array, grid: Grid, protocol: PetProtocol, rng: np.random.Generator) -> Array:
    """A routine PET of a painted uptake: blurred by the scanner, with the correlated, activity-following noise of OSEM.

    Args:
        truth_suv: painted uptake [slices, rows, columns], SUVbw.
        grid: its grid.
        protocol: resolution and noise.
        rng: source of the noise.

    Returns:
        SUVbw, not negative.
    """
    spacing = (grid.slice_mm, grid.pixel_mm, grid.pixel_mm)
    seen = np.maximum(_gauss(truth_suv, protocol.resolution_mm, spacing), 0)
    white = rng.standard_normal(truth_suv.shape, dtype=np.float32)
    noise = _gauss(white, 1.45 * protocol.resolution_mm, spacing)
    noise /= noise.std()
    # OSEM's noise follows the local mean; a small floor stays from the body around it
    neighbourhood = np.maximum(_gauss(seen, 28.0, spacing), 0)
    spread = np.sqrt(0.75 * seen * seen + 0.25 * seen * neighbourhood)
    scan: Array = np.maximum(seen + np.float32(protocol.noise_fraction) * spread * noise, 0).astype(np.float32)
    return scan


def mr_scan(
    truth: Array, grid: Grid, protocol: MrProtocol, white_matter: float, box: Box, rng: np.random.Generator
) -> Array:
    """A routine MR magnitude image of a painted signal.

    Args:
        truth: painted signal [slices, rows, columns], arbitrary units.
        grid: its grid.
        protocol: noise, acquired part of k-space and receive field.
        white_matter: signal of white matter, to which the signal-to-noise ratio refers.
        box: the region in which the receive field is defined.
        rng: source of noise and receive field.

    Returns:
        Magnitude in the same units.
    """
    receive = SmoothField(("receive field", int(rng.integers(2**62))), 130.0, box).sample(
        (grid.z(), grid.y(), grid.x())
    )
    signal = truth * np.exp(np.float32(protocol.bias) * receive)
    size = grid.size
    spectrum = np.fft.fft2(signal, axes=(1, 2))
    window = [_acquired(size, part) for part in protocol.fill]
    sigma = white_matter / protocol.snr
    noise = rng.standard_normal((*truth.shape, 2), dtype=np.float32)
    # white noise of the acquired samples only, with the given standard deviation per real channel after the transform
    kept = float(np.mean(window[0]) * np.mean(window[1]))
    scatter = (noise[..., 0] + 1j * noise[..., 1]) * np.float32(sigma * size / np.sqrt(kept))
    spectrum = (spectrum + scatter) * window[0][:, None] * window[1][None, :]
    magnitude: Array = np.abs(np.fft.ifft2(spectrum, axes=(1, 2))).astype(np.float32)
    return magnitude


def _acquired(size: int, part: float) -> Array:
    """1 for acquired lines of k-space, falling to 0 over the last few as the vendors' filters do."""
    f = np.abs(np.fft.fftfreq(size)) * 2
    edge = 0.06
    window: Array = np.clip((part - f) / edge + 0.5, 0, 1).astype(np.float32)
    return window
