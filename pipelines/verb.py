"""`mira run`: the whole factory on this machine."""

import argparse
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from components.command import explain
from components.export.config import check_served
from components.promote.paths import station
from components.promote.where import EMBEDDED
from mira.errors import ConfigurationError, RetryableError
from mira.sites import load_sites
from mira.storage import write_json
from pipelines.local import Event, run_pipeline

ROOT = Path(__file__).resolve().parent.parent
COMPILED = ROOT / "pipelines" / "compiled" / "factory.yaml"
POLICY = ROOT / "pipelines" / "policy.yaml"
# tasks of a run with three tasks: twelve steps, of which train runs four times, check-triton, gather and fetch-champion
STEPS = 18
NEEDED_GIGABYTES = 2.0
QUIET_SECONDS = 15.0  # between two words of progress where there is no terminal
WHOLE = ("ingest", "validate", "evaluate", "export", "promote", "restore")  # sections that go in as they are
SINGLE = ("size", "steps_per_task", "learning_rate", "seed")


def add_run(subparsers: Any) -> None:
    """Add `mira run`."""
    parser = subparsers.add_parser(
        "run",
        help="the whole factory on this machine",
        description="DICOM of several sites in, a served model and restored DICOM out. Without --sites, on digital "
        "phantoms that the project makes. Unchanged steps are re-used, also after an interrupted run.",
        epilog="example: mira run --sites /data/sites.yaml",
    )
    parser.add_argument("--sites", type=Path, metavar="FILE", help="sites.yaml of your own DICOM")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML laid over params.yaml, e.g. {train: {size: small}}"
    )
    parser.add_argument("--workspace", type=Path, metavar="DIR", help="where everything is kept (default: runs/<name>)")
    parser.add_argument(
        "--repository", type=Path, metavar="DIR", help="served Triton repository (default: triton_repo/models/<name>)"
    )
    parser.add_argument(
        "--policy", type=Path, metavar="FILE", default=POLICY, help="gate policy (default: pipelines/policy.yaml)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the factory; returns 0, or 4 when the gate refused the candidate."""
    started = time.monotonic()
    parameters = merged_parameters(arguments.config)
    check_served(parameters["train"].get("slices", 1))  # at once: export would refuse it after all trainings
    workspace = (arguments.workspace or ROOT / "runs" / workspace_name(arguments.sites)).resolve()
    workspace.mkdir(parents=True, exist_ok=True)
    check_space(workspace)
    with only_one(workspace):
        sites_file = arguments.sites.resolve() if arguments.sites else make_demo_sites(workspace, parameters["demo"])
        sites = load_sites(sites_file)
        say(f"mira run: {len(sites.sites)} sites, workspace {workspace}")
        repository = station(workspace, arguments.repository).models
        verdict = run_factory(workspace, sites_file, parameters, repository, read_policy(arguments.policy))
    seconds = time.monotonic() - started
    write_json(workspace / "run.json", {"verdict": verdict, "sites": str(sites_file), "seconds": round(seconds, 1)})
    last_screen(workspace, verdict, seconds)
    return 0 if verdict == "approved" else 4


def run_factory(
    workspace: Path, sites_file: Path, parameters: dict[str, dict[str, Any]], repository: Path, policy: str
) -> str:
    """Run the compiled pipeline in a workspace and return its verdict."""
    from components.tracking import prepare
    from components.train.start import pinned
    from pipelines.fingerprint import code_version, data_fingerprint
    from pipelines.history import accept, known_before

    tracking_uri = f"sqlite:///{workspace / 'mlflow.db'}"
    prepare(tracking_uri)
    # the local runner trains two networks at a time: each gets its half of the cores, or they hinder each other
    train = {**parameters["train"], "threads": parameters["train"].get("threads") or max(1, (os.cpu_count() or 1) // 2)}
    begin_from, known = train.pop("start_from", ""), train.pop("start_sha256", "")
    start = pinned(begin_from, train["size"], tracking_uri, known)
    fingerprint = data_fingerprint(sites_file)
    baseline, previous = known_before(workspace, fingerprint)
    if baseline:
        parameters["validate"] = {"baseline": baseline, "previous": previous, **parameters["validate"]}
        parameters["pair"] = {"previous": previous, **parameters["pair"]}
    arguments = {
        "triton_url": parameters["promote"].get("url") or EMBEDDED,
        "sites_file": str(sites_file),
        "workspace": str(workspace),
        "repository": str(repository),
        "tracking_uri": tracking_uri,
        **{key: train[key] for key in SINGLE},
        **start,
        "policy": policy,
        "train_config": {key: value for key, value in train.items() if key not in SINGLE},
        "pair_config": {key: value for key, value in parameters["pair"].items() if key != "seed"},
        **{f"{step}_config": parameters[step] for step in WHOLE},
        "data_fingerprint": fingerprint,
        "code_version": code_version(),
    }
    with Screen() as screen:
        verdict = str(run_pipeline(COMPILED, arguments, workspace / "kfp", workspace / "logs" / "pipeline.log", screen))
    if verdict == "approved":
        version = accept(workspace, fingerprint, baseline, previous)
        say(f"  data version {version}: mira data restore {version} --workspace {workspace}")
    return verdict


class Screen:
    """One line per step; on a terminal also a bar with the newest word of the running step."""

    def __init__(self) -> None:
        self.bar = tqdm(total=STEPS, unit="step", disable=not sys.stderr.isatty(), leave=False)
        self.since: dict[str, list[float]] = {}
        self.spoken = time.monotonic()

    def __enter__(self) -> "Screen":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def __call__(self, event: Event) -> None:
        """Show an event of the run."""
        if event.kind == "started":
            self.since.setdefault(event.step, []).append(time.monotonic())
            self.bar.set_description(event.step)
        elif event.kind == "ended":
            seconds = time.monotonic() - self.since[event.step].pop(0)
            mark = "done  " if event.text == "SUCCESS" else "FAILED"
            self.bar.update()
            tqdm.write(f"  {mark} {event.step:<10} {seconds:6.1f} s", file=sys.stdout)
        elif self.bar.disable:
            if time.monotonic() - self.spoken > QUIET_SECONDS:
                self.spoken = time.monotonic()
                tqdm.write(f"         {event.text}", file=sys.stdout)
        else:
            self.bar.set_postfix_str(event.text[:60])
        sys.stdout.flush()


def merged_parameters(overrides: Path | None) -> dict[str, dict[str, Any]]:
    """`params.yaml` with a person's file laid over it, section by section.

    Raises:
        ConfigurationError: for a section that does not exist, or a file that cannot be read.
    """
    parameters: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    if overrides is None:
        return parameters
    try:
        document = yaml.safe_load(overrides.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f"Cannot read {overrides}: {error}.") from error
    for section, values in document.items():
        if section not in parameters or not isinstance(values, dict):
            raise ConfigurationError(f"{overrides}: `{section}` is not a section; there are {', '.join(parameters)}.")
        parameters[section] = {**parameters[section], **values}
    return parameters


def read_policy(path: Path) -> str:
    """Text of the gate policy; the gate checks what it says.

    Raises:
        ConfigurationError: when the file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"Cannot read the gate policy {path}: {error.strerror}.") from error


def make_demo_sites(workspace: Path, parameters: dict[str, Any]) -> Path:
    """Make the phantoms' DICOM, or find them made."""
    from pydantic import ValidationError

    from mira.phantom.demo import DemoConfig, make_demo

    say("mira run: making digital phantoms as DICOM of four sites")
    try:
        config = DemoConfig.model_validate(parameters)
    except ValidationError as error:
        raise ConfigurationError(explain(error, "params.yaml, section demo")) from error
    return make_demo(workspace / "demo", config)


def workspace_name(sites: Path | None) -> str:
    """`demo`, or the name of the sites file; a plain `sites.yaml` is named by its folder."""
    if sites is None:
        return "demo"
    return sites.resolve().parent.name if sites.stem == "sites" else sites.stem


def check_space(workspace: Path) -> None:
    """Refuse to start on a disk that is nearly full.

    Raises:
        RetryableError: with what is free and what a run needs.
    """
    free = shutil.disk_usage(workspace).free / 1e9
    if free < NEEDED_GIGABYTES:
        raise RetryableError(
            f"{free:.1f} GB are free at {workspace}, a run needs about {NEEDED_GIGABYTES:.0f} GB. "
            "Free some space, or give another --workspace."
        )


@contextmanager
def only_one(workspace: Path) -> Iterator[None]:
    """Hold the workspace's lock.

    Raises:
        RetryableError: when another run holds it.
    """
    with (workspace / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RetryableError(
                f"Another run is using {workspace}. Wait for it, or give another --workspace."
            ) from error
        yield


def last_screen(workspace: Path, verdict: str, seconds: float) -> None:
    """Say what came out and what to open next."""
    approved = verdict == "approved"
    outcome = "approved the candidate, and it serves" if approved else "refused the candidate; what served still serves"
    say("")
    say(f"The gate {outcome}. {seconds:.0f} s in all.")
    say(f"  report            {workspace / 'report.html'}")
    if approved:
        say(f"  restored DICOM    {workspace / 'restored'}")
        say(f"  what serves now   mira status --workspace {workspace}")
        say(f"  stop serving      mira serve --stop --workspace {workspace}")
    say(f"  MLflow            mlflow ui --backend-store-uri sqlite:///{workspace / 'mlflow.db'}")
    say(f"  log               {workspace / 'logs' / 'pipeline.log'}")


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
