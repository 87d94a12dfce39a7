"""MIRA-Net on a GPU: torch eager, compiled, CUDA graphs; f32, fp16 and bf16; ONNX Runtime and TensorRT where present.

`python -m benchmarks.gpu_serving [--size small] [--json]` on a GPU node; it needs torch, numpy and the packages `model`
and `mira` of this repository, and onnxscript for the rows of ONNX Runtime and TensorRT. Printed are images a second at
256 and 512 pixels and batches of 1 to 64, and which share that is of the rate of the card's own large matrix product in
the same precision, measured in the same run. Times are those of the card, inputs already on it; every way's answer is
compared with eager f32 first. `--device cpu --quick` tries the whole of it on a processor, as far as its libraries go.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from model.config import size_config
from model.export import export_onnx, random_restorer
from model.network import MiraNet
from model.restorer import Restorer

KINDS = {"f32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TOLERANCE = {"f32": 2e-3, "fp16": 2e-2, "bf16": 1e-1}  # of the range of values: tells wrong from imprecise
PATIENCE = 0.6  # seconds of measurement for each figure
Inputs = tuple[torch.Tensor, ...]
Way = Callable[[Inputs], Any]


def inputs(batch: int, side: int, device: str, instruction: int) -> Inputs:
    """CT-like images whose pixels all differ, in the order of `Restorer.INPUTS`."""
    generator = torch.Generator().manual_seed(batch * side)
    image = torch.randn(batch, 1, side, side, generator=generator) * 200
    modality = torch.zeros(batch, 1, dtype=torch.int64)
    rest = torch.ones(batch, 1), torch.zeros(batch, instruction), torch.zeros(batch, 1)
    return tuple(tensor.to(device) for tensor in (image, modality, *rest))


def synchronise(device: str) -> None:
    """Wait until the card has done all that it was asked for."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], Any], device: str, quick: bool) -> float:
    """Median time of one run: at least three, then until the time is over."""
    for _ in range(2):
        run()
    synchronise(device)
    taken: list[float] = []
    end = time.perf_counter() + (0.1 if quick else PATIENCE)
    while len(taken) < 3 or (time.perf_counter() < end and len(taken) < 100):
        begin = time.perf_counter()
        run()
        synchronise(device)
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def matrix_rate(device: str, precision: str, quick: bool) -> float:
    """Floating-point operations a second of a large matrix product; f32 as the card does it for convolutions (TF32)."""
    side = 8192 if device == "cuda" else 512
    a, b = (torch.rand(side, side, device=device).to(KINDS[precision]) for _ in range(2))
    return 2 * side**3 / seconds(lambda: a @ b, device, quick)


def operations(size: str, side: int) -> float:
    """Floating-point operations of one image of side x side."""
    from torch.utils.flop_counter import FlopCounterMode

    network = MiraNet(size_config(size)).eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.rand(1, 2, side, side), torch.eye(3)[:1])
    return float(counter.get_total_flops())


def eager(size: str, device: str, precision: str) -> Way:
    """Torch as it is; fp16 inside the network as in the served graph, bf16 by autocast."""
    restorer = random_restorer(size)
    restorer = Restorer(restorer.network, half=precision == "fp16").eval().to(device)
    restorer.network.to(memory_format=torch.channels_last)

    def run(given: Inputs) -> Any:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            return restorer(*given)

    return run


def compiled(size: str, device: str, precision: str) -> Way:
    """Torch compiled; one graph for each shape."""
    return torch.compile(eager(size, device, precision), dynamic=False)


def graphed(size: str, device: str, precision: str) -> Way:
    """Torch eager captured as a CUDA graph, one for each shape; answers lie in the graph's own memory."""
    plain = eager(size, device, precision)
    graphs: dict[torch.Size, tuple[Any, Inputs, Any]] = {}

    def run(given: Inputs) -> Any:
        shape = given[0].shape
        if shape not in graphs:
            held = tuple(tensor.clone() for tensor in given)
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(3):
                    plain(held)
            torch.cuda.current_stream().wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                answer = plain(held)
            graphs[shape] = graph, held, answer
        graph, held, answer = graphs[shape]
        for target, tensor in zip(held, given, strict=True):
            target.copy_(tensor)
        graph.replay()
        return answer

    return run


def onnxruntime(size: str, device: str, precision: str, provider: str) -> Way:
    """ONNX Runtime with its inputs and outputs bound on the device; the precision is in the graph."""
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        raise ModuleNotFoundError(f"this onnxruntime has no {provider}")
    folder = tempfile.mkdtemp()
    restorer = random_restorer(size)
    onnx = export_onnx(Restorer(restorer.network, half=precision == "fp16"), Path(folder) / "model.onnx")
    session = onnxruntime.InferenceSession(str(onnx), providers=[provider])
    names = [output.name for output in session.get_outputs()]

    def run(given: Inputs) -> Any:
        binding = session.io_binding()
        for name, tensor in zip(Restorer.INPUTS, given, strict=True):
            kind = "int64" if tensor.dtype == torch.int64 else "float32"
            binding.bind_input(name, device, 0, kind, tuple(tensor.shape), tensor.data_ptr())
        for name in names:
            binding.bind_output(name, device)
        session.run_with_iobinding(binding)
        return binding.get_outputs()  # they stay on the device

    return run


def tensorrt(size: str, device: str, precision: str) -> Way:
    """TensorRT by its own API: strongly typed graph, one profile from 1 x 256 to 64 x 512."""
    import tensorrt as trt

    folder = tempfile.mkdtemp()
    restorer = random_restorer(size)
    onnx = export_onnx(Restorer(restorer.network, half=precision == "fp16"), Path(folder) / "model.onnx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx.read_bytes()):
        raise RuntimeError(str(parser.get_error(0)))
    settings, profile = builder.create_builder_config(), builder.create_optimization_profile()
    dimension = restorer.network.instruction_dim
    for name, last in zip(Restorer.INPUTS, (None, 1, 1, dimension, 1), strict=True):
        shapes = [(b, 1, s, s) if last is None else (b, last) for b, s in ((1, 256), (8, 512), (64, 512))]
        profile.set_shape(name, *shapes)
    settings.add_optimization_profile(profile)
    engine = trt.Runtime(logger).deserialize_cuda_engine(builder.build_serialized_network(network, settings))
    context = engine.create_execution_context()
    outputs = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)][len(Restorer.INPUTS) :]

    def run(given: Inputs) -> Any:
        for name, tensor in zip(Restorer.INPUTS, given, strict=True):
            context.set_input_shape(name, tuple(tensor.shape))
            context.set_tensor_address(name, tensor.data_ptr())
        answers = [torch.empty(tuple(context.get_tensor_shape(name)), device=device) for name in outputs]
        for name, tensor in zip(outputs, answers, strict=True):
            context.set_tensor_address(name, tensor.data_ptr())
        context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
        return answers

    return run


def ways(size: str, device: str, precision: str, quick: bool) -> Iterator[tuple[str, Callable[[], Way]]]:
    """Each way to run the network, by name, made when it is called."""
    yield "torch eager", lambda: eager(size, device, precision)
    if not quick:
        yield "torch.compile", lambda: compiled(size, device, precision)
    if device == "cuda":
        yield "CUDA graph", lambda: graphed(size, device, precision)
    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    if precision != "bf16":  # the exported graphs are f32 and fp16
        yield "ONNX Runtime", lambda: onnxruntime(size, device, precision, provider)
        if device == "cuda":
            yield "TensorRT", lambda: tensorrt(size, device, precision)


def compare(way: Way, reference: Way, device: str, side: int, instruction: int) -> float:
    """Largest difference from eager f32, as a share of the largest value."""
    given = inputs(2, side, device, instruction)
    found = way(given)[0]
    image = found if isinstance(found, torch.Tensor) else torch.from_numpy(found.numpy())
    expected = reference(given)[0].float().cpu()
    return float((image.float().cpu() - expected).abs().max() / expected.abs().max())


def main() -> int:
    """Measure and print; exit code 1 when a way gives wrong answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--size", default="small", help="size of MIRA-Net; its weights are random")
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--quick", action="store_true", help="size tiny, batches of 1 and 2, nothing compiled")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.size, arguments.batches = "tiny", [1, 2]
        arguments.sides = [256] if arguments.device == "cuda" else [64]
    if arguments.device == "cuda":
        if not torch.cuda.is_available():
            raise SystemExit("There is no GPU here. On a GPU node run this again; --device cpu --quick tries the code.")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    results: dict[str, Any] = {"device": arguments.device, "size": arguments.size, "torch": torch.__version__}
    if arguments.device == "cuda":
        results["gpu"] = torch.cuda.get_device_name()
    wrong = measure(arguments, results)
    if arguments.json:
        print(json.dumps(results))
    return 1 if wrong else 0


def measure(arguments: argparse.Namespace, results: dict[str, Any]) -> list[str]:
    """Fill `results`, printing row by row; returns the ways whose answers are wrong."""
    device, size, wrong = arguments.device, arguments.size, []
    instruction = size_config(size).instruction_dim
    reference = eager(size, device, "f32")
    work = {side: operations(size, side) for side in arguments.sides}
    for precision in KINDS:
        peak = matrix_rate(device, precision, arguments.quick)
        results[f"matrix_tflops {precision}"] = peak / 1e12
        print(f"matrix product {precision}: {peak / 1e12:.2f} TFLOP/s")
        for name, make in ways(size, device, precision, arguments.quick):
            label = f"{name} {precision}"
            try:
                way = make()
                difference = compare(way, reference, device, min(arguments.sides), instruction)
            except Exception as error:  # the engines' errors have no common base, and the other rows are still wanted
                results[label] = f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
                print(f"{label}: not here ({results[label]})")
                continue
            if not difference <= TOLERANCE[precision]:
                wrong.append(label)
                results[label] = f"wrong by {difference:.2g} of the range"
                print(f"{label}: WRONG, {difference:.2g} of the range off")
                continue
            for side in arguments.sides:
                results[f"{label} {side}"] = row(label, way, side, arguments, work[side], peak)
            del way
            if device == "cuda":
                torch.cuda.empty_cache()
    return wrong


def row(label: str, way: Way, side: int, arguments: argparse.Namespace, work: float, peak: float) -> dict[str, Any]:
    """Images a second and share of the matrix rate for each batch; what does not fit into memory is left out."""
    found: dict[str, Any] = {}
    instruction = size_config(arguments.size).instruction_dim
    for batch in arguments.batches:
        with contextlib.suppress(torch.cuda.OutOfMemoryError):
            given = inputs(batch, side, arguments.device, instruction)
            rate = batch / seconds(lambda given=given: way(given), arguments.device, arguments.quick)  # type: ignore[misc]
            found[str(batch)] = {"images_per_s": rate, "share_of_matrix_rate": rate * work / peak}
    cells = (
        f"{batch}: {cell['images_per_s']:.0f}/s {cell['share_of_matrix_rate']:.0%}" for batch, cell in found.items()
    )
    print(f"{label}, {side} x {side}: " + ", ".join(cells), flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
