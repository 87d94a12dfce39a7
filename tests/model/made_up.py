"""Small synthetic pairs in memory for the tests of the network and its training."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mira.storage import hash_file
from mira.tasks import TASKS, Modality, Task
from model.checkpoint import UNIFIED, Checkpoint, save_checkpoint
from model.config import size_config
from model.data import PairedVolume
from model.network import MiraNet


def paired(task: Task, seed: int, shape=(3, 56, 48), severity=0.6) -> PairedVolume:
    """Tissue in air with white noise; enough to train on for a few steps."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[1], : shape[2]]
    inside = np.hypot(rows - shape[1] / 2, columns - shape[2] / 2) < 0.45 * shape[2]
    stripes = np.sin(rows / 4 + seed) > 0
    low, tissue, bright, noise = {
        Modality.CT: (-1000, 20, 120, 30),
        Modality.PET: (0, 1, 3, 0.3),
        Modality.MR: (0, 200, 400, 20),
    }[TASKS[task].modality]
    reference = np.where(inside, np.where(stripes, bright, tissue), low) + np.zeros(shape)
    degraded = reference + noise * severity / 0.6 * rng.standard_normal(shape)
    if TASKS[task].modality is not Modality.CT:
        degraded = np.maximum(degraded, 0)
    scale = 450.0 if TASKS[task].modality is Modality.MR else 1.0
    name = f"{task}-{seed}"
    return PairedVolume(reference.astype(np.float32), degraded.astype(np.float32), task, severity, scale, name, name)


def all_tasks(count: int = 2) -> list[PairedVolume]:
    """Pairs of every task at two severities."""
    return [
        paired(task, 10 * number + level, severity=severity)
        for task in Task
        for number in range(count)
        for level, severity in enumerate((0.3, 0.6))
    ]


CARD = """---
name: made_up_{size}
version: "2"
size: {size}
license: none
weights_sha256: {sha256}
datasets:
  - Phantoms (made up)
---
# Made up
"""


def release(folder: Path, size: str = "tiny", seed: int = 0, network: str = UNIFIED, error_map: bool = True) -> Path:
    """Released weights as they would lie in the tree, of a network that changes its input at random."""
    shape = replace(size_config(size), error_map=error_map)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = MiraNet(shape)
        torch.nn.init.normal_(net.head.weight, std=0.02)
    folder.mkdir(parents=True, exist_ok=True)
    tasks = tuple(Task) if network == UNIFIED else (Task(network),)
    save_checkpoint(folder, net, Checkpoint(network, size, tasks, shape, "0.1.0", "fedcba9876543210"))
    (folder / "MODEL_CARD.md").write_text(CARD.format(size=size, sha256=hash_file(folder / "model.safetensors")))
    return folder
