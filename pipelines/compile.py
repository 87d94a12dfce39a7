"""Compile the pipeline: `python -m pipelines.compile [FOLDER]`, by default `pipelines/compiled/`."""

import sys
from pathlib import Path

from kfp import compiler

from pipelines.factory import ROOT, factory

COMPILED = ROOT / "pipelines" / "compiled"


def compile_all(folder: Path = COMPILED) -> list[Path]:
    """Write the YAML of every pipeline into a folder; equal sources give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "factory.yaml"
    compiler.Compiler().compile(factory, str(path))
    return [path]


if __name__ == "__main__":
    for written in compile_all(Path(sys.argv[1]) if len(sys.argv) > 1 else COMPILED):
        sys.stdout.write(f"{written}\n")
