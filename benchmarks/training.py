"""Training on this machine: what the loader costs, images a second, and the share of the machine's peak.

`python -m benchmarks.training`                                tiny, on the CPU
`python -m benchmarks.training --device cuda --size base`      also bf16 against fp32, and compile on and off

The steps run on made-up volumes; nothing here says anything about quality. The alternative beside them are the same
steps on one batch that is already in memory. What restoring takes of memory is the matter of `benchmarks.memory`.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Steps:
    """What a run of optimiser steps showed.

    Attributes:
        seconds: median time of a step.
        loading: median time of making its batch.
    """

    seconds: float
    loading: float


def volumes(count: int, side: int) -> list[Any]:
    """Volumes of every task, of noise with a little structure, as the loader takes them."""
    from mira.tasks import Task
    from model.data import PairedVolume

    rng = np.random.default_rng(0)
    units = {Task.CT_DENOISING: (40, 60), Task.PET_SYNTHESIS: (2, 1), Task.MRI_SUPER_RESOLUTION: (300, 100)}
    made = []
    for task, (mean, spread) in units.items():
        for _ in range(count):
            reference = rng.normal(mean, spread, (16, side, side)).astype(np.float32)
            made.append(PairedVolume(reference, reference + rng.normal(0, 5), task, 0.5, 1000.0))
    return made


def run_steps(arguments: argparse.Namespace, from_memory: bool, precision: str, compiled: bool) -> Steps:
    """Optimiser steps, each with a new batch or always with the same one.

    Written out rather than run by the trainer, so that both sides do the same work but for the batch.
    """
    import torch

    from model.config import size_config
    from model.data import Batch, PatchBatches
    from model.network import MiraNet
    from model.task import RestorationTask
    from model.training import channels_last

    torch.manual_seed(0)
    device = torch.device(arguments.device)
    network = MiraNet(replace(size_config(arguments.size), error_map=True))  # as the train step has it
    channels_last(network)
    task = RestorationTask(network, 1000, 1e-3, 1e-3, 10, 0.99, 0.1).to(device)
    losses = torch.compile(task.losses) if compiled else task.losses
    optimizer = torch.optim.AdamW(task.restorer.parameters(), lr=1e-3, fused=True)
    batches = PatchBatches(volumes(2, 256), arguments.batch, arguments.patch, seed=0)
    kept = Batch(*(tensor.to(device) for tensor in batches[0]))
    cast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    taken, loading = [], []
    for step in range(arguments.steps + 3):
        begin = time.perf_counter()
        batch = kept if from_memory else Batch(*(tensor.to(device, non_blocking=True) for tensor in batches[step]))
        loaded = time.perf_counter()
        with cast:
            loss = losses(batch).total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.restorer.parameters(), 1.0)
        optimizer.step()
        task.averaged.update_parameters(task.restorer.network)
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begin)
        loading.append(loaded - begin)
    return Steps(statistics.median(taken[3:]), statistics.median(loading[3:]))


def multiplications(size: str, side: int) -> float:
    """Multiply-accumulates of one forward pass of one image of side x side."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from model.config import size_config
    from model.network import MiraNet

    network = MiraNet(size_config(size)).eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.rand(1, 2, side, side), torch.eye(3)[:1])
    return counter.get_total_flops() / 2


def peak_rate(device: str, precision: str) -> float:
    """Floating-point operations a second of a large matrix product: the machine's measured peak."""
    import torch

    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    side = 8192 if device == "cuda" else 2048
    a, b = (torch.rand(side, side, device=device, dtype=kind) for _ in range(2))
    times = []
    for _ in range(6):
        begin = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return 2 * side**3 / min(times)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--size", default="tiny", help="size of MIRA-Net that is trained")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--quick", action="store_true", help="20 steps, within 45 s on two cores")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.steps = 20
    import torch

    torch.set_num_threads(arguments.threads)
    results: dict[str, Any] = {"device": arguments.device, "size": arguments.size}
    cases = [("fp32", False)]
    if arguments.device == "cuda":
        results["gpu"] = torch.cuda.get_device_name()
        cases += [("bf16", False), ("fp32", True), ("bf16", True)]
    for precision, compiled in cases:
        label = precision + (" compiled" if compiled else "")
        if arguments.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        loaded = run_steps(arguments, False, precision, compiled)
        stored = run_steps(arguments, True, precision, compiled)
        rate = 3 * 2 * multiplications(arguments.size, arguments.patch) * arguments.batch / stored.seconds
        figures = {
            "loader_share": loaded.loading / loaded.seconds,
            "step_ratio_to_memory": loaded.seconds / stored.seconds,
            "images_per_s": arguments.batch / loaded.seconds,
            "share_of_matrix_rate": rate / peak_rate(arguments.device, precision),
        }
        if arguments.device == "cuda":
            figures["peak_mb"] = torch.cuda.max_memory_allocated() / 2**20
        results |= figures if label == "fp32" else {f"{key} {label}": value for key, value in figures.items()}
        print(f"{arguments.size}, {label}: " + ", ".join(f"{key} {value:.3g}" for key, value in figures.items()))
    if arguments.json:
        print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
