"""MIRA-Net: a four-level convolutional U-Net whose every block is modulated by an instruction."""

import torch.nn.functional as F
from torch import Tensor, nn

from model.blocks import Block, Down, Up
from model.config import ModelConfig
from model.error_map import ErrorHead
from model.guidance import Guidance, GuidanceModule, LabelGuidance, NoGuidance

FEATURE_MAPS = 2  # that `model.units.features` gives of a slice alone, and the first ones of a slice with neighbours


class GuidedNetwork(nn.Module):
    """What every network is to training, inference and export: guidance first, then a residual under its instruction.

    A network works in its own units: feature maps of the input in, a residual of about unit size out. Native units,
    ranges and the declared modality are the business of `model.restorer.Restorer`.

    Args:
        guidance: feature maps [B, 2, H, W] and one-hot declared modality [B, 3] to `Guidance`.
        instruction_dim: length D of the instruction.
        keeps_local_mean: whether what it restores is scaled to the local mean of its input (`model.units`).
        slices: how many neighbouring slices it sees; F = 1 + slices are its feature maps.
    """

    def __init__(
        self, guidance: nn.Module, instruction_dim: int, keeps_local_mean: bool = True, slices: int = 1
    ) -> None:
        super().__init__()
        self.guidance = guidance
        self.instruction_dim = instruction_dim
        self.keeps_local_mean = keeps_local_mean
        self.slices = slices
        self.error_head: ErrorHead | None = None

    def guide(self, features: Tensor, selector: Tensor) -> Guidance:
        """Guidance of feature maps [B, F, H, W] and one-hot declared modality [B, 3]; it looks at the slice alone."""
        own = features if features.shape[1] == FEATURE_MAPS else features[:, :FEATURE_MAPS]
        guidance: Guidance = self.guidance(own, selector)
        return guidance

    def restore(self, features: Tensor, instruction: Tensor) -> Tensor:
        """Residual [B, 1, H, W] of feature maps [B, F, H, W] under an instruction [B, D]."""
        raise NotImplementedError

    def restore_with_error(self, features: Tensor, instruction: Tensor) -> tuple[Tensor, Tensor | None]:
        """The residual, and the logarithm [B, 1, H, W] of its expected error where there is an `error_head`."""
        return self.restore(features, instruction), None

    def forward(self, features: Tensor, selector: Tensor) -> tuple[Tensor, Guidance]:
        """Residual and guidance of feature maps, with the network's own instruction."""
        guidance = self.guide(features, selector)
        return self.restore(features, guidance.instruction), guidance


class MiraNet(GuidedNetwork):
    """A U-Net of four levels whose every block is modulated by the instruction."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(_guidance(config), config.instruction_dim, config.keeps_local_mean, config.slices)
        self.config = config
        widths = config.widths

        def stage(level: int, count: int) -> nn.ModuleList:
            return nn.ModuleList(
                Block(widths[level], config.expansion, config.pathways, config.instruction_dim, config.modulation)
                for _ in range(count)
            )

        self.stem = nn.Conv2d(FEATURE_MAPS, widths[0], 3, padding=1)
        if config.slices > 1:  # begins as the network of the slice alone, whose other weights stay the same
            self.stem = _widened(self.stem, config.slices - 1)
        self.encoder = nn.ModuleList(stage(level, count) for level, count in enumerate(config.encoder_blocks))
        self.down = nn.ModuleList(Down(widths[level], widths[level + 1]) for level in range(3))
        self.up = nn.ModuleList(Up(widths[level + 1], widths[level]) for level in range(3))
        self.decoder = nn.ModuleList(stage(level, count) for level, count in enumerate(config.decoder_blocks))
        self.head = nn.Conv2d(widths[0], 1, 3, padding=1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)  # an untrained network returns its input
        self.error_head = ErrorHead(widths[0]) if config.error_map else None  # last: the other weights stay the same

    def restore(self, features: Tensor, instruction: Tensor) -> Tensor:
        """Residual [B, 1, H, W] of feature maps [B, F, H, W] under an instruction [B, D]."""
        residual: Tensor = self.head(self._decoded(features, instruction))
        return residual

    def restore_with_error(self, features: Tensor, instruction: Tensor) -> tuple[Tensor, Tensor | None]:
        """The residual, and the logarithm [B, 1, H, W] of its expected error where there is an `error_head`."""
        x = self._decoded(features, instruction)
        return self.head(x), None if self.error_head is None else self.error_head(x)

    def _decoded(self, features: Tensor, instruction: Tensor) -> Tensor:
        """Last features of the decoder, [B, C, H, W]."""
        x = self.stem(features)
        skips = []
        for level, blocks in enumerate(self.encoder):
            x = self._through(blocks, x, instruction)
            if level < len(self.down):
                skips.append(x)
                x = self.down[level](x)
        for level in reversed(range(len(self.up))):
            x = self.up[level](x, skips[level])
            x = self._through(self.decoder[level], x, instruction)
        decoded: Tensor = x
        return decoded

    @staticmethod
    def _through(blocks: nn.Module, x: Tensor, instruction: Tensor) -> Tensor:
        for block in blocks.children():
            x = block(x, instruction)
        return x


def _widened(stem: nn.Conv2d, more: int) -> nn.Conv2d:
    """The same convolution with further input channels, whose weights are zero."""
    stem.in_channels += more
    stem.weight = nn.Parameter(F.pad(stem.weight.detach(), (0, 0, 0, 0, 0, more)))
    return stem


def _guidance(config: ModelConfig) -> nn.Module:
    if config.guide == "label":
        return LabelGuidance(config.instruction_dim)
    if config.guide == "none":
        return NoGuidance(config.instruction_dim)
    return GuidanceModule(FEATURE_MAPS, config.guidance_width, config.instruction_dim)
