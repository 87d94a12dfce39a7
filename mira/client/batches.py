"""What goes into a network and comes out of it, whatever runs it."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mira.errors import ConfigurationError, ServingFailed

LARGEST_BATCH = 8
LARGEST_REQUEST = 2**23  # pixels, 32 MiB: eight slices of 1024 x 1024; the server refuses more
OUTPUTS = ("restored", "modality_probability", "degradation", "instruction_used")
ESTIMATES = OUTPUTS[1:]  # what the network sees in an image; a server gives them without restoring it
ERROR_MAP = "predicted_error"  # output that not every network has, and that travels only when it is asked for
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """Slices of one size with what the network must know about them.

    Attributes:
        image: float32 [slices, 1, rows, columns] in native units; [slices, n, rows, columns], each slice in the middle,
            for an engine whose network sees n slices at a time.
        modality: index of the modality, the same for all slices.
        mr_scale: robust intensity scale of the MR volume; any positive number otherwise.
        instruction: float32 [D], or None to let the network estimate its own.
        instruction_weight: share of the given instruction, 0 to 1.
        want_error: whether the error that the network expects is asked for as well.
        only_estimates: whether no image is asked for, only what the network sees in the slices.
    """

    image: Floats
    modality: int
    mr_scale: float
    instruction: Floats | None = None
    instruction_weight: float = 0.0
    want_error: bool = False
    only_estimates: bool = False

    def halves(self) -> list["Batch"]:
        """Two batches of half the slices each.

        Raises:
            ServingFailed: for a single slice.
        """
        middle = len(self.image) // 2
        if middle == 0:
            raise ServingFailed(
                "Something on the way to the server limits messages to less than one slice. Lift the proxy's limit, "
                "or send smaller tiles (tile_side)."
            )
        return [replace(self, image=part) for part in (self.image[:middle], self.image[middle:])]

    def arrays(self, instruction_size: int) -> dict[str, NDArray[Any]]:
        """The five inputs of the served network by name."""
        count = len(self.image)
        given = np.zeros(instruction_size, np.float32) if self.instruction is None else self.instruction
        if given.shape != (instruction_size,):
            raise ConfigurationError(
                f"instruction has shape {given.shape}; this network takes {instruction_size} numbers."
            )
        weight = 0.0 if self.instruction is None else self.instruction_weight
        return {
            "image": np.ascontiguousarray(self.image, dtype=np.float32),
            "modality": np.full((count, 1), self.modality, np.int64),
            "mr_scale": np.full((count, 1), self.mr_scale, np.float32),
            "instruction": np.tile(given.astype(np.float32), (count, 1)),
            "instruction_weight": np.full((count, 1), weight, np.float32),
        }


@dataclass(frozen=True)
class Answer:
    """What the network gave for a batch.

    Attributes:
        restored: float32 [slices, 1, rows, columns] in native units; where only estimates were asked for, no pixels
            need be there.
        modality_probability: float32 [slices, 3], in the order of `Modality`.
        degradation: float32 [slices], 0 (untouched) to 1 (the worst that was trained on).
        instruction: float32 [slices, D], the instruction that was used.
        version: version of the model that answered, "" when it has none.
        predicted_error: float32 [slices, 1, rows, columns], one standard deviation in native units, where asked for.
    """

    restored: Floats
    modality_probability: Floats
    degradation: Floats
    instruction: Floats
    version: str
    predicted_error: Floats | None = None


class Engine(Protocol):
    """Anything that runs the network; called by several threads at once.

    Attributes:
        name: name of the network.
        instruction_size: length of its instruction.
        error_map: whether it can be asked for the expected error.
        slices: how many neighbouring slices it sees at a time; 1 for every network that is served.
    """

    name: str
    instruction_size: int
    error_map: bool
    slices: int

    def infer(self, batch: Batch) -> Answer:
        """Restore one batch."""

    def close(self) -> None:
        """Let go of connections and memory."""


def together(answers: list[Answer]) -> Answer:
    """One answer of the answers to the parts of a batch.

    Raises:
        ServingFailed: when different versions gave them.
    """
    versions = {answer.version for answer in answers}
    if len(versions) > 1:
        raise ServingFailed("The served version changed while one batch was restored in parts. Restore again.")
    errors = [answer.predicted_error for answer in answers if answer.predicted_error is not None]
    return Answer(
        restored=np.concatenate([answer.restored for answer in answers]),
        modality_probability=np.concatenate([answer.modality_probability for answer in answers]),
        degradation=np.concatenate([answer.degradation for answer in answers]),
        instruction=np.concatenate([answer.instruction for answer in answers]),
        version=versions.pop(),
        predicted_error=np.concatenate(errors) if errors else None,
    )


def no_error_map(network: str) -> ServingFailed:
    """The error that a caller gets who asks for an error map of a network without one."""
    return ServingFailed(
        f"{network} gives no expected error. Leave it out, or ask for a version that was trained for it."
    )
