import pytest
import torch

from mira.errors import ConfigurationError
from model.baselines import named_network
from model.restorer import Restorer
from tests.model.made_up import all_tasks

NAMES = ["tiny", "tiny-label", "tiny-unguided", "tiny-3slices", "unet", "red-cnn-32"]


def graph(network, size=(50, 37), batch=2):
    image = torch.linspace(-1000, 500, batch * size[0] * size[1]).reshape(batch, 1, *size)
    image = image.repeat(1, network.slices, 1, 1)
    own = torch.zeros(batch, network.instruction_dim)
    return image, torch.zeros(batch, 1, dtype=torch.int64), torch.ones(batch, 1), own, torch.zeros(batch, 1)


@pytest.mark.parametrize("name", NAMES)
def test_every_network_starts_as_the_identity_at_any_size(name):
    network = named_network(name)
    inputs = graph(network)
    restored = Restorer(network).eval()(*inputs).restored
    assert torch.equal(restored, inputs[0][:, :1])


@pytest.mark.parametrize("name", NAMES)
def test_every_network_learns(name):
    """A few steps on one batch lower its loss: the residual of each baseline is wired to its output."""
    from model.data import PatchBatches
    from model.task import RestorationTask

    torch.manual_seed(0)
    task = RestorationTask(named_network(name), 20, 2e-3, 0, 1, 0.9, 0.1)
    batch = PatchBatches(all_tasks(1), 3, 32, seed=0, slices=task.averaged_network.slices)[0]
    optimizer = torch.optim.Adam(task.restorer.parameters(), lr=2e-3)
    losses = []
    for _ in range(8):
        loss = task.losses(batch)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(loss.restoration.item())
    assert losses[-1] < losses[0]


def test_restormer_is_one_of_them():
    pytest.importorskip("monai", reason="the study extra is not installed")
    pytest.importorskip("einops", reason="the study extra is not installed")
    network = named_network("restormer")
    inputs = graph(network, (33, 40), 1)
    assert torch.equal(Restorer(network).eval()(*inputs).restored, inputs[0])


def test_guidance_of_the_ablations():
    """The label decides the instruction of the one, nothing that of the other."""
    label, unguided = named_network("tiny-label"), named_network("tiny-unguided")
    features, selector = torch.rand(3, 2, 40, 40), torch.eye(3)
    given = label.guidance(features, selector)
    assert torch.equal(given.instruction, label.guidance(features * 2, selector).instruction)
    assert not torch.equal(given.instruction[0], given.instruction[1])
    assert given.modality_logits.argmax(dim=1).tolist() == [0, 1, 2]
    assert not unguided.guidance(features, selector).instruction.any()


def test_an_unknown_name_is_refused():
    with pytest.raises(ConfigurationError, match="Unknown baseline 'tiny-shiny'"):
        named_network("tiny-shiny")
