"""Command line of the pair step."""

import sys

from components.command import main
from components.pair.step import PairConfig, pair

if __name__ == "__main__":
    sys.exit(
        main(
            "pair",
            PairConfig,
            ["cases", "validation", "out"],
            pair,
            "Make (degraded, reference) pairs of accepted cases by the physics simulators, split by patient.",
        )
    )
