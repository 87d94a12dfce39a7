"""What the benchmarks of serving say of their figures, and that they would notice wrong answers."""

import numpy as np
import pytest
import torch

from benchmarks import gpu_serving, serving
from benchmarks.serving_engine import INSTRUCTION, inputs
from model.config import SIZES


@pytest.mark.parametrize(
    ("key", "value", "met"),
    [
        ("grpc_over_inprocess_p50", 1.14, True),
        ("grpc_over_inprocess_p50 openvino int8", 1.16, False),
        ("series_throughput_ratio", 0.91, True),
        ("series_throughput_ratio openvino f32", 0.89, False),
        ("share_of_conv_peak", 0.01, True),
        ("openvino int8", "no file", True),
    ],
)
def test_a_bar_is_missed_on_its_own_side(key, value, met):
    assert serving.within(key, value) is met


def test_requests_fit_the_networks():
    assert {size.instruction_dim for size in SIZES.values()} == {INSTRUCTION}
    arrays = inputs(3, 40)
    assert arrays["image"].shape == (3, 1, 40, 40)
    assert len(np.unique(arrays["image"])) > 4000


def test_an_engine_answers_each_line():
    worker = serving.Worker("torch", "tiny", "f32", 1)
    try:
        ran = worker.run(1, 32, 2)
    finally:
        worker.close()
    assert len(ran["seconds"]) == 2
    assert min(ran["seconds"]) > 0
    assert ran["rss_mb"] > 50


def test_a_wrong_way_is_told_from_a_right_one():
    reference = gpu_serving.eager("tiny", "cpu", "f32")
    again = gpu_serving.eager("tiny", "cpu", "f32")

    def off(given):
        return [again(given)[0] * 1.05]

    assert gpu_serving.compare(again, reference, "cpu", 64, INSTRUCTION) < gpu_serving.TOLERANCE["f32"]
    assert gpu_serving.compare(off, reference, "cpu", 64, INSTRUCTION) > gpu_serving.TOLERANCE["fp16"]


def test_operations_grow_with_the_image():
    assert gpu_serving.operations("tiny", 128) == pytest.approx(4 * gpu_serving.operations("tiny", 64), rel=0.01)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr("sys.argv", ["gpu_serving"])
    with pytest.raises(SystemExit, match="GPU node"):
        gpu_serving.main()
