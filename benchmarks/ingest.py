"""Ingest beside plain decoding: the whole of ingest against pydicom that only reads the same pixels.

    python -m benchmarks.ingest            # 100, 1,000 and 10,000 slices, about 8 minutes and 16 GB of scratch space
    python -m benchmarks.ingest --scratch /dev/shm   # the same without a disk: 11 GB of memory
    python -m benchmarks.ingest --quick    # 100 and 300 slices, under 45 s

Slices are 512 x 512, 12 bits in 16, 50 to a series, every one different, with headers as long as a real scanner's (107
attributes, sequences among them). All ways run one after the other in a fresh process, pinned to one core or to two:

- `decode`: `pydicom.dcmread(file).pixel_array` for every file, in one process, or in a pool of two;
- `+ write`: the same, and the pixels are written to a file of the same length as a case's: what a disk costs anybody;
- `ingest`: scan, read, de-identify, rescale, write the cases, the table and the quarantine, into an empty folder;
- `again`: the same ingest of the same files once more, into the same folder, and once more with every byte hashed.

A time is the best of several runs (five of up to 200 slices, where a moment of anything else counts, else two), on the
clock and, since the clock runs for everybody on a shared machine, also in seconds of processor time of all processes of
a run. Imports are not in it, of either way; starts of worker processes are. The files are in the page cache for all,
and what was written is flushed to disk between runs and not within: of many slices, a disk's own speed is in the times.
"""

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SERIES_LENGTH = 50
SIDE = 512
KEY = "0123456789abcdef of a benchmark"


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, under 45 s on two cores")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--slices", type=int, nargs="+", metavar="N", help="sizes to measure, multiples of 50")
    parser.add_argument("--repeats", type=int, help="runs of each; the best counts")
    parser.add_argument("--scratch", type=Path, help="folder for the files (default: the system's temporary folder)")
    parser.add_argument("--child", nargs=3, metavar=("CORES", "INPUT", "OUTPUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        cores, source, out = arguments.child
        print(json.dumps(_child(int(cores), Path(source), Path(out))))
        return 0
    sizes = sorted(arguments.slices or ([100, 300] if arguments.quick else [100, 1000, 10000]))
    with tempfile.TemporaryDirectory(prefix="mira-bench-", dir=arguments.scratch) as folder:
        rows = []
        for syntax, slices in [("uncompressed", n) for n in sizes] + [("JPEG-LS", min(sizes[0], 200))]:
            usual = 5 if slices <= 200 else 2
            repeats = arguments.repeats or (1 if arguments.quick and syntax != "uncompressed" else usual)
            rows += _measure(Path(folder), syntax, slices, repeats)
    result = _result(rows, sizes)
    _print(rows, result)
    if arguments.json:
        print(json.dumps(result))
    return 0


def _measure(folder: Path, syntax: str, slices: int, repeats: int) -> list[dict[str, Any]]:
    """Rows of one input: decode and ingest, on one core and on two."""
    source, out = folder / "in", folder / "out"
    make_slices(source, slices, syntax)
    for path in sorted(source.rglob("*.dcm")):
        path.read_bytes()  # into the page cache, for everyone
    best: dict[int, dict[str, float]] = {}
    for _ in range(repeats):
        for cores in (1, 2):
            os.sync()
            seen = _in_process(cores, source, out)
            known = best.setdefault(cores, seen)
            best[cores] = {key: min(value, known[key]) for key, value in seen.items()}
            shutil.rmtree(out)
    shutil.rmtree(source)
    return [
        {
            "syntax": syntax,
            "slices": slices,
            "cores": cores,
            "ratio": seen["ingest_s"] / seen["decode_s"],
            "ratio_with_write": seen["ingest_s"] / seen["decode_and_write_s"],
            "processor_ratio": seen["ingest_processor_s"] / seen["decode_processor_s"],
            **seen,
        }
        for cores, seen in best.items()
    ]


def _in_process(cores: int, source: Path, out: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.ingest", "--child", str(cores), str(source), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MIRA_PSEUDONYM_KEY": KEY}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    seen: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return seen


def _child(cores: int, source: Path, out: Path) -> dict[str, float]:
    """Run all ways in this process, on that many cores; their seconds, and the memory of the largest process."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    import pandas as pd  # noqa: F401  (no import is timed, of either way)
    import pyarrow.parquet  # noqa: F401
    import pydicom.pixels  # noqa: F401
    import scipy.ndimage  # noqa: F401

    from components.ingest.step import IngestConfig, ingest_sites
    from mira.sites import Site

    result: dict[str, float] = {}
    plain = out.with_name("plain")
    plain.mkdir()
    for what in ("decode", "decode_and_write", "ingest", "again", "again_hashed"):
        start, used = time.perf_counter(), _processor_seconds()
        if what == "decode":
            _decode(sorted(source.rglob("*.dcm")), cores)
        elif what == "decode_and_write":
            _decode(sorted(source.rglob("*.dcm")), cores, plain)
        else:
            site = Site(id="bench", role="train", path=source)
            config = IngestConfig(workers=cores, verify=what == "again_hashed")
            summary = ingest_sites([site], out, config).sites["bench"]
            if summary.voxels_out != summary.files * SIDE**2:
                raise RuntimeError("ingest lost voxels: its time means nothing")
            if what != "ingest" and summary.unchanged != summary.series:
                raise RuntimeError("the second ingest did work: its time means nothing")
        result[f"{what}_s"] = time.perf_counter() - start
        result[f"{what}_processor_s"] = _processor_seconds() - used
        if what == "decode_and_write":
            shutil.rmtree(plain)
            os.sync()
    own = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return result | {"peak_mb": max(int(own.split()[1]), children) / 1024}


def _processor_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _decode(files: list[Path], cores: int, out: Path | None = None) -> None:
    """The yardstick: pydicom alone, and with `out` a plain write of what it gives."""
    work = partial(_decode_one, out=out)
    if cores == 1:
        for path in files:
            work(path)
        return
    from multiprocessing import Pool

    with Pool(cores) as pool:
        for _ in pool.imap_unordered(work, files, chunksize=25):
            pass


def _decode_one(path: Path, out: Path | None) -> None:
    from pydicom import dcmread

    pixels = dcmread(path).pixel_array
    if pixels.shape != (SIDE, SIDE):
        raise RuntimeError("not the pixels that were written")
    if out is not None:
        with (out / path.parent.name).open("ab") as stream:
            stream.write(pixels.data)


def make_slices(folder: Path, slices: int, syntax: str = "uncompressed") -> None:
    """Write CT series of 50 slices each; no two slices have the same pixels."""
    from pydicom.encaps import encapsulate
    from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless

    base = _anatomy()
    for number in range(slices):
        series, position = divmod(number, SERIES_LENGTH)
        stored = np.roll(base, (29 * number % SIDE, number % SIDE), axis=(0, 1))
        stored[0, :2] = number % 4096, number // 4096
        dataset = _header(series, position)
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.PixelData = stored.tobytes()
        if syntax == "JPEG-LS":
            from jpeg_ls import encode_array  # type: ignore[import-untyped]

            dataset.PixelData = encapsulate([bytes(encode_array(stored.astype(np.uint16)))])
            dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
            dataset["PixelData"].is_undefined_length = True
        path = folder / f"{series:04d}" / f"{position:04d}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path, enforce_file_format=True)


def _anatomy() -> "np.ndarray[Any, Any]":
    """Tissue with organs of many densities in air, with the noise of a routine CT: 12 bits, offset 1024."""
    rng = np.random.default_rng(1)
    row, column = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    organs = np.kron(rng.normal(0, 120, (32, 32)), np.ones((SIDE // 32, SIDE // 32)))
    tissue = np.where(np.hypot(row, 1.3 * column) < 0.42 * SIDE, 1064.0 + organs, 24.0)
    return np.clip(tissue + rng.normal(0, 18, tissue.shape), 0, 4095).astype(np.uint16)


def _header(series: int, position: int) -> Any:
    """A dataset as long as a real one: the real scans at hand have 69 to 135 attributes, half of them 107 or more."""
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

    root = "1.2.826.0.1.3680043.10.9999.7"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = f"{root}.{series}.{position + 1}"
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"{root}.9"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "113014", "DCM", "Study"
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    attributes = _PATIENT | _DEVICE | _ACQUISITION
    attributes |= {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": f"{root}.1.{series}",
        "SeriesInstanceUID": f"{root}.2.{series}",
        "FrameOfReferenceUID": f"{root}.3.{series}",
        "PatientID": f"BENCH-{series}",
        "InstanceNumber": position + 1,
        "ImagePositionPatient": [-249.51171875, -449.51171875, round(-120.0 + 1.25 * position, 3)],
        "SliceLocation": round(-120.0 + 1.25 * position, 3),
        "ReferencedStudySequence": [item],
        "ReferencedImageSequence": [item, item, item],
        "ProcedureCodeSequence": [code],
        "RequestAttributesSequence": [code],
    }
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    block = dataset.private_block(0x0009, "BENCH_IDEN_01", create=True)
    for number in range(4):
        block.add_new(number, "LO", f"private value {number}")
    return dataset


_PATIENT = {
    "SpecificCharacterSet": "ISO_IR 100", "PatientName": "Bench^Mark", "PatientBirthDate": "19500101",
    "PatientSex": "O", "PatientAge": "070Y", "PatientSize": "1.75", "PatientWeight": "75", "PatientPosition": "FFS",
    "AccessionNumber": "A-1", "StudyID": "1",
    "StudyDate": "20200102", "SeriesDate": "20200102", "AcquisitionDate": "20200102", "ContentDate": "20200102",
    "StudyTime": "095900", "SeriesTime": "100000", "AcquisitionTime": "100001.5", "ContentTime": "100002.5",
    "ReferringPhysicianName": "Some^One", "OperatorsName": "Some^Body", "StudyDescription": "Thorax",
    "SeriesDescription": "Thorax 1.25",
    "PerformedProcedureStepStartDate": "20200102", "PerformedProcedureStepStartTime": "095800",
    "PerformedProcedureStepID": "P1", "PerformedProcedureStepDescription": "CT Thorax", "ImageComments": "none",
}  # fmt: skip
_DEVICE = {
    "Modality": "CT", "Manufacturer": "BENCH", "ManufacturerModelName": "Mark 1", "InstitutionName": "Nowhere",
    "StationName": "CT1", "DeviceSerialNumber": "1", "SoftwareVersions": "1.0", "InstitutionAddress": "Nowhere 1",
    "DateOfLastCalibration": "20200101", "TimeOfLastCalibration": "070000", "ProtocolName": "Thorax",
    "InstitutionalDepartmentName": "Radiology",
}  # fmt: skip
_ACQUISITION = {
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "BodyPartExamined": "CHEST", "ScanOptions": "HELICAL MODE",
    "SliceThickness": "1.25", "KVP": "120", "SpacingBetweenSlices": "1.25", "DataCollectionDiameter": "500.0",
    "ReconstructionDiameter": "500.0", "DistanceSourceToDetector": "949.075", "DistanceSourceToPatient": "541.0",
    "GantryDetectorTilt": "0.0", "TableHeight": "133.0", "RotationDirection": "CW", "ExposureTime": "500",
    "XRayTubeCurrent": "300", "Exposure": "150", "FilterType": "BODY FILTER", "GeneratorPower": "36000",
    "FocalSpots": ["0.7"], "ConvolutionKernel": "STANDARD", "RevolutionTime": 0.5, "SingleCollimationWidth": 0.625,
    "TotalCollimationWidth": 40.0, "TableSpeed": 78.75, "TableFeedPerRotation": 39.375, "SpiralPitchFactor": 0.984375,
    "CTDIvol": 9.5, "SeriesNumber": "2", "AcquisitionNumber": "1", "Laterality": "", "PositionReferenceIndicator": "SN",
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
    "Rows": SIDE, "Columns": SIDE, "PixelSpacing": [0.9765625, 0.9765625], "BitsAllocated": 16, "BitsStored": 12,
    "HighBit": 11, "PixelRepresentation": 0, "SmallestImagePixelValue": 0, "LargestImagePixelValue": 4095,
    "WindowCenter": "40", "WindowWidth": "400", "RescaleIntercept": "-1024", "RescaleSlope": "1", "RescaleType": "HU",
    "LossyImageCompression": "00",
}  # fmt: skip


def _result(rows: list[dict[str, Any]], sizes: list[int]) -> dict[str, Any]:
    plain = [row for row in rows if row["syntax"] == "uncompressed"]
    two = {row["slices"]: row for row in plain if row["cores"] == 2}
    result: dict[str, Any] = {
        "ratio_to_decode": round(max(row["ratio"] for row in plain), 3),
        "ratio_to_decode_and_write": round(max(row["ratio_with_write"] for row in plain), 3),
        "processor_ratio_to_decode": round(max(row["processor_ratio"] for row in plain), 3),
        "ratio_to_decode_compressed": round(max(row["ratio"] for row in rows if row not in plain), 3),
        "slices_per_s": round(sizes[-1] / two[sizes[-1]]["ingest_s"], 1),
        "scaling_exponent": round(_slope([(n, two[n]["ingest_s"]) for n in sizes]), 3),
        "scaling_exponent_one_core": round(_slope([(r["slices"], r["ingest_s"]) for r in plain if r["cores"] == 1]), 3),
        "peak_mb": round(max(row["peak_mb"] for row in rows)),
        "again_share": round(max(row["again_s"] / row["ingest_s"] for row in plain), 4),
    }
    return result | {"rows": [{k: round(v, 4) if isinstance(v, float) else v for k, v in r.items()} for r in rows]}


def _slope(points: list[tuple[int, float]]) -> float:
    """Slope of log(time) over log(slices): 1 is linear."""
    if len(points) < 2:
        return math.nan
    return float(np.polyfit(np.log([n for n, _ in points]), np.log([s for _, s in points]), 1)[0])


def _print(rows: list[dict[str, Any]], result: dict[str, Any]) -> None:
    print(f"{SIDE} x {SIDE}, {SERIES_LENGTH} slices a series; page cache warm for all; best of the runs")
    print(
        f"{'':13}{'slices':>7}{'cores':>6}{'decode':>10}{'+ write':>10}{'ingest':>10}{'ratio':>7}{'to write':>9}"
        f"{'cpu ratio':>11}{'again':>9}{'re-hashed':>11}{'peak MB':>9}"
    )
    for row in rows:
        print(
            f"{row['syntax']:13}{row['slices']:>7}{row['cores']:>6}{row['decode_s']:>8.3f} s"
            f"{row['decode_and_write_s']:>8.3f} s{row['ingest_s']:>8.3f} s{row['ratio']:>7.2f}"
            f"{row['ratio_with_write']:>9.2f}{row['processor_ratio']:>11.2f}"
            f"{row['again_s']:>7.3f} s{row['again_hashed_s']:>9.3f} s{row['peak_mb']:>9.0f}"
        )
    print(
        f"worst ratio {result['ratio_to_decode']}, {result['slices_per_s']} slices/s on two cores, "
        f"time grows with slices to the power {result['scaling_exponent']}"
    )


if __name__ == "__main__":
    sys.exit(main())
