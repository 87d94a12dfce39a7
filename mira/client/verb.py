"""`mira restore`: restored DICOM series, or NIfTI for NIfTI."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mira.client.arrays import LocalRestorer, RestorationClient, Restorer
from mira.client.outcome import Delivered, Outcome, RestorationIncomplete, StorageFailed, check_writable
from mira.client.retries import DEADLINE_S
from mira.client.send import check_where, send
from mira.client.sent import remember_sent, unsent
from mira.client.series import restore_folder, restore_nifti
from mira.client.tls import VARIABLES, Tls
from mira.client.weights import weights_engine
from mira.errors import ConfigurationError, MiraError
from mira.tasks import Modality

DEFAULT_SERVER, DEFAULT_NETWORK = "localhost:8001", "mira_net"
EXAMPLE = """examples:
  mira restore /data/study --out /data/restored --server localhost:8001
  mira restore scan.nii.gz --modality CT --out /data/restored --model model.onnx
  mira restore /data/study --out /data/restored --weights released
  mira restore /data/study --out /data/restored --send ARCHIVE@pacs.example.org:11112
"""
EXAMPLE_SEND = """examples:
  mira send /data/restored --to ARCHIVE@pacs.example.org:11112
  MIRA_DICOMWEB_TOKEN=... mira send /data/restored --to https://pacs.example.org/dicom-web
"""
WHERE = "AET@HOST:PORT (C-STORE), or the https address of a DICOMweb service (STOW-RS)"


def add_restore(subparsers: Any) -> None:
    """Add the verb to the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "restore",
        help="restored DICOM series (or NIfTI for NIfTI), through Triton or in process",
        description="Restore every usable DICOM series of a file, folder, DICOMDIR or zip into a derived series of the "
        "same study, or a NIfTI file into another. Research use only.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="DICOM file, folder, DICOMDIR or zip, or a NIfTI file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the restored series")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--server", metavar="HOST:PORT", help=f"Triton's gRPC address (default {DEFAULT_SERVER})")
    where.add_argument(
        "--model", type=Path, metavar="FILE", help="model.onnx: restore in this process, without a server"
    )
    where.add_argument(
        "--weights",
        metavar="WHICH",
        help="`released` (the weights that come with the project) or a checkpoint folder: the same by torch",
    )
    tls = parser.add_argument_group("TLS", f"PEM files; also by {', '.join(VARIABLES.values())} in the environment")
    tls.add_argument("--tls-ca", type=Path, metavar="FILE", help="who signs the server's certificate")
    tls.add_argument("--tls-certificate", type=Path, metavar="FILE", help="ours, where the server wants one (mTLS)")
    tls.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key")
    parser.add_argument("--network", metavar="NAME", help=f"served model (default {DEFAULT_NETWORK})")
    parser.add_argument(
        "--deadline",
        type=float,
        metavar="SECONDS",
        help="longest time for one request to the server, its retries included; one attempt takes half of it at most "
        f"(default {DEADLINE_S:g})",
    )
    parser.add_argument("--modality", choices=[str(m) for m in Modality], help="what a NIfTI file shows")
    parser.add_argument(
        "--mr-scale", type=float, metavar="X", help="intensity scale of an MR NIfTI file (default: estimated)"
    )
    parser.add_argument(
        "--confidence", action="store_true", help="write the error that the network expects as a second series, too"
    )
    parser.add_argument("--again", action="store_true", help="restore a NIfTI file also when it is marked as restored")
    parser.add_argument("--send", metavar="WHERE", help=f"send the restored series back: {WHERE}")
    parser.add_argument("--title", default="MIRA", metavar="AET", help="our AE title when sending (default MIRA)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.set_defaults(run=run)


def add_send(subparsers: Any) -> None:
    """Add the verb `send` to the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "send",
        help="send restored DICOM files to an archive",
        description="Send restored DICOM files to an archive, by C-STORE or STOW-RS. The files stay where they are, "
        "and sending them again is safe.",
        epilog=EXAMPLE_SEND,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="DICOM file, or folder of .dcm files")
    parser.add_argument("--to", required=True, metavar="WHERE", help=WHERE)
    parser.add_argument("--title", default="MIRA", metavar="AET", help="our AE title (default MIRA)")
    parser.set_defaults(run=run_send)


def run_send(arguments: argparse.Namespace) -> int:
    """Send what was asked for; returns 0."""
    path: Path = arguments.path
    files = [path] if path.is_file() else sorted(found for found in path.rglob("*.dcm") if _is_whole(found, path))
    if not files:
        raise ConfigurationError(f"{path} holds no .dcm file.")
    sent = send(files, arguments.to, arguments.title)
    sys.stdout.write(f"{len(sent.taken)} files sent\n")
    return 0


def _is_whole(found: Path, folder: Path) -> bool:
    """Whether it is a file, and nothing between the folder and it is hidden: so are series that are half written."""
    return found.is_file() and not any(part.startswith(".") for part in found.relative_to(folder).parts)


def run(arguments: argparse.Namespace) -> int:
    """Restore what was asked for; returns 0."""
    path: Path = arguments.path
    if not path.exists():
        raise ConfigurationError(f"{path} does not exist.")
    check_writable(arguments.out)
    is_nifti = path.name.lower().endswith((".nii", ".nii.gz"))
    if is_nifti and arguments.modality is None:
        raise ConfigurationError("A NIfTI file does not say what it shows: give --modality CT, PET or MR.")
    if is_nifti and arguments.send:
        raise ConfigurationError("An archive takes DICOM, not NIfTI: leave --send out, or restore the DICOM series.")
    if arguments.send:
        check_where(arguments.send)
    incomplete: RestorationIncomplete | StorageFailed | None = None
    with _restorer(arguments) as restorer:
        if is_nifti:
            name = path.name[: -len(".nii.gz")] if path.name.lower().endswith(".gz") else path.stem
            target = arguments.out / f"{name}-restored{path.name[len(name) :].lower()}"
            options = {"progress": True, "confidence": arguments.confidence, "again": arguments.again}
            modality = Modality(arguments.modality)
            outcome = Outcome([restore_nifti(restorer, path, target, modality, arguments.mr_scale, **options)])
        else:
            try:
                outcome = restore_folder(restorer, path, arguments.out, True, arguments.confidence)
            except (RestorationIncomplete, StorageFailed) as error:
                outcome, incomplete = error.outcome, error
    files = [path for item in outcome.delivered for path in (*item.files, *item.error_files)]
    if arguments.send:
        files += unsent(outcome.present, arguments.send)
    if not files and incomplete is None:
        raise outcome.nothing(path)
    _report(outcome.delivered, outcome.refusals, arguments)
    if arguments.send and files:
        try:
            sent = send(files, arguments.send, arguments.title)
        except MiraError as error:
            if incomplete is None:
                raise
            raise type(incomplete)(f"{incomplete} Sending failed, too: {error}", outcome) from error
        remember_sent(files, arguments.send)
        if not arguments.json:
            sys.stdout.write(f"{len(sent.taken)} files sent\n")
    if incomplete:
        raise incomplete
    return 0


def _restorer(arguments: argparse.Namespace) -> Restorer:
    in_process = "--model" if arguments.model is not None else "--weights" if arguments.weights is not None else ""
    for name in ("network", "deadline", "tls_ca", "tls_certificate", "tls_key"):
        if in_process and getattr(arguments, name) is not None:
            option = "--" + name.replace("_", "-")
            raise ConfigurationError(f"{option} is about a server, and {in_process} needs none: leave one of them out.")
    if arguments.model is not None:
        return LocalRestorer(arguments.model)
    if arguments.weights is not None:
        return Restorer(weights_engine(arguments.weights), in_flight=1)
    given = Tls(arguments.tls_ca, arguments.tls_certificate, arguments.tls_key)
    tls = given.over(Tls.from_environment())
    where = arguments.server or DEFAULT_SERVER
    deadline = DEADLINE_S if arguments.deadline is None else arguments.deadline
    if not deadline > 0:
        raise ConfigurationError("--deadline is a number of seconds above 0.")
    return RestorationClient(where, arguments.network or DEFAULT_NETWORK, deadline_s=deadline, tls=tls)


def _report(delivered: list[Delivered], refusals: dict[str, int], arguments: argparse.Namespace) -> None:
    """Say what was written and what was left out."""
    if arguments.json:
        document = {
            "restored": [{**item.facts(), "path": str(item.files[0].parent)} for item in delivered],
            "refused": refusals,
        }
        sys.stdout.write(json.dumps(document) + "\n")
        return
    for item in delivered:
        where = item.files[0] if len(item.files) == 1 else item.files[0].parent
        sys.stdout.write(f"{item.modality}, {item.slices} slices, by {item.model}: {where}\n")
        if item.error_files:
            beside = item.error_files[0] if len(item.error_files) == 1 else item.error_files[0].parent
            sys.stdout.write(f"  expected error (1 SD): {beside}\n")
        for warning in item.warnings:
            sys.stdout.write(f"  warning: {warning}\n")
    for reason, count in sorted(refusals.items()):
        sys.stdout.write(f"not restored, {count} file{'s' if count > 1 else ''}: {reason}\n")
