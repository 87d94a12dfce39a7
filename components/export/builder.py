"""Building a TensorRT engine from an exported graph, with TensorRT itself or with TensorRT-RTX.

Both have the same Python interface, so the module comes as an argument: `tensorrt` on a node with a GPU, in NVIDIA's
image; `tensorrt_rtx`, which needs no GPU to build, as a test that a graph is one that TensorRT takes. Types are those
of the graph (strong typing: the only way from TensorRT 11 on), so precision is a matter of the file.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.export.profiles import Profile
from mira.errors import ConfigurationError, ServingFailed
from mira.storage import atomic_file

if TYPE_CHECKING:
    import torch

WORKSPACE = 4 << 30  # bytes that a kernel may use while it runs


@dataclass(frozen=True)
class Built:
    """A serialised engine.

    Attributes:
        plan: its bytes.
        seconds: how long the build took.
        layers: layers of the parsed network.
        version: version of TensorRT, which must be the one that runs it.
    """

    plan: bytes
    seconds: float
    layers: int
    version: str


def load_module(name: str) -> ModuleType:
    """TensorRT's Python module.

    Args:
        name: `tensorrt`, or `tensorrt_rtx`.

    Raises:
        ConfigurationError: when it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        where = {
            "tensorrt": "Run this in NVIDIA's PyTorch image of the same release as the Triton image that will serve it",
            "tensorrt_rtx": "Install it: pip install 'mira-net[rtx]'",
        }
        raise ConfigurationError(f"The Python module {name} is missing here ({error}). {where[name]}.") from error


def build(
    trt: ModuleType,
    onnx: Path,
    profiles: Sequence[Profile],
    instruction_dim: int,
    timing_cache: Path | None = None,
    targets: Sequence[str] = (),
) -> Built:
    """Build an engine.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        onnx: a strongly typed graph.
        profiles: the sizes that it is tuned for.
        instruction_dim: length D of the instruction.
        timing_cache: file of measured kernel times, read if it is there and written after; makes a second build quick.
        targets: TensorRT-RTX only: compute capabilities to build for, e.g. `SM89`; none for all that it knows.

    Raises:
        ServingFailed: with TensorRT's own words, when the graph does not parse or no engine can be built.
    """
    begin = time.monotonic()
    logger = _logger(trt)
    builder = trt.Builder(logger)
    # required in TensorRT 10, a matter of course in 11
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        problems = "; ".join(f"{error.node_name() or 'graph'}: {error.desc()}" for error in errors)
        raise ServingFailed(f"{trt.__name__} does not take {onnx.name}: {problems}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    for profile in profiles:
        shapes = builder.create_optimization_profile()
        for name, (smallest, best, largest) in profile.shapes(instruction_dim).items():
            shapes.set_shape(name, smallest, best, largest)
        if config.add_optimization_profile(shapes) < 0:
            raise ServingFailed(f"{trt.__name__} refuses the profile {profile.model_dump()}: {logger.text()}")
    if targets:
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, target), index)
    cache = _read_cache(config, timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ServingFailed(f"{trt.__name__} cannot build an engine of {onnx.name}: {logger.text()}")
    if cache is not None and timing_cache is not None:
        write_bytes(timing_cache, bytes(cache.serialize()))
    return Built(bytes(plan), time.monotonic() - begin, network.num_layers, trt.__version__)


def _read_cache(config: Any, path: Path | None) -> Any:
    """Attach a timing cache to a build; None without one."""
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _logger(trt: ModuleType) -> Any:
    """A logger that keeps TensorRT's errors for our own message."""

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(message)

        def text(self) -> str:
            return "; ".join(self.errors) or "no reason given"

    return Logger()


class PlanSession:
    """A serialised engine on the GPU, fed from and read into torch's memory.

    Args:
        trt: the module that built it.
        plan: the engine's bytes.

    Raises:
        ServingFailed: when this GPU or this version cannot load it.
    """

    def __init__(self, trt: ModuleType, plan: bytes) -> None:
        self._logger = _logger(trt)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise ServingFailed(f"The engine cannot be loaded here: {self._logger.text()}")
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self._inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self._outputs = [name for name in names if name not in self._inputs]

    def run(self, inputs: "tuple[torch.Tensor, ...]") -> dict[str, NDArray[np.float32]]:
        """Outputs by name for inputs in the order of `Restorer.INPUTS`.

        Raises:
            ServingFailed: when no profile holds their shapes, or the engine fails.
        """
        import torch

        from model.restorer import Restorer

        given = dict(zip(Restorer.INPUTS, inputs, strict=True))
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            tensors = {name: given[name].cuda().contiguous() for name in self._inputs}
            self._choose_profile(tensors, stream.cuda_stream)
            for name, tensor in tensors.items():
                self._context.set_input_shape(name, tuple(tensor.shape))
                self._context.set_tensor_address(name, tensor.data_ptr())
            results = {
                name: torch.empty(tuple(self._context.get_tensor_shape(name)), device="cuda") for name in self._outputs
            }
            for name, tensor in results.items():
                self._context.set_tensor_address(name, tensor.data_ptr())
            done = self._context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        if not done:
            raise ServingFailed(f"The engine failed: {self._logger.text()}")
        return {name: tensor.cpu().numpy() for name, tensor in results.items()}

    def _choose_profile(self, tensors: "dict[str, torch.Tensor]", stream: int) -> None:
        """Take the first profile that holds the image's shape."""
        shape = tuple(tensors["image"].shape)
        for index in range(self._engine.num_optimization_profiles):
            smallest, _, largest = (tuple(s) for s in self._engine.get_tensor_profile_shape("image", index))
            if all(low <= side <= high for low, side, high in zip(smallest, shape, largest, strict=True)):
                self._context.set_optimization_profile_async(index, stream)
                return
        raise ServingFailed(f"No profile of the engine holds an image of shape {list(shape)}.")


def write_bytes(path: Path, content: bytes) -> None:
    """Store an engine or a timing cache."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)
