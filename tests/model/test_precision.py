"""Half precision and bfloat16: images near those of float32 in native units, and training that stays finite."""

import math
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from mira.tasks import Modality
from model.export import example_inputs, random_restorer
from model.restorer import Restorer
from model.training import fit
from tests.model.made_up import all_tasks
from tests.model.test_training import SETTINGS

SHAPE = (3, 32, 40)  # a CT, a PET and an MR slice
EXTREMES = (1e5, 100.0, 1e5)  # HU of metal, SUV beside an injection, MR of a hundred times the scale
# Largest difference from float32 in HU, SUV and MR a.u. at a scale of 800. The random networks change images by up to
# 85 HU, 7 SUV and 130 a.u.; measured were 0.11 HU, 0.01 SUV, 0.15 a.u. for float16, six times that for bfloat16.
TOLERANCE = {"float16": (0.25, 0.02, 0.4), "bfloat16": (1.5, 0.1, 2.0)}


def restore(size, precision, inputs):
    """Restored images of a random network, computed inside in a precision."""
    restorer = random_restorer(size)
    if precision == "float16":
        restorer = Restorer(restorer.network, half=True).eval()
    within = torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else nullcontext()
    with torch.inference_mode(), within:
        return restorer(*inputs)


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_restored_images_are_those_of_float32(size):
    image, *others = example_inputs(random_restorer(size), *SHAPE)
    metal = image.clone()
    for index, value in enumerate(EXTREMES):
        metal[index, 0, 8:16, 8:16] = value
    for given in (image, metal):
        exact = restore(size, "float32", (given, *others))
        assert all((exact.restored - given).abs().amax(dim=(1, 2, 3)) > torch.tensor([20, 1, 20]))
        for precision, tolerance in TOLERANCE.items():
            found = restore(size, precision, (given, *others))
            assert found.restored.dtype == torch.float32
            assert all(torch.isfinite(output).all() for output in found if output is not None)
            difference = (found.restored - exact.restored).abs().amax(dim=(1, 2, 3))
            assert all(difference < torch.tensor(tolerance)), (precision, difference)
            assert torch.allclose(found.modality_probability, exact.modality_probability, atol=0.03)
            if given is metal:  # what lies outside the restored range is handed through as it is, to the last bit
                for modality in Modality:
                    inside = found.restored[modality.number, 0, 8:16, 8:16]
                    assert (inside == EXTREMES[modality.number]).all()


def test_bfloat16_trains_as_float32_does(tmp_path):
    curves = {}
    for precision in ("32-true", "bf16-mixed"):
        folder = tmp_path / precision
        folder.mkdir()
        settings = replace(SETTINGS, precision=precision, log_every=1, total_steps=6)
        trained = fit(all_tasks(1), [], settings, folder)
        assert all(torch.isfinite(value).all() for value in trained.network.state_dict().values())
        assert all(value.dtype == torch.float32 for value in trained.network.parameters())
        curves[precision] = [row["loss"] for row in trained.rows]
    assert all(math.isfinite(loss) for loss in curves["bf16-mixed"])
    assert curves["bf16-mixed"] == pytest.approx(curves["32-true"], rel=0.02)
    assert curves["bf16-mixed"] != curves["32-true"]
