"""`python -m components.export`: registered networks to ONNX."""

import sys

from components.command import main
from components.export.config import ExportConfig
from components.export.step import export

if __name__ == "__main__":
    description = "Export the networks of a registered version to ONNX, and compare each with torch in native units."
    sys.exit(main("export", ExportConfig, ["networks*", "version", "pairs", "out"], export, description))
