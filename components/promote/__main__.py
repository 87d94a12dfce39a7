"""Command line of the promote step: python -m components.promote --help."""

import sys

from components.command import main
from components.promote.step import PromoteConfig, promote_of_run

if __name__ == "__main__":
    sys.exit(
        main(
            "promote",
            PromoteConfig,
            ["exported", "version", "decision", "out"],
            promote_of_run,
            "Put a registered version behind Triton, prove it by real requests, then move the champion alias.",
        )
    )
