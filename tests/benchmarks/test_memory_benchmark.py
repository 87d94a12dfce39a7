"""The memory benchmark: seams with every part of the network at work, and peaks that are a process' own."""

import numpy as np
import pytest

from benchmarks.memory import LIMIT_MB, SEAM_LIMIT, in_fresh_process, seams, slice_of, status_mb
from model.export import random_restorer


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_tiles_leave_no_seams_when_all_parts_are_active(size):
    found = seams(random_restorer(size), 256, 192)
    assert found["change_hu"] > 5  # a network that changed nothing would have no seams either
    assert found["seam_share"] < SEAM_LIMIT
    assert found["seam_hu"] < 0.1


def test_the_slice_has_air_body_and_bone():
    image = slice_of(64)
    assert image.dtype == np.float32
    assert np.percentile(image, 5) < -900
    assert image.max() > 1000


def test_a_peak_is_not_the_parents():
    """What this process holds while it starts the other one must not be counted there."""
    ballast = np.ones(130_000_000)  # 1 GB
    assert status_mb("VmHWM") > 1000
    found = in_fresh_process("tiny", None, 64, 0)
    assert 100 < found["peak_mb"] < 900 < LIMIT_MB
    assert 0 <= found["added_mb"] < found["peak_mb"]
    assert ballast[0] == 1


def test_a_figure_that_the_kernel_lacks_is_named():
    with pytest.raises(OSError, match="VmNothing"):
        status_mb("VmNothing")
