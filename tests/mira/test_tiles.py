import numpy as np
import pytest

from mira.errors import ConfigurationError
from mira.tiles import GRID, OVERLAP, join, tiles, weights


@pytest.mark.parametrize("size", [(40, 700), (193, 192), (512, 512), (1000, 2048), (513, 777)])
def test_tiles_cover_an_image_on_the_grid_and_join_to_it(size):
    height, width = size
    found = tiles(height, width, 256)
    image = np.random.default_rng(0).normal(size=(2, height, width)).astype(np.float32)
    joined = join(((tile, image[(..., *tile.window)]) for tile in found), height, width)
    np.testing.assert_allclose(joined, image, atol=1e-5)
    for tile in found:
        assert tile.top % GRID == 0
        assert tile.left % GRID == 0
        assert tile.bottom - tile.top <= 256
        assert tile.right - tile.left <= 256


def test_what_lies_near_an_inner_border_is_not_used():
    found = tiles(256, 600, 256)
    assert len(found) == 4
    first = weights(found[0], 256, 600)
    assert first[:, 0].min() == 1  # the border of the image is no seam
    assert first[:, -32:].max() == 0
    overlap = found[0].right - found[1].left
    assert overlap >= OVERLAP


def test_a_tile_that_cannot_overlap_is_refused():
    with pytest.raises(ConfigurationError, match="multiple of 8"):
        tiles(1000, 1000, 100)
