"""Command line of the champion step."""

import sys

from components.champion.step import ChampionConfig, champion
from components.command import main

if __name__ == "__main__":
    sys.exit(
        main(
            "champion",
            ChampionConfig,
            ["candidate", "out"],
            champion,
            "Fetch the checkpoint of the network that serves now from the MLflow registry.",
        )
    )
