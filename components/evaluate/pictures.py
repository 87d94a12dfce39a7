"""Pictures of one slice: degraded, restored, reference, their difference and the error that the network expects."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.evaluate.measure import Measured, Slices
from components.evaluate.results import INPUT, UNIFIED, Picture
from mira.quality.metrics import measure_slices
from mira.tasks import TASKS, Modality, Task

DIFFERENCE = {Modality.CT: 0.25, Modality.PET: 0.15, Modality.MR: 0.2}  # shares of the window's width
PANEL = 2.35  # inches


def draw(slices: Slices, measured: Measured, profile: str, folder: Path) -> Picture:
    """Draw the slice of a pair that shows most, restored by the unified network.

    Args:
        slices: images of the pair.
        measured: the restored images.
        profile: metric profile of the figures in the caption.
        folder: where the PNG goes.

    Returns:
        Name and caption of the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    pair, spec = slices.pair, TASKS[slices.pair.task]
    scale = pair.mr_scale or 1.0 if pair.modality is Modality.MR else 1.0
    low, high = spec.window[0] * scale, spec.window[1] * scale
    at = _most_to_see(slices, low, high)
    reference = slices.reference[at]
    images = {
        "degraded": measured.restored[INPUT][at],
        "restored": measured.restored[UNIFIED][at],
        "reference": reference,
    }
    span = DIFFERENCE[pair.modality] * (high - low)
    rows, columns = crop(reference, low)
    aspect = pair.spacing_mm[1] / pair.spacing_mm[2]
    height = (rows.stop - rows.start) * aspect / (columns.stop - columns.start)
    panels = 4 if measured.predicted_error is None else 5
    figure = Figure(figsize=(panels * PANEL, PANEL * height + 0.32), dpi=110, facecolor="white")
    axes = figure.subplots(1, panels)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1 - 0.3 / (PANEL * height + 0.32), wspace=0.02)
    colours = "gray_r" if pair.modality is Modality.PET else "gray"
    for axis, (title, image) in zip(axes, images.items(), strict=False):
        axis.imshow(image[rows, columns], cmap=colours, vmin=low, vmax=high, aspect=aspect, interpolation="nearest")
        axis.set_title(title, fontsize=9, color="#1b2530", pad=4)
    difference = images["restored"] - reference
    axes[3].imshow(
        difference[rows, columns], cmap="RdBu_r", vmin=-span, vmax=span, aspect=aspect, interpolation="nearest"
    )
    axes[3].set_title("restored − reference", fontsize=9, color="#1b2530", pad=4)
    if measured.predicted_error is not None:
        error = measured.predicted_error[at][rows, columns]
        axes[4].imshow(error, cmap="magma", vmin=0, vmax=span, aspect=aspect, interpolation="nearest")
        axes[4].set_title("expected error (1 SD)", fontsize=9, color="#1b2530", pad=4)
    for axis in axes:
        axis.set_axis_off()
    name = f"{spec.short}-{pair.split}.png"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / name, metadata={"Software": None})
    return Picture(
        file=name,
        task=pair.task,
        split=pair.split,
        site=pair.site,
        level=pair.physics.level,
        caption=_caption(slices, images, at, profile, (low, high), span, panels == 5),
    )


def crop(reference: NDArray[np.float32], low: float) -> tuple[slice, slice]:
    """The part of a slice that shows something, with a margin, so that pictures are not mostly air."""
    inside = reference > low + 0.02 * (float(reference.max()) - low)
    if not inside.any():
        return slice(0, reference.shape[0]), slice(0, reference.shape[1])
    parts = []
    for axis in (1, 0):
        used = np.flatnonzero(inside.mean(axis=axis) > 0.01)
        ends = (used[0], used[-1]) if used.size else (0, reference.shape[1 - axis] - 1)
        margin = 4 + (ends[1] - ends[0]) // 20
        parts.append(slice(max(0, int(ends[0]) - margin), min(reference.shape[1 - axis], int(ends[1]) + margin + 1)))
    return parts[0], parts[1]


def _most_to_see(slices: Slices, low: float, high: float) -> int:
    """The slice with the largest structures, or else with the largest spread inside the window."""
    if slices.structures is not None and slices.structures.any():
        return int(np.count_nonzero(slices.structures.reshape(len(slices.index), -1), axis=1).argmax())
    return int(np.clip(slices.reference, low, high).reshape(len(slices.index), -1).std(axis=1).argmax())


def _caption(
    slices: Slices,
    images: dict[str, NDArray[np.float32]],
    at: int,
    profile: str,
    window: tuple[float, float],
    span: float,
    with_error: bool,
) -> str:
    pair, spec = slices.pair, TASKS[slices.pair.task]
    figures = []
    for name in ("degraded", "restored"):
        one = measure_slices(slices.reference[at : at + 1], images[name][None], pair.modality, profile, pair.mr_scale)
        if len(one.psnr):
            figures.append(f"{name} {one.psnr[0]:.1f} dB and SSIM {one.ssim[0]:.3f}")
    who = "local clinical set" if pair.split == "local" else "test patient"
    return (
        f"{label(pair.task)}, {who} of {pair.site}, {spec.level_name} {pair.physics.level:g}: {', '.join(figures)} "
        f"(this slice, profile {profile}). Window {window[0]:.4g} to {window[1]:.4g} and difference ±{span:.3g}, "
        f"{f'expected error 0 to {span:.3g}, ' if with_error else ''}in {spec.unit}"
    )


def label(task: Task) -> str:
    """A task as a heading."""
    return {
        Task.CT_DENOISING: "CT denoising",
        Task.PET_SYNTHESIS: "PET synthesis",
        Task.MRI_SUPER_RESOLUTION: "MRI super-resolution",
    }[task]
