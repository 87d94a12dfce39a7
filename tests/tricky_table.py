"""The table of docs/reference/tricky-series.md: what the reader makes of every difficult real series.

`python -m tests.tricky_table` writes it; it needs the real scans (MIRA_BENCH). The bench's own file names are neutral.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.uid import UID

from mira.dicom.facts import transfer_syntax_uid
from mira.dicom.headers import tolerant
from mira.dicom.reasons import Refused
from mira.dicom.scan import read_header
from mira.dicom.triage import kind_name
from mira.dicom.verbs import inspect
from mira.dicom.volume import read_series
from tests.bench_sites import BENCH

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "tricky-series.md"
ALONE = ("philips_ct_exam_summary", "pydicom", "pydicom-data")
SYNTAXES = ("ts_rle", "ts_j2k", "ts_jpegls", "ts_jpeg_lossless")
HEAD = """# Difficult series, and what the reader makes of them

Written by `python -m tests.tricky_table`; a test holds the page to what the command prints. Every source of the
`tricky` set of real scans is read alone: a folder as one delivery, a DICOMDIR as its index, and each of the sample
files of pydicom, which belong to nothing, as a file of its own. A single slice can therefore never be more than
"fewer than 3 slices"; that it is decoded at all shows in that reason, since pixels that cannot be decoded are refused
before slices are counted.

| source | what it is | transfer syntax | verdict | volume, or the reason | warnings |
|---|---|---|---|---|---|
"""


def sources() -> Iterator[Path]:
    """What is read alone: files, folders and DICOMDIRs."""
    root = BENCH / "tricky"
    for name in sorted(path.name for path in root.iterdir()):
        folder = root / name
        if name == "dicomdir":
            yield from sorted(path for path in folder.rglob("*") if "DICOMDIR" in path.name)
        elif name == "dicom2nifti" or name in ALONE:
            yield from sorted(folder.iterdir())
        else:
            yield folder


def rows() -> Iterator[tuple[str, ...]]:
    """The lines of the table."""
    for path in sources():
        name = str(path.relative_to(BENCH / "tricky"))
        document = inspect(path)
        for series in document["series"]:
            what = f"{series['object']}, {series['files']} file{'s' if series['files'] > 1 else ''}"
            for volume in series["volumes"]:
                size = " x ".join(map(str, volume["shape"]))
                warnings = ", ".join(volume["warnings"])
                yield name, what, series["transfer_syntax"], "volume", f"{size}, {volume['unit']}", warnings
            for item in series["refused"]:
                yield name, what, series["transfer_syntax"], "refused", reason(item), ""
        for item in document["refused"]:
            yield name, *(identity(path) if path.is_file() else ("", "")), "refused", reason(item), ""


def reason(item: dict[str, Any]) -> str:
    """A refusal in words, with its figures and how many files it concerns."""
    words = f"{item['text']} ({item['detail']})" if item["detail"] else item["text"]
    return f"{words}; {item['files']} files" if item["files"] > 1 else words


def identity(path: Path) -> tuple[str, str]:
    """(the standard's name of a file's object, name of its transfer syntax), "" where its header does not say."""
    with tolerant():
        try:
            header = read_header(path)
        except Refused as error:
            return ("DICOMDIR" if error.reason == "dicom-directory" else ""), ""
        return kind_name(header), UID(transfer_syntax_uid(header)).name


def same_slices() -> str:
    """What the five copies of the same slices have in common."""
    folder = BENCH / "tricky" / "dicom2nifti"
    raw, *packed = (read_series((folder / name).iterdir()) for name in ("ts_raw", *SYNTAXES))
    first = packed[0].volume.voxels
    equal = all(np.array_equal(one.volume.voxels, first) for one in packed)
    hashes = len({one.source_sha256 for one in packed})
    differ = [[int((one != other).sum()) for other in first] for one in raw.volume.voxels]
    same_place = [differ[index][index] for index in range(len(differ))]
    likeness = max(
        abs(np.corrcoef(turn(one).ravel(), other.ravel())[0, 1])
        for turn in (np.asarray, np.flipud, np.fliplr, np.rot90, np.transpose)
        for one in raw.volume.voxels
        for other in first
    )
    return f"""
## The same slices in several transfer syntaxes

`{"`, `".join(SYNTAXES)}` hold the same four slices. Their volumes are {"equal" if equal else "NOT equal"} bit for bit,
with {hashes} hash of the decoded pixels between them.

`ts_raw`, which the set's list calls the reference, holds other pixels. Of the {first[0].size:,} pixels of a slice,
{min(same_place):,} to {max(same_place):,} differ from the compressed copies' slice at the same position, and at least
{min(map(min, differ)):,} from any of their slices. No slice of it is a flipped, turned or rescaled copy of theirs
either: the largest correlation is {likeness:.3f}.
So this set proves "the same slices, the same voxels" for four transfer syntaxes, not five. Ten of them, uncompressed
ones included, are compared voxel by voxel on synthetic images: `pytest tests/mira/test_dicom_syntaxes.py`.
"""


def page() -> str:
    """The whole page."""
    lines = ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows()]
    return HEAD + "\n".join(lines) + "\n" + same_slices()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
