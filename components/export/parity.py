"""Parity: an engine against torch, on held-out slices in native units and on awkward sizes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.command import announce
from components.evaluate.measure import Slices, load_slices
from mira.pairs import PairIndex, PairRecord
from mira.tasks import TASKS, Modality, Task

if TYPE_CHECKING:
    import torch

    from model.restorer import Restorer

# Batch, height and width at which dynamic shapes are tried, besides the slices' own.
SIZES = ((1, 32, 32), (1, 33, 47), (3, 128, 128), (1, 200, 328))
NORMALISED = {Modality.CT: 4095.0, Modality.PET: 20.0, Modality.MR: 1.0}  # native units of one normalised unit
IMAGES = ("restored", "predicted_error")  # outputs in the unit of the input


@dataclass(frozen=True)
class Probe:
    """Slices that torch and an engine restore.

    Attributes:
        name: pair id, or a size, for the report.
        modality: modality of the slices.
        mr_scale: robust scale of an MR case, 1 otherwise.
        images: float32 [B, H, W] in native units.
        slices: the pair's slices, with reference and structures; None of a size.
    """

    name: str
    modality: Modality
    mr_scale: float
    images: NDArray[np.float32]
    slices: Slices | None = None

    def place(self, number: int) -> str:
        """Where the image of that number comes from, for the report."""
        return self.name if self.slices is None else f"{self.name}, slice {self.slices.index[number]}"


@dataclass(frozen=True)
class Expected:
    """What torch gives in f32.

    Attributes:
        probe: the slices.
        inputs: in the order of `Restorer.INPUTS`.
        outputs: by name.
    """

    probe: Probe
    inputs: "tuple[torch.Tensor, ...]"
    outputs: dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Difference:
    """How far an engine is from torch on a probe.

    Attributes:
        probe: name of the probe and its worst slice.
        modality: its modality.
        shape: (batch, height, width).
        image: largest difference of a pixel, in HU, SUVbw or multiples of the MR scale.
        rms: root mean square difference of the slice where it is largest, in the same unit.
        indicators: largest difference of modality probabilities, degradation and instruction.
    """

    probe: str
    modality: Modality
    shape: tuple[int, int, int]
    image: float
    rms: float
    indicators: float

    @property
    def normalised(self) -> float:
        """`image` in normalised units, which compare across modalities."""
        return self.image / NORMALISED[self.modality]


def held_out(root: Path, index: PairIndex, task: Task, count: int) -> list[Probe]:
    """Middle slices of pairs that were not trained on, and those with most of a structure, of as many patients and
    levels as there are.

    Test pairs come first, then validation pairs; without either, training pairs, since parity is no measure of quality.
    Another pair takes the place of one of whose slices none shows anything: an engine cannot be judged on it.

    Returns:
        At most `count` probes; none where no pair of the task has a slice that shows anything.
    """
    blank = 0
    probes: list[Probe] = []
    for split in ("test", "validation", "train"):
        for pair in _spread(index.select(split, task=task), count):
            if len(probes) == count:
                break
            slices = load_slices(root, pair, 0, 0)
            if not len(slices.index):
                blank += 1
                continue
            slices = _telling(slices)
            probes.append(Probe(pair.pair_id, TASKS[task].modality, pair.mr_scale or 1.0, slices.degraded, slices))
        if probes:
            break
    if blank:
        announce(f"export: pairs of {task} left out of the test because no slice shows anything: {blank}")
    return probes


def _spread(pool: list[PairRecord], count: int) -> list[PairRecord]:
    """All pairs of a pool, first as many as are asked for, of as many cases and levels as there are."""
    from model.validation import spread

    first = spread([pair.case_id for pair in pool], min(count, len(pool)))
    return [pool[number] for number in dict.fromkeys((*first, *range(len(pool))))]


def _telling(slices: Slices) -> Slices:
    """The middle slice of a volume, and the one that shows most of its structures."""
    chosen = {len(slices.index) // 2}
    if slices.structures is not None:
        chosen.add(int(np.count_nonzero(slices.structures, axis=(1, 2)).argmax()))
    rows = sorted(chosen)
    return replace(
        slices,
        index=slices.index[rows],
        degraded=slices.degraded[rows],
        reference=slices.reference[rows],
        structures=None if slices.structures is None else slices.structures[rows],
    )


def resized(probe: Probe, batch: int, height: int, width: int) -> Probe:
    """A probe of another size, cut from or mirrored out of the first slice of a probe."""
    image = probe.images[0]
    missing = [(0, max(0, wanted - size)) for wanted, size in zip((height, width), image.shape, strict=True)]
    padded = np.pad(image, missing, mode="symmetric")
    top, left = ((size - wanted) // 2 for size, wanted in zip(padded.shape, (height, width), strict=True))
    window = padded[top : top + height, left : left + width]
    images = np.stack([np.roll(window, 3 * number, axis=1) for number in range(batch)])
    return Probe(f"{batch}x1x{height}x{width}", probe.modality, probe.mr_scale, images.astype(np.float32))


def expect(restorer: "Restorer", probe: Probe) -> Expected:
    """Restore a probe with torch in f32."""
    import torch

    from model.inference import graph_inputs

    inputs = graph_inputs(probe.images, probe.modality, probe.mr_scale, restorer.network.instruction_dim)
    with torch.inference_mode():
        outputs = restorer(*inputs)._asdict()
    return Expected(probe, inputs, {name: outputs[name].numpy() for name in restorer.outputs})


def compare(expected: Expected, got: dict[str, NDArray[np.float32]]) -> Difference:
    """The largest differences of an engine's answers from torch's."""
    probe = expected.probe
    unit = probe.mr_scale if probe.modality is Modality.MR else 1.0
    images, indicators, rms, worst = 0.0, 0.0, 0.0, 0
    for name, values in expected.outputs.items():
        apart = _apart(values, got[name]).reshape(len(values), -1)
        if name not in IMAGES:
            indicators = max(indicators, float(apart.max()))
            continue
        if (largest := float(apart.max()) / unit) >= images:
            images, worst = largest, int(apart.max(axis=1).argmax())
        rms = max(rms, float(np.sqrt(np.square(apart).mean(axis=1)).max()) / unit)
    count, height, width = probe.images.shape
    return Difference(probe.place(worst), probe.modality, (count, height, width), images, rms, indicators)


def _apart(expected: NDArray[np.float32], got: NDArray[np.float32]) -> NDArray[np.float64]:
    """Absolute differences; infinite where a value is not a number."""
    difference = np.abs(expected.astype(np.float64) - got)
    return np.where(np.isfinite(difference), difference, np.inf)
