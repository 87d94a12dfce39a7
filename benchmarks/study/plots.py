"""Pictures of the study: quality against cost, unified against single-task, and the ablations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.study.findings import INPUT, figures
from benchmarks.study.measuring import CLASSICAL, SHUFFLED, Cost
from benchmarks.study.training import ALL
from mira.tasks import Task

if TYPE_CHECKING:
    import pandas as pd


def quality_against_cost(
    tables: "Mapping[int, pd.DataFrame]", costs: Mapping[str, Cost], profile: str, path: Path
) -> None:
    """PSNR over test and local slices against multiplications per pixel; one line per network along the budgets.

    Args:
        tables: slices by optimiser steps per task.
        costs: cost by network.
        profile: metric profile.
        path: PNG to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    tasks = [task.value for task in Task]
    plot, axes = pyplot.subplots(1, len(tasks), figsize=(13, 4.8))
    for axis, task in zip(axes, tasks, strict=True):
        names = sorted({n for t in tables.values() for n in t[t.task == task].network} & set(costs), key=_label)
        for color, name in enumerate(names):
            points = []
            for steps, table in sorted(tables.items()):
                part = table[(table.task == task) & (table.network == name) & (table.profile == profile)]
                if len(part):
                    points.append((steps, part.psnr.mean()))
            if not points:
                continue
            label = _label(name)
            cost = costs[name].multiplications / 1e3
            axis.plot([cost] * len(points), [p for _, p in points], "-", color=f"C{color}", alpha=0.5)
            for number, (_, psnr) in enumerate(points):
                size = 20 + 50 * (number + 1) / len(points)
                axis.scatter(cost, psnr, s=size, color=f"C{color}", label=label if number == len(points) - 1 else None)
        first = next(iter(tables.values()))
        for name, style in ((INPUT, ":"), (CLASSICAL, "--")):
            part = first[(first.task == task) & (first.network == name) & (first.profile == profile)]
            axis.axhline(part.psnr.mean(), linestyle=style, color="grey", linewidth=1, label=name)
        axis.set(title=task, xlabel="thousand multiplications per pixel", xscale="log")
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"PSNR, dB (profile {profile}; test and local)")
    budgets = ", ".join(str(steps) for steps in sorted(tables))
    dots = "; larger dots are larger budgets" if len(tables) > 1 else ""
    plot.suptitle(f"Quality against cost ({budgets} steps per task){dots}")
    handles, labels = axes[0].get_legend_handles_labels()
    plot.tight_layout(rect=(0, 0.12, 1, 1))
    plot.legend(handles, labels, loc="lower center", ncols=6, fontsize=8)  # below: dots lie in every corner
    path.parent.mkdir(parents=True, exist_ok=True)
    plot.savefig(path, dpi=110)
    pyplot.close(plot)


def _label(name: str) -> str:
    """A network in words, the same for every task."""
    network, _, learns = name.partition(":")
    return f"{network} (unified)" if learns == ALL else network


def unified_against_single(table: "pd.DataFrame", size: str, profile: str, path: Path) -> None:
    """PSNR of each patient in the unified network against that in the single-task one, as gains over the input."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks = [task.value for task in Task]
    plot, axes = pyplot.subplots(1, len(tasks), figsize=(13, 4.4))
    for axis, task in zip(axes, tasks, strict=True):
        part = table[(table.task == task) & (table.profile == profile)]
        means = part.groupby(["patient", "split", "level", "network"]).gain_db.mean().unstack("network").reset_index()
        for split, marker in (("test", "o"), ("local", "^")):
            own = means[means.split == split]
            axis.scatter(own[f"{size}:{task}"], own[f"{size}:{ALL}"], marker=marker, label=split, alpha=0.8)
        low, high = min(axis.get_xlim()[0], axis.get_ylim()[0]), max(axis.get_xlim()[1], axis.get_ylim()[1])
        axis.plot([low, high], [low, high], color="grey", linewidth=1)
        axis.axhline(0, color="grey", linewidth=0.5)
        axis.set(title=task, xlabel="gain of the single-task network, dB")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes[0].set_ylabel("gain of the unified network, dB")
    plot.suptitle("Each point is a patient at one level; above the line the unified network is better")
    plot.tight_layout()
    plot.savefig(path, dpi=110)
    pyplot.close(plot)


def ablations(table: "pd.DataFrame", size: str, profile: str, path: Path) -> None:
    """Mean gain of the unified network, its ablations and the single-task networks."""
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from matplotlib import pyplot

    names = [f"{size}:TASK", f"{size}:{ALL}", f"{size}-label:{ALL}", f"{size}-unguided:{ALL}", SHUFFLED]
    labels = ["single-task", "unified", "task label given", "no guidance", "shuffled instruction"]
    found = figures(table, profile)
    plot, axis = pyplot.subplots(figsize=(9, 4))
    width = 0.16
    for number, (name, label) in enumerate(zip(names, labels, strict=True)):
        heights: Sequence[float] = [
            float(found[(found.task == t) & (found.network == name.replace("TASK", t))].gain_db.mean())
            for t in (task.value for task in Task)
        ]
        axis.bar(np.arange(3) + (number - 2) * width, heights, width, label=label)
    axis.set_xticks(range(3), [task.value for task in Task])
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_ylabel(f"mean gain over the input, dB ({profile})")
    axis.legend(fontsize=8)
    plot.tight_layout()
    plot.savefig(path, dpi=110)
    pyplot.close(plot)
