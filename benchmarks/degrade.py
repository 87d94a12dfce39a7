"""How fast the three simulators are, and that their memory does not grow with the number of slices.

    python -m benchmarks.degrade            # about 3 minutes
    python -m benchmarks.degrade --quick    # under 45 s

CT and PET as in `benchmarks.degrade_ct` (beside the ASTRA toolbox) and `benchmarks.degrade_pet` (beside plain
reconstructions), whose figures are all here. MR: k-space truncated by 4 per axis in 256x256 slices on one thread,
beside the formula written down as it stands, with two whole 2-D Fourier transforms a slice. Memory is what a process
takes that streams slices: resident, for MR without the pages of the NIfTI file that it maps.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import degrade_ct, degrade_pet
from mira.degrade.files import write_batches
from mira.degrade.mr import MrParameters, lower_resolution

SIDE, FACTOR = 256, 4
KEYS = ("ct_slices_per_s", "ct_ratio_to_astra", "pet_slices_per_s", "mr_slices_per_s", "peak_mb", "peak_growth")

MEMORY = """
import sys, threading, time
from pathlib import Path
from mira.degrade.files import degrade_file
from mira.tasks import Task
seen = [0]
def watch():  # what the process allocates; pages of a mapped file are the system's to drop
    while True:
        seen.append(int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]))
        time.sleep(0.002)
threading.Thread(target=watch, daemon=True).start()
degrade_file(Path(sys.argv[1]), Path(sys.argv[2]), Task.MRI_SUPER_RESOLUTION, 4, 1)
print(max(seen) / 1024)
"""


def images(count: int) -> np.ndarray:
    """Slices [count, SIDE, SIDE] of a shaded disc."""
    y, x = np.indices((SIDE, SIDE)) - SIDE / 2
    disc = np.where(np.hypot(y, x) < 0.4 * SIDE, 500 + y + x, 10)
    return (disc + np.arange(count)[:, None, None]).astype(np.float32)


def as_written(volume: np.ndarray) -> np.ndarray:
    """The formula |F^-1 (M F x)|, slice by slice."""
    half = SIDE // FACTOR // 2
    mask = np.zeros((SIDE, SIDE))
    mask[SIDE // 2 - half : SIDE // 2 + half, SIDE // 2 - half : SIDE // 2 + half] = 1
    result = np.empty(volume.shape, dtype=np.float32)
    for index, image in enumerate(volume):
        kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image.astype(np.float64))))
        result[index] = np.abs(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace * mask))))
    return result


def peak_mb(slices: int) -> float:
    """Largest resident set of a process that degrades an MR file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.nii"
        write_batches(path, (slices, SIDE, SIDE), np.eye(4), (images(8) for _ in range(slices // 8)))
        command = [sys.executable, "-c", MEMORY, str(path), str(Path(folder) / "out")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def run_mr(quick: bool) -> dict[str, float]:
    """Figures of the MR simulator.

    Args:
        quick: fewer slices.
    """
    volume = images(32 if quick else 128)
    ours = theirs = np.inf
    for _ in range(3):
        start = time.process_time()
        low = np.concatenate(list(lower_resolution(volume, MrParameters(FACTOR), 1)))
        ours = min(ours, time.process_time() - start)
        start = time.process_time()
        formula = as_written(volume)
        theirs = min(theirs, time.process_time() - start)
    few = 32 if quick else 128
    return {
        "mr_slices_per_s": len(volume) / ours,
        "mr_ratio_to_plain_formula": theirs / ours,
        "mr_largest_difference": float(np.abs(low - formula).max() / formula.max()),
        "mr_peak_mb": peak_mb(few),
        "mr_peak_mb_four_times_the_slices": peak_mb(4 * few),
    }


def run(quick: bool) -> dict[str, Any]:
    """All figures.

    Args:
        quick: fewer slices.
    """
    figures: dict[str, Any] = {**degrade_ct.run(quick), **degrade_pet.run(quick), **run_mr(quick)}
    few = [figures[f"{name}_peak_mb"] for name in ("ct", "pet", "mr")]
    many = [figures[f"{name}_peak_mb_four_times_the_slices"] for name in ("ct", "pet", "mr")]
    figures["peak_mb"] = max(*few, *many)
    figures["peak_growth"] = max(long / short for short, long in zip(few, many, strict=True))
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in figures.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer slices")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args()
    figures = run(arguments.quick)
    for name in (*KEYS, *(name for name in figures if name not in KEYS)):
        print(f"{name:38s} {figures[name]:10.4g}")
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
