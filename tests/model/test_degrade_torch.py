"""The tensor version of the MR simulator against the one of the pair step."""

import numpy as np
import pytest
import torch

from mira.degrade import mr
from mira.degrade.ct_slices import slice_generator
from mira.degrade.mr import MrParameters
from model.degrade import draw_noise, lower_resolution

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def heads(rows: int, columns: int, count: int = 3) -> np.ndarray:
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    radius = np.hypot(y, x)[None] * np.linspace(1, 1.4, count)[:, None, None]
    return (800 * (radius < 0.8) * (1 + 0.3 * np.sin(9 * y + 5 * x)) + 20).astype(np.float32)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(64, 64), (75, 62)])
@pytest.mark.parametrize(
    "parameters",
    [
        MrParameters(2),
        MrParameters(4, column_factor=1.5),
        MrParameters(3, mode="cropped", noise=25),
        MrParameters(2, noise=40, partial_fourier=0.75),
        MrParameters(2, partial_fourier=0.625, partial_fill="homodyne", phase_rad=1.2),
        MrParameters(2, noise=10, partial_fourier=0.7, partial_fill="pocs", phase_rad=1.2),
    ],
)
def test_tensors_and_arrays_agree(parameters, shape, device):
    images, seed = heads(*shape), 11
    expected = np.concatenate(list(mr.lower_resolution(images, parameters, seed)))
    kept = parameters.kept(shape)
    noise = np.stack([mr.draw_noise(shape, kept, parameters, slice_generator(seed, i)) for i in range(3)])
    phase = mr.smooth_phase(shape, parameters.phase_rad, seed) if parameters.phase_rad else None
    for dtype in (torch.float32, torch.float64):
        low = lower_resolution(
            torch.from_numpy(images).to(device, dtype),
            parameters,
            torch.from_numpy(noise).to(device, torch.complex64 if dtype is torch.float32 else torch.complex128),
            torch.from_numpy(phase).to(device, dtype) if phase is not None else None,
        )
        assert low.dtype is dtype
        np.testing.assert_allclose(low.cpu().numpy(), expected, rtol=1e-5, atol=1e-5 * expected.max())


def test_noise_drawn_on_the_device_has_the_same_statistics():
    parameters = MrParameters(2, noise=3.0)
    empty = torch.zeros(64, 32, 48)
    noise = draw_noise(empty, parameters, torch.Generator().manual_seed(1))
    low = lower_resolution(empty, parameters, noise)
    assert low.mean().item() == pytest.approx(np.sqrt(np.pi / 2) * 3, rel=0.02)
    assert low.var().item() == pytest.approx((2 - np.pi / 2) * 9, rel=0.04)
    assert draw_noise(empty, MrParameters(2)) is None


def test_what_it_cannot_do_is_named():
    with pytest.raises(ValueError, match="Thick slices"):
        lower_resolution(torch.ones(1, 32, 32), MrParameters(2, slice_factor=2))
    with pytest.raises(ValueError, match="draw_noise"):
        lower_resolution(torch.ones(1, 32, 32), MrParameters(2, noise=1))


def test_gradients_flow_through_the_truncation():
    images = torch.from_numpy(heads(32, 32, 1)).double().requires_grad_()
    lower_resolution(images, MrParameters(2)).sum().backward()
    assert images.grad is not None
    assert torch.isfinite(images.grad).all()
    assert images.grad.abs().sum() > 0
