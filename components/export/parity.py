"""Parity: the exported file against torch, on held-out slices in native units and on awkward sizes."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mira.pairs import PairIndex, PairRecord, read_pair
from mira.tasks import TASKS, Modality, Task

if TYPE_CHECKING:
    import torch

    from model.export import OnnxSession
    from model.restorer import Restorer

# Batch, height and width at which dynamic shapes are tried, besides the slices' own.
SIZES = ((1, 32, 32), (1, 33, 47), (3, 128, 128), (1, 200, 328))
NORMALISED = {Modality.CT: 4095.0, Modality.PET: 20.0, Modality.MR: 1.0}  # native units of one normalised unit


@dataclass(frozen=True)
class Probe:
    """Slices of one pair that both engines restore.

    Attributes:
        name: pair id and slice, or a size, for the report.
        modality: modality of the slices.
        mr_scale: robust scale of an MR case, 1 otherwise.
        images: float32 [B, H, W] in native units.
    """

    name: str
    modality: Modality
    mr_scale: float
    images: NDArray[np.float32]


@dataclass(frozen=True)
class Difference:
    """How far both engines are apart on a probe.

    Attributes:
        probe: name of the probe.
        modality: its modality.
        shape: (batch, height, width).
        image: largest difference of a pixel, in HU, SUVbw or multiples of the MR scale.
        indicators: largest difference of modality probabilities, degradation and instruction.
    """

    probe: str
    modality: Modality
    shape: tuple[int, int, int]
    image: float
    indicators: float

    @property
    def normalised(self) -> float:
        """`image` in normalised units, which compare across modalities."""
        return self.image / NORMALISED[self.modality]


def held_out(root: Path, index: PairIndex, task: Task, count: int) -> list[Probe]:
    """Degraded middle slices of pairs that were not trained on, of as many patients and levels as there are.

    Test pairs come first, then validation pairs; without either, training pairs, since parity is no measure of quality.
    """
    pool: list[PairRecord] = next(
        (found for split in ("test", "validation", "train") if (found := index.select(split, task=task))), []
    )
    chosen = [pool[number * len(pool) // min(count, len(pool))] for number in range(min(count, len(pool)))]
    probes = []
    for pair in chosen:
        voxels = read_pair(root, pair)[0].voxels
        middle = len(voxels) // 2
        image = np.ascontiguousarray(voxels[middle : middle + 1])
        probes.append(Probe(f"{pair.pair_id}, slice {middle}", TASKS[task].modality, pair.mr_scale or 1.0, image))
    return probes


def resized(probe: Probe, batch: int, height: int, width: int) -> Probe:
    """A probe of another size, cut from or mirrored out of the first slice of a probe."""
    image = probe.images[0]
    missing = [(0, max(0, wanted - size)) for wanted, size in zip((height, width), image.shape, strict=True)]
    padded = np.pad(image, missing, mode="symmetric")
    top, left = ((size - wanted) // 2 for size, wanted in zip(padded.shape, (height, width), strict=True))
    window = padded[top : top + height, left : left + width]
    images = np.stack([np.roll(window, 3 * number, axis=1) for number in range(batch)])
    return Probe(f"{batch}x1x{height}x{width}", probe.modality, probe.mr_scale, images.astype(np.float32))


def compare(restorer: "Restorer", session: "OnnxSession", probe: Probe) -> Difference:
    """Restore a probe with torch and with onnxruntime, and take the largest differences."""
    import torch

    from model.inference import graph_inputs

    dimension = restorer.network.instruction_dim
    inputs = graph_inputs(probe.images, probe.modality, probe.mr_scale, dimension)
    with torch.inference_mode():
        expected = restorer(*inputs)
    got = session.run(inputs)
    unit = probe.mr_scale if probe.modality is Modality.MR else 1.0
    image = _apart(expected.restored, got["restored"]) / unit
    indicators = max(_apart(tensor, got[name]) for name, tensor in expected._asdict().items() if name != "restored")
    count, height, width = probe.images.shape
    return Difference(probe.name, probe.modality, (count, height, width), image, indicators)


def _apart(expected: "torch.Tensor", got: NDArray[np.float32]) -> float:
    """Largest difference; infinite when a value is not a number."""
    difference = np.abs(expected.numpy() - got)
    return float(difference.max()) if np.isfinite(difference).all() else float("inf")
