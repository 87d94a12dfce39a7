"""Command line of the report step; every part is optional."""

import sys
from pathlib import Path

from components.command import main
from components.report.step import STEPS, ReportConfig, report

PARTS = [part for part in STEPS if part != "networks"]


def write(out: Path, config: ReportConfig, networks: Path | None, **parts: Path | None) -> None:
    """Collect the parts that were given and write the report; `networks` holds one folder per network."""
    given = {name: path for name, path in parts.items() if path is not None}
    folders = sorted(networks.glob("[!.]*/config.json")) if networks is not None else []
    report(given | {f"network:{path.parent.name}": path.parent for path in folders}, out, config)


if __name__ == "__main__":
    sys.exit(
        main(
            "report",
            ReportConfig,
            [*(f"{part}?" for part in PARTS), "networks?", "out"],
            write,
            "Write the report of a run as one HTML file that needs no network; every part may be left out.",
        )
    )
