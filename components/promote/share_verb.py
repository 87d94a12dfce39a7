"""`mira canary`: let a candidate restore a share of the series, and end that one way or the other."""

import argparse
import sys
from pathlib import Path
from typing import Any

from components.promote import share
from components.promote.paths import known_station
from components.promote.step import PromoteConfig
from components.promote.verbs import WORKSPACE, add_approval, add_choice, add_tracking, chosen, existing

EXAMPLE = """examples:
  mira canary start EXPORTED --version version.json --decision decision.json --share 0.1 --workspace runs/site
  mira canary finish --why 'two weeks without a complaint' --workspace runs/site
  mira canary stop --why 'streaks at the skull base' --workspace runs/site
"""


def add_canary(subparsers: Any) -> None:
    """Add `mira canary`."""
    parser = subparsers.add_parser(
        "canary",
        help="let a candidate restore a share of the series",
        description="Load an approved candidate beside the version that serves. The project's client sends it that "
        "share of the series, chosen by their UID, and goes back to the version that serves at the first failure.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    begin = what.add_parser("start", help="give a candidate its share")
    begin.add_argument("exported", metavar="EXPORTED", help="folder of the export step, or its address (runs:/, s3://)")
    begin.add_argument("--version", type=Path, required=True, metavar="FILE", help="version.json of the register step")
    begin.add_argument("--decision", type=Path, required=True, metavar="FILE", help="decision.json of the gate step")
    begin.add_argument("--share", type=float, default=0.1, metavar="S", help="part of the series (default 0.1)")
    add_choice(begin)
    finish = what.add_parser("finish", help="promote it, with the engine and precision of its share")
    for command in (begin, finish):
        add_approval(command)
    for command in (begin, finish, what.add_parser("stop", help="back to the version that serves")):
        command.add_argument("--workspace", type=Path, default=WORKSPACE, metavar="DIR", help="runs and state")
        command.add_argument("--repository", type=Path, metavar="DIR", help="Triton model repository")
        command.add_argument("--why", default="", metavar="TEXT", help="reason, for the audit trail")
        add_tracking(command)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    paths = known_station(arguments.workspace, arguments.repository)
    config = PromoteConfig(
        **chosen(arguments),
        workspace=paths.workspace,
        repository=paths.repository,
        tracking_uri=arguments.tracking_uri,
        approval=getattr(arguments, "approval", None) or paths.approval_of_runs(),
        why=arguments.why,
    )
    if arguments.what == "finish":
        promoted = share.finish(config)
        _say(f"version {promoted.version} serves instead of {promoted.before} ({promoted.seconds:.1f} s)")
    elif arguments.what == "stop":
        ended = share.stop(paths, arguments.why)
        _say(f"version {ended.served} restores every series; version {ended.version} was withdrawn")
    else:
        files = existing(arguments.version, "version.json"), existing(arguments.decision, "decision.json")
        begun = share.start(arguments.exported, *files, arguments.share, config)
        _say(
            f"version {begun.version} restores {begun.share:.0%} of the series, version {begun.served} the others, at "
            f"{begun.url} ({begun.seconds:.1f} s)"
        )
        if begun.fell_back:
            _say(begun.fell_back)
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
