"""Shadow mode: a candidate gets the images that the served version gets, answers are compared, none is returned.

Replayed are de-identified cases that lie on disk anyway; no caller's image is copied or kept, and what is written are
figures. The candidate runs in a Triton of its own, so that it can neither answer a caller nor bring the server down.
"""

import argparse
import contextlib
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from components.promote import rehearsal, repository, server, transport
from components.promote.choice import keep_what_serves
from components.promote.exported import MAIN_MODEL, read_release
from components.promote.paths import known_station
from components.promote.step import PromoteConfig
from mira.cases import CaseRecord, Record, iterate_cases, read_volume
from mira.client import RestorationClient, Restored, Tls
from mira.errors import ConfigurationError, DataRejected, ServingFailed
from mira.progress import track
from mira.storage import write_json


class Comparison(Record):
    """One sample, as both versions restored it. Pixels differ by candidate minus served, in the case's unit.

    Attributes:
        case: its pseudonymous name.
        modality: CT, PET or MR.
        unit: unit of the differences.
        slices: how many slices were sent.
        bias: mean difference.
        rms: root mean square difference.
        largest: largest difference.
        change: root mean square of what the served version changed in its input, to judge the differences by.
        served_s: how long the served version took.
        candidate_s: how long the candidate took.
        candidate_error: why the candidate gave no answer, "" when it did.
    """

    case: str
    modality: str
    unit: str
    slices: int
    bias: float = 0.0
    rms: float = 0.0
    largest: float = 0.0
    change: float = 0.0
    served_s: float = 0.0
    candidate_s: float = 0.0
    candidate_error: str = ""


class ShadowReport(Record):
    """What a shadow run found."""

    served: str
    candidate: int
    seconds: float
    comparisons: list[Comparison]
    fell_back: str = ""


def shadow(
    files: tuple[Path, Path, Path], cases: Path, out: Path, config: PromoteConfig, slices: int = 4, minutes: float = 5.0
) -> ShadowReport:
    """Send the same slices to the served version and to a candidate, and compare what they answer.

    Args:
        files: exported networks, version and decision of the candidate, as for a promotion.
        cases: root of the de-identified cases.
        out: folder for `shadow.json`.
        config: parameters of the promotion that may follow.
        slices: slices of each case, from its middle.
        minutes: time after which no further case is begun.

    Raises:
        DataRejected: when there are no cases.
        ServingFailed: when nothing serves, or the candidate cannot be loaded.
    """
    begin = time.monotonic()
    known = [(folder, record) for folder, record in iterate_cases(cases) if record.tasks]
    if not known:
        raise DataRejected(f"{cases} holds no usable case. Give the folder that ingest wrote.")
    wanted = read_release(*files)
    state = server.running(config)
    address = config.elsewhere() or (state.url if state else "")
    if not address or repository.read_served(config).version is None:
        raise ServingFailed("Nothing serves that a candidate could be compared with: mira serve")
    config, fell_back = keep_what_serves(config, wanted)  # as the promotion would
    apart = config.model_copy(
        update={"workspace": config.state / "shadow", "repository": config.state / "shadow/models"}
    )
    names = [model.name for model in wanted.models]
    comparisons: list[Comparison] = []
    try:
        with repository.locked(apart):
            for model in wanted.models:
                repository.stage(apart, model, wanted.version, config.backend_parameters())
            with (
                rehearsal.rehearsal(apart, names, config.threads, 30 + config.load_timeout_s) as url,
                contextlib.closing(RestorationClient(address, MAIN_MODEL, tls=_trusted(config))) as served,
                contextlib.closing(RestorationClient(url, MAIN_MODEL, tls=Tls())) as candidate,  # never has TLS
            ):
                for folder, record in track(known, "shadow", unit="case"):
                    if time.monotonic() - begin > 60 * minutes:
                        break
                    comparisons.append(_compare(folder, record, served, candidate, slices))
    finally:
        shutil.rmtree(apart.models, ignore_errors=True)
    report = ShadowReport(
        served=str(repository.read_served(config).version),
        candidate=wanted.version,
        seconds=round(time.monotonic() - begin, 1),
        comparisons=comparisons,
        fell_back=fell_back,
    )
    write_json(out / "shadow.json", report.model_dump(mode="json"))
    return report


def _trusted(config: PromoteConfig) -> Tls:
    """Certificates of the connection to what serves, as it was started; elsewhere those of the environment, too."""
    known = transport.chosen(config)
    own = Tls(known.authority or known.certificate, known.client_certificate, known.client_key)
    return own.over(Tls.from_environment()) if config.elsewhere() else own


def _compare(
    folder: Path, record: CaseRecord, served: RestorationClient, candidate: RestorationClient, slices: int
) -> Comparison:
    volume = read_volume(folder).voxels
    middle = max(0, (len(volume) - slices) // 2)
    sample = np.ascontiguousarray(volume[middle : middle + slices], dtype=np.float32)
    facts = {"case": record.case_id, "modality": str(record.modality), "unit": str(record.unit), "slices": len(sample)}
    one, served_s = _timed(served, sample, record)
    try:
        other, candidate_s = _timed(candidate, sample, record)
    except (ServingFailed, DataRejected) as error:
        return Comparison(**facts, served_s=served_s, candidate_error=str(error))
    difference = other.voxels.astype(np.float64) - one.voxels
    return Comparison(
        **facts,
        bias=float(difference.mean()),
        rms=float(np.sqrt((difference**2).mean())),
        largest=float(np.abs(difference).max()),
        change=float(np.sqrt(((one.voxels.astype(np.float64) - sample) ** 2).mean())),
        served_s=served_s,
        candidate_s=candidate_s,
    )


def _timed(client: RestorationClient, sample: Any, record: CaseRecord) -> tuple[Restored, float]:
    begin = time.monotonic()
    restored = client.restore_slices(sample, record.modality, mr_scale=record.mr_scale)
    return restored, round(time.monotonic() - begin, 3)


def describe(report: ShadowReport) -> str:
    """The report in words for a terminal."""
    lines = [f"version {report.candidate} in the shadow of version {report.served}, {report.seconds:.0f} s"]
    lines += [report.fell_back] if report.fell_back else []
    for one in report.comparisons:
        found = one.candidate_error or (
            f"bias {one.bias:+.3g}, rms {one.rms:.3g}, largest {one.largest:.3g} {one.unit} (served: {one.change:.3g} "
            f"from its input); {one.candidate_s:.2f} s, served {one.served_s:.2f} s"
        )
        lines.append(f"{one.case} {one.modality}: {found}")
    return "\n".join(lines)


def add_shadow(subparsers: Any) -> None:
    """Add `mira shadow`."""
    parser = subparsers.add_parser(
        "shadow",
        help="compare a candidate with what serves, on stored cases; no caller sees an answer of it",
        description="Replay de-identified cases to the served version and to a candidate in a Triton of its own.",
        epilog="example:\n  mira shadow runs/x/exported --version runs/x/version.json --decision runs/x/decision.json "
        "--cases runs/site/cases --out runs/x/shadow",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("exported", type=Path, metavar="EXPORTED", help="folder of the export step")
    parser.add_argument("--version", type=Path, required=True, metavar="FILE", help="version.json of the register step")
    parser.add_argument("--decision", type=Path, required=True, metavar="FILE", help="decision.json of the gate step")
    parser.add_argument("--cases", type=Path, required=True, metavar="DIR", help="root of the de-identified cases")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for shadow.json")
    parser.add_argument("--slices", type=int, default=4, metavar="N", help="slices of each case (default 4)")
    parser.add_argument("--minutes", type=float, default=5.0, metavar="M", help="longest time (default 5)")
    parser.add_argument("--workspace", type=Path, default=Path("runs/demo"), metavar="DIR", help="runs and state")
    parser.add_argument("--repository", type=Path, metavar="DIR", help="Triton model repository")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.slices < 1 or arguments.minutes <= 0:
        raise ConfigurationError("--slices and --minutes are positive numbers.")
    paths = known_station(arguments.workspace, arguments.repository)
    config = PromoteConfig(workspace=paths.workspace, repository=paths.repository)
    files = (arguments.exported, arguments.version, arguments.decision)
    report = shadow(files, arguments.cases, arguments.out, config, arguments.slices, arguments.minutes)
    sys.stdout.write((report.model_dump_json() if arguments.json else describe(report)) + "\n")
    return 0
