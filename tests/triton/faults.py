"""The fault table: python -m tests.triton.faults [NAME ...] [--out docs/reference/serving-faults.md].

Each fault is planted into a real `mira promote` of version 3 while version 2 serves and clients send without a pause.
What the command said, what the clients got, what serves afterwards and after a restart, and what the audit trail and
MLflow say becomes a row. The exit code is 1 when a row is not as it must be.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from components.promote import audit, registry, release, server, status
from components.promote.paths import ROOT
from mira import cli
from tests.triton.load import Clients
from tests.triton.station import Station
from tests.triton.tiny_network import describe, sign, tiny_network

MODEL = "mira_net"
MODELS = (MODEL,)
SHOWN = 130  # characters of a message in the table
Files = tuple[Path, Path, Path]


@dataclass(frozen=True)
class Fault:
    """A row of the table.

    Attributes:
        name: what the command line calls it.
        words: what the table calls it.
        spoil: changes the release before it is promoted.
        moment: what `tests.triton.planted` does while it is promoted.
        around: holds for the time of the promotion.
        address: given to the command as the exported networks, "" for the release's folder.
        tracking: MLflow, "" for the station's.
        code: exit code that the command must have.
        also_new: whether the new version may answer until the restart.
        halfway: whether the disk is left between two versions until the restart.
        briefly_new: whether it may answer until the fault strikes, since Triton has loaded it by then.
        audited: outcome of the last line that the audit trail must have got.
    """

    name: str
    words: str
    spoil: Callable[[Files], None] = lambda files: None
    moment: str = "none"
    around: Callable[["FaultStation"], contextlib.AbstractContextManager[None]] = lambda station: (
        contextlib.nullcontext()
    )
    address: str = ""
    tracking: str = ""
    code: int = 5
    also_new: bool = False
    halfway: bool = False
    briefly_new: bool = False
    audited: str = "failed"


@dataclass
class Row:
    """What became of a planted fault."""

    words: str
    code: int
    said: str
    answers: int
    failed: int
    wrong: int
    gap_s: float
    after: str
    restarted: str
    audited: str
    agree: str
    faults: list[str] = field(default_factory=list)


class FaultStation(Station):
    """A station with an MLflow registry, on disks of its own where mounting is allowed."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, f"sqlite:///{root / 'mlflow.db'}")
        self.mark = root / "the planted fault happened"
        self.mounted = [path for path in (root / "ws", root / "models") if _mount(path)]

    def begin(self) -> None:
        """Version 1, then version 2 serve; MLflow knows three versions."""
        import mlflow

        uri = self.config.tracking_uri
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.create_registered_model(registry.REGISTERED_MODEL)
        for _ in range(3):
            client.create_model_version(registry.REGISTERED_MODEL, source=str(self.root))
        self.promote(1, MODELS)
        self.promote(2, MODELS)

    def end(self) -> None:
        """Stop the server and give the disks back."""
        server.stop(self.config)
        for path in self.mounted:
            subprocess.run(["umount", str(path)], check=False)

    def variables(self) -> dict[str, str]:
        """Environment of the command."""
        return os.environ | {
            "PLANTED_WORKSPACE": str(self.config.workspace),
            "PLANTED_MODELS": str(self.config.repository),
            "PLANTED_MARK": str(self.mark),
            "PLANTED_DATABASE": str(self.root / "mlflow.db"),
        }


def _mount(path: Path) -> bool:
    path.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(path)]
    return (
        shutil.which("mount") is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


def _network(files: Files) -> Path:
    return files[0] / MODEL / "model.onnx"


def _broken(files: Files) -> None:
    _network(files).write_bytes(_network(files).read_bytes()[:200])
    describe(_network(files), MODEL, 3)
    sign(files[1].parent, MODEL)


def _unsigned(files: Files) -> None:
    """Other weights, with a metadata.json that fits: everything but the key."""
    describe(tiny_network(_network(files), gain=7.0), MODEL, 3)


def _other_weights(files: Files) -> None:
    tiny_network(_network(files), gain=7.0)


def _not_a_number(files: Files) -> None:
    describe(tiny_network(_network(files), gain=float("nan")), MODEL, 3)
    sign(files[1].parent, MODEL)


def _empty(files: Files) -> None:
    shutil.rmtree(files[0] / MODEL)
    (files[0] / MODEL).mkdir()


def _no_metadata(files: Files) -> None:
    _network(files).with_name("metadata.json").unlink()


@contextmanager
def _full(folder: Path) -> Iterator[None]:
    """Fill the file system of a folder to the last byte."""
    ballast = folder / ".ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
        while True:
            stream.write(b"\0" * 4096)
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def _database_back(station: FaultStation) -> Iterator[None]:
    """MLflow comes back after the promotion."""
    database = station.root / "mlflow.db"
    try:
        yield
    finally:
        away = database.with_suffix(".away")
        if away.exists():
            away.replace(database)


FAULTS = (
    Fault("broken", "broken ONNX (cut off, hash of the cut file)", _broken),
    Fault("weights", "wrong weights (hash differs)", _other_weights),
    Fault("unsigned", "wrong weights, hash in metadata.json made to fit", _unsigned),
    Fault("nan", "network that answers NaN", _not_a_number),
    Fault("empty-export", "exported folder is empty", _empty),
    Fault("no-metadata", "metadata.json is missing", _no_metadata),
    Fault("empty-version", "version folder emptied just before Triton loads it", moment="empty_folder"),
    Fault("missing-file", "model.onnx removed just before Triton loads it", moment="missing_network"),
    Fault("bad-config", "config.pbtxt turned to rubbish just before Triton reads it", moment="bad_configuration"),
    Fault("hang", "load that hangs", moment="hanging_load"),
    Fault("server-killed", "server killed (SIGKILL) in the middle", moment="kill_server"),
    Fault(
        "stubs-killed", "python stubs killed (SIGKILL) after the switch", moment="after_kill_stubs", briefly_new=True,
    ),
    Fault(
        "promotion-killed", "promotion killed (SIGKILL) after the switch", moment="after_kill_promotion", code=-9,
        also_new=True,
    ),
    Fault("copy-no-room", "disk full in the middle of copying the configuration", moment="copy_full"),
    Fault(
        "copy-killed", "promotion killed (SIGKILL) in the middle of copying the configuration", moment="copy_killed",
        code=-9, halfway=True,
    ),
    Fault("disk-full", "disk of the model repository full", around=lambda s: _full(s.config.models)),
    Fault("state-full", "disk of the audit trail full", around=lambda s: _full(s.config.state), audited="none"),
    Fault("store-gone", "artifact store gone", address="http://127.0.0.1:9/api/2.0/mlflow-artifacts/artifacts/exported"),
    Fault("mlflow-gone", "MLflow gone before", tracking="http://127.0.0.1:9"),
    Fault("mlflow-lost", "MLflow gone at the last step", moment="registry_gone", around=_database_back),
)  # fmt: skip


def run(station: FaultStation, fault: Fault) -> Row:
    """Plant one fault and look at everything."""
    release.serve(station.config)
    url, config = station.url, station.config
    shutil.rmtree(station.root / "v3", ignore_errors=True)
    files = station.release(3, MODELS)
    networks = {str(version): station.root / f"copy{version}" / "model.onnx" for version in (2, 3)}
    for version, copy in networks.items():
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(station.network(int(version)), copy)
    fault.spoil(files)
    station.mark.unlink(missing_ok=True)
    written = len(audit.read(config.audit))
    before, later = ("2", "3") if fault.also_new else ("3" if fault.briefly_new else "2", "2")
    with Clients(url, networks, 4, patient=60) as clients, clients.change(before, later):
        command = [
            sys.executable,
            "-m",
            "tests.triton.planted",
            fault.moment,
            "promote",
            fault.address or str(files[0]),
        ]
        command += ["--version", str(files[1]), "--decision", str(files[2]), "--load-timeout", "8"]
        command += ["--workspace", str(config.workspace), "--repository", str(config.repository)]
        command += ["--tracking-uri", fault.tracking or config.tracking_uri, "--why", "planted fault"]
        with fault.around(station):
            done = subprocess.run(
                command, cwd=ROOT, env=station.variables(), capture_output=True, text=True, check=False, timeout=180
            )
        clients.wait_for(3)
    tally = clients.tally()
    seen = status.read(config, config.tracking_uri)
    after, _ = station.answer()
    server.stop(config)
    where = ["--workspace", str(config.workspace), "--repository", str(config.repository)]
    serving = cli.main(["serve", "--unsupervised", *where, "--tracking-uri", config.tracking_uri])
    restarted, _ = station.answer()
    again = status.read(config, config.tracking_uri)
    new = [record for record in audit.read(config.audit)[written:] if record.what == "promote"]
    last = new[-1] if new else audit.AuditRecord(time="", who="", what="promote", outcome="none")
    row = Row(
        words=fault.words,
        code=done.returncode,
        said=_said(done.stderr).replace(f"{station.root}/", ""),
        answers=tally.answers,
        failed=sum(tally.failed.values()),
        wrong=len(tally.wrong),
        gap_s=tally.longest_gap_s,
        after=after,
        restarted=restarted,
        audited=f"{last.outcome}: {last.why}".replace(f"{station.root}/", ""),
        agree="yes" if not seen.disagreements else "`mira status` says: " + seen.disagreements[0],
    )
    apart = fault.also_new or fault.halfway
    checks = {
        f"exit code {done.returncode}, not {fault.code}": done.returncode == fault.code,
        f"{row.failed} requests failed: {list(tally.failed)[:2]}": not row.failed,
        f"{row.wrong} answers were wrong: {tally.wrong[:2]}": not row.wrong,
        f"version {after} serves afterwards": after == "2" or fault.also_new,
        f"version {restarted} serves after a restart": restarted == "2",
        "the planted moment never came": fault.moment == "none" or station.mark.exists(),
        f"`mira serve` ended with {serving}": serving == 0,
        f"the address changed from {url} to {station.url}": url == station.url,
        f"MLflow and server disagree: {seen.disagreements}": not seen.disagreements or apart,
        f"nothing says that they disagree: {seen.disagreements}": bool(seen.disagreements) or not apart,
        f"after the restart: {again.disagreements}": not again.disagreements,
        f"audit trail: {again.audit_fault}": not again.audit_fault,
        f"the audit trail says {last.outcome}, not {fault.audited}": last.outcome == fault.audited,
        "something was left in the repository": not _left(config.models),
    }
    row.faults = [words for words, fine in checks.items() if not fine]
    return row


def _left(models: Path) -> list[Path]:
    """What is in the repository, and belongs to no version that serves or served."""
    hidden = [path for path in (*models.glob(".*"), *models.glob("*/.*")) if path.name != ".lock"]
    return [*models.glob("*/3"), *hidden]


def _said(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("mira promote: ")]
    return lines[0].removeprefix("mira promote: ") if lines else text.strip()[-200:]


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    head = ["planted", "exit", "the command said", "answers, failed, wrong", "longest gap, s", "after"]
    head += ["after a restart", "audit trail", "MLflow agrees"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [
            row.words,
            str(row.code),
            _short(row.said),
            f"{row.answers}, {row.failed}, {row.wrong}",
            f"{row.gap_s:.2f}",
            f"version {row.after}",
            f"version {row.restarted}",
            _short(row.audited),
            _short(row.agree),
        ]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else text[: SHOWN - 1].rstrip() + "…"


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [fault.name for fault in FAULTS]
    parser.add_argument("name", nargs="*", choices=[*names, []], help="rows to run; all by default")
    parser.add_argument("--out", type=Path, help="write the page here as well")
    given = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        station = FaultStation(Path(folder))
        try:
            station.begin()
            for fault in FAULTS:
                if given.name and fault.name not in given.name:
                    continue
                if fault.name.endswith("-full") and not station.mounted:
                    sys.stderr.write(f"{fault.words}: not run, since this account may not mount a small disk\n")
                    continue
                rows.append(run(station, fault))
                sys.stderr.write(f"{fault.name}: {rows[-1].faults or 'as it must be'}\n")
        finally:
            station.end()
    sys.stdout.write(table(rows) + "\n")
    if given.out:
        given.out.write_text(PAGE.format(table=table(rows)), encoding="utf-8")
    return 1 if any(row.faults for row in rows) else 0


PAGE = """# Faults in a promotion, planted one by one

Written by `python -m tests.triton.faults --out docs/reference/serving-faults.md`, which fails when a row is not as it
must be. Version 2 serves from the embedded Triton; each fault is planted into a real `mira promote` of version 3, while
4 of the project's clients (which ask again when the server is away, for up to a minute) send without a pause. Every
answer is compared with the one that the version it names must give, and that version must be one that is in play.
Then the server is stopped and started by `mira serve`, at the same address. The longest gap is the longest time in
which no client got an answer; exit -9 is the promotion's own death.

{table}

Where the gap is more than a moment, something that was serving had been killed, or Triton 2.51 was waiting for a load
that nothing could end any more: the embedded server is then started anew. A client that does not ask again gets an
error in that time. "Artifact store gone" was run with the address of a store that does not answer; an S3 server that
is killed between two files of a network is in `tests/triton/test_promote_s3.py`. With the audit trail's disk full
nothing can be recorded, which is why nothing is begun.
"""

if __name__ == "__main__":
    sys.exit(main())
