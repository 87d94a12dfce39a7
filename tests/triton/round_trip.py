"""Whole series through the client with the identity in place of the network: does everything come back?

`python -m tests.triton.round_trip` restores every usable series of the real scans beside the checkout (MIRA_BENCH), and
a made-up CT of 300 slices and PET of 267, and prints a table; `--served` does it through a real Triton server.
Both files of every slice are read by pydicom alone, without the project's own readers.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset

from mira.client import LocalRestorer, RestorationClient, Restorer
from mira.client.series import restore_series
from mira.dicom.archive import opened
from mira.dicom.scan import scan
from mira.dicom.volume import SeriesVolume, read_volumes
from tests.bench_sites import BENCH, LOCAL, TRAIN
from tests.mira.dicom_synthetic import make_header, write
from tests.triton.own_server import serving
from tests.triton.tiny_network import describe, tiny_network

GEOMETRY = (
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID", "Rows", "Columns",
    "SliceThickness", "SpacingBetweenSlices", "SliceLocation",
)  # fmt: skip
AIR, NOT_AIR = -1024.0, -1500.0  # the reader gives air for what is below it; far below there is nothing measured


@dataclass(frozen=True)
class Trip:
    """What became of one series.

    Attributes:
        name: site and modality.
        vendor: the scanner's maker.
        slices: number of slices.
        geometry: whether every geometric attribute of every slice is the very same.
        worst: largest difference of a measured pixel, in stored units of the derived slice.
        worst_value: the same in HU, SUVbw or MR a.u.
        padding: pixels that are padding in the source.
        padding_kept: those of them that are padding in the derived series: below everything measured, or declared.
        below_air: pixels between -1500 and -1024 HU, which a network never sees: they come back as any other.
    """

    name: str
    vendor: str
    slices: int
    geometry: bool
    worst: float
    worst_value: float
    padding: int
    padding_kept: int
    below_air: int

    @property
    def right(self) -> bool:
        """Whether the series came back: within half a stored unit, besides the rounding of float32 voxels."""
        return self.geometry and self.worst <= 0.5 and self.padding == self.padding_kept


def values(ds: Dataset) -> np.ndarray:
    """Rescaled values by the header alone."""
    return ds.pixel_array * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))


def declared_padding(ds: Dataset) -> np.ndarray:
    """Where the stored value is the declared padding."""
    if "PixelPaddingValue" not in ds:
        return np.zeros((ds.Rows, ds.Columns), bool)
    padding = int(ds.PixelPaddingValue)
    if ds.PixelRepresentation == 1 and padding >= 2 ** (ds.BitsAllocated - 1):
        padding -= 2**ds.BitsAllocated
    return np.asarray(ds.pixel_array == padding)


def compare(name: str, source: SeriesVolume, files: list[Path]) -> Trip:
    """Compare a series with what came back."""
    same, worst, worst_value, counts = True, 0.0, 0.0, np.zeros(3, int)
    for before_file, after_file in zip(source.files, files, strict=True):
        before, after = dcmread(before_file), dcmread(after_file)
        same &= all(before.get(keyword) == after.get(keyword) for keyword in GEOMETRY)
        raw, back = values(before), values(after)
        declared = declared_padding(before)
        if source.modality == "CT":
            if declared.any() and raw[declared].max() > -900:  # a declared padding that tissue has, too
                declared[:] = False
            padding = declared | (raw <= NOT_AIR)
            below = ~padding & (raw < AIR)
        else:
            padding, below = declared, np.zeros_like(declared)
        kept = padding & (declared_padding(after) if declared.any() else back <= NOT_AIR)
        counts += padding.sum(), kept.sum(), below.sum()
        # the reader gives float32 voxels: their own rounding is not the series'
        rounding = np.spacing(np.abs(raw).astype(np.float32)).astype(float)
        difference = np.maximum(np.abs(back - raw) - rounding, 0)[~padding]
        unit = float(after.get("RescaleSlope", 1))
        worst = max(worst, float(difference.max(initial=0)) / unit)
        worst_value = max(worst_value, float(difference.max(initial=0)) * source.suv_factor)
    vendor = str(source.headers[0].get("Manufacturer", "")).split(" ")[0] or "not stated"
    return Trip(f"{name} {source.modality}", vendor, len(files), same, worst, worst_value, *map(int, counts))


def trips(restorer: Restorer, folder: Path, out: Path, name: str) -> Iterator[Trip]:
    """Restore every usable series of a folder and compare each."""
    with opened(folder) as found:
        number = 0
        for series in scan(found).series:
            for source in read_volumes(series.files).volumes:
                if source.unit_refusal:
                    continue
                number += 1
                yield compare(name, source, restore_series(restorer, source, out / f"{number}").files)


def made_up(folder: Path, modality: str, slices: int, side: int) -> Path:
    """A series of random stored values; the CT has a declared padding outside a circle, and values below air."""
    rows, columns = np.mgrid[:side, :side]
    outside = np.hypot(rows - side / 2, columns - side / 2) > side / 2
    headers = []
    for number in range(slices):
        stored = np.random.default_rng(number).integers(0, 3000, (side, side)).astype(np.int16)
        changes: dict[str, object] = {"RescaleSlope": f"{0.1 + 0.01 * number:.6g}"} if modality == "PT" else {}
        if modality == "CT":
            stored[side // 2 : side // 2 + 3] = np.linspace(-475, 0, side).astype(np.int16)  # -1499 to -1024 HU
            stored[outside] = -2000
            changes = {"PixelPaddingValue": -2000}
        headers.append(make_header(modality, number, stored, **changes))
    write(folder, headers)
    return folder


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.triton.round_trip", description=__doc__)
    parser.add_argument("--served", action="store_true", help="through a real Triton server")
    parser.add_argument("--side", type=int, default=256, help="rows and columns of the made-up series")
    parser.add_argument("--sites", nargs="*", default=[*TRAIN, *LOCAL], help="sites of MIRA_BENCH")
    arguments = parser.parse_args(argv)
    say = sys.stdout.write
    wrong = 0
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        root = Path(name)
        if arguments.served:
            _, url = stack.enter_context(serving(root / "server", gain=0.0, threads=2))
            restorer: Restorer = stack.enter_context(RestorationClient(url))
        else:
            network = tiny_network(root / "model.onnx", gain=0.0)
            describe(network)
            restorer = stack.enter_context(LocalRestorer(network))
        jobs = [(made_up(root / "ct", "CT", 300, arguments.side), "made up"),
                (made_up(root / "pet", "PT", 267, arguments.side), "made up")]  # fmt: skip
        roles = [("train", site) for site in TRAIN] + [("local", site) for site in LOCAL]
        jobs += [(BENCH / role / site, site) for role, site in roles if site in arguments.sites]
        say(
            "series | vendor | slices | geometry | largest difference: stored units | in HU, SUV, a.u. | "
            "padding pixels | padding again | below air\n"
        )
        for number, (folder, label) in enumerate(jobs):
            if not folder.is_dir():
                say(f"{label} is not at {folder}; set MIRA_BENCH\n")
                continue
            for trip in trips(restorer, folder, root / f"out{number}", label):
                wrong += not trip.right
                say(f"{trip.name} | {trip.vendor} | {trip.slices} | {'same' if trip.geometry else 'OTHER'} | ")
                say(f"{trip.worst:.3f} | {trip.worst_value:.2g} | {trip.padding} | {trip.padding_kept} | ")
                say(f"{trip.below_air}{'' if trip.right else ' | WRONG'}\n")
                sys.stdout.flush()
    say(f"series that did not come back: {wrong}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
