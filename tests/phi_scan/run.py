"""Put the stuffed export through every step that touches patients' data, and scan what comes out."""

import contextlib
import io
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import yaml

from mira.cli import main as mira
from mira.dicom.confidentiality import DEFAULT, Retain
from mira.dicom.deidentify import Deidentifier
from mira.dicom.deidentify_files import Outcome, deidentify_tree
from mira.dicom.pseudonym_key import load_pseudonyms
from mira.errors import MiraError
from tests.phi_scan.inputs import Export, make_export
from tests.phi_scan.scanner import Report, Scanner

SETS = {
    "default": DEFAULT,
    "none": frozenset[Retain](),
    "most": frozenset({*Retain} - {Retain.UIDS, Retain.DEVICE}),
}


@contextlib.contextmanager
def captured(stream: io.StringIO) -> Iterator[None]:
    """Send everything that is printed, logged or warned of to one stream."""
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream), warnings.catch_warnings():
            warnings.simplefilter("always")
            yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def run_all(folder: Path) -> tuple[Report, dict[str, Outcome], Export]:
    """Make the export in `folder`, run all steps, scan their outputs.

    Returns:
        The scan's report, what each set of options wrote, and the export.
    """
    export = make_export(folder / "in")
    out = folder / "out"
    said = io.StringIO()
    with captured(said):
        written = {
            name: deidentify_tree(export.root, out / f"dicom-{name}", Deidentifier(load_pseudonyms(), chosen))
            for name, chosen in SETS.items()
        }
        factory(export.root, out)
        verbs(export.root, out)
    scanner = Scanner(export.secrets)
    scanner.tree(out)
    scanner.data(said.getvalue().encode("utf-8", "surrogateescape"), "what was printed, logged and warned of")
    return scanner.report, written, export


def factory(source: Path, out: Path) -> None:
    """Ingest, validate and pair, as the pipeline does."""
    from components.ingest.step import IngestConfig, ingest
    from components.pair.step import PairConfig, pair
    from components.validate.step import ValidateConfig, validate

    sites = source.parent / "sites.yaml"
    listed = [{"id": "alpha", "role": "train", "path": str(source), "minimum_cases": 1}]
    sites.write_text(yaml.safe_dump({"sites": listed}), encoding="utf-8")
    ingest(sites, out / "cases", IngestConfig(workers=1))
    validate(out / "cases", out / "validated", ValidateConfig(minimum_local_sites=0))
    pair(out / "cases", out / "validated" / "validation.json", out / "pairs", PairConfig(workers=1))


def verbs(source: Path, out: Path) -> None:
    """Commands on files that are not as they should be: their messages count, too."""
    damaged = next(path for path in source.iterdir() if path.name.startswith("Grievance"))
    for arguments in (
        ["inspect", str(source), "--json"],
        *(["inspect", str(path)] for path in sorted(damaged.iterdir())),
        *(["ingest", str(path), "--site", "alpha", "--out", str(out / "bad")] for path in sorted(damaged.iterdir())),
    ):
        try:
            mira(arguments)
        except MiraError as error:
            sys.stderr.write(f"{error}\n")
        except Exception:  # a crash's traceback is what a user would see
            sys.stderr.write(traceback.format_exc())
