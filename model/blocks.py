"""Building blocks: channel normalisation, modulation by the instruction, the gated block, and resampling.

All are convolutions or per-pixel maps: nothing attends over space, so any size works, a graph exports with
dynamic shapes, and the tiles of an image agree when they share an instruction.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModulationKind


class LayerNorm2d(nn.Module):
    """Normalise each pixel over its channels (Ba et al., 2016)."""

    EPSILON = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        if torch.compiler.is_exporting() and x.dtype == torch.float32:
            return self._written_out(x)
        last = x.permute(0, 2, 3, 1)  # no copy for channels-last tensors
        return F.layer_norm(last, self.weight.shape, self.weight, self.bias, self.EPSILON).permute(0, 3, 1, 2)

    def _written_out(self, x: Tensor) -> Tensor:
        """The same in channel order, for the f32 graph.

        ONNX normalises over the last axis only, and OpenVINO is slow at turning the channels there and back. Not for
        float16, whose squares may overflow.
        """
        centred = x - x.mean(dim=1, keepdim=True)
        variance = (centred * centred).mean(dim=1, keepdim=True)
        return centred / torch.sqrt(variance + self.EPSILON) * self.weight[:, None, None] + self.bias[:, None, None]


class Modulation(nn.Module):
    """x * (1 + scale(i)) + shift(i): dense, the identity at the start and for an instruction of zeros.

    Feature-wise linear modulation (Perez et al., AAAI 2018). The instruction is bounded, so both are.
    """

    def __init__(self, channels: int, instruction_dim: int) -> None:
        super().__init__()
        self.affine = nn.Linear(instruction_dim, 2 * channels, bias=False)
        nn.init.zeros_(self.affine.weight)

    def forward(self, x: Tensor, instruction: Tensor) -> Tensor:
        """Modulate [B, C, H, W] by an instruction [B, D]."""
        scale, shift = self.affine(instruction).chunk(2, dim=1)
        modulated: Tensor = x * (1 + scale)[:, :, None, None] + shift[:, :, None, None]
        return modulated


class GatedModulation(nn.Module):
    """x + sigmoid(W i) * (gamma x + beta), the identity at the start: how networks were modulated before.

    The form is that of the channel routing of AMIR (Yang et al., MICCAI 2024) and of InstructIR's condition block.
    """

    def __init__(self, channels: int, instruction_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(instruction_dim, channels)
        self.gamma = nn.Parameter(torch.zeros(channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor, instruction: Tensor) -> Tensor:
        """Modulate [B, C, H, W] by an instruction [B, D]."""
        gate = torch.sigmoid(self.gate(instruction))[:, :, None, None]
        return x * (1 + gate * self.gamma) + gate * self.beta


MODULATIONS: dict[ModulationKind, type[nn.Module]] = {"linear": Modulation, "gated": GatedModulation}


class PathwayProjection(nn.Module):
    """A 1x1 convolution whose weights are a soft mixture of several, chosen by the instruction.

    Dense: every pathway always takes part, so the graph is static and half precision is safe. All pathways start
    alike in distribution and the mixture starts uniform. With one pathway it is a plain convolution.
    """

    def __init__(self, channels_in: int, channels_out: int, pathways: int, instruction_dim: int) -> None:
        super().__init__()
        self.pathways = pathways
        convolution = nn.Conv2d(channels_in, channels_out * pathways, 1)
        self.weight = nn.Parameter(convolution.weight.detach().reshape(pathways, channels_out, channels_in).clone())
        self.bias = nn.Parameter(torch.zeros(channels_out))
        self.mixture = nn.Linear(instruction_dim, pathways) if pathways > 1 else None
        if self.mixture is not None:
            nn.init.zeros_(self.mixture.weight)
            nn.init.zeros_(self.mixture.bias)

    def forward(self, x: Tensor, instruction: Tensor) -> Tensor:
        """Project [B, C, H, W] with the mixture that an instruction [B, D] asks for."""
        if self.mixture is None:
            return F.conv2d(x, self.weight[0][:, :, None, None], self.bias)
        share = torch.softmax(self.mixture(instruction), dim=1)
        weight = torch.einsum("bk,koi->bio", share, self.weight)
        last = x.permute(0, 2, 3, 1)
        mixed = torch.matmul(last.flatten(1, 2), weight) + self.bias
        return mixed.reshape(*last.shape[:3], -1).permute(0, 3, 1, 2)


class Block(nn.Module):
    """A gated residual block in the manner of NAFNet (Chen et al., ECCV 2022), without its global channel attention.

    Global statistics enter through the instruction alone, so that tiles and whole slices are treated alike.
    """

    def __init__(
        self, channels: int, expansion: int, pathways: int, instruction_dim: int, modulation: ModulationKind = "linear"
    ) -> None:
        super().__init__()
        inner = channels * expansion
        self.norm = LayerNorm2d(channels)
        self.modulation = MODULATIONS[modulation](channels, instruction_dim)
        self.expand = nn.Conv2d(channels, inner, 1)
        self.spatial = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.project = PathwayProjection(inner // 2, channels, pathways, instruction_dim)
        self.mix_norm = LayerNorm2d(channels)
        self.mix_expand = nn.Conv2d(channels, inner, 1)
        self.mix_project = PathwayProjection(inner // 2, channels, pathways, instruction_dim)

    def forward(self, x: Tensor, instruction: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape under an instruction [B, D]."""
        value, gate = self.spatial(self.expand(self.modulation(self.norm(x), instruction))).chunk(2, dim=1)
        x = x + self.project(value * gate, instruction)
        value, gate = self.mix_expand(self.mix_norm(x)).chunk(2, dim=1)
        mixed: Tensor = x + self.mix_project(value * gate, instruction)
        return mixed


class Down(nn.Conv2d):
    """Halve the resolution, rounding up, with a strided convolution."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, stride=2, padding=1)


class Up(nn.Module):
    """Double the resolution with a 1x1 convolution and a pixel shuffle, and crop to the skip's size."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels_in, channels_out * 4, 1)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map [B, C, ceil(H/2), ceil(W/2)] to the size of the skip [B, C', H, W], and add the two."""
        height, width = skip.shape[-2:]
        larger: Tensor = self.shuffle(self.expand(x))
        return larger[:, :, :height, :width] + skip
