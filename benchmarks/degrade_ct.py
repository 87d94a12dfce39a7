"""How fast the CT simulator is, against the ASTRA toolbox's CPU line projector, and what memory it takes.

    python -m benchmarks.degrade_ct [--quick] [--json]

The same work, one thread each, in turn in the same run, by CPU time: projection of 512x512 slices at 720 views and
filtered back-projection of the sinogram. Then whole low-dose slices with two threads, and the peak memory of a process
that streams few and four times as many slices.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from mira.degrade import ct
from mira.degrade.ct_projector import Projector
from mira.phantom.ct_modules import elliptic_body
from mira.phantom.solids import slice_grid

SIDE, VIEWS, PIXEL_MM = 512, 720, 0.8
THREADS = 2

MEMORY = """
import sys
import numpy as np
from benchmarks.degrade_ct import Lazy, parameters
from mira.degrade import ct
for batch in ct.lower_dose(Lazy(int(sys.argv[1])), {pixel}, parameters(), 1, workers={threads}):
    last = batch[-1, 0, 0]
status = open("/proc/self/status").read()  # getrusage would count the process that started this one, too
print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""


class Lazy:
    """Slices that are made when asked for, as a memory map reads them; what they take is not counted."""

    def __init__(self, count: int) -> None:
        """Hold one slice."""
        self._count = count
        self._slice = body()

    def __len__(self) -> int:
        """Number of slices."""
        return self._count

    def __getitem__(self, index: int) -> np.ndarray:
        """A fresh slice."""
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._slice + np.float32(index % 7)

    def __iter__(self) -> Iterator[np.ndarray]:
        """All slices."""
        return (self[index] for index in range(self._count))


@lru_cache(maxsize=1)
def body() -> np.ndarray:
    """A slice of a wide body with bones."""
    return elliptic_body(slice_grid(SIDE, PIXEL_MM), (180.0, 120.0))[0]


def parameters() -> ct.CtParameters:
    """A quarter of the dose, 3 mm slices every 2 mm, 720 views."""
    chosen = ct.parameters_for(0.25, (SIDE, SIDE), PIXEL_MM, 3.0, distance_mm=2.0)
    return ct.CtParameters(**{**chosen.as_record(), "views": VIEWS})  # type: ignore[arg-type]


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU time, which a busy machine does not stretch; for work on one thread."""
    start = time.process_time()
    work()
    return time.process_time() - start


def _astra(slice_mu: np.ndarray, bins: int) -> Callable[[], np.ndarray]:
    """Projection and filtered back-projection of one slice by the ASTRA toolbox's CPU line projector."""
    import astra

    volume = astra.create_vol_geom(SIDE, SIDE)
    geometry = astra.create_proj_geom("parallel", 1.0, bins, np.pi * np.arange(VIEWS) / VIEWS)
    projector = astra.create_projector("line", geometry, volume)

    def run(algorithm: str, image: int, sinogram: int) -> None:
        config = astra.astra_dict(algorithm)
        config["ProjectorId"], config["ProjectionDataId"] = projector, sinogram
        config["VolumeDataId" if algorithm == "FP" else "ReconstructionDataId"] = image
        if algorithm == "FBP":
            config["option"] = {"FilterType": "hann"}
        handle = astra.algorithm.create(config)
        astra.algorithm.run(handle)
        astra.algorithm.delete(handle)

    def both() -> np.ndarray:
        image = astra.data2d.create("-vol", volume, slice_mu)
        sinogram = astra.data2d.create("-sino", geometry)
        run("FP", image, sinogram)
        again = astra.data2d.create("-vol", volume)
        run("FBP", again, sinogram)
        result = astra.data2d.get(again)
        astra.data2d.delete([image, sinogram, again])
        return result

    return both


def _peak_mb(slices: int) -> float:
    code = MEMORY.format(pixel=PIXEL_MM, threads=THREADS)
    done = subprocess.run([sys.executable, "-c", code, str(slices)], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def run(quick: bool) -> dict[str, Any]:
    """Measure; see the module's head.

    Args:
        quick: fewer slices.
    """
    slices, rounds = (6, 1) if quick else (16, 3)
    mu = (ct.attenuation(body(), parameters()) * PIXEL_MM).astype(np.float32)
    engine = Projector(SIDE, VIEWS)

    def ours() -> np.ndarray:
        return engine.reconstruct(engine.project(mu))

    astra_both = _astra(mu, engine.bins)
    inner = np.hypot(*(np.indices((SIDE, SIDE)) - SIDE // 2)) < 60
    difference = float(np.abs(ours()[inner].mean() / astra_both()[inner].mean() - 1))
    theirs = own = np.inf
    for _ in range(rounds):
        theirs = min(theirs, _cpu_seconds(astra_both))
        own = min(own, min(_cpu_seconds(ours) for _ in range(4)))

    def degrade(count: int, threads: int) -> None:
        for _ in ct.lower_dose(Lazy(count), PIXEL_MM, parameters(), 1, workers=threads):
            pass

    degrade(2, THREADS)
    two = min(_seconds(lambda: degrade(slices, THREADS)) for _ in range(rounds + 1))
    one = min(_cpu_seconds(lambda: degrade(slices, 1)) for _ in range(rounds + 1))
    four_times = min(_cpu_seconds(lambda: degrade(4 * slices, 1)) for _ in range(rounds))
    few, many = 8, 32
    return {
        "ct_slices_per_s": slices / two,
        "ct_cpu_s_per_slice": one / slices,
        "ct_ratio_to_astra": theirs / own,
        "ct_astra_cpu_s": theirs,
        "ct_projection_cpu_s": own,
        "ct_means_differ_by": difference,
        "ct_scaling_exponent": float(np.log(four_times / one) / np.log(4)),
        "ct_peak_mb": _peak_mb(few),
        "ct_peak_mb_four_times_the_slices": _peak_mb(many),
        "ct_size": SIDE,
        "ct_views": VIEWS,
        "ct_threads": THREADS,
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer slices")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args()
    figures = run(arguments.quick)
    for name, value in figures.items():
        print(f"{name:36s} {value:10.4g}")
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
