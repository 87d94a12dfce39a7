"""The served graph: an image in native units in, the restored image in the same units out, with what was estimated."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mira.errors import ConfigurationError
from mira.tasks import Modality
from model import units
from model.guidance import Guidance
from model.network import GuidedNetwork


class Restoration(NamedTuple):
    """Outputs of the served graph, in the order of the ONNX file.

    Attributes:
        restored: float32 [B, 1, H, W], in the unit of the input.
        modality_probability: float32 [B, 3], the network's own estimate, in the order of `Modality`.
        degradation: float32 [B, 1], its own estimate, 0 (untouched) to 1 (the worst that was trained on).
        instruction_used: float32 [B, D], the instruction that modulated the network.
        predicted_error: float32 [B, 1, H, W], one standard deviation of the error that the network expects of
            `restored`, in its unit; None of a network without an error map, whose served graph lacks this output.
    """

    restored: Tensor
    modality_probability: Tensor
    degradation: Tensor
    instruction_used: Tensor
    predicted_error: Tensor | None = None


class Restorer(nn.Module):
    """MIRA-Net with its fixed physical normalisation.

    Args:
        network: the network.
        half: compute inside the network in float16; inputs, outputs and the normalisation stay float32.
    """

    INPUTS = ("image", "modality", "mr_scale", "instruction", "instruction_weight")

    def __init__(self, network: GuidedNetwork, half: bool = False) -> None:
        super().__init__()
        self.network = network.half() if half else network
        self.half_precision = half

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the served graph's outputs, in their order."""
        names = Restoration._fields
        return names if self.network.error_head is not None else names[:-1]

    def estimate(self, image: Tensor, modality: Tensor, mr_scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised value of the slice in the middle, feature maps of all, and one-hot modality; as in `forward`."""
        selector = units.one_hot(modality)
        value = units.normalise(image, selector, mr_scale)
        return units.centre(value), units.features(value, selector), selector

    def guide(self, image: Tensor, modality: Tensor, mr_scale: Tensor) -> Guidance:
        """What the guidance module says of images; arguments as in `forward`, or images without their neighbours."""
        _, seen, selector = self.estimate(units.centre(image), modality, mr_scale)
        return self.network.guide(seen.half() if self.half_precision else seen, selector)

    def forward(
        self, image: Tensor, modality: Tensor, mr_scale: Tensor, instruction: Tensor, instruction_weight: Tensor
    ) -> Restoration:
        """Restore images.

        Args:
            image: float32 [B, slices, H, W] in HU, SUVbw or MR a.u., the slice to restore in the middle of as many as
                the network sees (`mira.neighbours`); H and W from 32 up.
            modality: int64 [B, 1], index in `mira.tasks.Modality`.
            mr_scale: float32 [B, 1], robust scale of the MR case; any positive number otherwise.
            instruction: float32 [B, D], used as far as `instruction_weight` says.
            instruction_weight: float32 [B, 1], 0: the network's own instruction, 1: the given one.

        Raises:
            ConfigurationError: for another number of slices than the network sees.
        """
        if image.shape[1] != self.network.slices:
            raise ConfigurationError(
                f"This network sees {self.network.slices} slices at a time, but was given {image.shape[1]}. Give the "
                "whole volume to what restores volumes; it adds each slice's neighbours."
            )
        value, seen, selector = self.estimate(image, modality, mr_scale)
        seen = seen.half() if self.half_precision else seen
        guidance = self.network.guide(seen, selector)
        own = guidance.instruction
        share = instruction_weight.to(own.dtype)
        used = own * (1 - share) + instruction.to(own.dtype) * share
        residual, expected = self.network.restore_with_error(seen, used)
        native = units.native_range(selector, mr_scale)
        image = units.centre(image)
        change = units.restored(value, residual, selector, self.network.keeps_local_mean) - value
        restored = image + change * native
        is_ct = selector[:, Modality.CT.number, None, None, None] > 0
        untouched = image.clamp_max(0.0) * (1 - units.trust(value, selector))
        restored = torch.where(is_ct, restored, torch.maximum(restored, untouched))  # no negative activity or signal
        probability = torch.softmax(guidance.modality_logits.float(), dim=1)
        estimates = probability, guidance.degradation.float(), used.float()
        if self.network.error_head is None or expected is None:
            return Restoration(restored, *estimates)
        deviation = self.network.error_head.deviation(expected, selector)
        return Restoration(restored, *estimates, deviation * units.choose(selector, units.LOSS_UNIT) * native)
