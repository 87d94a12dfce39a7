"""How fast the PET simulator is, how it scales, and what memory it takes.

    python -m benchmarks.degrade_pet [--quick] [--json]

Slices of 128x128 at 60 views, 2 iterations of 8 subsets, attenuation and axial filter included, in one thread. The
alternative beside it is what the simulator replaces: a full reconstruction of the noisy and of the expected counts from
a uniform start, whose difference is the noise. Memory is the peak of a process that streams few slices and of one that
streams four times as many.
"""

import argparse
import json
import subprocess
import sys
import time

import numpy as np

from mira.degrade import pet, pet_acquisition
from mira.phantom.nema import CENTRE_Y, nema_iq
from mira.phantom.raster import Grid

SIDE, PIXEL_MM, SLICE_MM = 128, 4.0, 3.27
PARAMETERS = pet.PetParameters(0.1, 350.0, views=60, subsets=8, iterations=2)

MEMORY = """
import sys
from benchmarks.degrade_pet import PARAMETERS, PIXEL_MM, SLICE_MM, Lazy
from mira.degrade import pet
for batch in pet.lower_counts(Lazy(int(sys.argv[1])), PIXEL_MM, PARAMETERS, 1, slice_mm=SLICE_MM):
    last = batch[-1, 0, 0]
status = open("/proc/self/status").read()  # getrusage would count the process that started this one, too
print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""


class Lazy:
    """Slices that are made when asked for, as a memory map reads them; what they take is not counted."""

    def __init__(self, count: int) -> None:
        """Paint one slice of the image quality phantom."""
        self._count = count
        self._slice = nema_iq(Grid((0, CENTRE_Y, 0), SIDE, PIXEL_MM, 1, SLICE_MM)).activity

    def __len__(self) -> int:
        """Number of slices."""
        return self._count

    def __getitem__(self, part: slice) -> np.ndarray:
        """Slices."""
        return np.repeat(self._slice, len(range(*part.indices(self._count))), axis=0)


def seconds(count: int) -> float:
    """CPU time of `count` low-count slices."""
    start = time.process_time()
    for _ in pet.lower_counts(Lazy(count), PIXEL_MM, PARAMETERS, 1, slice_mm=SLICE_MM):  # type: ignore[arg-type]
        pass
    return time.process_time() - start


def seconds_of_two_reconstructions(count: int) -> float:
    """CPU time of `count` slices acquired and reconstructed twice from a uniform start, noisy and noise-free."""
    slices = Lazy(count)[:]
    mu = pet.attenuation_of(slices, PIXEL_MM, None)
    start = time.process_time()
    for noise_free in (False, True):
        for _ in pet_acquisition.scanned(
            slices, mu, PIXEL_MM, PARAMETERS, 1, slice_mm=SLICE_MM, resolution_mm=0.0, noise_free=noise_free
        ):
            pass
    return time.process_time() - start


def peak_mb(count: int) -> float:
    """Peak resident memory of a process that makes `count` slices."""
    command = [sys.executable, "-c", MEMORY, str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def run(quick: bool) -> dict[str, float]:
    """All figures.

    Args:
        quick: fewer slices.
    """
    few = 16 if quick else 64
    seconds(8)  # builds and keeps the projection
    times = {count: min(seconds(count) for _ in range(2)) for count in (few, 2 * few, 4 * few)}
    exponent = np.polyfit(np.log(list(times)), np.log(list(times.values())), 1)[0]
    rate = 4 * few / times[4 * few]
    memory = {count: peak_mb(count) for count in (few, 4 * few)}
    return {
        "pet_slices_per_s": round(rate, 2),
        "pet_ratio_to_two_reconstructions": round(rate * seconds_of_two_reconstructions(few) / few, 2),
        "pet_scaling_exponent": round(float(exponent), 3),
        "pet_peak_mb": round(memory[few], 1),
        "pet_peak_mb_four_times_the_slices": round(memory[4 * few], 1),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer slices")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args()
    figures = run(arguments.quick)
    for name, value in figures.items():
        print(f"{name:40s} {value:10.3f}")
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
