"""SUVbw of a real PET by hand, from its header fields with pydicom alone, beside what the reader makes of it.

`python -m tests.suv_by_hand [FOLDER]` prints the fields, the formula and five voxels; without a folder it takes
STS_001_raw of the real scans (MIRA_BENCH). Times of day are not printed, only the seconds between them.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import pydicom

from tests.bench_sites import BENCH

FOLDER = BENCH / "train" / "site-mcgill" / "PET" / "STS_001_raw"


@dataclass(frozen=True)
class Fields:
    """The header fields that go into the calculation, and what follows from them."""

    weight_kg: float
    dose_bq: float
    half_life_s: float
    seconds: float

    @property
    def decayed_bq(self) -> float:
        return self.dose_bq * 2 ** (-self.seconds / self.half_life_s)

    @property
    def suv_per_bqml(self) -> float:
        return self.weight_kg * 1000 / self.decayed_bq


@dataclass(frozen=True)
class Voxel:
    """One voxel: its place, what is stored, and its SUVbw by hand."""

    index: tuple[int, int, int]
    stored: int
    slope: float
    intercept: float
    suv: float


def clock(value: str) -> float:
    """A DICOM time (HHMMSS.FFFFFF) in seconds since midnight."""
    return int(value[:2]) * 3600 + int(value[2:4]) * 60 + float(value[4:])


def by_hand(folder: Path) -> tuple[Fields, list[Voxel]]:
    """Fields of the first slice, and of five slices spread over the volume the voxel that 1 % are brighter than.

    For BQML, decay-corrected to the start of the series, injected on the same day.
    """
    slices = sorted((pydicom.dcmread(path) for path in folder.iterdir()), key=lambda ds: ds.ImagePositionPatient[2])
    first = slices[0]
    drug = first.RadiopharmaceuticalInformationSequence[0]
    assert (first.Units, first.DecayCorrection) == ("BQML", "START")
    seconds = clock(str(first.SeriesTime)) - clock(str(drug.RadiopharmaceuticalStartTime))
    fields = Fields(
        float(first.PatientWeight), float(drug.RadionuclideTotalDose), float(drug.RadionuclideHalfLife), seconds
    )
    voxels = []
    for number in range(len(slices) // 10, len(slices), len(slices) // 5):
        ds = slices[number]
        ranked = ds.pixel_array.argsort(axis=None, kind="stable")
        row, column = divmod(int(ranked[-len(ranked) // 100]), ds.Columns)
        stored, slope, intercept = int(ds.pixel_array[row, column]), float(ds.RescaleSlope), float(ds.RescaleIntercept)
        suv = (stored * slope + intercept) * fields.suv_per_bqml
        voxels.append(Voxel((number, row, column), stored, slope, intercept, suv))
    return fields, voxels[:5]


def table(folder: Path) -> str:
    """The hand calculation and the reader's voxels side by side, as Markdown."""
    from mira.dicom.volume import read_series

    fields, voxels = by_hand(folder)
    read = read_series(folder.iterdir())
    lines = [
        f"Patient Weight (0010,1030): {fields.weight_kg:g} kg",
        f"Radionuclide Total Dose (0018,1074): {fields.dose_bq:.0f} Bq",
        f"Radionuclide Half Life (0018,1075): {fields.half_life_s:g} s",
        f"Series Time (0008,0031) - Radiopharmaceutical Start Time (0018,1072): {fields.seconds:g} s",
        f"decayed dose = {fields.dose_bq:.0f} * 2^(-{fields.seconds:g} / {fields.half_life_s:g})"
        f" = {fields.decayed_bq:.1f} Bq",
        f"SUVbw per Bq/ml = {fields.weight_kg:g} * 1000 / {fields.decayed_bq:.1f} = {fields.suv_per_bqml:.9e}",
        f"the reader's record: {read.conversion.formula}",
        "",
        "| slice, row, column | stored | slope | Bq/ml | SUVbw by hand | SUVbw read | relative difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for voxel in voxels:
        value = float(read.volume.voxels[voxel.index])
        activity = voxel.stored * voxel.slope + voxel.intercept
        lines.append(
            f"| {', '.join(map(str, voxel.index))} | {voxel.stored} | {voxel.slope:.6g} | {activity:.3f} "
            f"| {voxel.suv:.6f} | {value:.6f} | {abs(value / voxel.suv - 1):.1e} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER) + "\n")
