"""What runs an exported network: ONNX Runtime and OpenVINO on the CPU, one class per runtime, one answer form."""

from dataclasses import dataclass
from importlib import metadata as packages
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from components.export.config import Precision
from mira.errors import ServingFailed

if TYPE_CHECKING:
    import torch

FILES = {
    Precision.F32: "model.onnx",
    Precision.FP16: "model.fp16.onnx",
    Precision.BF16: "model.onnx",
    Precision.INT8: "model.int8.onnx",
}


class Session(Protocol):
    """A loaded engine."""

    def run(self, inputs: "tuple[torch.Tensor, ...]") -> dict[str, NDArray[np.float32]]:
        """Outputs by name for inputs in the order of `Restorer.INPUTS`.

        Raises:
            ServingFailed: when the runtime fails.
        """


@dataclass(frozen=True)
class Engine:
    """A runtime with a precision.

    Attributes:
        name: `onnxruntime`, `openvino` or `tensorrt`.
        precision: what it computes in.
    """

    name: str
    precision: Precision

    @property
    def file(self) -> str:
        """The file that it loads."""
        return "model.plan" if self.name == "tensorrt" else FILES[self.precision]

    def __str__(self) -> str:
        return f"{self.name} {self.precision}"


# What is checked for each precision. fp16 is for TensorRT; ONNX Runtime's CPU kernels show what its graph is worth.
ENGINES = {
    Precision.F32: (Engine("onnxruntime", Precision.F32), Engine("openvino", Precision.F32)),
    Precision.FP16: (Engine("onnxruntime", Precision.FP16),),
    Precision.BF16: (Engine("openvino", Precision.BF16),),
    Precision.INT8: (Engine("openvino", Precision.INT8),),
}


def open_session(engine: Engine, folder: Path, threads: int) -> Session:
    """Load the file of an engine.

    Raises:
        ServingFailed: when the runtime refuses the file, or this processor cannot compute in the precision.
    """
    from model.export import OnnxSession

    path = folder / engine.file
    return (
        OnnxSession(path, threads) if engine.name == "onnxruntime" else OpenVinoSession(path, threads, engine.precision)
    )


class OpenVinoSession:
    """An exported file, compiled by OpenVINO for the CPU.

    Args:
        path: the ONNX file.
        threads: CPU threads; 0 for as many as there are processors.
        precision: what it computes in; the hint is always given, since its default is bf16 on some processors.

    Raises:
        ServingFailed: when OpenVINO refuses the file, or the processor has no bf16.
    """

    def __init__(self, path: Path, threads: int, precision: Precision) -> None:
        import openvino

        core = openvino.Core()
        if precision is Precision.BF16 and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise ServingFailed("This processor has no bf16, so OpenVINO would compute in f32: bf16 cannot be checked.")
        hint = "bf16" if precision is Precision.BF16 else "f32"
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            self._request = core.compile_model(core.read_model(path), "CPU", options).create_infer_request()
        except RuntimeError as error:
            raise ServingFailed(f"OpenVINO cannot load {path.name}: {error}. Export it again.") from error

    def run(self, inputs: "tuple[torch.Tensor, ...]") -> dict[str, NDArray[np.float32]]:
        """Outputs by name for inputs in the order of `Restorer.INPUTS`; ServingFailed when OpenVINO fails."""
        from model.restorer import Restorer

        feed = {name: tensor.numpy() for name, tensor in zip(Restorer.INPUTS, inputs, strict=True)}
        try:
            results = self._request.infer(feed)
        except RuntimeError as error:
            raise ServingFailed(f"OpenVINO cannot run this network: {error}. Export it again.") from error
        return {output.any_name: np.array(values) for output, values in results.items()}


def versions(names: set[str]) -> dict[str, str]:
    """Versions of torch and of the runtimes that were compared with it."""
    distributions = {"onnxruntime": "onnxruntime CPU", "openvino": "openvino CPU"}
    found = {label: packages.version(name) for name, label in distributions.items() if name in names}
    return {**found, "torch CPU": packages.version("torch")}
