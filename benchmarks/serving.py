"""Serving on a CPU: Triton over gRPC beside the same engine in a process of its own, and the other engines beside both.

`python -m benchmarks.serving [--size tiny] [--quick] [--json]`. Requests through the server and runs in process take
turns, so that a change of the machine's speed meets both. The bars: one 512 x 512 request takes at most 1.15 times as
long as in process, plus the configured queue delay; a series of 200 slices through the client is restored at 0.9 of the
speed of the engine alone, its probes included. Besides seconds it prints processor seconds, which a busy machine
changes less. The peak is that of oneDNN's 3 x 3 convolution of 256 channels, through torch.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving_engine import INSTRUCTION, inputs

ROOT = Path(__file__).resolve().parents[1]
SERVING = ROOT / ".venv-serve" / "bin" / "python"
SIDE, BATCH, SERIES = 512, 8, 200
CONCURRENCY = (1, 2, 4, 8)
BARS = {"grpc_over_inprocess_p50": 1.15, "series_throughput_ratio": 0.9}


class Worker:
    """An engine in a process of its own.

    Args:
        engine: openvino, onnxruntime or torch.
        network: ONNX file, or size for torch.
        precision: f32, bf16 or int8.
        threads: threads of the engine.
    """

    def __init__(self, engine: str, network: str, precision: str, threads: int) -> None:
        python = sys.executable if engine == "torch" else str(SERVING)
        hint = "f32" if precision == "int8" else precision  # what is not quantised stays f32
        command = [python, "-m", "benchmarks.serving_engine", engine, network, hint, str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def run(self, slices: int, side: int, repeats: int = 1) -> dict[str, Any]:
        """Seconds of each run, processor seconds of all, and the process's largest memory."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{slices} {side} {repeats}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("The engine ended; its error is above.")
        return dict(json.loads(line))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(20)


@contextmanager
def served(root: Path, network: Path, precision: str, threads: int) -> Iterator[tuple[str, int, float]]:
    """Serve a network by the project's own code; yields HOST:PORT, the server's process and its queue delay in s."""
    import shutil

    from components.promote import config_files, server
    from components.promote.paths import ServingPaths
    from mira.tasks import Modality

    paths = ServingPaths(workspace=root / "ws", repository=root / "models")
    folder = paths.models / "mira_net"
    (folder / "1").mkdir(parents=True)
    parameters = {"engine": "openvino", "precision": "f32" if precision == "int8" else precision}
    config_files.render(
        paths.templates,
        folder,
        name="mira_net",
        version=1,
        instruction_size=INSTRUCTION,
        modalities=list(Modality),
        parameters=parameters | {"threads": str(threads)},
    )
    shutil.copyfile(network, folder / "1" / "model.onnx")
    shutil.copyfile(paths.templates / "model.py", folder / "1" / "model.py")
    delay = config_files.parse(folder / config_files.CPU_CONFIG).dynamic_batching.max_queue_delay_microseconds
    try:
        state = server.start(paths, ["mira_net"], threads=threads)
        yield state.url, state.pid, delay / 1e6
    finally:
        server.stop(paths, patience_s=5)


def usage(pid: int) -> tuple[float, float]:
    """Processor seconds and memory in MB of a server and its stubs."""
    import psutil

    from components.promote.processes import session_members

    members = [psutil.Process(member) for member in session_members(pid)]
    spent = sum(sum(one.cpu_times()[:2]) for one in members)
    return spent, sum(one.memory_info().rss for one in members) / 2**20


def latency(url: str, worker: Worker, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of single requests through gRPC and in process, by turns."""
    from mira.client.engines import Batch, TritonEngine

    engine = TritonEngine(url)
    batch = Batch(inputs(1, SIDE)["image"], 0, 1.0)
    through, alone = [], []
    for index in range(rounds + 3):
        begin = time.perf_counter()
        engine.infer(batch)
        taken = time.perf_counter() - begin
        own = worker.run(1, SIDE)["seconds"][0]
        if index >= 3:
            through.append(taken)
            alone.append(own)
    engine.close()
    return through, alone


def series(url: str, pid: int, worker: Worker, side: int, rounds: int) -> dict[str, float]:
    """Slices a second of a series through the client and of the engine alone, by turns, and processor seconds a slice.

    The engine alone runs batches of eight, or single slices where it is faster with these.
    """
    from mira.client import RestorationClient

    volume = np.repeat(inputs(BATCH, side)["image"][:, 0], SERIES // BATCH, axis=0)
    single = statistics.median(worker.run(1, side, 4)["seconds"])
    eight = statistics.median(worker.run(BATCH, side, 2)["seconds"]) / BATCH
    step = BATCH if eight < single else 1
    through, alone, spent, own_spent = [], [], [], []
    with RestorationClient(url) as client:
        for _ in range(rounds):
            before, used = usage(pid)[0], time.process_time()
            begin = time.perf_counter()
            client.restore_slices(volume, "CT")
            through.append(time.perf_counter() - begin)
            spent.append((usage(pid)[0] - before + time.process_time() - used) / SERIES)
            ran = worker.run(step, side, SERIES // step)
            alone.append(sum(ran["seconds"]))
            own_spent.append(ran["processor_s"] / SERIES)
    return {
        "through": SERIES / min(through),
        "alone": SERIES / min(alone),
        "processor_ratio": min(own_spent) / min(spent),
        "best_batch": step,
    }


def load(url: str, seconds: float) -> dict[str, dict[str, float]]:
    """p50, p95 and p99 in ms and requests a second of single slices at each concurrency."""
    from mira.client.engines import Batch, TritonEngine

    table = {}
    for count in CONCURRENCY:
        taken: list[float] = []
        end = time.perf_counter() + seconds

        def ask(taken: list[float] = taken, end: float = end) -> None:
            engine, batch = TritonEngine(url), Batch(inputs(1, SIDE)["image"], 0, 1.0)
            while time.perf_counter() < end:
                begin = time.perf_counter()
                engine.infer(batch)
                taken.append(time.perf_counter() - begin)
            engine.close()

        threads = [threading.Thread(target=ask) for _ in range(count)]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rate = len(taken) / (time.perf_counter() - begin)
        p50, p95, p99 = np.percentile(taken, (50, 95, 99)) * 1000
        table[str(count)] = {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "per_s": rate, "requests": len(taken)}
    return table


def convolution_peak(precision: str, threads: int) -> float:
    """Floating-point operations a second of oneDNN's 3 x 3 convolution of 256 channels, the best of several runs."""
    import torch

    torch.set_num_threads(threads)
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    convolution = torch.nn.Conv2d(256, 256, 3, padding=1, bias=False).to(dtype=kind, memory_format=torch.channels_last)
    image = torch.rand(1, 256, 128, 128).to(dtype=kind, memory_format=torch.channels_last)
    times = []
    with torch.inference_mode():
        for _ in range(8):
            begin = time.perf_counter()
            convolution(image)
            times.append(time.perf_counter() - begin)
    return 2 * 256 * 256 * 9 * 128 * 128 / min(times)


def int8_file(onnx: Path) -> Path | str:
    """The int8 graph of a network, made as the export step makes it, or why there is none."""
    import torch

    from components.export.quantise import quantise
    from mira.errors import MiraError

    feeds = [tuple(torch.from_numpy(array) for array in inputs(1, 128).values()) for _ in range(4)]
    try:
        return quantise(onnx, onnx.with_name("int8.onnx"), feeds)
    except MiraError as error:
        return str(error)


def main() -> int:
    """Measure and print; exit code 1 when a bar is missed and --strict is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="tiny", help="size of MIRA-Net; its weights are random")
    parser.add_argument("--threads", type=int, default=min(8, len(os.sched_getaffinity(0))))
    parser.add_argument("--precisions", nargs="+", default=["f32", "bf16", "int8"], metavar="P")
    parser.add_argument("--quick", action="store_true", help="f32 alone, a series of 128 x 128, no load table")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--strict", action="store_true", help="exit code 1 when a bar is missed")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.precisions = ["f32"]
    if not SERVING.exists():
        raise SystemExit("The serving environment .venv-serve is missing; run the project's set-up first.")
    results: dict[str, Any] = {"size": arguments.size, "threads": arguments.threads, "load_average": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments, Path(folder), results)
    missed = [key for key, value in results.items() if not within(key, value)]
    print(f"bars missed: {', '.join(missed)}" if missed else "bars met")
    if arguments.json:
        print(json.dumps(results))
    return 1 if missed and arguments.strict else 0


def within(key: str, value: object) -> bool:
    """Whether a figure meets its bar; those without one do."""
    name = key.split(" ")[0]
    if name not in BARS or not isinstance(value, float):
        return True
    return value <= BARS[name] if name == "grpc_over_inprocess_p50" else value >= BARS[name]


def measure(arguments: argparse.Namespace, root: Path, results: dict[str, Any]) -> None:
    """Fill `results`, printing row by row; the figures of OpenVINO f32 stand under the plain keys as well."""
    from benchmarks.training import multiplications
    from model.export import export_onnx, random_restorer

    onnx = export_onnx(random_restorer(arguments.size), root / "model.onnx")
    operations = 2 * multiplications(arguments.size, SIDE)
    peaks = {kind: convolution_peak(kind, arguments.threads) for kind in ("f32", "bf16")}
    results["conv_peak_gflops"] = {kind: round(peak / 1e9) for kind, peak in peaks.items()}
    print(f"{arguments.size}: {operations / 1e9:.1f} GFLOP a slice of {SIDE} x {SIDE}, {arguments.threads} threads")
    print(f"convolution peak: {peaks['f32'] / 1e9:.0f} GFLOP/s f32, {peaks['bf16'] / 1e9:.0f} bf16; {busy()}")
    results["avx512_bf16"] = has_bf16()
    if not has_bf16():
        del peaks["bf16"]
        print("this processor has no bfloat16: OpenVINO computes its bf16 rows in f32, torch emulates it")
    for precision in arguments.precisions:
        network: Path | str = int8_file(onnx) if precision == "int8" else onnx
        if isinstance(network, str):
            print(f"openvino int8: {network}")
            results["openvino int8"] = network
            continue
        worker = Worker("openvino", str(network), precision, arguments.threads)
        with served(root / precision, network, precision, arguments.threads) as (url, pid, delay):
            through, alone = latency(url, worker, 7 if arguments.quick else 40)
            p50, own = statistics.median(through), statistics.median(alone)
            rss, own_rss = usage(pid)[1], worker.run(1, SIDE)["rss_mb"]
            whole = series(url, pid, worker, *((128, 3) if arguments.quick else (SIDE, 2)))
            figures: dict[str, Any] = {
                "grpc_over_inprocess_p50": (p50 - delay) / own,
                "series_throughput_ratio": whole["through"] / whole["alone"],
                "series_processor_ratio": whole["processor_ratio"],
                "share_of_conv_peak": operations / own / peaks[precision] if precision in peaks else None,
                "grpc_p50_ms": 1000 * p50,
                "inprocess_p50_ms": 1000 * own,
                "series_slices_per_s": whole["through"],
                "inprocess_slices_per_s": whole["alone"],
                "inprocess_batch": whole["best_batch"],
                "server_rss_mb": rss,
                "server_rss_mb_after_series": usage(pid)[1],
                "inprocess_rss_mb": own_rss,
            }
            report(f"openvino {precision}", figures, results)
            if precision == "f32":
                results |= {key: value for key, value in figures.items() if value is not None}
            if not arguments.quick:
                table = load(url, 6.0)
                results[f"load openvino {precision}"] = table
                for count, row in table.items():
                    print(f"  {count} at a time: " + ", ".join(f"{key} {value:.1f}" for key, value in row.items()))
        worker.close()
    beside(arguments, onnx, operations, peaks, results)


def beside(
    arguments: argparse.Namespace, onnx: Path, operations: float, peaks: dict[str, float], results: dict[str, Any]
) -> None:
    """The other engines in process: torch eager and ONNX Runtime."""
    rows = [("torch", "f32"), ("onnxruntime", "f32")]
    if not arguments.quick:
        rows += [("torch", "bf16"), ("onnxruntime", "int8")]
    for engine, precision in rows:
        file = onnx.with_name("int8.onnx") if precision == "int8" else onnx
        if not file.is_file():
            print(f"{engine} int8: no int8 file")
            continue
        worker = Worker(engine, arguments.size if engine == "torch" else str(file), precision, arguments.threads)
        worker.run(1, SIDE, 2)
        ran = worker.run(1, SIDE, 4 if arguments.quick else 20)
        own = statistics.median(ran["seconds"])
        share = operations / own / peaks[precision] if precision in peaks else None
        figures = {"inprocess_p50_ms": 1000 * own, "share_of_conv_peak": share, "inprocess_rss_mb": ran["rss_mb"]}
        report(f"{engine} {precision}", figures, results)
        worker.close()
    note = "torch int8: eager torch has no int8 convolutions for this graph; onnxruntime bf16: no bf16 on CPUs"
    print(note)


def report(label: str, figures: dict[str, Any], results: dict[str, Any]) -> None:
    """Print one row, and keep its figures under keys that end in its label."""
    said = (f"{key} {value:.3g}" for key, value in figures.items() if value is not None)
    print(f"{label}: " + ", ".join(said), flush=True)
    results |= {f"{key} {label}": value for key, value in figures.items()}


def has_bf16() -> bool:
    """Whether the processor multiplies in bfloat16."""
    return any(flag in Path("/proc/cpuinfo").read_text(encoding="ascii") for flag in ("avx512_bf16", "amx_bf16"))


def busy() -> str:
    """Load of the machine in words: figures of a busy one are not to be kept."""
    with contextlib.suppress(OSError):
        return f"load average {os.getloadavg()[0]:.1f}"
    return "load not known"


if __name__ == "__main__":
    sys.exit(main())
