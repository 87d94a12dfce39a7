from dataclasses import replace

import numpy as np
import pytest
import torch

from mira.errors import ConfigurationError
from mira.tasks import Modality
from model import units
from model.blocks import MODULATIONS, PathwayProjection
from model.config import SIZES, ModelConfig, size_config
from model.export import example_inputs, random_restorer
from model.inference import graph_inputs, restore_tiled, restore_volume
from model.network import MiraNet
from model.restorer import Restorer

LITTLE = ModelConfig("custom", (8, 8, 8, 8), (1, 1, 1, 1), (1, 1, 1), guidance_width=4, instruction_dim=8, pathways=2)


@pytest.mark.parametrize("shape", [(1, 32, 32), (2, 33, 47), (1, 64, 41), (3, 90, 35)])
def test_any_size_keeps_its_size(shape):
    restorer = random_restorer("tiny")
    with torch.inference_mode():
        result = restorer(*example_inputs(restorer, *shape))
    assert result.restored.shape == (shape[0], 1, *shape[1:])
    assert torch.isfinite(result.restored).all()
    assert torch.allclose(result.modality_probability.sum(dim=1), torch.ones(shape[0]))
    assert ((result.degradation >= 0) & (result.degradation <= 1)).all()


def test_untrained_network_returns_its_input():
    restorer = Restorer(MiraNet(size_config("tiny"))).eval()
    inputs = example_inputs(restorer, batch=3)
    with torch.inference_mode():
        assert torch.equal(restorer(*inputs).restored, inputs[0])


def test_sizes_have_the_parameters_they_are_documented_with():
    counts = {name: sum(p.numel() for p in MiraNet(config).parameters()) for name, config in SIZES.items()}
    assert 0.1e6 < counts["tiny"] < 0.5e6
    assert counts["tiny"] < counts["small"] < counts["base"]


def test_unknown_size_is_named():
    with pytest.raises(ConfigurationError, match="tiny, small, base"):
        size_config("huge")


def test_configuration_survives_json():
    assert (
        ModelConfig.from_dict({k: list(v) if isinstance(v, tuple) else v for k, v in LITTLE.to_dict().items()})
        == LITTLE
    )
    with pytest.raises(ConfigurationError, match="cannot be read"):
        ModelConfig.from_dict({"depth": 3})


def test_a_network_from_before_linear_modulation_can_still_be_read():
    before = replace(LITTLE, modulation="gated", keeps_local_mean=False)
    values = before.to_dict()
    del values["modulation"], values["keeps_local_mean"]
    assert ModelConfig.from_dict(values) == before
    names = MiraNet(before).state_dict().keys()
    assert any(name.endswith("modulation.gamma") for name in names)
    assert not any(name.endswith("modulation.affine.weight") for name in names)


def test_modulation_and_pathways_start_as_identity_and_even_mixture():
    x, instruction = torch.randn(2, 8, 5, 5), torch.randn(2, 4)
    for modulation in MODULATIONS.values():
        assert torch.equal(modulation(8, 4)(x, instruction), x)
    mixture = PathwayProjection(8, 6, 3, 4)
    mean = torch.nn.functional.conv2d(x, mixture.weight.mean(dim=0)[:, :, None, None])
    assert torch.allclose(mixture(x, instruction), mean, atol=1e-5)


def test_given_instruction_is_used_as_far_as_its_weight_says():
    restorer = random_restorer("tiny")
    image, modality, scale, given, _ = example_inputs(restorer, batch=1)
    own = restorer(image, modality, scale, given, torch.zeros(1, 1))
    full = restorer(image, modality, scale, given, torch.ones(1, 1))
    half = restorer(image, modality, scale, given, torch.full((1, 1), 0.5))
    assert torch.equal(full.instruction_used, given)
    assert torch.allclose(half.instruction_used, (own.instruction_used + given) / 2, atol=1e-6)
    assert not torch.allclose(own.restored, full.restored, atol=1e-3)
    again = restorer(image, modality, scale, own.instruction_used, torch.ones(1, 1))
    assert torch.allclose(again.restored, own.restored, atol=1e-3)
    # the estimates are of the image, whatever instruction is given
    assert torch.equal(full.modality_probability, own.modality_probability)


def test_tiles_that_share_an_instruction_agree_with_the_whole_away_from_seams():
    restorer = random_restorer("tiny", seed=3)
    image, modality, scale, given, _ = example_inputs(restorer, 1, 192, 96)
    whole = restorer(image, modality, scale, given, torch.ones(1, 1)).restored
    tile = restorer(image[:, :, :128], modality, scale, given, torch.ones(1, 1)).restored
    assert torch.allclose(tile[:, :, :64], whole[:, :, :64], atol=1e-3)


@pytest.mark.parametrize(
    ("modality", "values"),
    [(Modality.CT, (-3024.0, 20000.0)), (Modality.PET, (45.0, 300.0)), (Modality.MR, (2000.0, 9000.0))],
)
def test_values_outside_the_range_pass_through(modality, values):
    restorer = random_restorer("tiny")
    rng = np.random.default_rng(0)
    image = np.abs(rng.normal(5, 2, (1, 64, 64))).astype(np.float32)
    image[0, 10:20, 10:20], image[0, 40:50, 30:40] = values
    restored = restore_volume(restorer, image, modality, 500.0).voxels
    np.testing.assert_array_equal(restored[0, 10:20, 10:20], values[0])
    np.testing.assert_array_equal(restored[0, 40:50, 30:40], values[1])
    assert np.abs(restored - image).max() > 0


def test_pet_and_mr_stay_at_or_above_zero_and_ct_does_not_have_to():
    restorer = random_restorer("tiny")
    image = np.full((1, 64, 64), 0.01, np.float32) * np.random.default_rng(0).random((1, 64, 64), np.float32)
    for modality in (Modality.PET, Modality.MR):
        assert restore_volume(restorer, image, modality, 300.0).voxels.min() >= 0
    assert restore_volume(restorer, image - 900, Modality.CT).voxels.min() < 0


@pytest.mark.parametrize(("modality", "lost"), [(Modality.PET, -5.0), (Modality.MR, -600.0)])
def test_values_below_the_range_pass_through_and_do_not_become_zero(modality, lost):
    restorer = random_restorer("tiny")
    image = np.random.default_rng(0).random((1, 64, 64), np.float32)
    image[:, :, 32:] = lost
    image[:, :8] = -0.01  # noise around nothing is restored, to no less than nothing
    restored = restore_volume(restorer, image, modality, 800.0).voxels
    np.testing.assert_array_equal(restored[:, 8:, 32:], image[:, 8:, 32:])
    assert restored[:, :8].min() >= 0


def test_mr_restoration_scales_with_the_intensity_scale():
    restorer = random_restorer("tiny")
    image = np.random.default_rng(1).random((1, 48, 48), np.float32) * 300
    one = restore_volume(restorer, image, Modality.MR, 400.0).voxels
    ten = restore_volume(restorer, image * 10, Modality.MR, 4000.0).voxels
    np.testing.assert_allclose(ten, one * 10, rtol=1e-3, atol=1e-2)


def test_normalisation_is_the_documented_one():
    modality = torch.tensor([[0], [1], [2]])
    image = torch.tensor([-1024.0, 20.0, 250.0])[:, None, None, None].expand(3, 1, 4, 4)
    value = units.normalise(image, units.one_hot(modality), torch.full((3, 1), 500.0))
    assert value[:, 0, 0, 0].tolist() == [0.0, 1.0, 0.5]


def test_half_precision_is_clean():
    restorer = random_restorer("tiny")
    inputs = example_inputs(restorer, batch=3)
    with torch.inference_mode():
        exact = restorer(*inputs)
        half = Restorer(random_restorer("tiny").network, half=True).eval()(*inputs)
    assert half.restored.dtype == torch.float32
    change = (exact.restored - inputs[0]).abs().amax(dim=(1, 2, 3))
    assert ((half.restored - exact.restored).abs().amax(dim=(1, 2, 3)) < 0.03 * change).all()


def test_volumes_are_restored_slice_by_slice():
    restorer = random_restorer("tiny")
    voxels = np.random.default_rng(2).random((5, 40, 36), np.float32) * 4
    together = restore_volume(restorer, voxels, Modality.PET, batch_size=4)
    alone = restore_volume(restorer, voxels[3:4], Modality.PET)
    np.testing.assert_allclose(together.voxels[3], alone.voxels[0], atol=1e-4)
    assert together.voxels.shape == voxels.shape
    assert together.instruction.shape == (5, restorer.network.instruction_dim)
    assert graph_inputs(voxels, Modality.PET, None, 8)[1].unique().tolist() == [Modality.PET.number]


class TestTiles:
    @pytest.mark.parametrize(("modality", "mean", "spread"), [(Modality.CT, 40, 60), (Modality.PET, 3, 1)])
    def test_tiles_leave_no_seams(self, modality, mean, spread):
        """Tiles with a shared instruction against the whole slice, with a network that changes a lot."""
        torch.manual_seed(2)
        network = MiraNet(size_config("tiny")).eval()
        for parameter in network.head.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        restorer = Restorer(network)
        image = np.random.default_rng(0).normal(mean, spread, (400, 520)).astype(np.float32)
        whole = restore_volume(restorer, image[None], modality)
        tiled = restore_tiled(restorer, image, modality, side=256)
        change = np.abs(whole.voxels[0] - image).max()
        assert change > spread / 3
        assert np.abs(tiled.voxels[0] - whole.voxels[0]).max() < 0.001 * change
        assert np.array_equal(tiled.instruction, whole.instruction)


def _uptake() -> torch.Tensor:
    """PET of two levels of uptake and a hot spot, noisy, in SUV."""
    mean = torch.full((1, 1, 96, 80), 0.5)
    mean[:, :, 20:70, 10:60], mean[:, :, 40:46, 30:36] = 3.0, 9.0
    return torch.distributions.Gamma(4.0, 4.0 / mean).sample()


def test_restored_pet_keeps_the_local_mean_of_its_input():
    """A network that takes a fifth of the uptake away, and a tenth of an SUV, everywhere."""
    torch.manual_seed(0)
    image = _uptake()[0].numpy()
    network = MiraNet(size_config("tiny"))
    torch.nn.init.constant_(network.head.bias, -1.0)
    bias = {}
    for network.keeps_local_mean in (True, False):
        restored = restore_volume(Restorer(network), image, Modality.PET).voxels
        means = [volume.reshape(3, 32, 5, 16).mean(axis=(1, 3)) for volume in (restored, image)]
        bias[network.keeps_local_mean] = np.abs(means[0] / means[1] - 1)
    assert bias[False].min() > 0.15
    assert bias[True].max() < 0.1  # a square of 17 pixels is wider than a block
    assert bias[True].mean() < 0.03


def test_ct_and_mr_are_restored_as_they_were():
    restorer = random_restorer("tiny", seed=1)
    inputs = example_inputs(restorer, batch=1)
    for modality in (Modality.CT, Modality.MR):
        kind = torch.full((1, 1), modality.number)
        answers = []
        for keeps in (True, False):
            restorer.network.keeps_local_mean = keeps
            with torch.inference_mode():
                answers.append(restorer(inputs[0], kind, *inputs[2:]).restored)
        assert torch.equal(*answers)


def test_scaling_to_the_local_mean_is_limited_and_leaves_the_source_alone():
    source = _uptake() / units.PET_RANGE
    assert torch.equal(units.scaled_to_local_mean(source, source), source)
    assert torch.equal(units.scaled_to_local_mean(source / 100, source), source / 100 * units.LOCAL_LIMIT)
    assert torch.isfinite(units.scaled_to_local_mean(-source, source)).all()
    assert torch.equal(units.scaled_to_local_mean(torch.zeros_like(source), torch.zeros_like(source)), source * 0)


def test_noise_around_little_activity_adds_none_and_borders_are_as_the_centre():
    """Filtered back-projection has negative voxels; their positive part alone would be three times the activity."""
    torch.manual_seed(0)
    for activity in (0.05, 0.1, 0.2):
        truth = torch.full((1, 1, 96, 96), activity / units.PET_RANGE)
        source = truth + 0.24 / units.PET_RANGE * torch.randn_like(truth)
        kept = units.scaled_to_local_mean(truth, source)
        assert kept.mean().item() == pytest.approx(truth.mean().item(), rel=0.05)
        halved = units.scaled_to_local_mean(truth / 2, truth)
        assert torch.allclose(halved, halved[..., 48:49, 48:49].expand_as(halved), rtol=1e-5)
    source[..., :48] = -1000.0  # a padding value reaches no further than the square
    padded = units.scaled_to_local_mean(truth, source)
    assert torch.equal(padded[..., 48 + units.LOCAL_SIDE :], kept[..., 48 + units.LOCAL_SIDE :])
    assert padded[..., 48:].min() >= truth.max() / units.LOCAL_LIMIT


@pytest.mark.parametrize(
    ("tissue", "side", "uptake", "share", "lifted"),
    [(1.0, 3, 20.0, 0.6, (1.1, 1.2)), (0.3, 6, 10.0, 0.5, (0.50, 0.52))],
)
def test_what_a_blunted_lesion_lifts_its_surroundings_by(tissue, side, uptake, share, lifted):
    """The price of the local mean: what a network takes from a hot spot, the square around it gets (decision 23)."""
    source = torch.full((1, 1, 65, 65), tissue / units.PET_RANGE)
    source[..., 31 : 31 + side, 31 : 31 + side] = uptake / units.PET_RANGE
    blunted = torch.where(source > source.min(), share * source, source)
    kept = units.scaled_to_local_mean(blunted, source) * units.PET_RANGE
    assert blunted.max() < kept.max() / units.PET_RANGE < source.max()
    beside = kept[0, 0, 32, 33 + side]
    assert lifted[0] < beside < lifted[1]
    assert torch.equal(kept[..., :22, :], (source * units.PET_RANGE)[..., :22, :])
