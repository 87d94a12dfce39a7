"""Command line of the evaluate step."""

import sys

from components.command import main
from components.evaluate.step import EvaluateConfig, evaluate

if __name__ == "__main__":
    sys.exit(
        main(
            "evaluate",
            EvaluateConfig,
            ["pairs", "networks*", "champion?", "out"],
            evaluate,
            "Measure networks on test patients and local sites beside the degraded input; write metrics.json.",
        )
    )
