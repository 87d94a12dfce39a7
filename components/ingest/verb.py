"""`mira ingest`: one site's or all sites' DICOM into de-identified cases."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from mira.errors import ConfigurationError, DataRejected

if TYPE_CHECKING:
    from components.ingest.summary import IngestSummary

EXAMPLE = """examples:
  mira ingest /data/hospital-a --site hospital-a --out data/cases
  mira ingest --sites data/sites.yaml --out data/cases"""


def add_ingest(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb `ingest`."""
    parser = subparsers.add_parser(
        "ingest",
        help="DICOM of one or several sites into de-identified cases",
        description="Read DICOM into de-identified cases, cases.parquet and quarantine.json. "
        "What was taken in before and has not changed is not read again.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "path", type=Path, nargs="?", metavar="PATH", help="DICOM of one site: folder, file, DICOMDIR, zip"
    )
    parser.add_argument("--site", metavar="ID", help="the site's name; other sites' cases in --out are kept")
    parser.add_argument(
        "--role", choices=("train", "local"), default="train", help="role of that site (default: train)"
    )
    parser.add_argument("--sites", type=Path, metavar="FILE", help="sites.yaml, instead of PATH and --site")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="root of all cases")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML parameters; section `ingest` is read")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from components.command import explain, load_config
    from components.ingest.step import IngestConfig, ingest, ingest_sites
    from mira.sites import Site

    config = load_config(IngestConfig, arguments.config, "ingest")
    if arguments.sites is not None:
        if arguments.path is not None or arguments.site is not None:
            raise ConfigurationError("Give either --sites FILE or PATH with --site ID, not both.")
        summary = ingest(arguments.sites, arguments.out, config)
    else:
        if arguments.path is None or arguments.site is None:
            raise ConfigurationError("Give PATH with --site ID, or --sites FILE. See mira ingest --help.")
        if not arguments.path.exists():
            raise ConfigurationError(f"{arguments.path} does not exist. Give a DICOM folder, file, DICOMDIR or zip.")
        try:
            site = Site(id=arguments.site, role=arguments.role, path=arguments.path.resolve())
        except ValidationError as error:
            raise ConfigurationError(explain(error, "--site")) from error
        summary = ingest_sites([site], arguments.out, config.model_copy(update={"keep_other_sites": True}))
        if summary.sites[site.id].error:
            raise DataRejected(f"{site.id}: {summary.sites[site.id].error}")
    print(json.dumps(summary.model_dump(mode="json")) if arguments.json else as_text(summary))  # noqa: T201
    return 0


def as_text(summary: "IngestSummary") -> str:
    """The summary for people."""
    lines = []
    for name, site in summary.sites.items():
        tasks = ", ".join(f"{count} {task}" for task, count in site.tasks.items())
        lines.append(f"{name} ({site.role}): {site.files} files, {site.series} series, {site.cases} cases ({tasks})")
        lines += [f"    refused {count:>5} files: {reason}" for reason, count in site.refused.items()]
        if site.unchanged:
            lines.append(f"    {site.unchanged} series unchanged since last time")
        if site.error:
            lines.append(f"    {site.error}")
    lines.append(
        f"{summary.cases} cases in all" + (f", {summary.removed_cases} removed" if summary.removed_cases else "")
    )
    return "\n".join(lines)
