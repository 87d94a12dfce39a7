"""Restored series of real scans through a real Triton, drawn beside their sources and judged by a DICOM validator.

    python -m tests.triton.pictures --checkpoint FOLDER [--out restored.png] [--keep FOLDER]

Serves a trained network, restores an abdominal CT of Colorectal-Liver-Metastases (CC BY 4.0), a whole-body PET of
Soft-tissue-Sarcoma (CC BY 3.0; drawn without the head) and an abdominal MR of CMB-CRC (CC BY 4.0), all from TCIA and
below MIRA_BENCH, with their expected error, and runs dciodvfy over every file that was written. The exit code is 1
when one of them has an error that its source does not have.
"""

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from pydicom import dcmread

from mira.client import RestorationClient
from mira.client.series import Delivered, restore_series
from mira.degrade.series import read_of
from mira.dicom.volume import SeriesVolume
from mira.tasks import Modality
from tests.bench_sites import BENCH
from tests.dicom_checks import dciodvfy_messages
from tests.triton.own_server import serving
from tests.triton.round_trip import values

QUALITY = 80


@dataclass(frozen=True)
class Scan:
    """A series of the bench, and how it is drawn.

    Attributes:
        folder: below MIRA_BENCH.
        modality: which of its series.
        window: lowest and highest value of the images.
        error: highest value of the expected error.
        change: largest absolute value of the difference.
        unit: what the values are called.
        place: which slice, as a share of the series; coronal for the PET.
    """

    folder: str
    modality: Modality
    window: tuple[float, float]
    error: float
    change: float
    unit: str
    place: float = 0.5


SCANS = (
    Scan("local/site-mskcc/CT/CRLM-CT-1004", Modality.CT, (-110, 190), 40, 40, "HU"),
    Scan("train/site-mcgill/PET/STS_001_raw", Modality.PET, (0, 6), 0.6, 0.6, "SUV"),
    Scan("train/site-cmb-toshiba/MR/CMB-CRC-MSB-06489_T2", Modality.MR, (0, 2900), 300, 100, "a.u."),
)


def decoded(files: list[Path], factor: float) -> np.ndarray:
    """Values of written files, by their headers alone."""
    return np.stack([values(dcmread(path)) for path in files]) * factor


def plane(scan: Scan, source: SeriesVolume, voxels: np.ndarray) -> tuple[np.ndarray, float]:
    """The image that is drawn, and the height of its pixels over their width."""
    if scan.modality is not Modality.PET:
        return voxels[int(scan.place * len(voxels))], 1.0
    spacing = np.linalg.norm(source.volume.affine[:3, :3], axis=0)
    upwards = voxels if source.volume.affine[2, 2] > 0 else voxels[::-1]
    body = upwards[: len(voxels) * 3 // 4, voxels.shape[1] // 2]  # without the head
    return body[::-1], float(spacing[2] / spacing[0])


def judged(files: list[Path]) -> Counter[str]:
    """What dciodvfy calls an error in these files, counted."""
    found = (message for path in files for message in dciodvfy_messages(path))
    return Counter(message for message in found if message.startswith("Error"))


def report(scan: Scan, source: SeriesVolume, done: Delivered) -> int:
    """Say what was written and what the validator says; the number of errors that the source does not have."""
    say, before = sys.stdout.write, judged(source.files)
    say(f"{scan.folder}: {done.slices} slices by {done.model}, degradation {done.degradation:.2f}\n")
    say(f"  warnings: {'; '.join(done.warnings) or 'none'}\n")
    say(f"  dciodvfy, source: {sum(before.values())} errors in {len(source.files)} files\n")
    new = 0
    for name, files in (("restored", done.files), ("expected error", done.error_files)):
        after = judged(files)
        added = {message: count for message, count in after.items() if message not in before}
        new += len(added)
        say(f"  dciodvfy, {name}: {sum(after.values())} errors in {len(files)} files\n")
        for message, count in added.items():
            say(f"    {count} x {message}\n")
    return new


def draw(rows: list[tuple[Scan, list[np.ndarray], float]], out: Path) -> None:
    """One row of images for each scan."""
    titles = ("source", "restored", "expected error (1 SD)", "restored - source")
    figure = Figure(figsize=(10, 6.6), dpi=120, layout="constrained")
    axes = figure.subplots(len(rows), len(titles))
    for line, (scan, images, aspect) in zip(axes, rows, strict=True):
        low, high = scan.window
        looks = (
            ("gray", low, high),
            ("gray", low, high),
            ("magma", 0, scan.error),
            ("RdBu_r", -scan.change, scan.change),
        )
        if scan.modality is Modality.PET:
            looks = (("gray_r", low, high), ("gray_r", low, high), *looks[2:])
        for axis, image, title, (colours, bottom, top) in zip(line, images, titles, looks, strict=True):
            axis.set(xticks=[], yticks=[])
            shown = axis.imshow(image, cmap=colours, vmin=bottom, vmax=top, aspect=aspect, interpolation="none")
            figure.colorbar(shown, ax=axis, shrink=0.7).ax.tick_params(labelsize=6)
            if scan is rows[0][0]:
                axis.set_title(title, fontsize=9)
        line[0].set_ylabel(f"{scan.modality}, {scan.unit}", fontsize=9)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, pil_kwargs={"quality": QUALITY} if out.suffix == ".jpg" else {})


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.triton.pictures", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="trained network with an error map")
    parser.add_argument("--out", type=Path, default=Path("restored.png"), help="the picture")
    parser.add_argument("--keep", type=Path, help="leave the restored series here")
    arguments = parser.parse_args(argv)
    from model.checkpoint import load_restorer
    from model.export import export_onnx

    if shutil.which("dciodvfy") is None:
        parser.error("dciodvfy is not installed (Debian's dicom3tools)")
    restorer, checkpoint = load_restorer(arguments.checkpoint)
    if not checkpoint.model.error_map:
        parser.error(f"{arguments.checkpoint} was trained without an error map")
    rows, new = [], 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        network = export_onnx(restorer, root / "model.onnx")
        options = {"instruction": checkpoint.model.instruction_dim, "engine": "openvino", "error_map": True}
        with serving(root / "server", network, threads=2, **options) as (_, url), RestorationClient(url) as client:
            for number, scan in enumerate(SCANS):
                source = read_of(BENCH / scan.folder, scan.modality)[0][0]
                out = (arguments.keep or root) / f"{number + 1:03d}-{scan.modality.lower()}"
                done = restore_series(client, source, out, confidence=True)
                new += report(scan, source, done)
                factor = source.suv_factor if scan.modality is Modality.PET else 1.0
                before, after, error = (
                    decoded(files, factor) for files in (source.files, done.files, done.error_files)
                )
                views = [plane(scan, source, one) for one in (before, after, error, after - before)]
                rows.append((scan, [image for image, _ in views], views[0][1]))
    draw(rows, arguments.out)
    sys.stdout.write(f"{arguments.out}; errors that no source has: {new}\n")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main())
