"""One engine in a process of its own, for `benchmarks.serving`: it reads what to run from its input, line by line.

`python -m benchmarks.serving_engine ENGINE NETWORK PRECISION THREADS`, with ENGINE `openvino` or `onnxruntime` (NETWORK
is an ONNX file; in the serving environment, whose numpy is older than 2) or `torch` (NETWORK is a size of MIRA-Net).
Each line `SLICES SIDE REPEATS` is answered by a line of JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
INSTRUCTION = 32


def inputs(slices: int, side: int) -> dict[str, np.ndarray]:
    """A CT-like request whose pixels all differ."""
    image = np.random.default_rng(0).normal(0, 200, (slices, 1, side, side)).astype(np.float32)
    return {
        "image": image,
        "modality": np.zeros((slices, 1), np.int64),
        "mr_scale": np.ones((slices, 1), np.float32),
        "instruction": np.zeros((slices, INSTRUCTION), np.float32),
        "instruction_weight": np.zeros((slices, 1), np.float32),
    }


def openvino(network: str, precision: str, threads: int) -> Callable[[dict[str, np.ndarray]], object]:
    """OpenVINO with the options of the served model; its answers are copied out, as a caller needs them."""
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(core.read_model(network), "CPU", options).create_infer_request()
    return lambda arrays: request.infer(arrays, share_inputs=True, share_outputs=False)


def onnxruntime(network: str, precision: str, threads: int) -> Callable[[dict[str, np.ndarray]], object]:
    """ONNX Runtime; the precision is that of the file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    return lambda arrays: session.run(None, arrays)


def torch(network: str, precision: str, threads: int) -> Callable[[dict[str, np.ndarray]], object]:
    """Torch eager with the memory format that is the fastest on CPUs."""
    import torch

    from model.export import random_restorer
    from model.restorer import Restorer
    from model.training import channels_last

    torch.set_num_threads(threads)
    restorer = random_restorer(network)
    channels_last(restorer.network)

    def run(arrays: dict[str, np.ndarray]) -> object:
        tensors = [torch.from_numpy(arrays[name]) for name in Restorer.INPUTS]
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return restorer(*tensors)

    return run


def largest_memory() -> float:
    """Largest memory of this process in MB; that of getrusage counts its parent's as well."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Answer each line until the input ends."""
    engine, network, precision, threads = sys.argv[1:]
    run = {"openvino": openvino, "onnxruntime": onnxruntime, "torch": torch}[engine](network, precision, int(threads))
    known: dict[tuple[int, int], dict[str, np.ndarray]] = {}
    for line in sys.stdin:
        slices, side, repeats = (int(part) for part in line.split())
        arrays = known.setdefault((slices, side), inputs(slices, side))
        seconds, used = [], time.process_time()
        for _ in range(repeats):
            begin = time.perf_counter()
            run(arrays)
            seconds.append(time.perf_counter() - begin)
        facts = {"seconds": seconds, "processor_s": time.process_time() - used, "rss_mb": largest_memory()}
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
