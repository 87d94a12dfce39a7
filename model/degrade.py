"""Low-resolution MR on tensors, for training that degrades on the fly on a GPU; equal to `mira.degrade.mr`.

Only MR: a few Fourier transforms a slice cost less than reading a stored pair. Low-dose CT and low-count PET go through
hundreds of projections and OSEM, take a large part of a training step even on a GPU, and are made once, by the pair
step.
"""

import math

import torch
from torch import Tensor

from mira.degrade.kspace import POCS_ITERATIONS, Fill, block, first_line
from mira.degrade.mr import MrParameters


def draw_noise(images: Tensor, parameters: MrParameters, generator: torch.Generator | None = None) -> Tensor | None:
    """Complex k-space noise [n, kept rows, kept columns] for images [n, rows, columns]; None without noise.

    Drawn on the images' device, where the numbers differ from those of NumPy and of other devices.
    """
    if parameters.noise == 0:
        return None
    rows, columns = images.shape[-2:]
    kept = parameters.kept((rows, columns))
    spread = parameters.noise * math.sqrt(rows * columns / (kept[0] * kept[1]))
    size = (*images.shape[:-2], *kept, 2)
    drawn = torch.randn(size, generator=generator, device=images.device, dtype=images.dtype)
    return torch.view_as_complex(spread * drawn)


def lower_resolution(
    images: Tensor, parameters: MrParameters, noise: Tensor | None = None, phase: Tensor | None = None
) -> Tensor:
    """Low-resolution magnitude of slices [..., rows, columns], on their device and in their precision.

    Differentiable with respect to the images wherever the magnitude is not zero.

    Args:
        images: magnitude slices, float32 or float64.
        parameters: the simulation's parameters; `slice_factor` must be 1, since a batch holds no neighbours.
        noise: k-space noise of `draw_noise`.
        phase: phase of the images in radians [rows, columns].

    Raises:
        ValueError: for thick slices, or when `parameters.noise` is set and `noise` is missing.
    """
    if parameters.slice_factor != 1:
        raise ValueError("Thick slices need the volume: use mira.degrade.mr.")
    if parameters.noise > 0 and noise is None:
        raise ValueError("The parameters ask for noise: draw it with draw_noise.")
    rows, columns = images.shape[-2:]
    kept = parameters.kept((rows, columns))
    signal = images if phase is None else torch.polar(images, phase.expand_as(images).to(images.dtype))
    kspace = _to_kspace(signal, kept)
    if noise is not None:
        kspace = kspace + noise
    kspace = _partial_fourier(kspace, parameters.partial_fourier, parameters.partial_fill)
    if parameters.mode == "cropped":
        return (_to_image(kspace, kept) * math.sqrt(kept[0] * kept[1] / (rows * columns))).abs()
    return _to_image(kspace, (rows, columns)).abs()


def _to_kspace(images: Tensor, kept: tuple[int, int]) -> Tensor:
    for dim, count in ((-1, kept[1]), (-2, kept[0])):
        spectrum = torch.fft.fft(torch.fft.ifftshift(images, dim=dim), dim=dim, norm="ortho")
        frequencies = torch.arange(-(count // 2), count - count // 2, device=images.device)
        images = spectrum.index_select(dim, frequencies % spectrum.shape[dim])
    return images


def _to_image(kspace: Tensor, shape: tuple[int, int]) -> Tensor:
    for dim, size in ((-2, shape[0]), (-1, shape[1])):
        place = block(size, kspace.shape[dim])
        before, after = place.start, size - place.stop
        padding = (before, after) if dim == -1 else (0, 0, before, after)
        filled = torch.nn.functional.pad(kspace, padding)
        kspace = torch.fft.fftshift(
            torch.fft.ifft(torch.fft.ifftshift(filled, dim=dim), dim=dim, norm="ortho"), dim=dim
        )
    return kspace


def _partial_fourier(kspace: Tensor, fraction: float, fill: Fill) -> Tensor:
    """See `mira.degrade.kspace.partial_fourier`."""
    shape = (kspace.shape[-2], kspace.shape[-1])
    lines = shape[0]
    first = first_line(lines, fraction)
    if first == 0:
        return kspace
    frequency = (torch.arange(lines, device=kspace.device) - lines // 2).to(kspace.real.dtype)
    acquired = kspace * (torch.arange(lines, device=kspace.device) >= first)[:, None]
    if fill == "zero-filled":
        return acquired
    reach = lines // 2 - first
    taper = torch.cos(torch.pi / 2 * (frequency.abs() / (reach + 1)).clamp(0, 1)) ** 2
    angle = _to_image(kspace * taper[:, None], shape).angle()
    phase = torch.polar(torch.ones_like(angle), angle)
    if fill == "homodyne":
        weights = (1 + frequency / (reach + 1)).clamp(0, 2)[:, None]
        return _to_kspace((_to_image(acquired * weights, shape) * phase.conj()).real * phase, shape)
    result = acquired
    for _ in range(POCS_ITERATIONS):
        estimate = _to_kspace(_to_image(result, shape).abs() * phase, shape)
        result = torch.cat([estimate[..., :first, :], acquired[..., first:, :]], dim=-2)
    return result
