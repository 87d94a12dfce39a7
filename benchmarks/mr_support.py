"""How much of k-space the MR cases of a folder fill, and whether known supports are found on their anatomy.

    python -m benchmarks.mr_support --cases data/cases [--pairs data/pairs] [--json]

A row per case: stored matrix, the header's acquisition matrix, the measured share per axis, and the lines that the
level counts from. Then every case is cut to four fifths of what was measured, which makes it full, and filled with
zeros by 1.5 and 2 in whole numbers, which makes its support known; how many axes are measured right is printed, and the
cases of the others. With `--pairs`, the PSNR of the degraded inputs per level, over the robust scale of each case.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mira.cases import iterate_cases, read_volume
from mira.degrade import kspace
from mira.degrade.mr_support import SLICES, filled_lines, measure_support
from mira.pairs import read_index, read_pair
from mira.tasks import Modality, Task

SHARE_KEPT = 0.8
FILLED_BY = (1.0, 1.5, 2.0)
RIGHT = 0.03  # error of the share


def main(argv: list[str] | None = None) -> int:
    """Print the table of cases and the errors, and with pairs the inputs' PSNR."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True, metavar="PATH", help="root of the cases that ingest wrote")
    parser.add_argument("--pairs", type=Path, metavar="PATH", help="root of pairs")
    parser.add_argument("--json", action="store_true", help="print one object as the last line")
    arguments = parser.parse_args(argv)
    errors: dict[float, list[tuple[float, str]]] = defaultdict(list)
    print("| site | case | stored | header | share of rows | of columns | lines filled | header disagrees |")
    print("|---|---|---|---|---|---|---|---|")
    for folder, record in iterate_cases(arguments.cases):
        if record.modality is not Modality.MR:
            continue
        voxels = read_volume(folder).voxels
        support, (_, height, width) = measure_support(voxels), voxels.shape
        rows, odd_rows = filled_lines(height, support.rows, record.protocol.acquired_rows)
        columns, odd_columns = filled_lines(width, support.columns, record.protocol.acquired_columns)
        header = f"{record.protocol.acquired_rows or '-'} x {record.protocol.acquired_columns or '-'}"
        print(
            f"| {record.site} | {record.case_id} | {height} x {width} | {header} | {support.rows:.3f} | "
            f"{support.columns:.3f} | {rows} x {columns} | {'yes' if odd_rows or odd_columns else ''} |"
        )
        for factor, error in known_errors(voxels, (rows, columns)):
            errors[factor].append((error, record.case_id))
    result: dict[str, float] = {}
    for factor, found in errors.items():
        right = [error for error, _ in found if error <= RIGHT]
        wrong = ", ".join(f"{case_id} ({error:.2f})" for error, case_id in found if error > RIGHT)
        result[f"right_{factor:g}"] = round(len(right) / len(found), 3)
        print(f"filled by {factor:g}: {len(right)} of {len(found)} axes within {RIGHT:g}; others: {wrong or 'none'}")
    if arguments.pairs is not None:
        result |= input_psnr(arguments.pairs)
    if arguments.json:
        print(json.dumps(result))
    return 0


def known_errors(voxels: NDArray[np.float32], lines: tuple[int, int]) -> Iterator[tuple[float, float]]:
    """Zero-filling and error of the measured share, for both axes, of a volume cut so that it fills its k-space."""
    looked_at = np.unique(np.linspace(0, len(voxels) - 1, SLICES).round().astype(int))
    kept = (round(SHARE_KEPT * lines[0]), round(SHARE_KEPT * lines[1]))
    acquired = kspace.to_kspace(np.asarray(voxels[looked_at]), kept)
    full = np.abs(kspace.to_image(acquired)) * np.sqrt(kept[0] * kept[1] / voxels[0].size)
    for factor in FILLED_BY:
        shape = (round(kept[0] * factor), round(kept[1] * factor))
        stored = np.abs(kspace.to_image(kspace.to_kspace(full), shape)) * factor
        support = measure_support(stored.round().astype(np.float32))
        yield factor, abs(support.rows - kept[0] / shape[0])
        yield factor, abs(support.columns - kept[1] / shape[1])


def input_psnr(root: Path) -> dict[str, float]:
    """Mean PSNR over cases of the degraded inputs at each level."""
    found: dict[float, list[float]] = defaultdict(list)
    for pair in read_index(root).pairs:
        if pair.task is not Task.MRI_SUPER_RESOLUTION or pair.mr_scale is None:
            continue
        degraded, reference = read_pair(root, pair)
        mean_square = np.square(degraded.voxels - reference.voxels).mean(dtype=np.float64)
        found[pair.physics.level].append(10 * np.log10(pair.mr_scale**2 / mean_square))
    means = {f"input_psnr_{level:g}": round(float(np.mean(values)), 2) for level, values in sorted(found.items())}
    for name, value in means.items():
        print(f"{name}: {value:.2f} dB")
    return means


if __name__ == "__main__":
    raise SystemExit(main())
