"""Weights looked at on the local set: sample slices, and which wrong declarations the client would warn of.

`python -m benchmarks.study.look --pairs PAIRS --weights released --out samples.jpg`

The study does the same with the unified network that it trained.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.study.declarations import declaration_table, declarations
from benchmarks.study.samples import draw_samples


def main() -> int:
    """Draw the samples and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True, help="pair store with local sites")
    parser.add_argument("--weights", default="released", help="`released`, or a checkpoint folder")
    parser.add_argument("--out", type=Path, required=True, help="JPEG or PNG to write")
    arguments = parser.parse_args()
    from model.checkpoint import load_restorer
    from model.released import find_weights

    restorer, _ = load_restorer(find_weights(arguments.weights).folder)
    draw_samples(arguments.pairs, restorer, arguments.out)
    print(declaration_table(declarations(arguments.pairs, restorer)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
