"""`mira degrade`: the low-dose, low-count or low-resolution counterpart of a case, a NIfTI file or a DICOM series."""

import argparse
import json
from pathlib import Path
from typing import Any

from mira.cases import read_record
from mira.degrade.files import degrade_file
from mira.degrade.mr import warnings_of
from mira.degrade.options import OptionValue, parse_options, read_options
from mira.degrade.series import degrade_dicom
from mira.errors import ConfigurationError
from mira.storage import write_json
from mira.tasks import Task

EPILOG = """examples:
  mira degrade /data/chest-ct --task ct-denoising --level 0.25 --out low/          DICOM in, DICOM out
  mira degrade export.zip --task pet-synthesis --level 0.1 --seed 7 --out low/
  mira degrade cases/site-a/3f2a --task ct-denoising --level 0.1 --out pair/       a case of `mira ingest`
  mira degrade knee.nii.gz --task mri-super-resolution --level 2 --set snr=25 --set partial_fourier=0.75 --out pair/

A DICOM file, folder, DICOMDIR or zip gives one derived series per series of the task's modality, in the same study,
marked as simulated, with the physics in a JSON file beside it. A case folder or a NIfTI file (in HU, SUVbw or MR a.u.)
gives reference.nii, degraded.nii and physics.json, slice by slice, whatever its length.

--config FILE holds options per task (YAML; `mira calibrate` writes one for a scanner); --set goes before it."""


def add_degrade(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command's parser."""
    parser = subparsers.add_parser(
        "degrade",
        help="make the low-dose, low-count or low-resolution counterpart of a scan",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("case", type=Path, metavar="SCAN", help="DICOM folder, file or zip, case folder or NIfTI file")
    parser.add_argument("--task", required=True, type=Task, choices=list(Task), metavar="T", help=", ".join(Task))
    parser.add_argument(
        "--level", required=True, type=float, metavar="L", help="dose fraction, count fraction or resolution factor"
    )
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="seed of the noise (default 0)")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file with options of the simulators")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="one option of the simulator; can be repeated"
    )
    parser.add_argument("--nifti", action="store_true", help="DICOM: also write the pair as NIfTI")
    parser.add_argument("--json", action="store_true", help="print the physics as JSON")
    parser.set_defaults(run=run)


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def run(arguments: argparse.Namespace) -> int:
    """Degrade the scan and write the result."""
    path: Path = arguments.case
    if not path.exists():
        raise ConfigurationError(f"{path} does not exist. Give a DICOM folder, file or zip, a case or a NIfTI file.")
    options: dict[str, OptionValue] = {}
    if arguments.config is not None:
        options |= read_options(arguments.config).get(arguments.task, {})
    options |= parse_options(arguments.set)
    is_case = path.is_dir() and (path / "case.json").is_file()
    if is_case or path.name.lower().endswith((".nii", ".nii.gz")):
        _pair(path, is_case, options, arguments)
    else:
        _series(path, options, arguments)
    return 0


def _pair(path: Path, is_case: bool, options: dict[str, OptionValue], arguments: argparse.Namespace) -> None:
    """NIfTI in, NIfTI out."""
    record = read_record(path) if is_case else None
    image = path / "image.nii" if is_case else path
    task, level, seed, out = arguments.task, arguments.level, arguments.seed, arguments.out
    physics = degrade_file(image, out, task, level, seed, record, options, progress=not arguments.json)
    document = physics.model_dump(mode="json")
    write_json(out / "physics.json", document)
    if arguments.json:
        print(json.dumps(document, sort_keys=True))  # noqa: T201
    else:
        print(f"{physics.model}, level {physics.level:g}, severity {physics.severity:.2f}: {out}")  # noqa: T201
        if warnings_of(physics):
            print(f"  warnings: {', '.join(warnings_of(physics))}")  # noqa: T201


def _series(path: Path, options: dict[str, OptionValue], arguments: argparse.Namespace) -> None:
    """DICOM in, DICOM out."""
    task, level, seed, out = arguments.task, arguments.level, arguments.seed, arguments.out
    made, refusals = degrade_dicom(path, out, task, level, seed, options, arguments.nifti, progress=not arguments.json)
    if arguments.json:
        series: list[dict[str, Any]] = [
            {
                "path": str(item.folder),
                "slices": item.slices,
                "warnings": item.warnings,
                "physics": item.physics.model_dump(mode="json"),
            }
            for item in made
        ]
        print(json.dumps({"series": series, "refused": refusals}, sort_keys=True))  # noqa: T201
        return
    for item in made:
        physics = item.physics
        print(f"{physics.model}, level {level:g}, {item.slices} slices: {item.folder}")  # noqa: T201
        if item.warnings:
            print(f"  warnings: {', '.join(item.warnings)}")  # noqa: T201
    for reason, count in sorted(refusals.items()):
        print(f"not degraded, {count} file{'s' if count > 1 else ''}: {reason}")  # noqa: T201
