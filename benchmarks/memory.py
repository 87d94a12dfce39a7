"""Memory of restoring one slice, whole and by tiles, and the seams that tiles leave.

`python -m benchmarks.memory`                   base: 512 x 512 whole, 2048 x 2048 by tiles; some minutes on two cores
`python -m benchmarks.memory --quick`           small: the same with fewer pixels, within a minute
`python -m benchmarks.memory --network DIR`     a trained checkpoint in place of random weights

Each slice is restored in a fresh process; its peak is what the kernel counted (VmHWM), libraries and weights included.
The seams are the largest difference between a slice restored by tiles and whole, over the range (maximum minus minimum)
of the whole one; every part of the untrained network has random weights, since a new network would change nothing.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from model.restorer import Restorer

LIMIT_MB = 2000.0
SEAM_LIMIT = 0.001


def slice_of(side: int) -> NDArray[np.float32]:
    """A CT slice [side, side] in HU: a body with a few organs and noise, in air."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    image = np.where(np.hypot(rows, columns) < 0.45, 40.0, -1000.0)
    for row, column, radius, value in ((-0.2, 0.1, 0.08, 300.0), (0.1, -0.2, 0.1, -800.0), (0.2, 0.2, 0.05, 1200.0)):
        image[np.hypot(rows - row, columns - column) < radius] = value
    return (image + rng.normal(0, 30, image.shape)).astype(np.float32)


def restorer_of(size: str, network: Path | None) -> "Restorer":
    """A trained network, or one of a size with random weights in every part."""
    from model.checkpoint import load_restorer
    from model.export import random_restorer

    return random_restorer(size) if network is None else load_restorer(network)[0]


def status_mb(name: str) -> float:
    """A figure of this process in MB, from /proc: `VmRSS` is its memory now, `VmHWM` the most it ever had."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {name}")


def restore_one(size: str, network: Path | None, side: int, tile: int) -> dict[str, float]:
    """Restore one slice in this process, whole for a tile of 0, and say what it took."""
    from mira.tasks import Modality
    from model.inference import restore_tiled, restore_volume

    restorer = restorer_of(size, network)
    restore_volume(restorer, slice_of(64)[None], Modality.CT)  # libraries allocate at their first use
    image = slice_of(side)
    before = status_mb("VmRSS")
    begin = time.perf_counter()
    if tile:
        restore_tiled(restorer, image, Modality.CT, side=tile)
    else:
        restore_volume(restorer, image[None], Modality.CT)
    seconds = time.perf_counter() - begin
    peak = status_mb("VmHWM")
    return {"peak_mb": peak, "added_mb": peak - before, "seconds": seconds}


def in_fresh_process(size: str, network: Path | None, side: int, tile: int) -> dict[str, float]:
    """`restore_one` in a process of its own, whose peak is nobody else's."""
    command = [sys.executable, "-m", "benchmarks.memory", "--size", size, "--one", str(side), str(tile)]
    command += [] if network is None else ["--network", str(network)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return figures


def seams(restorer: "Restorer", side: int, tile: int) -> dict[str, float]:
    """Largest difference between a slice by tiles and whole, over the range of the whole one, and the change itself."""
    from mira.tasks import Modality
    from model.inference import restore_tiled, restore_volume

    image = slice_of(side)
    whole = restore_volume(restorer, image[None], Modality.CT).voxels[0]
    tiled = restore_tiled(restorer, image, Modality.CT, side=tile).voxels[0]
    largest = float(np.abs(tiled - whole).max())
    return {
        "seam_share": largest / float(np.ptp(whole)),
        "seam_hu": largest,
        "change_hu": float(np.sqrt(np.mean((whole - image) ** 2))),
    }


def main() -> int:
    """Measure, print, and tell by the exit code whether the limits hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="", help="size of MIRA-Net; base, or small with --quick")
    parser.add_argument("--network", type=Path, help="folder of a trained checkpoint, in place of random weights")
    parser.add_argument("--quick", action="store_true", help="small; 1024 x 1024 by tiles of 256")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--one", nargs=2, type=int, metavar=("SIDE", "TILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    size = arguments.size or ("small" if arguments.quick else "base")
    if arguments.one:
        print(json.dumps(restore_one(size, arguments.network, *arguments.one)))
        return 0
    cases = ((256, 0), (1024, 256)) if arguments.quick else ((512, 0), (2048, 512))
    results: dict[str, Any] = {"size": size}
    for side, by in cases:
        name = f"{side} by tiles of {by}" if by else f"{side} whole"
        figures = in_fresh_process(size, arguments.network, side, by)
        results[name] = {key: round(value, 1) for key, value in figures.items()}
        print(
            f"{size}, one slice of {name}: peak {figures['peak_mb']:.0f} MB, of which restoring "
            f"{figures['added_mb']:.0f} MB; {figures['seconds']:.1f} s"
        )
    found = seams(restorer_of(size, arguments.network), *((384, 192) if arguments.quick else (512, 256)))
    results |= found
    print(
        f"{size}, seams: {found['seam_share']:.2e} of the range ({found['seam_hu']:.3f} HU, where the network changes "
        f"{found['change_hu']:.1f} HU in the mean square)"
    )
    results["meets"] = all(results[name]["peak_mb"] < LIMIT_MB for name in results if " " in name)
    results["meets"] &= found["seam_share"] < SEAM_LIMIT
    if arguments.json:
        print(json.dumps(results))
    return 0 if results["meets"] else 1


if __name__ == "__main__":
    sys.exit(main())
