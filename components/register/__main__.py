"""Command line of the register step."""

import sys

from components.command import main
from components.register.step import RegisterConfig, register

if __name__ == "__main__":
    sys.exit(
        main(
            "register",
            RegisterConfig,
            ["networks*", "evaluation", "decision", "pairs", "out"],
            register,
            "Register an approved candidate in MLflow with its lineage; write version.json and model_card.md.",
        )
    )
