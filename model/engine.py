"""The network of a checkpoint folder in this process, as an engine of `mira.client`.

The library below must not import torch, so it finds this engine by the entry point `weights` of the group
`mira.engines` (`mira.client.weights`).
"""

import torch

from mira.client.batches import Answer, Batch, no_error_map
from mira.errors import ConfigurationError, DataRejected
from mira.tasks import Modality, task_of
from model.checkpoint import load_restorer
from model.released import Weights, find_weights
from model.restorer import Restoration


class TorchEngine:
    """A checkpoint's network by torch, on the GPU where there is one; it may be called by several threads.

    Slices go through the network one at a time: a batch of large ones would cost memory and save no time.

    Args:
        weights: the checkpoint folder.
        device: torch's name of a device; empty for a GPU where there is one, else the CPU.

    Raises:
        ConfigurationError: when there is no such device.
        DataRejected: when the checkpoint cannot be read.
    """

    def __init__(self, weights: Weights, device: str = "") -> None:
        restorer, checkpoint = load_restorer(weights.folder)
        try:
            self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            self._restorer = restorer.to(self._device)
        except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            raise ConfigurationError(f"torch cannot use the device {device!r} here: {error}.") from error
        self._tasks = checkpoint.tasks
        self.name, self.version = weights.name, weights.version
        self.instruction_size: int = restorer.network.instruction_dim
        self.error_map = restorer.network.error_head is not None
        self.slices = restorer.network.slices

    def infer(self, batch: Batch) -> Answer:
        """Restore one batch.

        Raises:
            DataRejected: for a modality whose task it was not trained on.
            ServingFailed: when an error map is asked for that the network does not have.
        """
        modality = list(Modality)[batch.modality]
        if task_of(modality).task not in self._tasks:
            raise DataRejected(f"{self.name} {self.version} was not trained on {modality}. Give weights that were.")
        if batch.want_error and not self.error_map:
            raise no_error_map(f"{self.name} {self.version}")
        inputs = [torch.from_numpy(array) for array in batch.arrays(self.instruction_size).values()]
        found: list[list[torch.Tensor]] = []
        with torch.inference_mode():
            for one in zip(*inputs, strict=True):
                on_device = [tensor[None].to(self._device) for tensor in one]
                answer = self._estimates(*on_device) if batch.only_estimates else self._restorer(*on_device)
                found.append([tensor.cpu() for tensor in answer if tensor is not None])
        outputs = [torch.cat(parts).numpy() for parts in zip(*found, strict=True)]
        restored, probability, degradation, instruction = outputs[:4]
        error = outputs[4] if batch.want_error and not batch.only_estimates else None
        return Answer(restored, probability, degradation[:, 0], instruction, self.version, error)

    def _estimates(
        self,
        image: torch.Tensor,
        modality: torch.Tensor,
        mr_scale: torch.Tensor,
        instruction: torch.Tensor,
        weight: torch.Tensor,
    ) -> Restoration:
        """What the network sees in slices, without restoring them; arguments as of `Restorer.forward`."""
        seen = self._restorer.guide(image, modality, mr_scale)
        probability = torch.softmax(seen.modality_logits.float(), dim=1)
        used = torch.lerp(seen.instruction.float(), instruction, weight)
        return Restoration(image[:, :1, :0, :0], probability, seen.degradation.float(), used)

    def close(self) -> None:
        """Nothing to let go of."""


def weights_engine(word: str) -> TorchEngine:
    """The engine of the weights that a word names: `released`, or a checkpoint folder.

    Raises:
        ConfigurationError: when there are none, or they are not those of their card.
        DataRejected: when the folder is not a complete checkpoint.
    """
    return TorchEngine(find_weights(word))
