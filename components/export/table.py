"""`python -m components.export.table`: what each engine costs, from an export's parity.json, as Markdown."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mira.errors import DataRejected, MiraError
from mira.storage import read_json

HEADER = (
    "| model | engine | precision | HU: largest, RMS | SUV: largest, RMS | MR scale: largest, RMS | PSNR lost, dB "
    "| soft tissue, HU | SUVmean, SUVmax, % | file, MB | verdict |"
)
UNITS = ("HU", "SUVbw", "mr_scale")


def table(exported: Path) -> str:
    """A row per model, engine and precision; each figure is that of the worst slice or pair.

    Raises:
        DataRejected: when the folder is no export with engines, or not a whole one.
    """
    path = exported / "parity.json"
    models: dict[str, Any] = read_json(path)["models"] if path.is_file() else {}
    if not any("engines" in model for model in models.values()):
        raise DataRejected(f"{exported} holds no parity.json with engines. Give the folder that the export step wrote.")
    rows = [HEADER, "|" + "---|" * (HEADER.count("|") - 1)]
    for name, model in models.items():
        described = exported / name / "metadata.json"
        if not described.is_file():
            raise DataRejected(
                f"{described} is missing. Give the whole folder that the export step wrote, or export again."
            )
        metadata = read_json(described)
        files = {(entry["engine"], entry["precision"]): entry["file"] for entry in metadata["engines"]}
        for entry in model["engines"]:
            file = files.get((entry["engine"], entry["precision"]))
            path = exported / name / str(file)
            if file and not path.is_file():
                raise DataRejected(f"{path} is missing. Give the whole folder that the export step wrote.")
            size = f"{path.stat().st_size / 1e6:.2f}" if file else ""
            rows.append(_row(name, entry, size))
    return "\n".join(rows) + "\n"


def _row(name: str, entry: dict[str, Any], size: str) -> str:
    cells = [name, entry["engine"], entry["precision"]]
    found = entry.get("by_unit", {})
    cells += [f"{found[unit]['largest']:.2g}, {found[unit]['rms']:.2g}" if unit in found else "" for unit in UNITS]
    loss, changes = entry.get("psnr_loss_db"), entry.get("changes", {})
    cells.append("" if loss is None else f"{loss:.2g}")
    cells.append(f"{changes['hu_mean_bias']:.2g}" if "hu_mean_bias" in changes else "")
    cells.append(", ".join(f"{changes[key]:.2g}" for key in ("suv_mean_bias", "suv_max_bias") if key in changes))
    return "| " + " | ".join([*cells, size, entry["reason"] or "may be served"]) + " |"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, print the table, and return the exit code of the steps."""
    parser = argparse.ArgumentParser(prog="python -m components.export.table", description=table.__doc__)
    parser.add_argument("--exported", type=Path, required=True, metavar="PATH", help="what the export step wrote")
    try:
        print(table(parser.parse_args(argv).exported), end="")  # noqa: T201
    except MiraError as error:
        print(f"export.table: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
