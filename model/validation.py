"""Validation while training: PSNR of a few whole slices, beside that of their degraded input.

A quick figure for curves, in the windows of the profile `robust`; the evaluate step measures with named profiles.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mira.tasks import TASKS, Task
from model.data import PairedVolume, pad_to
from model.inference import RestoredVolume, restore_volume
from model.restorer import Restorer

WINDOWS = {
    Task.CT_DENOISING: (-160.0, 240.0),
    Task.PET_SYNTHESIS: (0.0, 20.0),
    Task.MRI_SUPER_RESOLUTION: (0.0, 4095.0),
}
MR_UNIT = 1000.0  # what the robust scale of an MR case becomes, as in the profile `robust`
MINIMUM_SIDE = 32


@dataclass(frozen=True)
class Sample:
    """A validation slice; arrays in native units.

    Attributes:
        task: its task.
        name: id of its pair.
        mr_scale: robust scale of an MR case, 1 otherwise.
        degraded: float32 [H, W].
        reference: float32 [H, W].
        volume: float32 [S, H, W], the degraded volume, for networks that see the slice's neighbours as well.
        place: index of the slice in the volume.
    """

    task: Task
    name: str
    mr_scale: float
    degraded: NDArray[np.float32]
    reference: NDArray[np.float32]
    volume: NDArray[np.float32]
    place: int

    def restored(self, restorer: Restorer) -> RestoredVolume:
        """What a network makes of it, [1, H, W]."""
        modality = TASKS[self.task].modality
        return restore_volume(restorer, self.volume, modality, self.mr_scale, places=[self.place])


def spread(cases: Sequence[str], count: int) -> list[int]:
    """Pick pairs of one task, spread over the list and its cases, and as even over the levels as over the cases.

    Case and level both move on with every pick. Where they would meet again before all pairs of them were taken, the
    case moves on once more: a mere walk over 4 cases with 2 levels would see each case at one level only.

    Args:
        cases: case of each pair; the pairs of a case are its levels, in the same order in all cases.
        count: number of picks; beyond the number of pairs they begin again.

    Returns:
        Places in `cases`.
    """
    places: dict[str, list[int]] = {}
    for place, case in enumerate(cases):
        places.setdefault(case, []).append(place)
    found = list(places.values())
    width = min(count, len(found))
    chosen = [found[number * len(found) // width] for number in range(width)]
    levels = max(map(len, chosen), default=1)
    period = math.lcm(width, levels)
    picks = []
    for number in range(count if chosen else 0):
        own = chosen[(number + number // period) % width]
        picks.append(own[number % levels % len(own)])
    return picks


def choose_samples(volumes: Sequence[PairedVolume], per_task: int) -> list[Sample]:
    """Slices from the middle halves of volumes, spread over the cases of each task and even over their levels."""
    samples = []
    for task in Task:
        own = [volume for volume in volumes if volume.task is task]
        count = min(per_task, sum(len(volume.reference) for volume in own))
        for number, place in enumerate(spread([volume.case for volume in own], count)):
            volume = own[place]
            depth = len(volume.reference)
            index = int(depth * (0.3 + 0.4 * (number + 0.5) / count))
            degraded, reference = (
                pad_to(np.asarray(voxels, np.float32), MINIMUM_SIDE) for voxels in (volume.degraded, volume.reference)
            )
            images = degraded[index], reference[index]
            samples.append(Sample(task, volume.name, volume.mr_scale, *images, degraded, index))
    return samples


def psnr(
    test: NDArray[np.float32], reference: NDArray[np.float32], task: Task, mr_scale: float = MR_UNIT
) -> float | None:
    """PSNR in dB of a slice clipped to its task's window; the range is max - min of the reference.

    Args:
        test: [H, W] in native units.
        reference: the same.
        task: its task.
        mr_scale: robust scale of an MR case, which becomes `MR_UNIT`: native values may lie beyond any window.

    Returns:
        None where the reference is flat or the images are equal, since the figure is not defined there.
    """
    low, high = WINDOWS[task]
    unit = MR_UNIT / mr_scale if task is Task.MRI_SUPER_RESOLUTION else 1.0
    test, reference = (test * unit).clip(low, high), (reference * unit).clip(low, high)
    span = float(reference.max() - reference.min())
    error = float(np.mean((test.astype(np.float64) - reference) ** 2))
    return None if span == 0 or error == 0 else 10 * float(np.log10(span * span / error))


def restore_samples(restorer: Restorer, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
    """The restored slices [H, W]."""
    return [sample.restored(restorer).voxels[0] for sample in samples]


def validate(restorer: Restorer, samples: Sequence[Sample]) -> dict[str, float]:
    """Mean `psnr`, `input_psnr` and `gain_db` of each task, as `gain_db/ct-denoising`."""
    figures: dict[str, float] = {}
    restored = restore_samples(restorer, samples)
    for task in Task:
        rows = [
            tuple(psnr(shown, sample.reference, task, sample.mr_scale) for shown in (image, sample.degraded))
            for sample, image in zip(samples, restored, strict=True)
            if sample.task is task
        ]
        defined = [(after, before) for after, before in rows if after is not None and before is not None]
        if defined:
            after, before = (float(np.mean(column)) for column in zip(*defined, strict=True))
            figures |= {f"psnr/{task}": after, f"input_psnr/{task}": before, f"gain_db/{task}": after - before}
    return figures
