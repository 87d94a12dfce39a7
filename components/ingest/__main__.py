"""Command line of the ingest step."""

import sys
from pathlib import Path

from components.command import main
from components.ingest.step import IngestConfig, ingest
from components.ingest.summary import IngestSummary


def run(sites: Path, out: Path, config: IngestConfig) -> IngestSummary:
    """The step under the option names of its command line."""
    return ingest(sites, out, config)


if __name__ == "__main__":
    sys.exit(main("ingest", IngestConfig, ["sites", "out"], run, "Read the sites' DICOM into de-identified cases."))
