"""Compile the pipeline: `python -m pipelines.compile [FOLDER]`, by default `pipelines/compiled/`."""

import ast
import json
import re
import sys
from pathlib import Path

from kfp import compiler

from pipelines.factory import ROOT, factory

DEFAULT = re.compile(r"^(#    \w+: dict \[Default: )(\{.*\})(\])$", re.MULTILINE)
COMPILED = ROOT / "pipelines" / "compiled"


def compile_all(folder: Path = COMPILED) -> list[Path]:
    """Write the YAML of every pipeline into a folder; equal sources give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "factory.yaml"
    compiler.Compiler().compile(factory, str(path))
    path.write_text(DEFAULT.sub(_sorted, path.read_text("utf-8")), "utf-8")
    return [path]


def _sorted(line: re.Match[str]) -> str:
    """A line of kfp's opening comment with the keys of its default in order: kfp does not keep one."""
    default = json.loads(json.dumps(ast.literal_eval(line[2]), sort_keys=True))
    return f"{line[1]}{default}{line[3]}"


if __name__ == "__main__":
    for written in compile_all(Path(sys.argv[1]) if len(sys.argv) > 1 else COMPILED):
        sys.stdout.write(f"{written}\n")
