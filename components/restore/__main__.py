"""Command line of the restore step: python -m components.restore --help."""

import sys

from components.command import main
from components.restore.step import RestoreConfig, restore

if __name__ == "__main__":
    sys.exit(
        main(
            "restore",
            RestoreConfig,
            ["sites_file", "out", "delivered"],
            restore,
            "Restore one series per modality of the local sites through Triton into derived DICOM series.",
        )
    )
