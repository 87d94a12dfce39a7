"""`mira serve`, `status`, `promote`, `rollback` and `approve`: the release levers."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from components.promote import audit, registry, rollback, server, status, supervisor, where
from components.promote.account import audited, settled
from components.promote.paths import ServingPaths, known_station, station
from components.promote.release import serve
from components.promote.repository import locked, read_served
from components.promote.signing import KEY_FILE_VARIABLE, KEY_VARIABLE, known_signer
from components.promote.step import PromoteConfig, promote
from components.promote.transport import Transport, remember
from mira.errors import ConfigurationError
from mira.storage import hash_file

WORKSPACE = Path("runs/demo")


TLS_OPTIONS = {
    "certificate": "the server's certificate, valid for 127.0.0.1 too",
    "key": "its private key",
    "authority": "who signed it (default: the certificate itself)",
    "clients": "who signs the clients' certificates: clients without one are turned away",
    "client-certificate": "certificate of this project's own checks, with --tls-clients",
    "client-key": "its private key",
}


def add_serve(subparsers: Any) -> None:
    """Add `mira serve`."""
    parser = _parser(
        subparsers,
        "serve",
        "the local Triton on the served repository",
        "Start the embedded Triton with what was promoted, prove it by canaries, and leave it running, supervised.",
        "mira serve --port 8001\n  mira serve --stop",
    )
    parser.add_argument("--stop", action="store_true", help="stop it and its supervisor instead")
    parser.add_argument(
        "--foreground",
        action="store_true",
        help="supervise in this process until it is ended, and then stop the server",
    )
    parser.add_argument("--unsupervised", action="store_true", help="leave no supervisor running")
    parser.add_argument("--port", type=int, metavar="N", help="gRPC port (default: a free one)")
    tls = parser.add_argument_group("TLS", "PEM files; kept for later starts. Clients: docs/how-to/release.md")
    for name, words in TLS_OPTIONS.items():
        tls.add_argument(f"--tls-{name}", type=Path, metavar="FILE", help=words)
    add_tracking(parser)
    parser.set_defaults(run=_serve)


def add_status(subparsers: Any) -> None:
    """Add `mira status`."""
    parser = _parser(
        subparsers,
        "status",
        "what serves now, since when, decided by what",
        "Ask the server, the model repository, MLflow and the audit trail, and say whether they agree.",
        "mira status --json",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    add_tracking(parser)
    parser.set_defaults(run=_status)


def add_promote(subparsers: Any) -> None:
    """Add `mira promote`."""
    parser = _parser(
        subparsers,
        "promote",
        "put a registered version behind Triton",
        "Stage, rehearse and switch to the networks of one version; whatever fails, the old version serves on.",
        "mira promote runs/x/exported --version runs/x/version.json --decision runs/x/decision.json --why 'new site'",
    )
    parser.add_argument(
        "exported", metavar="EXPORTED", help="folder of the export step, or its address (runs:/, s3://)"
    )
    parser.add_argument("--version", type=Path, required=True, metavar="FILE", help="version.json of the register step")
    parser.add_argument("--decision", type=Path, required=True, metavar="FILE", help="decision.json of the gate step")
    add_approval(parser)
    add_url(parser)
    parser.add_argument(
        "--load-timeout", type=float, default=120.0, metavar="SECONDS", help="longest time for one network to load"
    )
    add_choice(parser)
    parser.add_argument("--why", default="", metavar="TEXT", help="reason, for the audit trail")
    add_tracking(parser)
    parser.set_defaults(run=_promote)


def add_rollback(subparsers: Any) -> None:
    """Add `mira rollback`."""
    parser = _parser(
        subparsers,
        "rollback",
        "serve the version before, or a given one",
        "Switch back to a version that was promoted before and is still on disk; proved by canaries like a promotion.",
        "mira rollback --to 3 --why 'streaks in thin slices'",
    )
    parser.add_argument("--to", type=int, metavar="VERSION", help="version to serve (default: what served before)")
    add_url(parser)
    parser.add_argument("--why", default="", metavar="TEXT", help="reason, for the audit trail")
    add_tracking(parser)
    parser.set_defaults(run=_rollback)


def add_approve(subparsers: Any) -> None:
    """Add `mira approve`."""
    parser = _parser(
        subparsers,
        "approve",
        "a person's approval of a version, for manual promotion",
        "Record in the audit trail that a person read the report of a version and wants it to serve.",
        "mira approve 4 --by 'Dr. A. Example' --why 'report read, no concern'",
    )
    parser.add_argument("version", type=int, metavar="VERSION", help="registered version")
    parser.add_argument("--by", required=True, metavar="NAME", help="who approves")
    parser.add_argument("--why", required=True, metavar="TEXT", help="why")
    parser.add_argument("--decision", type=Path, metavar="FILE", help="bind the approval to this decision.json")
    parser.set_defaults(run=_approve)


def _parser(subparsers: Any, verb: str, short: str, text: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        verb,
        help=short,
        description=text,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--workspace", type=Path, default=WORKSPACE, metavar="DIR", help=f"runs and state (default {WORKSPACE})"
    )
    parser.add_argument(
        "--repository", type=Path, metavar="DIR", help="Triton model repository (default: the workspace's own)"
    )
    return parser


def add_tracking(parser: argparse.ArgumentParser) -> None:
    """Add the option that names MLflow."""
    text = "MLflow with the champion alias (default: the workspace's own, else MLFLOW_TRACKING_URI; `off`: none)"
    parser.add_argument("--tracking-uri", default="", metavar="URI", help=text)


def add_url(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the server."""
    text = "a Triton that serves the repository already, or `embedded` (default: where the last promotion went)"
    parser.add_argument("--url", metavar="HOST:PORT", help=text)


def add_approval(parser: argparse.ArgumentParser) -> None:
    """Add the option that asks for a person's approval."""
    text = "manual: needs `approve` (default: as the runs of this workspace)"
    parser.add_argument("--approval", choices=["automatic", "manual"], help=text)


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose engine, precision and GPU file; what is not given stays as it serves."""
    known = "if the new version stood the export's test in it, otherwise f32"
    parser.add_argument("--engine", choices=("openvino", "onnxruntime"), help="on a CPU (default: what serves now)")
    parser.add_argument(
        "--precision", choices=("f32", "bf16", "int8"), help=f"on a CPU (default: what serves now, {known})"
    )
    parser.add_argument(
        "--gpu", choices=("f32", "fp16", "int8", "plan"), help=f"on a GPU's Triton (default: what serves now, {known})"
    )


def chosen(arguments: argparse.Namespace) -> dict[str, str]:
    """Those of them that were given."""
    return {key: value for key in ("engine", "precision", "gpu") if (value := getattr(arguments, key, None))}


def _paths(arguments: argparse.Namespace) -> ServingPaths:
    return station(arguments.workspace, arguments.repository)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _serve(arguments: argparse.Namespace) -> int:
    if arguments.stop:
        paths = known_station(arguments.workspace, arguments.repository)
        with audited(paths, "stop", "") as record:
            supervisor.stop(paths)
            stopped = server.stop(paths)
            record["outcome"] = "done" if stopped else "unchanged"
        _say("stopped" if stopped else "no server of this workspace was running")
        return 0
    paths = _paths(arguments)
    where.check_here(paths, "This")
    with audited(paths, "serve", "") as record, locked(paths):
        known = server.running(paths)
        wanted = {name.replace("-", "_"): getattr(arguments, f"tls_{name.replace('-', '_')}") for name in TLS_OPTIONS}
        if any(wanted.values()):
            if known:
                raise ConfigurationError("The server runs. Stop it first: mira serve --stop")
            remember(paths, Transport(**wanted))
        state = serve(paths, arguments.port)
        cut_off = settled(paths, registry.tracking_uri(paths, arguments.tracking_uri))
        record["why"] = cut_off
        served = read_served(paths)
        record["version"] = served.version
        record["outcome"] = "unchanged" if known else "done"
    _say(f"Triton at {state.url} (gRPC), log {paths.log}")
    if cut_off:
        _say(cut_off)
    if served.version is None:
        _say("nothing was promoted yet; it serves no model")
    else:
        _say(f"version {served.version}: {', '.join(served.models)}; canary requests answered as expected")
    if arguments.foreground:
        supervisor.supervise_here(paths)
        server.stop(paths)
    elif not arguments.unsupervised:
        supervisor.start(paths)
        _say(f"supervised; log {paths.supervisor_log}, figures {paths.metrics}")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    found = status.read(_paths(arguments), arguments.tracking_uri)
    _say(json.dumps(found.model_dump(mode="json")) if arguments.json else status.describe(found))
    return 0


def _promote(arguments: argparse.Namespace) -> int:
    paths = _paths(arguments)
    config = PromoteConfig(
        **chosen(arguments),
        workspace=paths.workspace,
        repository=paths.repository,
        tracking_uri=arguments.tracking_uri,
        url=where.chosen(paths, arguments.url),
        approval=arguments.approval or paths.approval_of_runs(),
        load_timeout_s=arguments.load_timeout,
        why=arguments.why,
    )
    out = config.state / "promotions" / hash_file(existing(arguments.version, "version.json"))[:12]
    summary = promote(arguments.exported, arguments.version, arguments.decision, out, config)
    change = f"serves instead of {summary.before}" if summary.changed and summary.before else "serves"
    _say(f"version {summary.version} {change} at {summary.url} ({summary.seconds:.1f} s): {', '.join(summary.models)}")
    if summary.fell_back:
        _say(summary.fell_back)
    return 0


def _rollback(arguments: argparse.Namespace) -> int:
    paths = known_station(arguments.workspace, arguments.repository)
    summary = rollback.rollback(paths, arguments.to, arguments.tracking_uri, arguments.why, url=arguments.url)
    _say(f"version {summary.version} serves instead of {summary.before} at {summary.url} ({summary.seconds:.1f} s)")
    return 0


def _approve(arguments: argparse.Namespace) -> int:
    digest = hash_file(existing(arguments.decision, "decision.json")) if arguments.decision else ""
    paths = known_station(arguments.workspace, arguments.repository)
    if arguments.version < 1:
        raise ConfigurationError("VERSION is the number of a registered version, 1 or above.")
    if known_signer() is None:
        raise ConfigurationError(
            "An approval is signed, and the signing key is not here: give the one of this workspace by "
            f"{KEY_VARIABLE} or {KEY_FILE_VARIABLE}."
        )
    facts = {"version": arguments.version, "why": arguments.why, "decision_sha256": digest}
    with audited(paths, "approve", arguments.by, **facts):
        pass
    _say(f"version {arguments.version} approved by {arguments.by}, recorded in {paths.audit}")
    return 0


def existing(path: Path, name: str) -> Path:
    """A file, or the one of that name in a folder; ConfigurationError when it does not exist."""
    found = path / name if path.is_dir() else path
    if not found.is_file():
        raise ConfigurationError(f"{found} does not exist.")
    return found


__all__ = ["add_approve", "add_promote", "add_rollback", "add_serve", "add_status", "audit"]
