"""What the tests of the receive package share: objects as bytes, and the three verbs on a parser of their own."""

import argparse
import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from components.receive.inbox import Inbox
from components.receive.objects import examine
from components.receive.verbs import add_pull, add_receive, add_watch
from mira.dicom.headers import tolerant
from tests.mira.dicom_synthetic import make_header


def dcmtk_storescu() -> str | None:
    """Where dcmtk's sender is; a script of that name is pynetdicom's, which is not independent."""
    found = (shutil.which("storescu", path=place) for place in os.get_exec_path())
    return next((path for path in found if path and not Path(path).read_bytes().startswith(b"#!")), None)


STORESCU = dcmtk_storescu()


def as_bytes(dataset) -> bytes:
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=False)
    return stream.getvalue()


def put(inbox: Inbox, site: str, *datasets) -> list[bool]:
    """Store datasets as a receiver does; whether each was new."""
    result = []
    with tolerant():
        for dataset in datasets:
            content = as_bytes(dataset)
            result.append(inbox.store(site, content, examine(content)))
    return result


def slices(count: int, modality: str = "CT", first: int = 0, **changes) -> list:
    return [make_header(modality, number, **changes) for number in range(first, first + count)]


def objects(root: Path) -> list[Path]:
    return sorted(root.rglob("*.dcm"))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers(required=True)
    for add in (add_receive, add_pull, add_watch):
        add(subparsers)
    return parser.parse_args(argv)


def verb(argv: Sequence[str]) -> int:
    arguments = parse(argv)
    return arguments.run(arguments)
