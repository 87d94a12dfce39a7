"""Slices that arrive one by one: blocks of eight, one instruction for all, answers in the order of arrival."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mira.client.batches import LARGEST_BATCH, Answer, Batch, Floats
from mira.client.plan import Plan, check_volume, intensity_scale
from mira.errors import ConfigurationError, DataRejected, ServingFailed
from mira.tasks import Modality


@dataclass(frozen=True)
class RestoredSlice:
    """One restored slice of a stream.

    Attributes:
        index: its place in the stream, from 0.
        voxels: float32 [rows, columns], in the unit of the input.
        modality_probability: float32 [3], the network's own estimate, in the order of `Modality`.
        degradation: its estimate of how degraded the slice was, 0 to 1.
        version: version of the network.
    """

    index: int
    voxels: Floats
    modality_probability: Floats
    degradation: float
    version: str


class Stream:
    """What a stream asks of the network and makes of its answers; how it is asked is the caller's.

    Args:
        modality: modality of all slices.
        mr_scale: robust intensity scale of an MR series.
        instruction: the instruction of all slices, or None to take that of the first block.
        tile_side: side of tiles.

    Raises:
        ConfigurationError: for MR without a scale.
        DataRejected: for a scale that is none.
    """

    def __init__(self, modality: Modality, mr_scale: float | None, instruction: Floats | None, tile_side: int) -> None:
        if modality is Modality.MR and mr_scale is None:
            raise ConfigurationError(
                "A stream of MR slices needs mr_scale, the robust maximum of the whole volume: mira.dicom gives it."
            )
        self._modality, self._tile_side = modality, tile_side
        self._scale = intensity_scale(np.empty(0, np.float32), modality, mr_scale)
        self._instruction = None if instruction is None else np.asarray(instruction, dtype=np.float32)
        self._version = ""
        self._size: tuple[int, ...] | None = None
        self._plans: dict[int, Plan] = {}
        self._sent = 0

    @property
    def needs_instruction(self) -> bool:
        """Whether the instruction has to be estimated from the next block."""
        return self._instruction is None

    def blocks(self, slices: Iterable[NDArray[Any]]) -> Iterator[Floats]:
        """The slices in blocks [up to 8, rows, columns], checked."""
        block: list[Floats] = []
        for one in slices:
            block.append(self.checked(one))
            if len(block) == LARGEST_BATCH:
                yield np.stack(block)
                block = []
        if block:
            yield np.stack(block)

    def checked(self, one: NDArray[Any]) -> Floats:
        """One slice as float32, when it can be restored and has the size of those before."""
        image = np.asarray(one, dtype=np.float32)
        if image.ndim != 2:
            raise DataRejected(f"A slice of a stream has the shape [rows, columns], but one has {list(image.shape)}.")
        check_volume(image[None])
        if self._size not in (None, image.shape):
            raise DataRejected("The slices of a stream must all have the size of the first. Begin another stream.")
        self._size = image.shape
        return image

    def probes(self, block: Floats) -> list[Batch]:
        """What to ask in order to know the instruction."""
        return Plan(block, self._modality, self._scale, self._tile_side).probes()

    def take_instruction(self, answers: list[Answer]) -> None:
        """Use the mean instruction of the answers from now on."""
        self._instruction = np.concatenate([answer.instruction for answer in answers]).mean(axis=0)
        self._version = answers[0].version

    def batches(self, block: Floats) -> tuple[int, list[Batch]]:
        """Place of the block's first slice in the stream, and what to ask for the block."""
        first = self._sent
        self._plans[first] = plan = Plan(block, self._modality, self._scale, self._tile_side)
        self._sent += len(block)
        return first, plan.batches(self._instruction)

    def finish(self, first: int, answers: list[Answer]) -> Iterator[RestoredSlice]:
        """The restored slices of a block.

        Raises:
            ServingFailed: when another version answered than the one that the instruction is of.
        """
        self._version = self._version or answers[0].version
        if {answer.version for answer in answers} != {self._version}:
            raise ServingFailed(
                f"The served version changed in the middle of a stream, after slice {first}. Begin it again, or ask "
                "for one version."
            )
        voxels, probability, degradation, _ = self._plans.pop(first).joined(answers)
        for offset in range(len(voxels)):
            estimates = probability[offset], float(degradation[offset])
            yield RestoredSlice(first + offset, voxels[offset], *estimates, self._version)
