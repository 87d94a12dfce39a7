"""Export of the served graph to one ONNX file, and its comparison with onnxruntime."""

import copy
import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mira.errors import ServingFailed
from mira.storage import atomic_file
from model.config import ModelConfig, size_config
from model.export_gates import halve_gates
from model.network import MiraNet
from model.restorer import Restorer

OPSET = 20  # the newest that all Triton and TensorRT versions of the last year read
MINIMUM_SIDE = 32


def random_restorer(size: str = "tiny", seed: int = 0, error_map: bool = False) -> Restorer:
    """An untrained restorer with random weights in every part, for tests of export and serving."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = MiraNet(replace(size_config(size), error_map=error_map))
        for parameter in network.parameters():
            if not parameter.any():  # zero-initialised, so that an untrained network is the identity
                torch.nn.init.normal_(parameter, std=0.1)
    return Restorer(network).eval()


def example_inputs(restorer: Restorer, batch: int = 2, height: int = 64, width: int = 96) -> tuple[torch.Tensor, ...]:
    """Inputs of the served graph with plausible values, CT, PET and MR in turn, in the order of `Restorer.INPUTS`."""
    generator = torch.Generator().manual_seed(0)
    modality = torch.arange(batch)[:, None] % 3
    noise = torch.rand(batch, restorer.network.slices, height, width, generator=generator)
    low = torch.tensor([-1024.0, 0.0, 0.0])[modality][:, :, None, None]
    span = torch.tensor([2000.0, 10.0, 900.0])[modality][:, :, None, None]
    dimension = restorer.network.instruction_dim
    instruction = torch.rand(batch, dimension, generator=generator) * 2 - 1
    return low + span * noise, modality, torch.full((batch, 1), 800.0), instruction, torch.zeros(batch, 1)


def export_onnx(restorer: Restorer, path: Path) -> Path:
    """Write the served graph as one ONNX file with dynamic batch, height and width.

    Tracing with three free sizes takes many seconds, so networks of one shape share one trace in a process; each gets
    its own weights, and then the optimiser's pass. In the f32 graph, gates are halved (`model.export_gates`): measured
    on CPUs only, so the float16 graph for GPUs keeps its splits.

    Raises:
        ServingFailed: when the graph cannot be exported.
    """
    import onnx_ir
    from onnxscript import optimizer

    restorer = restorer.eval()
    model = onnx_ir.from_proto(_trace(restorer))
    weights = {**dict(restorer.named_parameters()), **dict(restorer.named_buffers())}
    for name, initializer in model.graph.initializers.items():
        if name in weights:
            initializer.const_value = onnx_ir.Tensor(weights[name].detach().cpu().contiguous().numpy(), name=name)
    with warnings.catch_warnings(), atomic_file(path) as temporary:
        warnings.simplefilter("ignore")
        optimizer.optimize(model)
        if not restorer.half_precision:
            halve_gates(model.graph)
        onnx_ir.save(model, temporary)
    return path


def export_half(restorer: Restorer, path: Path) -> Path:
    """Write a strongly typed float16 graph of a network, with float32 inputs and outputs; the network is left as it is.

    Raises:
        ServingFailed: when the graph cannot be exported.
    """
    return export_onnx(Restorer(copy.deepcopy(restorer.network), half=True), path)


_TRACES: dict[tuple[ModelConfig, bool], Any] = {}


def _trace(restorer: Restorer) -> Any:
    """The unoptimised graph of a network's shape, its weights named as in torch.

    Raises:
        ServingFailed: when the graph cannot be exported.
    """
    import onnx_ir

    assert isinstance(restorer.network, MiraNet)  # nothing else is served
    key = (restorer.network.config, restorer.half_precision)
    if key in _TRACES:
        return _TRACES[key]
    batch, height, width = (torch.export.Dim.DYNAMIC for _ in range(3))
    names = Restorer.INPUTS
    shapes: dict[str, dict[int, Any]] = {name: {0: batch} for name in names}
    shapes["image"] = {0: batch, 2: height, 3: width}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of packages that are not needed
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                restorer,
                example_inputs(restorer),
                input_names=list(names),
                output_names=list(restorer.outputs),
                dynamic_shapes=shapes,
                opset_version=OPSET,
                dynamo=True,
                optimize=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error).strip().splitlines()[0]
        raise ServingFailed(f"The network cannot be exported to ONNX: {reason}") from error
    assert program is not None
    missing = set(restorer.state_dict()) - set(program.model.graph.initializers)
    if missing:
        raise ServingFailed(f"The exported graph lacks the weights {', '.join(sorted(missing))}.")
    _TRACES[key] = onnx_ir.to_proto(program.model)
    return _TRACES[key]


def run_onnx(path: Path, inputs: tuple[torch.Tensor, ...], threads: int = 1) -> dict[str, NDArray[np.float32]]:
    """Run an exported file once in onnxruntime on the CPU; outputs by name."""
    return OnnxSession(path, threads).run(inputs)


class OnnxSession:
    """An exported file, loaded in onnxruntime on the CPU.

    Raises:
        ServingFailed: when onnxruntime refuses the file.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads  # 0: as many as there are processors
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has no public base class of its errors
            raise ServingFailed(f"onnxruntime cannot load {path.name}: {error}. Export it again.") from error

    def run(self, inputs: tuple[torch.Tensor, ...]) -> dict[str, NDArray[np.float32]]:
        """Outputs by name for inputs in the order of `Restorer.INPUTS`; ServingFailed when onnxruntime fails."""
        feed = {name: tensor.numpy() for name, tensor in zip(Restorer.INPUTS, inputs, strict=True)}
        names = [output.name for output in self._session.get_outputs()]
        try:
            return dict(zip(names, self._session.run(names, feed), strict=True))
        except Exception as error:  # onnxruntime has no public base class of its errors
            raise ServingFailed(f"onnxruntime cannot run this network: {error}. Export it again.") from error
