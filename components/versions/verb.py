"""`mira data`: save the data as a version, list and compare versions, and bring one back."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mira.errors import ConfigurationError

if TYPE_CHECKING:
    from components.versions.actions import Difference
    from components.versions.store import Version

EXAMPLE = """examples:
  mira data save --note "before hospital-b sent its second year"
  mira data save --workspace runs/demo            what the newest `mira run` of a workspace used
  mira data list
  mira data restore 3f9c2a7d10be4455              the data_version of a training run in MLflow
  mira data diff 3f9c 81d0
  mira data remote deidentified s3://bucket/mira --endpoint-url https://s3.hospital.example"""


def add_data(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb `data`."""
    parser = subparsers.add_parser(
        "data",
        help="versions of the data: save, list, compare, bring back",
        description="Versions of cases and pairs, and of the raw inbox when asked, kept with DVC. A version has "
        "the name that every training on it shows as data_version.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, text: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.add_argument("--data", type=Path, metavar="DIR", help="data folder (default: data, or WORKSPACE/data)")
        sub.add_argument("--workspace", type=Path, metavar="DIR", help="a workspace of `mira run`, such as runs/demo")
        sub.add_argument("--store", type=Path, metavar="DIR", help="where versions are kept (default: DATA/versions)")
        sub.add_argument("--json", action="store_true", help="print JSON")
        sub.set_defaults(run=_run)
        return sub

    saving = action("save", "save cases, validation and pairs as a version")
    saving.add_argument("--note", default="", help="kept in the record, which goes into git: name no patient")
    saving.add_argument(
        "--raw",
        nargs="?",
        const="",
        metavar="FOLDER",
        help="also save the raw inbox (default: DATA/inbox): identifying DICOM",
    )
    action("list", "list the saved versions, the oldest first")
    restoring = action("restore", "bring a version back into the data folder")
    restoring.add_argument("version", metavar="VERSION", help="its name or the beginning of it")
    restoring.add_argument("--raw", action="store_true", help="also bring the raw inbox back")
    restoring.add_argument("--discard", action="store_true", help="replace present data even where it was never saved")
    comparing = action("diff", "tell what changed from version A to version B")
    comparing.add_argument("a", metavar="A")
    comparing.add_argument("b", metavar="B")
    remote = action("remote", "name the place where versions are kept")
    remote.add_argument("name", choices=("deidentified", "raw"), help="which remote: raw holds identifying DICOM")
    remote.add_argument("url", metavar="URL", help="a folder, s3://bucket/path, or another URL that DVC knows")
    remote.add_argument("--endpoint-url", metavar="URL", help="address of an S3 service that is not Amazon's")
    remote.add_argument("--region", help="S3 region")
    remote.add_argument("--profile", help="profile of the AWS credentials file; without it the environment's are used")


def _run(arguments: argparse.Namespace) -> int:
    from components.versions import actions
    from components.versions.store import Store

    data = arguments.data or (arguments.workspace / "data" if arguments.workspace else Path("data"))
    store = Store((arguments.store or data / "versions").absolute())
    if arguments.action == "save":
        folders = actions.data_folders(data)
        if arguments.workspace:
            folders |= actions.workspace_folders(arguments.workspace)
        if arguments.raw:
            folders["inbox"] = Path(arguments.raw)
        saved = actions.save(store, folders, arguments.note, arguments.raw is not None)
        state = "saved" if saved.new else "unchanged, already saved"
        _show(
            arguments, saved.version.model_dump(mode="json"), f"{saved.version.name}  {state}: {_parts(saved.version)}"
        )
    elif arguments.action == "list":
        versions = store.versions()
        rows = [
            version.model_dump(mode="json", exclude={"cases"}) | {"cases": len(version.cases)} for version in versions
        ]
        _show(
            arguments, {"versions": rows}, "\n".join(map(_line, versions)) or f"No version was saved in {store.root}."
        )
    elif arguments.action == "restore":
        version = actions.restore(store, arguments.version, data, arguments.raw, arguments.discard)
        lines = [f"{version.name} is in {data}: {_parts(version)}"]
        lines += [
            f"{part} was not saved with it; run its step again"
            for part in ("validation", "pairs")
            if part not in version.parts
        ]
        _show(arguments, {"version": version.name, "data": str(data), "parts": sorted(version.parts)}, "\n".join(lines))
    elif arguments.action == "diff":
        difference = actions.diff(store.find(arguments.a), store.find(arguments.b))
        _show(arguments, difference.model_dump(mode="json"), _difference(difference))
    else:
        options = {"endpointurl": arguments.endpoint_url, "region": arguments.region, "profile": arguments.profile}
        given = {key: value for key, value in options.items() if value}
        if given and not arguments.url.startswith("s3://"):
            raise ConfigurationError("--endpoint-url, --region and --profile belong to an s3:// URL. Leave them out.")
        store.set_remote(arguments.name, arguments.url, given)
        _show(
            arguments,
            {"remote": arguments.name, "url": arguments.url},
            f"{arguments.name} versions go to {arguments.url}",
        )
    return 0


def _show(arguments: argparse.Namespace, document: dict[str, Any], text: str) -> None:
    print(json.dumps(document) if arguments.json else text)  # noqa: T201


def _line(version: "Version") -> str:
    when = version.created[:16].replace("T", " ")
    head = f"{version.name}  {when}  {len(version.cases)} cases, {version.patients} patients"
    return f"{head}  {_parts(version)}" + (f"  {version.note}" if version.note else "")


def _parts(version: "Version") -> str:
    return ", ".join(
        f"{part} {p.packed.bytes / 1e6:.1f} MB in {p.packed.files} files" for part, p in sorted(version.parts.items())
    )


def _difference(difference: "Difference") -> str:
    lines = [f"{difference.before} -> {difference.after}"]
    for word in ("added", "removed", "changed", "moved"):
        cases = getattr(difference, word)
        what = "with another split" if word == "moved" else word
        lines.append(
            f"{len(cases):>5} cases {what}"
            + (f": {', '.join(cases[:8])}" if cases else "")
            + (" ..." if len(cases) > 8 else "")
        )
    for name, (old, new) in [*difference.sites.items(), *difference.modalities.items()]:
        if old != new:
            lines.append(f"      {name}: {old} -> {new} cases")
    lines += [f"      {part}: {'the same' if same else 'changed'}" for part, same in sorted(difference.parts.items())]
    return "\n".join(lines)
