"""Batch and patch size of a training, by what they are worth: the same pixels seen, the gain on validation patients.

`python -m benchmarks.training_defaults --pairs PAIRS` trains one unified network for each combination. All see as many
pixels, so a larger batch or patch takes fewer optimiser steps. The gain is that of the train step's own validation, on
patients of train sites that no network was trained on and no result is told of.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from components.train.step import TrainConfig, train
from mira.errors import DataRejected
from mira.tasks import Task


@dataclass(frozen=True)
class Trial:
    """One combination and what it gave.

    Attributes:
        batch_size: patches in a step.
        patch_size: rows and columns of a patch.
        steps_per_task: optimiser steps for each task.
        seconds: time of the training on one core beside the others.
        gain_db: validation gain in dB by task.
    """

    batch_size: int
    patch_size: int
    steps_per_task: int
    seconds: float
    gain_db: dict[str, float]

    @property
    def mean_gain_db(self) -> float:
        """Mean over the tasks."""
        return sum(self.gain_db.values()) / len(self.gain_db)


def steps_of(batch_size: int, patch_size: int, steps_per_task: int) -> int:
    """Steps after which as many pixels were seen as in `steps_per_task` steps of the train step's defaults."""
    usual = TrainConfig()
    return max(1, round(steps_per_task * usual.batch_size * usual.patch_size**2 / (batch_size * patch_size**2)))


def trial(pairs: Path, batch_size: int, patch_size: int, steps: int, seed: int, slices: int) -> Trial:
    """Train one unified network and validate it.

    Raises:
        DataRejected: when there is no validation split to compare by.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            batch_size=batch_size,
            patch_size=patch_size,
            steps_per_task=steps,
            seed=seed,
            threads=1,
            rounds=1,
            validation_slices=slices,
            calibration_slices=0,
            error_map=False,
            tracking_uri=f"sqlite:///{folder}/mlflow.db",
        )
        found = train(pairs, "unified", Path(folder) / "network", config)
    if not found.gain_db:
        raise DataRejected(f"{pairs} has no validation pairs, so nothing can be compared. Raise pair.validation_share.")
    return Trial(batch_size, patch_size, steps, round(found.seconds, 1), found.gain_db)


def table(trials: Sequence[Trial]) -> str:
    """One row for each combination, the best mean gain first."""
    names = [task.value for task in Task]
    lines = [
        "| batch | patch | steps per task | " + " | ".join(names) + " | mean gain, dB | seconds |",
        "|---|---|---|" + "---|" * (len(names) + 2),
    ]
    for item in sorted(trials, key=lambda t: -t.mean_gain_db):
        gains = " | ".join(f"{item.gain_db[name]:+.2f}" if name in item.gain_db else "" for name in names)
        lines.append(
            f"| {item.batch_size} | {item.patch_size} | {item.steps_per_task} | {gains} | {item.mean_gain_db:+.2f} "
            f"| {item.seconds:.0f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Run the trials, several at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True, help="pair store with a validation split")
    parser.add_argument("--batches", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--patches", nargs="+", type=int, default=[48, 64, 96])
    parser.add_argument("--steps", type=int, default=400, help="steps per task of the defaults, whose pixels all see")
    parser.add_argument("--slices", type=int, default=24, help="validation slices per task")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="trainings at once, one core each")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args()
    chosen = [(batch, patch) for batch in arguments.batches for patch in arguments.patches]
    with ProcessPoolExecutor(arguments.workers) as pool:
        futures = [
            pool.submit(trial, arguments.pairs, *one, steps_of(*one, arguments.steps), arguments.seed, arguments.slices)
            for one in chosen
        ]
        trials = [future.result() for future in futures]
    print(table(trials))
    if arguments.json:
        print(json.dumps({"trials": [asdict(item) for item in trials]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
