"""Training data from memory: patches drawn by step number, so that a resumed training sees the same ones."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from mira.errors import ConfigurationError, DataRejected
from mira.neighbours import with_neighbours
from mira.tasks import TASKS, Task

# Above this a pixel belongs to the patient, in native units; in multiples of the robust scale for MR.
FOREGROUND = {Task.CT_DENOISING: -500.0, Task.PET_SYNTHESIS: 0.2, Task.MRI_SUPER_RESOLUTION: 0.05}
FOREGROUND_SHARE = 0.25
DRAWS = 4


@dataclass(frozen=True)
class Ranks:
    """The processes of one training (torchrun), and which of them this one is.

    Attributes:
        rank: number of this process, from 0.
        world: number of processes.
    """

    rank: int
    world: int

    @classmethod
    def from_environment(cls) -> "Ranks":
        """As torchrun or a Kubeflow TrainJob tells; alone without them."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


ALONE = Ranks(0, 1)


@dataclass(frozen=True)
class PairedVolume:
    """A pair in memory (or memory-mapped).

    Attributes:
        reference: float32 [S, H, W] in native units.
        degraded: float32 [S, H, W] in native units.
        task: its task.
        severity: true degradation, 0 to 1.
        mr_scale: robust scale of an MR case, 1 otherwise.
        name: pair id, for pictures and messages.
        case: case id; the pairs of one case are its levels of degradation.
    """

    reference: NDArray[np.float32]
    degraded: NDArray[np.float32]
    task: Task
    severity: float
    mr_scale: float = 1.0
    name: str = ""
    case: str = ""


class Batch(NamedTuple):
    """A batch of patches in native units; shapes as in `model.restorer.Restorer.forward`, `reference` [B, 1, H, W]."""

    degraded: Tensor
    reference: Tensor
    modality: Tensor
    mr_scale: Tensor
    severity: Tensor


def pad_to(image: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Reflect images [..., H, W] at their lower and right borders up to at least side x side."""
    missing = [*[(0, 0)] * (image.ndim - 2), *((0, max(0, side - size)) for size in image.shape[-2:])]
    return np.pad(image, missing, mode="symmetric") if any(after for _, after in missing) else image


class PatchBatches(Dataset[Batch]):
    """Batch number n of a training, for every n: a pure function of the volumes, the settings, the seed and n.

    Tasks take turns within and across batches, so after n steps each has had the same number of patches to within
    one. A small share of the inputs is the reference itself with severity 0, so that the network learns to leave
    untouched images alone.

    Args:
        volumes: pairs to draw from.
        batch_size: patches in a batch.
        patch_size: rows and columns of a patch.
        seed: seed of all draws.
        clean_share: share of inputs that are not degraded.
        ranks: the processes that train together; each draws its own rows of the common batch.
        slices: how many neighbouring slices the network sees; the draws are the same for any number.
    """

    def __init__(
        self,
        volumes: Sequence[PairedVolume],
        batch_size: int,
        patch_size: int,
        seed: int,
        clean_share: float = 0.0,
        ranks: Ranks = ALONE,
        slices: int = 1,
    ) -> None:
        if not volumes:
            raise DataRejected("There are no training pairs. Check the pair step's report of refused cases.")
        if batch_size % ranks.world:
            raise ConfigurationError(
                f"A batch of {batch_size} patches cannot be shared by {ranks.world} processes. Give a multiple of it."
            )
        self.batch_size, self.patch_size, self.seed, self.clean_share = batch_size, patch_size, seed, clean_share
        self.slices = slices
        self.rows = range(ranks.rank, batch_size, ranks.world)
        present = {volume.task for volume in volumes}
        self.tasks = [task for task in Task if task in present]
        self._by_task = {task: [volume for volume in volumes if volume.task is task] for task in self.tasks}

    def __getitem__(self, step: int) -> Batch:
        """This process' rows of the batch of a step."""
        side, middle = self.patch_size, self.slices // 2
        degraded = np.empty((len(self.rows), self.slices, side, side), np.float32)
        reference = np.empty((len(self.rows), 1, side, side), np.float32)
        facts = np.empty((len(self.rows), 3), np.float32)
        for row, place in enumerate(self.rows):
            rng = np.random.default_rng((self.seed, step, place))
            task = self.tasks[(step * self.batch_size + place) % len(self.tasks)]
            pool = self._by_task[task]
            volume = pool[rng.integers(len(pool))]
            noisy, clean = self._patch(volume, rng)
            untouched = rng.random() < self.clean_share
            turns, mirror = int(rng.integers(4)), rng.random() < 0.5
            for target, patch in (
                (degraded, clean if untouched else noisy),
                (reference, clean[middle : middle + 1]),
            ):
                turned = np.rot90(patch, turns, axes=(1, 2))
                target[row] = turned[:, :, ::-1] if mirror else turned
            facts[row] = TASKS[task].modality.number, volume.mr_scale, 0.0 if untouched else volume.severity
        table = torch.from_numpy(facts)
        return Batch(
            torch.from_numpy(degraded), torch.from_numpy(reference), table[:, :1].long(), table[:, 1:2], table[:, 2:]
        )

    def _patch(self, volume: PairedVolume, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """A (degraded, reference) patch [slices, side, side], drawn again a few times where it shows mostly air."""
        side = self.patch_size
        threshold = FOREGROUND[volume.task] * volume.mr_scale
        for draw in range(DRAWS):
            index = int(rng.integers(len(volume.reference)))
            height, width = volume.reference.shape[1:]
            top, left = (int(rng.integers(max(1, size - side + 1))) for size in (height, width))
            window = (slice(None), slice(top, top + side), slice(left, left + side))
            clean = volume.reference[window][index]
            if draw == DRAWS - 1 or float((clean > threshold).mean()) >= FOREGROUND_SHARE:
                noisy, clean = (
                    pad_to(with_neighbours(voxels[window], range(index, index + 1), self.slices)[0], side)
                    for voxels in (volume.degraded, volume.reference)
                )
                return noisy, clean
        raise AssertionError("the last draw is always taken")


class RemainingSteps(Sampler[int]):
    """The step numbers from where the training stands to its end.

    Args:
        total: steps of the whole training.
        done: tells how many steps are done.
    """

    def __init__(self, total: int, done: Callable[[], int]) -> None:
        self.total, self.done = total, done

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.done(), self.total))


class PatchDataModule(pl.LightningDataModule):  # type: ignore[misc]  # lightning is not followed
    """Patches for the trainer, from the step that it goes on from; the whole training is one of its epochs.

    Args:
        batches: the batches by step.
        total: steps of the whole training.
        workers: processes that draw patches ahead; 0 draws them in the training process, which is enough on a CPU.
    """

    def __init__(self, batches: PatchBatches, total: int, workers: int = 0) -> None:
        super().__init__()
        self.batches, self.workers = batches, workers
        self.sampler = RemainingSteps(total, self._steps_done)

    def _steps_done(self) -> int:
        assert self.trainer is not None
        return int(self.trainer.global_step)

    def train_dataloader(self) -> DataLoader[Batch]:
        """One item of the loader is one batch."""
        return DataLoader(
            self.batches,
            batch_size=None,
            sampler=self.sampler,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
