"""Promotions and rollbacks under load: python -m tests.triton.promotions [--promotions 50 --rollbacks 20 --clients 8].

Every answer is compared with what ONNX Runtime gives in this process for the version that the answer names, and that
version must be one that was in play. Ends with one line of JSON; exit code 1 when a request failed or was wrong.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from components.promote import audit, rollback, server
from tests.triton.load import Clients
from tests.triton.station import MODELS, Station

GAINS = 3  # networks with so many different weights take turns


def order(promotions: int, rollbacks: int) -> list[bool]:
    """True for a promotion, False for a rollback, evenly mixed; it begins with a promotion."""
    total = promotions + rollbacks
    return [(step + 1) * rollbacks // total == step * rollbacks // total for step in range(total)]


def run(root: Path, promotions: int, rollbacks: int, clients: int, models: tuple[str, ...] = MODELS[:1]) -> dict:
    """Promote and roll back while clients send, and say what they saw.

    Args:
        root: an empty folder.
        promotions: how many promotions, each of a new version.
        rollbacks: how many rollbacks, each to the version before.
        clients: how many clients.
        models: served models of each release; the clients ask the first.
    """
    station = Station(root)
    newest = 1
    station.promote(newest, models)
    networks = {"1": station.network(1)}
    for version in range(2, promotions + 2):
        station.release(version, models)
        networks[str(version)] = station.network(version)
    seconds: dict[str, list[float]] = {"promotion": [], "rollback": []}
    try:
        serving = 1
        with Clients(station.url, networks, clients) as senders:
            for forward in order(promotions, rollbacks):
                target = newest + 1 if forward else serving - 1
                begin = time.monotonic()
                with senders.change(str(serving), str(target)):
                    if forward:
                        newest = station.promote(target, models).version
                    else:
                        rollback.rollback(station.config, target, "off", "under load")
                seconds["promotion" if forward else "rollback"].append(time.monotonic() - begin)
                serving = target
                senders.wait_for(1)
    finally:
        server.stop(station.config)
    tally = senders.tally()
    return {
        "promotions": promotions,
        "rollbacks": rollbacks,
        "clients": clients,
        "answers": tally.answers,
        "failed": sum(tally.failed.values()),
        "wrong": len(tally.wrong),
        "reasons": [*tally.failed, *tally.wrong][:5],
        "versions_seen": len(tally.by_version),
        "largest_difference": tally.largest_difference,
        "longest_gap_s": round(tally.longest_gap_s, 3),
        "promotion_s": round(float(np.median(seconds["promotion"])), 2),
        "rollback_s": round(float(np.median(seconds["rollback"])), 2) if rollbacks else None,
        "audit": audit.verify(station.config.audit) or "whole",
    }


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--promotions", type=int, default=50)
    parser.add_argument("--rollbacks", type=int, default=20)
    parser.add_argument("--clients", type=int, default=8)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), given.promotions, given.rollbacks, given.clients)
    sys.stdout.write(json.dumps(result) + "\n")
    return 1 if result["failed"] or result["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
