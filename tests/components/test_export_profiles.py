"""Every request of the client is inside a profile of a GPU engine."""

from types import SimpleNamespace

import numpy as np
import pytest

from components.export.profiles import TILE_SIDE, profiles_of
from mira.client import plan
from mira.tasks import Modality

PROMISED = profiles_of([SimpleNamespace(shape=(100, 512, 512))])[-1]


def test_the_client_sends_no_larger_image_than_is_promised():
    assert plan.LARGEST_SIDE == plan.TILE_SIDE == TILE_SIDE == PROMISED.max[1] == PROMISED.max[2]


@pytest.mark.parametrize(
    "size",
    [(16, 16), (512, 512), (1024, 1024), (1025, 1024), (1025, 1025), (1500, 1500), (2048, 2048), (16, 1025),
     (4096, 40), (2048, 300), (1031, 3000)],
)  # fmt: skip
def test_requests_of_every_size_of_slice_are_inside_the_profiles(size):
    slices = plan.Plan(np.zeros((9, *size), np.float32), Modality.CT, 1.0)
    for batch in [*slices.batches(None), *slices.probes()]:
        count, _, rows, columns = batch.image.shape
        sent = (count, rows, columns)
        assert all(low <= side <= high for low, side, high in zip(PROMISED.min, sent, PROMISED.max, strict=True)), sent
