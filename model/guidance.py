"""The guidance module: looks at the image and says what it is, how degraded it is, and how to treat it."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mira.tasks import Modality


class Guidance(NamedTuple):
    """What the guidance module estimates of each image.

    Attributes:
        modality_logits: [B, 3], in the order of `mira.tasks.Modality`.
        degradation: [B, 1], 0 (untouched) to 1 (the worst that is trained on).
        instruction: [B, D], each element in (-1, 1).
    """

    modality_logits: Tensor
    degradation: Tensor
    instruction: Tensor


class Texture(nn.Module):
    """Strength of the finest structure at two scales, on a logarithmic scale.

    The operator is blind to planes and edges along the axes, so what it leaves is mostly noise (Immerkaer, CVIU 1996);
    dilated, it sees the next octave, and the two together see where the spectrum of a blurred image ends.
    """

    FLOOR = 3e-4  # normalised units; about 1 HU, so that flat air is not minus infinity
    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        kernel = torch.tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]]) / 6
        self.register_buffer("kernel", kernel[None, None], persistent=False)

    def forward(self, value: Tensor) -> Tensor:
        """Map a value [B, 1, H, W] to [B, 2, H, W]."""
        padded = F.pad(value, (2, 2, 2, 2), mode="replicate")
        fine = F.conv2d(padded[:, :, 1:-1, 1:-1], self.kernel)
        coarse = F.conv2d(padded, self.kernel, dilation=2)
        return torch.log(torch.cat([fine, coarse], dim=1).abs() + self.FLOOR) / 4 + 1


class GuidanceModule(nn.Module):
    """A small strided convolutional network, pooled over the image with learnt weights.

    The pooling weights let it ignore the air around a patient, whose share differs between a training patch and a
    whole slice. Instruction and indicators are read from the same hidden layer, so the one has what the others know;
    the normalisation keeps the strong signal of the modality from drowning that of the degradation.
    """

    def __init__(self, channels_in: int, width: int, instruction_dim: int) -> None:
        super().__init__()
        self.texture = Texture()
        self.first = nn.Conv2d(channels_in + 2, width, 3, padding=1, stride=2)
        self.second = nn.Conv2d(width, 2 * width, 3, padding=1, stride=2)
        self.third = nn.Conv2d(2 * width, 4 * width, 3, padding=1, stride=2)
        self.attention = nn.Conv2d(4 * width, 1, 1)
        self.norm = nn.LayerNorm(4 * width)
        self.hidden = nn.Linear(4 * width, 32)
        self.instruction = nn.Linear(32, instruction_dim)
        self.modality = nn.Linear(32, len(Modality))
        self.degradation = nn.Linear(32, 1)

    def forward(self, x: Tensor, selector: Tensor) -> Guidance:
        """Estimate from feature maps [B, C, H, W] of the input, the first of which is its normalised value.

        The declared modality `selector` is not looked at, so that a wrong one can be noticed. Not always: the feature
        maps are in the declared modality's units, and networks are trained on right declarations only.
        """
        x = torch.cat([x, self.texture(x[:, :1])], dim=1)
        features = F.gelu(self.third(F.gelu(self.second(F.gelu(self.first(x))))))
        weight = torch.sigmoid(self.attention(features))
        mean_weight = weight.mean(dim=(2, 3)) + 1e-3
        pooled = (features * weight).mean(dim=(2, 3)) / mean_weight
        hidden = F.gelu(self.hidden(self.norm(pooled)))
        return Guidance(
            self.modality(hidden), torch.sigmoid(self.degradation(hidden)), torch.tanh(self.instruction(hidden))
        )


class LabelGuidance(nn.Module):
    """Ablation: the instruction is a learnt vector for each declared modality; the image is not looked at."""

    def __init__(self, instruction_dim: int) -> None:
        super().__init__()
        self.instruction = nn.Linear(len(Modality), instruction_dim)

    def forward(self, x: Tensor, selector: Tensor) -> Guidance:
        """Instruction of the one-hot modality [B, 3]; certain of it, and silent about the degradation."""
        selector = selector.to(x.dtype)
        return Guidance(20 * selector, torch.zeros_like(selector[:, :1]), torch.tanh(self.instruction(selector)))


class NoGuidance(nn.Module):
    """Ablation, and the plain baselines: the same instruction, all zeros, for every image, and no estimates."""

    def __init__(self, instruction_dim: int) -> None:
        super().__init__()
        self.instruction_dim = instruction_dim

    def forward(self, x: Tensor, selector: Tensor) -> Guidance:
        """Zeros: every modality is equally likely, and the degradation unknown."""
        zeros = torch.zeros_like(selector, dtype=x.dtype)
        return Guidance(zeros, zeros[:, :1], zeros[:, :1].expand(-1, self.instruction_dim))
