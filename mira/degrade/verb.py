"""`mira degrade`: the pair of one case."""

import argparse
import json
from pathlib import Path

from mira.cases import read_record, read_volume
from mira.degrade.interface import degrade
from mira.storage import write_json
from mira.tasks import Task
from mira.volume import read_nifti, write_nifti

EPILOG = """example:
  mira degrade cases/site-a/3f2a --task ct-denoising --level 0.25 --seed 1 --out pair/

writes pair/reference.nii, pair/degraded.nii and pair/physics.json. CASE is a case folder of `mira ingest`, or a NIfTI
file in the task's unit (HU, SUVbw, MR a.u.)."""


def add_degrade(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command's parser."""
    parser = subparsers.add_parser(
        "degrade",
        help="make the low-dose, low-count or low-resolution counterpart of a case",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("case", type=Path, metavar="CASE", help="case folder or NIfTI file")
    parser.add_argument("--task", required=True, type=Task, choices=list(Task), metavar="T", help=", ".join(Task))
    parser.add_argument(
        "--level", required=True, type=float, metavar="L", help="dose fraction, count fraction or resolution factor"
    )
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="seed of the noise (default 0)")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write")
    parser.add_argument("--json", action="store_true", help="print the physics as JSON")
    parser.set_defaults(run=run)


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def run(arguments: argparse.Namespace) -> int:
    """Degrade the case and write the pair."""
    record = read_record(arguments.case) if arguments.case.is_dir() else None
    volume = read_volume(arguments.case) if record is not None else read_nifti(arguments.case)
    degraded, physics = degrade(
        volume, arguments.task, arguments.level, arguments.seed, record, progress=not arguments.json
    )
    write_nifti(arguments.out / "reference.nii", volume)
    write_nifti(arguments.out / "degraded.nii", degraded)
    write_json(arguments.out / "physics.json", physics.model_dump(mode="json"))
    if arguments.json:
        print(json.dumps(physics.model_dump(mode="json"), sort_keys=True))  # noqa: T201
    else:
        print(f"{physics.model}, level {physics.level:g}, severity {physics.severity:.2f}: {arguments.out}")  # noqa: T201
    return 0
