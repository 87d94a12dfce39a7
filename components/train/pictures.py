"""Sample pictures of a training: input, restored, reference and difference of a validation slice per task."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mira.tasks import TASKS, Modality, Task

if TYPE_CHECKING:
    from model.validation import Sample

DIFFERENCE = {Modality.CT: 100.0, Modality.PET: 1.0, Modality.MR: 0.15}  # HU, SUV, share of the MR scale


def draw_samples(samples: "Sequence[Sample]", restored: Sequence[NDArray[np.float32]], folder: Path) -> list[Path]:
    """Write one PNG per task, of its last sample.

    Args:
        samples: validation slices.
        restored: their restored images [H, W].
        folder: where to write.
    """
    from matplotlib.figure import Figure

    chosen = {sample.task: (sample, image) for sample, image in zip(samples, restored, strict=True)}
    paths = []
    for task, (sample, image) in chosen.items():
        spec = TASKS[task]
        scale = sample.mr_scale if spec.modality is Modality.MR else 1.0
        low, high = (limit * scale for limit in spec.window)
        extent = DIFFERENCE[spec.modality] * scale
        figure = Figure(figsize=(12, 3.4), layout="constrained")
        for axis, (title, panel) in zip(
            figure.subplots(1, 4),
            (
                ("degraded", sample.degraded),
                ("restored", image),
                ("reference", sample.reference),
                ("restored - reference", image - sample.reference),
            ),
            strict=True,
        ):
            if panel is sample.degraded or panel is sample.reference or panel is image:
                shown = axis.imshow(panel, cmap="gray_r" if task is Task.PET_SYNTHESIS else "gray", vmin=low, vmax=high)
            else:
                shown = axis.imshow(panel, cmap="RdBu_r", vmin=-extent, vmax=extent)
            axis.set_title(title, fontsize=10)
            axis.set_axis_off()
            figure.colorbar(shown, ax=axis, shrink=0.7, label=spec.unit.value)
        path = folder / f"{task}.png"
        figure.savefig(path, dpi=90)
        paths.append(path)
    return paths
