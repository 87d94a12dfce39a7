"""Networks that see a slice's neighbours as well (2.5-D), and what they leave as it was for those that do not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mira.errors import ConfigurationError
from mira.tasks import Modality, Task
from model.calibration import calibrate
from model.checkpoint import UNIFIED, Checkpoint, load_restorer, read_weights, save_checkpoint
from model.config import ModelConfig, size_config
from model.data import PatchBatches
from model.inference import graph_inputs, restore_tiled, restore_volume, shared_instruction
from model.network import MiraNet
from model.released import released_folder
from model.restorer import Restorer
from model.training import fit
from model.validation import choose_samples, restore_samples
from tests.model.made_up import all_tasks, paired
from tests.model.test_training import SETTINGS

TINY = size_config("tiny")
LITTLE = ModelConfig("custom", (8, 8, 8, 8), (1, 1, 1, 1), (1, 1, 1), guidance_width=4, instruction_dim=8)


def made(shape: ModelConfig, seed: int = 1) -> MiraNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MiraNet(shape)


def busy(slices: int = 3, error_map: bool = False, neighbours: float = 0.3) -> Restorer:
    """A network that changes its input, and looks at the neighbours as far as it is told to."""
    network = made(replace(LITTLE, slices=slices, error_map=error_map), seed=2)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        torch.nn.init.normal_(network.head.weight, std=0.1)
        if slices > 1:
            network.stem.weight.data[:, 2:] = neighbours * torch.randn_like(network.stem.weight[:, 2:])
        if network.error_head is not None:
            torch.nn.init.normal_(network.error_head.predict.weight, std=0.1)
    return Restorer(network).eval()


def volume(slices: int = 5, side: int = 40) -> np.ndarray:
    return (40 + 60 * np.random.default_rng(0).standard_normal((slices, side, side))).astype(np.float32)


class TestShape:
    def test_a_configuration_from_before_means_the_slice_alone(self):
        values = LITTLE.to_dict()
        assert values.pop("slices") == 1
        assert ModelConfig.from_dict(values) == LITTLE
        assert ModelConfig.from_dict(values | {"slices": 5}).slices == 5

    @pytest.mark.parametrize("slices", [0, 2, -1, 3.0, "3"])
    def test_a_number_without_a_middle_is_refused(self, slices):
        with pytest.raises(ConfigurationError, match=r"cannot see .* slices \(train\.slices\)\. Give an odd number"):
            ModelConfig.from_dict(LITTLE.to_dict() | {"slices": slices})

    def test_networks_of_the_slice_alone_are_what_they_were(self):
        """Names and shapes of the weights that come with the project, and the initial weights of a seed."""
        network = made(TINY)
        released = {k: v.shape for k, v in read_weights(released_folder("tiny")).items() if "error_head" not in k}
        assert {name: value.shape for name, value in network.state_dict().items()} == released
        magnitude = sum(weights.double().abs().sum().item() for weights in network.parameters())
        assert magnitude == pytest.approx(11562.884399378843, rel=1e-9)  # measured before there was a choice

    def test_a_network_of_three_begins_as_that_of_the_slice_alone(self):
        alone, three = made(TINY).state_dict(), made(replace(TINY, slices=3)).state_dict()
        stem = three.pop("stem.weight")
        assert torch.equal(stem[:, :2], alone.pop("stem.weight"))
        assert stem.shape[1] == 4
        assert not stem[:, 2:].any()
        assert alone.keys() == three.keys()
        assert all(torch.equal(value, three[name]) for name, value in alone.items())

    def test_a_checkpoint_keeps_the_number(self, tmp_path):
        shape, voxels = replace(LITTLE, slices=3), volume()
        restorer = busy()
        save_checkpoint(tmp_path, restorer.network, Checkpoint(UNIFIED, "custom", tuple(Task), shape, "0.1.0"))
        again, checkpoint = load_restorer(tmp_path)
        assert checkpoint.model == shape
        one, two = (restore_volume(r, voxels, Modality.CT).voxels for r in (restorer, again))
        np.testing.assert_array_equal(one, two)


class TestRestoring:
    @pytest.mark.parametrize("modality", list(Modality))
    def test_without_weight_the_neighbours_do_nothing(self, modality):
        voxels = np.abs(volume()) / 20
        alone, three = (restore_volume(busy(n, neighbours=0.0), voxels, modality, 5.0) for n in (1, 3))
        assert np.abs(alone.voxels - voxels).max() > 0.01
        np.testing.assert_allclose(three.voxels, alone.voxels, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(three.instruction, alone.instruction, atol=1e-6)

    def test_neighbours_change_the_image_and_neither_estimates_nor_other_slices(self):
        restorer, voxels = busy(), volume()
        other = voxels.copy()
        other[1] += 100
        before, after = (restore_volume(restorer, v, Modality.CT) for v in (voxels, other))
        change = np.abs((after.voxels - other) - (before.voxels - voxels)).max(axis=(1, 2))
        assert (change[:3] > 0.1).all()
        assert not change[3:].any()
        assert np.array_equal(before.instruction[[0, 2, 3, 4]], after.instruction[[0, 2, 3, 4]])
        probes = shared_instruction(restorer, voxels[[0, 2]], Modality.CT)
        np.testing.assert_allclose(probes, before.instruction[[0, 2]].mean(axis=0), atol=1e-6)

    def test_the_outermost_slices_are_repeated(self):
        restorer, voxels = busy(), volume()
        restored = restore_volume(restorer, voxels, Modality.CT).voxels
        longer = np.concatenate([voxels[:1], voxels, voxels[-1:]])
        np.testing.assert_allclose(restore_volume(restorer, longer, Modality.CT).voxels[1:-1], restored, atol=1e-3)

    def test_some_slices_of_a_volume_are_those_of_the_whole(self):
        restorer, voxels = busy(5, error_map=True), volume()
        whole = restore_volume(restorer, voxels, Modality.CT, batch_size=2)
        some = restore_volume(restorer, voxels, Modality.CT, places=np.array([4, 1]))
        np.testing.assert_allclose(some.voxels, whole.voxels[[4, 1]], atol=1e-3)
        np.testing.assert_allclose(some.predicted_error, whole.predicted_error[[4, 1]], rtol=1e-4)
        assert whole.predicted_error.shape == voxels.shape

    def test_tiles_see_the_same_neighbours(self):
        restorer, voxels = busy(error_map=True), volume(3, 280)
        whole = restore_volume(restorer, voxels, Modality.CT, places=[2])
        tiled = restore_tiled(restorer, voxels, Modality.CT, side=192, place=2)
        assert tiled.voxels.shape == (1, 280, 280)
        np.testing.assert_allclose(tiled.voxels, whole.voxels, atol=0.05)
        np.testing.assert_allclose(tiled.predicted_error, whole.predicted_error, rtol=0.01)
        alone = restore_tiled(restorer, voxels[2], Modality.CT, side=192)
        assert np.abs(alone.voxels - tiled.voxels).max() > 0.1  # it is its own neighbour then

    def test_another_number_of_slices_is_refused(self):
        restorer = busy()
        with pytest.raises(ConfigurationError, match="sees 3 slices at a time, but was given 1"):
            restorer(*graph_inputs(volume(2), Modality.CT, None, 8))


class TestTraining:
    def test_patches_are_those_of_the_slice_alone_amid_its_neighbours(self):
        volumes = [paired(task, 1, (4, 56, 48)) for task in Task]
        alone, three = (PatchBatches(volumes, 6, 32, 3, clean_share=0.3, slices=n)[2] for n in (1, 3))
        assert alone.degraded.shape == (6, 1, 32, 32)
        assert three.degraded.shape == (6, 3, 32, 32)
        assert torch.equal(three.degraded[:, 1:2], alone.degraded)
        for name in ("reference", "modality", "mr_scale", "severity"):
            assert torch.equal(getattr(three, name), getattr(alone, name))

    @pytest.mark.parametrize("clean_share", [0.0, 1.0])
    def test_neighbours_are_of_the_same_place_and_volume(self, clean_share):
        base = paired(Task.CT_DENOISING, 1, (1, 56, 48)).reference
        reference = base + 10 * np.arange(4, dtype=np.float32)[:, None, None]
        pair = replace(paired(Task.CT_DENOISING, 1), reference=reference, degraded=reference + 1000)
        batch = PatchBatches([pair], 16, 64, 0, clean_share, slices=3)[0]  # mirrored: the images are smaller
        steps = (batch.degraded[:, 1:] - batch.degraded[:, :-1]).round()
        assert set(steps.unique().tolist()) == {0.0, 10.0}
        at_an_end = steps.amin(dim=(1, 2, 3)) == 0
        assert 0 < at_an_end.sum() < 16
        assert (steps.amax(dim=(2, 3)) == steps.amin(dim=(2, 3))).all()  # of the whole patch alike
        offset = batch.degraded[:, 1:2] - batch.reference
        assert torch.allclose(offset, torch.full_like(offset, 0 if clean_share else 1000), atol=1e-3)

    def test_a_killed_training_takes_the_same_steps_and_learns_from_neighbours(self, tmp_path):
        class Killed(Exception):
            pass

        def kill(step, row):
            if step >= 7:
                raise Killed

        volumes, settings = all_tasks(), replace(SETTINGS, slices=3, error_map=True)
        samples = choose_samples(all_tasks(1), 1)
        folders = [tmp_path / name for name in ("whole", "killed")]
        for folder in folders:
            folder.mkdir()
        whole = fit(volumes, samples, settings, folders[0])
        with pytest.raises(Killed):
            fit(volumes, samples, settings, folders[1], sink=kill)
        resumed = fit(volumes, samples, settings, folders[1])
        assert resumed.resumed_at == 4
        assert resumed.rows == whole.rows
        for a, b in zip(whole.network.state_dict().values(), resumed.network.state_dict().values(), strict=True):
            assert torch.equal(a, b)
        assert whole.network.stem.weight[:, 2:].abs().amin(dim=(0, 2, 3)).gt(0).all()
        restorer, (sample, *_) = Restorer(whole.network), samples
        (image, *_) = restore_samples(restorer, samples)
        amid = restore_volume(restorer, sample.volume, Modality.CT).voxels[sample.place]
        np.testing.assert_allclose(image, amid, atol=1e-3)
        lonely = restore_volume(restorer, sample.degraded[None], Modality.CT).voxels[0]
        assert np.abs(image - lonely).max() > 1e-3
        assert set(calibrate(whole.network, samples)) == set(Modality)
