"""int8: the convolutions of the U-Net's trunk quantised after training, as Q/DQ nodes that TensorRT and OpenVINO read.

Everything that decides about values stays in f32: the normalisation, the guidance, the first and last convolution, the
norms, the modulation, and the output projections that the instruction mixes.
"""

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mira.errors import ConfigurationError, DataRejected, ServingFailed
from mira.pairs import PairIndex, read_pair
from mira.storage import atomic_file
from mira.tasks import Task

if TYPE_CHECKING:
    import torch

TRUNK = ("network.encoder.", "network.decoder.", "network.down.", "network.up.")


def calibration(
    root: Path, index: PairIndex, tasks: Sequence[Task], count: int, instruction_dim: int
) -> "list[tuple[torch.Tensor, ...]]":
    """Inputs of the graph from training pairs: evenly many slices per task, of as many patients and levels as fit.

    Raises:
        DataRejected: when a task has no training pairs.
    """
    import numpy as np

    from model.inference import graph_inputs

    inputs = []
    share = max(1, count // len(tasks))
    for task in tasks:
        pool = index.select("train", task=task)
        if not pool:
            raise DataRejected(f"There are no training pairs of {task} to calibrate int8 on. Leave int8 out.")
        for number in range(share):
            pair = pool[number * len(pool) // share]
            voxels = read_pair(root, pair)[0].voxels
            # another height in the volume for each, between the first and the last eighth
            place = len(voxels) // 8 + number * 7919 % max(1, len(voxels) * 3 // 4)
            image = np.ascontiguousarray(voxels[place : place + 1])
            inputs.append(graph_inputs(image, pair.modality, pair.mr_scale, instruction_dim))
    return inputs


def quantise(onnx: Path, out: Path, inputs: "Sequence[tuple[torch.Tensor, ...]]") -> Path:
    """Write the int8 graph of an exported network.

    Args:
        onnx: the f32 graph.
        out: the file to write.
        inputs: what to calibrate on, in the order of `Restorer.INPUTS`.

    Raises:
        ConfigurationError: when NNCF is not installed.
        ServingFailed: when NNCF cannot quantise the graph.
    """
    os.environ["NNCF_CI"] = "1"  # else NNCF reports its use to its makers over the network
    try:
        import nncf
    except ImportError as error:
        raise ConfigurationError("int8 needs NNCF: pip install 'mira-net[export]', or leave int8 out.") from error
    import onnx as onnx_package

    from model.restorer import Restorer

    nncf.set_log_level("ERROR")
    model = onnx_package.load(onnx)
    feeds = [{name: t.numpy() for name, t in zip(Restorer.INPUTS, one, strict=True)} for one in inputs]
    kept = nncf.IgnoredScope(names=[node.name for node in model.graph.node if not in_trunk(node)])
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
            quantised = nncf.quantize(
                model,
                nncf.Dataset(feeds),
                preset=nncf.QuantizationPreset.PERFORMANCE,  # symmetric, as TensorRT asks
                subset_size=len(feeds),
                ignored_scope=kept,
            )
    except (RuntimeError, nncf.ValidationError) as error:
        raise ServingFailed(f"NNCF cannot quantise {onnx.name}: {error}") from error
    with atomic_file(out) as temporary:
        onnx_package.save(quantised, temporary)
    return out


def in_trunk(node: Any) -> bool:
    """Whether a node is a convolution with fixed weights inside the U-Net's blocks, its way down or its way up."""
    return node.op_type == "Conv" and any(name.startswith(TRUNK) for name in node.input[1:2])
