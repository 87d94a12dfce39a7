"""`python -m components.train`: train one network."""

import sys
from pathlib import Path

from components.command import main
from components.train.step import TrainConfig, TrainSummary, train


def call(pairs: Path, network: Path, out: Path, config: TrainConfig) -> TrainSummary:
    """The command line hands over every argument as a path; the network is a word."""
    return train(pairs, str(network), out, config)


if __name__ == "__main__":
    description = (
        "Train one network on the pairs: `--network unified`, or a task: ct-denoising, pet-synthesis, "
        "mri-super-resolution. Started again after a kill, it goes on from its last round."
    )
    sys.exit(main("train", TrainConfig, ["pairs", "network", "out"], call, description))
