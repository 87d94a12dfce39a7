"""Small synthetic pairs in memory for the tests of the network and its training."""

import numpy as np

from mira.tasks import TASKS, Modality, Task
from model.data import PairedVolume


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
    return PairedVolume(
        reference.astype(np.float32), degraded.astype(np.float32), task, severity, scale, f"{task}-{seed}"
    )


def all_tasks(count: int = 2) -> list[PairedVolume]:
    """Pairs of every task at two severities."""
    return [
        paired(task, 10 * number + level, severity=severity)
        for task in Task
        for number in range(count)
        for level, severity in enumerate((0.3, 0.6))
    ]
