"""`mira demo`: write the demo data."""

import argparse
import json
from pathlib import Path

from mira.errors import ConfigurationError


def add_demo(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "demo",
        help="write demo data: digital phantoms of four sites as DICOM",
        description="Write the inboxes of three train sites and one local site: CT, PET and MR phantoms as DICOM, "
        "with a sites.yaml. The same seed gives the same bytes; what is already there is not made again.",
        epilog="example: mira demo --out data --seed 7",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for inbox/, truth/ and sites.yaml")
    parser.add_argument("--seed", type=int, default=2026, help="other seed, other patients (default 2026)")
    parser.add_argument("--preset", choices=["demo", "small"], default="demo", help="sizes: demo, or small for tests")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from mira.phantom.demo import DemoConfig, describe, make_demo

    try:
        config = DemoConfig(seed=arguments.seed, preset=arguments.preset)
    except ValidationError as error:
        raise ConfigurationError(f"--seed {arguments.seed}: {error.errors()[0]['msg']}.") from error
    sites_file = make_demo(arguments.out, config)
    facts = {"sites_file": str(sites_file), **describe(arguments.out)}
    if arguments.json:
        print(json.dumps(facts, sort_keys=True))  # noqa: T201
    else:
        amount = f"{facts['files']} files, {facts['megabytes']} MB of {len(facts['sites'])} sites"
        print(f"{amount} in {arguments.out}/inbox\nNext: mira run --sites {sites_file}")  # noqa: T201
    return 0
