"""Sample slices of the local set as the unified network restores them, for people to look at."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mira.pairs import PairRecord, read_index
from mira.quality.clinical import foreground
from mira.tasks import Modality, Task

if TYPE_CHECKING:
    from model.restorer import Restorer

# Lowest and highest value drawn, and the largest absolute difference, in HU, SUV and multiples of the MR scale.
WINDOWS = {
    Task.CT_DENOISING: (-160.0, 240.0, 80.0),
    Task.PET_SYNTHESIS: (0.0, 6.0, 2.0),
    Task.MRI_SUPER_RESOLUTION: (0.0, 1.0, 0.3),
}


def chosen(pairs: Path) -> list[PairRecord]:
    """For each task and local site one pair, of its third level by strength: hard, and not the hardest."""
    found = []
    local = read_index(pairs).select("local")
    for task, site in sorted(
        {(pair.task, pair.site) for pair in local}, key=lambda key: (list(Task).index(key[0]), key[1])
    ):
        own = [pair for pair in local if (pair.task, pair.site) == (task, site)]
        first = [pair for pair in own if pair.case_id == own[0].case_id]
        first.sort(key=lambda pair: pair.physics.severity)
        found.append(first[min(2, len(first) - 1)])
    return found


def window(reference: NDArray[np.float32], modality: Modality) -> tuple[slice, slice]:
    """Rows and columns of the middle half of a slice [H, W] around its foreground: larger in print, and no face."""
    shown = foreground(reference, modality)
    middle = np.argwhere(shown if shown.any() else np.ones_like(shown)).mean(axis=0)
    places = []
    for centre, size in zip(middle, reference.shape, strict=True):
        side = min(size, max(32, size // 2))
        start = int(np.clip(round(centre) - side // 2, 0, size - side))
        places.append(slice(start, start + side))
    rows, columns = places
    return rows, columns


def draw_samples(pairs: Path, restorer: "Restorer", path: Path) -> None:
    """Write a picture of degraded, restored and reference slices and two differences, a row for each task and site.

    Args:
        pairs: pair store with local sites.
        restorer: the unified network; the slices of a volume share one instruction, as when a series is served.
        path: JPEG or PNG to write.
    """
    from matplotlib.figure import Figure

    from components.evaluate.measure import load_slices
    from model.inference import restore_volume, shared_instruction

    records = chosen(pairs)
    columns = ("degraded", "restored", "reference", "degraded − reference", "restored − reference")
    figure = Figure(figsize=(13, 2.75 * len(records)))
    axes = figure.subplots(len(records), len(columns), squeeze=False)
    for row, record in zip(axes, records, strict=True):
        slices = load_slices(pairs, record, 1, 1)
        known = record.modality, slices.scale
        instruction = shared_instruction(restorer, slices.probes, *known)
        restored = restore_volume(restorer, slices.volume, *known, instruction=instruction, places=slices.index).voxels
        low, high, error = np.multiply(WINDOWS[record.task], record.mr_scale or 1.0)
        part = (0, *window(slices.reference[0], record.modality))
        before, after, wanted = (image[part] for image in (slices.degraded, restored, slices.reference))
        gray = "gray_r" if record.task is Task.PET_SYNTHESIS else "gray"
        for axis, image in zip(row, (before, after, wanted), strict=False):
            axis.imshow(image, cmap=gray, vmin=low, vmax=high)
        for axis, image in zip(row[3:], (before - wanted, after - wanted), strict=True):
            axis.imshow(image, cmap="RdBu_r", vmin=-error, vmax=error)
        row[0].set_ylabel(f"{record.task}\n{record.site}, {record.physics.level:g}", fontsize=8)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=10)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=85)
