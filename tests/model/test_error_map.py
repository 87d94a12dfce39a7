"""The error map: it changes nothing of the restoration, learns the spread of the error, and is calibrated."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mira.tasks import Modality
from model.calibration import calibrate, mean_square
from model.checkpoint import Checkpoint, load_network, save_checkpoint
from model.config import SIZES
from model.error_map import FLOOR, ErrorHead, error_loss
from model.export import OnnxSession, example_inputs, export_onnx, random_restorer
from model.inference import restore_tiled, restore_volume
from model.network import MiraNet
from model.restorer import Restoration, Restorer
from model.training import fit
from model.validation import choose_samples
from tests.model.made_up import all_tasks
from tests.model.test_training import SETTINGS

WITH = replace(SIZES["tiny"], error_map=True)


def network_with(config=WITH):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MiraNet(config)


def test_training_gives_the_same_restoration_with_and_without_it(tmp_path):
    settings = replace(SETTINGS, gradient_clip=0.01, rounds=1)  # clipped in every step
    plain, mapped = (
        fit(all_tasks(1), [], replace(settings, error_map=on), tmp_path / str(on)).network.state_dict()
        for on in (False, True)
    )
    assert {name.split(".")[0] for name in set(mapped) - set(plain)} == {"error_head"}
    for name, weight in plain.items():
        assert torch.equal(weight, mapped[name]), name
    assert mapped["error_head.predict.bias"].abs().min() > 0


def test_the_head_sends_no_gradient_back():
    network = network_with()
    _, expected = network.restore_with_error(torch.rand(1, 2, 32, 32), torch.zeros(1, 32))
    error_loss(expected, torch.rand(1, 1, 32, 32)).backward()
    touched = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert {name.split(".")[0] for name in touched} == {"error_head"}


def test_the_loss_is_least_at_the_mean_absolute_error():
    error = torch.randn(1, 1, 200, 200, generator=torch.Generator().manual_seed(0)) * 3
    logarithm = torch.zeros(1, 1, 1, 1, requires_grad=True)
    optimiser = torch.optim.Adam([logarithm], lr=0.05)
    for _ in range(200):
        optimiser.zero_grad()
        error_loss(logarithm.expand_as(error), error).backward()
        optimiser.step()
    assert logarithm.exp().item() == pytest.approx(error.abs().mean().item() + FLOOR, rel=0.02)


def test_the_deviation_is_positive_finite_and_scaled_by_modality():
    head = ErrorHead(4)
    head.scale.copy_(torch.tensor([1.0, 2.0, 3.0]))
    selector = torch.eye(3)
    found = head.deviation(torch.zeros(3, 1, 2, 2), selector)
    assert found[:, 0, 0, 0].tolist() == [1.0, 2.0, 3.0]
    wild = head.deviation(torch.tensor([-1e9, 1e9, 0.0])[:, None, None, None], selector)
    assert torch.isfinite(wild).all()
    assert (wild > 0).all()


def test_the_unit_is_the_input_s(tmp_path):
    restorer = Restorer(network_with()).eval()  # zero-initialised: one loss unit everywhere
    image = np.full((1, 40, 48), 60.0, np.float32)
    ct = restore_volume(restorer, image, Modality.CT).predicted_error
    np.testing.assert_allclose(ct, 20 * 2**0.5, rtol=1e-5)  # HU
    pet = restore_volume(restorer, image / 10, Modality.PET).predicted_error
    np.testing.assert_allclose(pet, 0.2 * 2**0.5, rtol=1e-5)  # SUV
    mr = restore_volume(restorer, image, Modality.MR, 500.0).predicted_error
    np.testing.assert_allclose(mr, 0.03 * 500 * 2**0.5, rtol=1e-5)
    assert ct.shape == image.shape


def test_a_network_without_it_has_four_outputs():
    restorer = random_restorer()
    assert restorer.outputs == Restoration._fields[:4]
    assert restore_volume(restorer, np.zeros((1, 32, 32), np.float32), Modality.CT).predicted_error is None
    assert restorer(*example_inputs(restorer)).predicted_error is None


def test_tiles_join_to_the_whole_map():
    restorer = random_restorer(error_map=True)
    image = np.random.default_rng(0).normal(0, 60, (300, 260)).astype(np.float32)
    whole = restore_volume(restorer, image[None], Modality.CT).predicted_error
    tiled = restore_tiled(restorer, image, Modality.CT, side=192).predicted_error
    assert tiled.shape == whole.shape
    assert np.abs(tiled - whole).max() < 0.02 * whole.max()


def test_the_exported_file_has_the_output_with_its_own_calibration(tmp_path):
    for seed, factor in ((0, 1.5), (1, 4.0)):  # the second shares the first one's trace
        restorer = random_restorer("tiny", seed, error_map=True)
        restorer.network.error_head.scale.fill_(factor)
        inputs = example_inputs(restorer, 3, 40, 56)
        with torch.inference_mode():
            expected = restorer(*inputs)
        got = OnnxSession(export_onnx(restorer, tmp_path / f"{seed}.onnx")).run(inputs)
        assert tuple(got) == Restoration._fields
        np.testing.assert_allclose(got["predicted_error"], expected.predicted_error.numpy(), rtol=1e-3)


def test_calibration_makes_the_mean_square_one(tmp_path):
    network = network_with().eval()
    samples = choose_samples(all_tasks(2), 3)
    scales = calibrate(network, samples)
    assert set(scales) == set(Modality)
    again = calibrate(network, samples)
    assert again == pytest.approx(scales, rel=1e-5)  # nothing is left to correct
    save_checkpoint(tmp_path, network, Checkpoint("unified", "tiny", (), WITH, "0"))
    kept = load_network(tmp_path)[0].error_head.scale
    assert kept.tolist() == pytest.approx([scales[modality] for modality in Modality])
    assert calibrate(network_with(SIZES["tiny"]), samples) == {}


def test_one_spike_does_not_decide_a_calibration():
    rng = np.random.default_rng(0)
    error, inside = rng.normal(0, 2, (100, 100)), np.ones((100, 100), bool)
    clean = mean_square(error, np.full_like(error, 2.0), inside)
    assert clean == pytest.approx(1, abs=0.05)
    error[5, 5] = 1e4
    assert mean_square(error, np.full_like(error, 2.0), inside) == pytest.approx(clean, abs=0.02)
    assert mean_square(error, np.full_like(error, 2.0), np.zeros_like(inside)) is None
