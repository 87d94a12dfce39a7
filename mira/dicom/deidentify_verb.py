"""`mira deidentify`: DICOM files that may be passed on."""

import argparse
import json
from pathlib import Path

from mira.errors import ConfigurationError, DataRejected, RetryableError

EXAMPLE = """example:
  mira deidentify /data/inbox/hospital-a --out /data/shared/hospital-a
  mira deidentify export.zip --out out --retain dates suv private device
  mira deidentify export.zip --out out --retain none      # the Basic Profile alone: no SUV, no intervals"""

HELP = {
    "dates": "move all dates of a patient into the past by the same secret number of days; times stay",
    "suv": "weight, size and sex in PET images",
    "private": "private attributes of a short list: SUV and count factors, scan start, b-values",
    "device": "serial number, station and detector names",
    "characteristics": "age (at most 90), sex, size, weight, smoking, pregnancy, ethnic group",
    "descriptors": "technical words of series, study and protocol descriptions",
    "uids": "all UIDs as they are",
}


def add_deidentify(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb `deidentify`."""
    options = "\n".join(f"  {name:<16} {text}" for name, text in HELP.items())
    parser = subparsers.add_parser(
        "deidentify",
        help="write de-identified DICOM of CT, MR, PET and contours",
        description="Write de-identified copies by the Basic Profile of DICOM PS3.15 Annex E. Pseudonyms and UIDs come "
        "from the project's key and stay the same from run to run. Faces are not removed from the images.",
        epilog=f"--retain takes (default: dates suv private):\n{options}\n\n{EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="DICOM file, folder, DICOMDIR or zip")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the copies")
    parser.add_argument(
        "--retain", nargs="+", choices=[*HELP, "none"], metavar="OPTION", help="what to keep, see below"
    )
    parser.add_argument(
        "--patient-scope", default="", metavar="NAME", help="what patient IDs are unique in, e.g. a site"
    )
    parser.add_argument(
        "--confirm-no-text",
        action="store_true",
        help="you have looked at the images that were refused, and no text in them identifies anybody",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from mira.dicom.confidentiality import DEFAULT, Retain
    from mira.dicom.deidentify import Deidentifier
    from mira.dicom.deidentify_files import REPORT, deidentify_tree
    from mira.dicom.pseudonym_key import load_pseudonyms

    source, out = arguments.path, arguments.out
    if not source.exists():
        raise ConfigurationError("The source does not exist. Give a DICOM file, folder, DICOMDIR or zip.")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise ConfigurationError("--out lies within the source. Give a folder outside of it.")
    chosen = DEFAULT
    if arguments.retain:
        if "none" in arguments.retain and len(arguments.retain) > 1:
            raise ConfigurationError("--retain none goes with no other option.")
        chosen = frozenset(Retain(name) for name in arguments.retain if name != "none")
    deidentifier = Deidentifier(load_pseudonyms(), chosen, arguments.patient_scope)
    try:
        outcome = deidentify_tree(source, out, deidentifier, arguments.confirm_no_text)
    except OSError as error:  # its text names a file, and a hospital's file names carry patients
        raise RetryableError(
            f"Storage failed: {error.strerror or type(error).__name__}. Make sure that the source can be read and that "
            "the disk of --out has space, then run again: finished series are kept."
        ) from None
    found = {
        "files": outcome.files,
        "written": outcome.written,
        "series": outcome.series,
        "refused": outcome.reasons,
        "retained": sorted(chosen),
        "report": str(out / REPORT),
    }
    print(json.dumps(found) if arguments.json else _as_text(found))  # noqa: T201
    if not outcome.written:
        raise DataRejected(f"Nothing was written: see {out / REPORT} for the reason of each file.")
    return 0


def _as_text(found: dict[str, object]) -> str:
    lines = [f"{found['written']} of {found['files']} files written, {found['series']} series"]
    refused = found["refused"]
    if isinstance(refused, dict):
        lines += [f"  {count:>6} files not passed on: {reason}" for reason, count in refused.items()]
    return "\n".join([*lines, f"report: {found['report']}"])
