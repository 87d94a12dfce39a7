"""Command line of the validate step."""

import sys

from components.command import main
from components.validate.step import ValidateConfig, validate

if __name__ == "__main__":
    sys.exit(
        main(
            "validate",
            ValidateConfig,
            ["cases", "out"],
            validate,
            "Check cases and sites against the suites in data/expectations; write validation.json and Data Docs.",
        )
    )
