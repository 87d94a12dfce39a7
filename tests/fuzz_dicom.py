"""Damaged DICOM by the thousand: the reader must neither crash, hang, take memory nor name the patient.

`python -m tests.fuzz_dicom --files 2000 [--seed 0]` mutates synthetic files of several kinds and transfer syntaxes,
reads each in a child process with limited memory, and prints what became of them. Exit code 0 when all went well.
A failure names its number; `--only N` reads that file alone, in this process, with the traceback.
"""

import argparse
import logging
import multiprocessing
import resource
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from mira.dicom.archive import Opened
from mira.dicom.headers import tolerant
from mira.dicom.reasons import Refused
from mira.dicom.scan import scan
from mira.dicom.volume import read_volumes
from tests.mira.dicom_enhanced import enhanced
from tests.mira.dicom_synthetic import make_header, structure_set
from tests.mira.test_dicom_syntaxes import by_gdcm

SECRET = "Zebediah"
BATCH = 200
HANG_S = 60
MEMORY_MB = 3000
"""Address space over what a child starts with; reading a healthy file takes a few MB."""
EXTREMES = [b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff\xff", b"\0\x80", b"\xfe\xff\x0d\xe0"]
VRS = [b"UI", b"SQ", b"OB", b"OW", b"UN", b"DS", b"US", b"FD", b"PN", b"ZZ"]
SIZES = {"Rows": 65535, "Columns": 65535, "NumberOfFrames": "10000", "BitsAllocated": 64, "SamplesPerPixel": 3}


@dataclass
class Result:
    """What became of a run."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    peak_mb: float = 0.0


def healthy() -> list[bytes]:
    """Files to damage: every modality, several transfer syntaxes, multi-frame, contours; with a patient to find."""
    names = {"PatientName": f"{SECRET}^Q", "PatientID": f"{SECRET}-1", "StudyDescription": f"seen by {SECRET}"}
    plain = [make_header(kind, 1, stored=_pixels(kind), **names) for kind in ("CT", "MR", "PT")]
    datasets = [(ds, ExplicitVRLittleEndian) for ds in plain]
    datasets += [(make_header("CT", 1, stored=_pixels("CT"), **names), ImplicitVRLittleEndian)]
    datasets += [(make_header("MR", 1, stored=_pixels("MR"), **names), DeflatedExplicitVRLittleEndian)]
    for syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless):
        packed = make_header("CT", 1, stored=_pixels("CT"), **names)
        packed.compress(UID(syntax), generate_instance_uid=False)
        datasets.append((packed, syntax))
    datasets += [(enhanced(kind, 4, **names), ExplicitVRLittleEndian) for kind in ("CT", "MR", "PT")]
    datasets.append((structure_set({1: [[(0, 0, 0), (5, 0, 0), (0, 5, 0)]]}, **names), ExplicitVRLittleEndian))
    return [*(_bytes(ds, syntax) for ds, syntax in datasets), *_jpeg_lossless(names)]


def _jpeg_lossless(names: dict[str, str]) -> list[bytes]:
    """The syntax that GDCM alone decodes, where GDCM is here to write it."""
    try:
        import gdcm  # noqa: F401 - asked whether it is there
    except ImportError:
        return []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "ct.dcm"
        path.write_bytes(_bytes(make_header("CT", 1, stored=_pixels("CT"), **names), ExplicitVRLittleEndian))
        return [by_gdcm(path, JPEGLosslessSV1).read_bytes()]


def _pixels(kind: str) -> np.ndarray:
    dtype = np.uint16 if kind == "PT" else np.int16
    return np.random.default_rng(len(kind)).integers(0, 2000, (40, 48)).astype(dtype)


def _bytes(ds: Dataset, syntax: UID) -> bytes:
    ds.file_meta.TransferSyntaxUID = syntax
    target = BytesIO()
    dcmwrite(target, ds, enforce_file_format=True)
    return target.getvalue()


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """One to three random changes to a file."""
    for _ in range(int(rng.integers(1, 4))):
        change = CHANGES[int(rng.integers(len(CHANGES)))]
        content = change(content, rng)
    return content


def _flip(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for at in rng.integers(0, max(len(changed), 1), int(rng.integers(1, 30))):
        if at < len(changed):
            changed[at] = int(rng.integers(256))
    return bytes(changed)


def _flip_header(content: bytes, rng: np.random.Generator) -> bytes:
    return _flip(content[:2500], rng) + content[2500:]


def _truncate(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(0, len(content) + 1))]


def _overwrite(content: bytes, rng: np.random.Generator) -> bytes:
    value, at = EXTREMES[int(rng.integers(len(EXTREMES)))], int(rng.integers(128, max(len(content), 129)))
    return content[:at] + value + content[at + len(value) :]


def _repeat(content: bytes, rng: np.random.Generator) -> bytes:
    start, end = sorted(int(value) for value in rng.integers(132, max(len(content), 133), 2))
    return content[:end] + content[start:]


def _other_vr(content: bytes, rng: np.random.Generator) -> bytes:
    found = [at for at in range(132, min(len(content), 3000)) if content[at : at + 2] in VRS]
    if not found:
        return content
    at = found[int(rng.integers(len(found)))]
    return content[:at] + VRS[int(rng.integers(len(VRS)))] + content[at + 2 :]


def _by_dataset(edit: Callable[[FileDataset, np.random.Generator], None]) -> Callable[..., bytes]:
    """A change that is made to the parsed data set; a file that is damaged already stays as it is."""

    def change(content: bytes, rng: np.random.Generator) -> bytes:
        try:
            with tolerant():
                ds = dcmread(BytesIO(content))
                edit(ds, rng)
                target = BytesIO()
                dcmwrite(target, ds)
        except Exception:  # not a reader's business: only the file that comes out of this is
            return content
        return target.getvalue()

    return change


def _drop(ds: FileDataset, rng: np.random.Generator) -> None:
    tags = list(ds.keys())
    for at in rng.integers(0, len(tags), int(rng.integers(1, 4))):
        ds.pop(tags[at], None)


def _empty(ds: FileDataset, rng: np.random.Generator) -> None:
    tags = list(ds.keys())
    ds[tags[int(rng.integers(len(tags)))]].value = None


def _blow_up(ds: FileDataset, rng: np.random.Generator) -> None:
    for keyword, value in SIZES.items():
        if rng.random() < 0.6:
            setattr(ds, keyword, value)


CHANGES = [_flip, _flip_header, _truncate, _overwrite, _overwrite, _repeat, _other_vr]
CHANGES += [_by_dataset(edit) for edit in (_drop, _empty, _blow_up)]


def damaged(number: int, seed: int, originals: list[bytes]) -> bytes:
    """File `number` of a run."""
    rng = np.random.default_rng([seed, number])
    return mutate(originals[number % len(originals)], rng)


def read(content: bytes, folder: Path) -> str:
    """Scan and read one damaged file beside two healthy slices; returns what became of it.

    Raises:
        AssertionError: when a message names the patient.
        Exception: whatever the reader did not turn into a refusal: a crash.
    """
    path = folder / "damaged.dcm"
    path.write_bytes(content)
    files = [path, *sorted(folder.glob("healthy*.dcm"))]
    said = StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = scan(Opened(files, dict.fromkeys(files, "folder")))
            results = [read_volumes(series.files) for series in found.series]
            results.append(read_volumes([path]))
    finally:
        logging.getLogger().removeHandler(handler)
    messages = [str(Refused(item.reason, item.detail)) for item in found.rejected]
    messages += [str(Refused(item.reason, item.detail)) for result in results for item in result.refusals]
    messages += [" ".join([*volume.warnings, volume.unit_refusal]) for r in results for volume in r.volumes]
    messages += [said.getvalue(), *(str(warning.message) for warning in caught)]
    assert not any(SECRET.lower() in message.lower() for message in messages), "a message names the patient"
    own = results[-1]
    return own.refusals[0].reason.value if own.refusals else "volume" if own.volumes else "nothing"


def fuzz(files: int, seed: int = 0, hang_s: float = HANG_S) -> Result:
    """Read `files` damaged files, in child processes that a native decoder may take down."""
    result = Result()
    start = 0
    context = multiprocessing.get_context("fork")
    while start < files:
        ours, theirs = context.Pipe(duplex=False)
        end = min(start + BATCH, files)
        child = context.Process(target=_batch, args=(start, end, seed, theirs))
        child.start()
        theirs.close()
        start = _listen(ours, child, start, end, result, hang_s)
        child.join()
        ours.close()
    return result


def _listen(pipe, child, start: int, end: int, result: Result, hang_s: float) -> int:
    """Collect a batch; returns the number to go on with after a crash, a hang or the end."""
    for number in range(start, end):
        try:
            if not pipe.poll(hang_s):
                child.kill()
                result.failures.append(f"{number}: hangs for more than {hang_s:g} s")
                return number + 1
            outcome, failure, peak_mb = pipe.recv()
        except EOFError:
            child.join()
            result.failures.append(f"{number}: the process died with code {child.exitcode}")
            return number + 1
        result.outcomes[outcome] += 1
        result.peak_mb = max(result.peak_mb, peak_mb)
        if failure:
            result.failures.append(f"{number}: {failure}")
    return end


def _batch(start: int, end: int, seed: int, pipe) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (pages + MEMORY_MB * 2**20, pages + MEMORY_MB * 2**20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    originals = healthy()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        neighbours(folder)
        for number in range(start, end):
            try:
                outcome, failure = read(damaged(number, seed, originals), folder), ""
            except Exception as error:  # whatever it is, it is the finding
                outcome, failure = "crash", f"{type(error).__name__}: {error}"
            peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            pipe.send((outcome, failure, peak))


def neighbours(folder: Path) -> None:
    """Two healthy slices of the series that the damaged CT belongs to."""
    for number in (0, 2):
        ds = make_header("CT", number, stored=_pixels("CT"))
        dcmwrite(folder / f"healthy{number}.dcm", ds, enforce_file_format=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="read this number alone, with a traceback")
    arguments = parser.parse_args()
    if arguments.only is not None:
        with tempfile.TemporaryDirectory() as name:
            neighbours(Path(name))
            try:
                outcome = read(damaged(arguments.only, arguments.seed, healthy()), Path(name))
            except Exception:
                traceback.print_exc()
                return 1
            sys.stdout.write(f"{outcome}\n")
        return 0
    result = fuzz(arguments.files, arguments.seed)
    for outcome, count in result.outcomes.most_common():
        sys.stdout.write(f"{count:>6} {outcome}\n")
    sys.stdout.write(f"{arguments.files} files, {len(result.failures)} failures, ")
    sys.stdout.write(f"{result.peak_mb:.0f} MB more than at the start\n")
    sys.stdout.writelines(f"  {failure}\n" for failure in result.failures[:50])
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
