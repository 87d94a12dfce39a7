"""`mira receive`, `mira pull` and `mira watch`: the three ways of data into the inbox, and from there into cases."""

import argparse
import json
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from mira.errors import ConfigurationError

RECEIVE = """examples:
  mira receive --inbox /data/inbox --site hospital-a                       this machine's senders only
  mira receive --inbox /data/inbox --host 0.0.0.0 --allow CT01@10.1.2.3=hospital-a \\
      --allow PACS@10.2.0.0/16=hospital-b --cert server.pem --key server.key --ca ca.pem     known ones, by TLS"""
PULL = """examples:
  MIRA_DICOMWEB_TOKEN=... mira pull --url https://pacs.example.org/dicom-web --inbox /data/inbox --site hospital-a \\
      --modality CT --since 2026-01-01 --limit 50"""
WATCH = """examples:
  mira watch --inbox /data/inbox --sites sites.yaml --out data/cases
  mira watch --inbox /data/inbox --sites sites.yaml --out data/cases --drop /mnt/exports -- mira run --sites sites.yaml
  mira watch --inbox /data/inbox --sites sites.yaml --out data/cases --once --quiet 0"""
MEGABYTE = 2**20


def add_receive(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb `receive`."""
    parser = _parser(
        subparsers,
        "receive",
        "take DICOM that scanners and archives send (C-STORE)",
        "A DICOM storage SCP: CT, MR, PET and structure sets go into the inbox as they were sent, under names that say "
        "nothing. Answers C-ECHO. Runs until it is stopped.",
        RECEIVE,
    )
    parser.add_argument("--port", type=int, default=11112, help="TCP port (default: 11112)")
    parser.add_argument("--ae-title", default="MIRA", metavar="AET", help="our AE title (default: MIRA)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="AET[@HOST][=SITE]",
        help="who may send, and as which site; HOST: address, network or name. Without, anybody on this machine",
    )
    parser.add_argument("--site", metavar="ID", help="site of senders whose --allow names none")
    parser.add_argument("--cert", type=Path, metavar="FILE", help="our certificate (PEM): TLS instead of plain TCP")
    parser.add_argument("--key", type=Path, metavar="FILE", help="its private key (PEM)")
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="CAs (PEM) that must have signed the senders' certificates"
    )
    parser.add_argument(
        "--max-associations", type=int, default=10, metavar="N", help="associations at a time (default: 10)"
    )
    parser.add_argument(
        "--max-object-mb", type=int, default=1024, metavar="N", help="largest object, in MiB (default: 1024)"
    )
    parser.add_argument(
        "--reserve-mb", type=int, default=1024, metavar="N", help="MiB to leave free on the disk (default: 1024)"
    )
    parser.set_defaults(run=_receive)


def add_pull(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb `pull`."""
    parser = _parser(
        subparsers,
        "pull",
        "bring series from an archive (DICOMweb)",
        "Search an archive by QIDO-RS and retrieve by WADO-RS what is not here yet. A pull that was cut off goes on "
        "where it stopped. A token is read from the environment variable MIRA_DICOMWEB_TOKEN.",
        PULL,
    )
    parser.add_argument("--url", required=True, help="DICOMweb root of the archive")
    parser.add_argument("--site", required=True, metavar="ID", help="site that the series belong to")
    parser.add_argument(
        "--modality", action="append", metavar="CODE", help="CT, MR, PT or RTSTRUCT; may be given again (default: all)"
    )
    dates = parser.add_mutually_exclusive_group()
    dates.add_argument(
        "--study-date", metavar="DATE[-DATE]", help="day or range of the study: 20260131, 20260101-20260131"
    )
    dates.add_argument("--since", metavar="DATE", help="first day of the study: 2026-01-31")
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many series that bring something new")
    parser.add_argument("--connections", type=int, default=4, metavar="N", help="objects at a time (default: 4)")
    parser.add_argument("--again", action="store_true", help="retrieve what an earlier pull brought, too")
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="CAs (PEM) of the archive's certificate (default: the system's)"
    )
    parser.add_argument("--cert", type=Path, metavar="FILE", help="our certificate and key (PEM), if the archive asks")
    parser.add_argument("--reserve-mb", type=int, default=1024, metavar="N", help="MiB to leave free (default: 1024)")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    parser.set_defaults(run=_pull)


def add_watch(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb `watch`."""
    parser = _parser(
        subparsers,
        "watch",
        "ingest series as soon as they are complete",
        "Watch the inbox: a series to which nothing came for a while is complete and is ingested; a late slice opens "
        "it again. Then, optionally, run a command. A site is fed by the inbox when its `path` is INBOX/<site id>.",
        WATCH,
    )
    parser.add_argument("--sites", type=Path, required=True, metavar="FILE", help="sites.yaml")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="root of all cases")
    parser.add_argument(
        "--drop",
        type=Path,
        metavar="DIR",
        help="folder with a sub-folder per site; files copied into it are moved into the inbox",
    )
    parser.add_argument(
        "--quiet",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="quiet time after which a series is complete (default: 60)",
    )
    parser.add_argument("--once", action="store_true", help="look once and end")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML parameters; section `ingest` is read")
    parser.add_argument("command", nargs="*", metavar="-- COMMAND", help="run after each ingest that had something new")
    parser.set_defaults(run=_watch)


def _parser(subparsers: Any, name: str, short: str, long: str, examples: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name, help=short, description=long, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inbox", type=Path, required=True, metavar="DIR", help="the inbox; made when missing")
    return parser


def _receive(arguments: argparse.Namespace) -> int:
    from components.receive.inbox import Inbox
    from components.receive.senders import parse_senders
    from components.receive.storescp import Receiver, receiving, server_tls

    if (arguments.cert is None) != (arguments.key is None) or (arguments.ca and not arguments.cert):
        raise ConfigurationError("TLS needs --cert and --key; --ca may be added.")
    tls = server_tls(arguments.cert, arguments.key, arguments.ca) if arguments.cert else None
    receiver = Receiver(
        host=arguments.host,
        port=arguments.port,
        ae_title=arguments.ae_title,
        senders=parse_senders(arguments.allow or ["*"], arguments.site),
        max_associations=arguments.max_associations,
        max_object_bytes=arguments.max_object_mb * MEGABYTE,
        tls=tls,
    )
    stop = _stop_on_signals()
    inbox = Inbox(arguments.inbox, arguments.reserve_mb * MEGABYTE)
    with receiving(receiver, inbox, say) as port:
        say(f"listening on {receiver.host}, port {port}, AE title {receiver.ae_title}" + (", TLS" if tls else ""))
        stop.wait()
    say("stopped; what was received is kept")
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    from components.receive.dicomweb import Query, pull
    from components.receive.dicomweb_session import Archive
    from components.receive.inbox import Inbox

    query = Query(study_date=_study_date(arguments), limit=arguments.limit, again=arguments.again)
    if arguments.modality:
        query = Query(tuple(arguments.modality), query.study_date, query.limit, query.again)
    if arguments.connections < 1:
        raise ConfigurationError("--connections is a number from 1 up.")
    archive = Archive(arguments.url, arguments.ca, arguments.cert, arguments.connections)
    pulled = pull(archive, query, Inbox(arguments.inbox, arguments.reserve_mb * MEGABYTE), arguments.site)
    if arguments.json:
        print(json.dumps(pulled.model_dump(mode="json")))  # noqa: T201
    else:
        say(
            f"{arguments.site}: {pulled.series} series, {pulled.stored} objects stored, {pulled.known} there before, "
            f"{pulled.skipped} brought by an earlier pull, {pulled.failed} not given by the archive"
        )
        for reason, count in sorted(pulled.refused.items()):
            say(f"refused {count}: {reason}")
    return 1 if pulled.failed else 0


def _watch(arguments: argparse.Namespace) -> int:
    from components.command import load_config
    from components.ingest.step import IngestConfig
    from components.receive.inbox import Inbox
    from components.receive.watch import Watch, watching

    if arguments.quiet < 0:
        raise ConfigurationError("--quiet is a number of seconds from 0 up.")
    watch = Watch(
        sites_file=arguments.sites,
        out=arguments.out,
        config=load_config(IngestConfig, arguments.config, "ingest"),
        drop=arguments.drop,
        quiet_seconds=arguments.quiet,
        command=arguments.command,
    )
    inbox = Inbox(arguments.inbox)
    with watching(watch, inbox, say) as watcher:
        if arguments.once:
            code = watcher.look()
            if inbox.waiting():
                say(f"{inbox.waiting()} series are still arriving; look again later, or give a shorter --quiet")
            return code
        signal.signal(signal.SIGTERM, _interrupt)
        say(f"watching; a series is complete after {arguments.quiet:g} quiet seconds")
        try:
            watcher.run(threading.Event())
        except KeyboardInterrupt:
            say("stopped; what was finished is kept, and the next watch goes on")
    return 0


def _study_date(arguments: argparse.Namespace) -> str:
    """The date range as DICOM writes it."""
    if arguments.since:
        if not re.fullmatch(r"\d{4}-?\d{2}-?\d{2}", arguments.since):
            raise ConfigurationError("--since is a date such as 2026-01-31.")
        return str(arguments.since).replace("-", "") + "-"
    if arguments.study_date and not re.fullmatch(r"\d{8}|\d{8}-|-\d{8}|\d{8}-\d{8}", arguments.study_date):
        raise ConfigurationError("--study-date is a day such as 20260131, or a range such as 20260101-20260131.")
    return arguments.study_date or ""


def _stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _interrupt(*_: object) -> None:
    """Let SIGTERM end the work at hand as Ctrl-C does: it is done again by the next watch."""
    raise KeyboardInterrupt


def say(text: str) -> None:
    """A line of the log, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)  # noqa: T201
