"""`mira inspect`: what is in a file, folder, DICOMDIR or zip, and what of it can be used."""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mira.errors import ConfigurationError, DataRejected

if TYPE_CHECKING:
    from mira.dicom.scan import FoundSeries

EXAMPLE = """example:
  mira inspect /data/inbox/hospital-a
  mira inspect export.zip --json | jq '.series[] | select(.usable | not)'"""


def add_inspect(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb `inspect`."""
    parser = subparsers.add_parser(
        "inspect",
        help="what is in a file, folder, DICOMDIR or zip, and for which task it can be used",
        description="Read DICOM and say of each series what it is, for which task it is usable, and if not, why. "
        "Names, identifiers, dates and file names are left out unless --files is given.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="DICOM file, folder, DICOMDIR or zip")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--files", action="store_true", help="name the first file of each series and every file refused"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if not arguments.path.exists():
        raise ConfigurationError(f"{arguments.path} does not exist. Give a DICOM file, folder, DICOMDIR or zip.")
    found = inspect(arguments.path, with_files=arguments.files)
    print(json.dumps(found, indent=2) if arguments.json else as_text(found))  # noqa: T201
    if not found["series"] and not found["contours"]:
        raise DataRejected(
            f"No usable DICOM image among {found['files']} files. "
            "Export the original CT, PET or MR series from the PACS."
        )
    return 0


def inspect(path: Path, with_files: bool = False) -> dict[str, Any]:
    """What a source holds, as a document without identifying values.

    Args:
        path: DICOM file, folder, DICOMDIR or zip.
        with_files: also give file names, which may identify patients.

    Returns:
        `files`, `series` (a list with modality, scanner, unit, geometry, tasks and reasons), `contours` (number of
        structure sets) and `refused` (reasons with counts of files).
    """
    from mira.dicom.archive import opened
    from mira.dicom.faults import reading
    from mira.dicom.scan import scan
    from mira.progress import track

    with reading(path), opened(path) as source:
        result = scan(source)
        series = []
        for number, found in enumerate(track(result.series, "read", unit="series"), start=1):
            series.append(_describe(number, found, with_files))
    refused: list[dict[str, Any]] = [
        {"reason": reason.value, "text": reason.text, "detail": detail, "modality": modality, "files": count}
        for (reason, detail, modality), count in sorted(
            Counter((item.reason, item.detail, item.modality) for item in result.rejected).items()
        )
    ]
    document = {"files": result.files, "series": series, "contours": len(result.structure_sets), "refused": refused}
    if with_files:
        document["refused_files"] = [{"file": str(r.path), "reason": r.reason.value} for r in result.rejected]
    return document


def _describe(number: int, found: "FoundSeries", with_files: bool) -> dict[str, Any]:
    from pydicom.uid import UID

    from mira.dicom.derive import not_derivable
    from mira.dicom.facts import scanner_facts, transfer_syntax_uid
    from mira.dicom.faults import faults_refused
    from mira.dicom.fitness import tasks_of
    from mira.dicom.headers import tolerant
    from mira.dicom.reasons import Refused
    from mira.dicom.triage import kind_name, modality
    from mira.dicom.volume import Refusal, SeriesResult, read_volumes

    with tolerant():
        scanner = scanner_facts(found.header)
        entry: dict[str, Any] = {
            "number": number,
            "modality": modality(found.header),
            "object": kind_name(found.header),
            "transfer_syntax": UID(transfer_syntax_uid(found.header)).name,
            "scanner": f"{scanner.manufacturer} {scanner.model}".strip(),
            "files": len(found.files),
            "volumes": [],
            "refused": [],
        }
    if with_files:
        entry["first_file"] = str(found.files[0])
    try:
        with faults_refused():
            result = read_volumes(found.files)
    except Refused as error:
        result = SeriesResult(refusals=[Refusal(found.files, error.reason, error.detail)])
    for volume in result.volumes:
        tasks, refusals = tasks_of(volume)
        entry["volumes"].append(
            {
                "unit": volume.unit.value,
                "formula": volume.conversion.formula,
                "shape": list(volume.volume.voxels.shape),
                "spacing_mm": [round(value, 4) for value in volume.volume.spacing],
                "tasks": [task.value for task in tasks],
                "task_refusals": refusals,
                "not_restored": not_derivable(volume),
                "warnings": volume.warnings,
                "range": [float(volume.volume.voxels.min()), float(volume.volume.voxels.max())],
            }
        )
    for refusal in result.refusals:
        entry["refused"].append(
            {
                "reason": refusal.reason.value,
                "text": refusal.reason.text,
                "detail": refusal.detail,
                "files": len(refusal.files),
                "slices": refusal.slices,
            }
        )
    entry["duplicates"] = len(result.duplicates)
    entry["usable"] = any(volume["tasks"] for volume in entry["volumes"])
    return entry


def as_text(found: dict[str, Any]) -> str:
    """The document of `inspect` for people."""
    lines = [f"{found['files']} files, {len(found['series'])} image series, {found['contours']} contour sets"]
    for entry in found["series"]:
        lines.append(f"\n{entry['number']:>3}  {entry['modality']}  {entry['scanner']}  ({entry['files']} files)")
        for volume in entry["volumes"]:
            size = " x ".join(str(n) for n in volume["shape"])
            spacing = " x ".join(f"{mm:g}" for mm in volume["spacing_mm"])
            lines.append(f"     {size} voxels of {spacing} mm, {volume['unit']}")
            lines.append(f"     {volume['formula']}")
            lines.append(f"     usable for: {', '.join(volume['tasks']) or 'nothing'}")
            lines += [f"     not for {task}: {why}" for task, why in volume["task_refusals"].items()]
            if volume["not_restored"]:
                lines.append(f"     cannot be restored: {volume['not_restored']}")
            if volume["warnings"]:
                lines.append(f"     warnings: {', '.join(volume['warnings'])}")
        lines += [f"     not usable: {_with_detail(item)} [{item['files']} files]" for item in entry["refused"]]
        if entry["duplicates"]:
            lines.append(f"     {entry['duplicates']} copies of slices were left out")
        if "first_file" in entry:
            lines.append(f"     first file: {entry['first_file']}")
    if found["refused"]:
        lines.append("\nnot used:")
        lines += [f"  {item['files']:>6} files: {item['modality']} {_with_detail(item)}" for item in found["refused"]]
    lines += [f"    {item['file']}: {item['reason']}" for item in found.get("refused_files", [])]
    return "\n".join(lines)


def _with_detail(item: dict[str, Any]) -> str:
    return f"{item['text']} ({item['detail']})" if item["detail"] else str(item["text"])
