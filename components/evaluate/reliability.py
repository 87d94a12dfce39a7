"""How far the predicted error can be trusted: predicted deviations against the errors that were made.

Pixels of the patient are counted in fine bins of their predicted deviation, so that a run of any size needs no memory;
the bins are then joined into ten of about equally many pixels.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.evaluate.results import Reliability, ReliabilityBin
from mira.pairs import Split
from mira.tasks import TASKS, Task

FINE = 8  # bins per octave of the predicted deviation
LOWEST = 2.0**-20  # deviation at which they begin, in native units
FINE_BINS = 45 * FINE
SHOWN = 10


class ErrorCounts:
    """Sums over pixels by predicted deviation: pixels, predicted variance, squared and absolute error."""

    def __init__(self) -> None:
        self.sums = np.zeros((4, FINE_BINS))
        self.within = np.zeros(2)
        self.squares = 0.0

    def add(self, error: NDArray[np.float32], deviation: NDArray[np.float32], inside: NDArray[np.bool_]) -> None:
        """Count the pixels `inside`; error and deviation in native units, all of one shape."""
        distance = np.abs(error[inside]).astype(np.float64)
        sigma = deviation[inside].astype(np.float64)
        place = np.clip(np.floor(np.log2(sigma / LOWEST) * FINE), 0, FINE_BINS - 1).astype(np.intp)
        for row, weights in enumerate((np.ones_like(sigma), sigma * sigma, distance * distance, distance)):
            self.sums[row] += np.bincount(place, weights, FINE_BINS)
        self.within += np.count_nonzero(distance <= sigma), np.count_nonzero(distance <= 2 * sigma)
        self.squares += float(np.square(distance / sigma).sum())

    def joined(self) -> NDArray[np.float64]:
        """Means [bins, 3] of predicted variance, squared and absolute error, and the pixels [bins, 1] in front."""
        pixels = self.sums[0].sum()
        share = np.minimum(np.floor((np.cumsum(self.sums[0]) - self.sums[0] / 2) / pixels * SHOWN), SHOWN - 1)
        rows = [self.sums[:, share == number].sum(axis=1) for number in range(SHOWN)]
        return np.stack([np.append(row[0], row[1:] / row[0]) for row in rows if row[0]])

    def summary(self, task: Task, split: Split) -> Reliability:
        """The figures of all counted pixels."""
        from scipy.stats import spearmanr

        pixels = int(self.sums[0].sum())
        bins = self.joined()
        predicted, observed = np.sqrt(bins[:, 1]), np.sqrt(bins[:, 2])
        return Reliability(
            task=task,
            split=split,
            pixels=pixels,
            within_one=float(self.within[0] / pixels),
            within_two=float(self.within[1] / pixels),
            mean_square=self.squares / pixels,
            correlation=float(spearmanr(predicted, bins[:, 3]).statistic) if len(bins) > 2 else None,
            ence=float(np.mean(np.abs(predicted - observed) / predicted)),
            bins=[
                ReliabilityBin(pixels=int(n), predicted=p, observed=o)
                for n, p, o in zip(bins[:, 0], predicted.tolist(), observed.tolist(), strict=True)
            ],
        )


def draw_reliability(rows: Iterable[Reliability], path: Path) -> None:
    """One panel per task: predicted deviation against the error that was made, on logarithmic axes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    by_task = {task: [row for row in rows if row.task is task] for task in Task}
    shown = {task: own for task, own in by_task.items() if own}
    figure = Figure(figsize=(3.4 * len(shown), 3.3), dpi=110, layout="constrained", facecolor="white")
    for axes, (task, own) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        values = [value for row in own for item in row.bins for value in (item.predicted, item.observed) if value > 0]
        ends = (0.8 * min(values), 1.25 * max(values))
        axes.plot(ends, ends, color="#9aa5ae", linewidth=1)
        for row in own:
            points = np.array([(item.predicted, item.observed) for item in row.bins])
            colour, style = ("#0f5c73", "o-") if row.split == "test" else ("#d1781f", "s--")
            axes.plot(*points.T, style, color=colour, markersize=3.5, linewidth=1.2, label=row.split)
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FormatStrFormatter("%g"))
            axis.set_minor_formatter(NullFormatter())
        axes.set_title(f"{TASKS[task].modality}, {TASKS[task].unit}", fontsize=9)
        axes.set_xlabel("predicted (1 SD)", fontsize=8)
        axes.set_ylabel("observed (RMS)", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.legend(fontsize=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
