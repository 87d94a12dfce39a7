"""The picture of a restored series: input, restored, routine scan, differences and the expected error."""

from pathlib import Path

import numpy as np

from mira.storage import atomic_file
from mira.tasks import TaskSpec
from mira.volume import Volume

EXPECTED_ERROR = "expected error (1 SD)"
DIFFERENCE_SHARE = 0.25  # the difference is shown within this share of the display window


def draw(path: Path, volumes: dict[str, Volume], spec: TaskSpec, mr_scale: float | None) -> None:
    """Write a PNG with the middle slice of each volume.

    Args:
        path: the file.
        volumes: `input` and `restored`, and `routine scan` and the expected error where there is one.
        spec: the task, whose window is used.
        mr_scale: robust scale of an MR volume, in whose multiples its window is given.
    """
    from matplotlib.figure import Figure

    scale = mr_scale or 1.0
    low, high = (value * scale for value in spec.window)
    middle = len(volumes["input"].voxels) // 2
    slices = {name: volume.voxels[middle] for name, volume in volumes.items() if name != EXPECTED_ERROR}
    reference = slices.get("routine scan", slices["input"])
    against = "routine scan" if "routine scan" in slices else "input"
    limit = DIFFERENCE_SHARE * (high - low)
    _, row_mm, column_mm = volumes["input"].spacing
    panels = [(name, image, "gray_r" if spec.short == "pet" else "gray", low, high) for name, image in slices.items()]
    differences = [name for name in ("input", "restored") if name != against]
    panels += [(f"{name} - {against}", slices[name] - reference, "RdBu_r", -limit, limit) for name in differences]
    if EXPECTED_ERROR in volumes:
        panels.append((EXPECTED_ERROR, volumes[EXPECTED_ERROR].voxels[middle], "magma", 0.0, limit))
    figure = Figure(figsize=(3.2 * len(panels), 3.6), dpi=110, layout="constrained")
    for axes, (title, image, colours, bottom, top) in zip(
        np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True
    ):
        shown = axes.imshow(
            image, cmap=colours, vmin=bottom, vmax=top, aspect=row_mm / column_mm, interpolation="nearest"
        )
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
        bar = figure.colorbar(shown, ax=axes, orientation="horizontal", shrink=0.8, pad=0.02)
        bar.ax.tick_params(labelsize=7)
        bar.set_label(str(spec.unit), fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")
