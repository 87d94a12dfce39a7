"""Networks that MIRA-Net is compared with, behind its interface: the same inputs, units, residual and training.

Only their bodies differ, so that a comparison is one of architectures. None of them has guidance, so each is trained
for one task, or for all without knowing which.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mira.errors import ConfigurationError
from model.config import SIZES
from model.guidance import NoGuidance
from model.network import FEATURE_MAPS, GuidedNetwork, MiraNet


class RedCnn(nn.Module):
    """RED-CNN (Chen et al., IEEE TMI 36:2524-2535, 2017): five 5x5 convolutions, five transposed ones, shortcuts.

    Borders are padded, so that the size is kept; the last shortcut, from the input, is the residual of the caller.

    Args:
        channels: 96 in the publication.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inputs = [FEATURE_MAPS, *[channels] * 4]
        self.encoder = nn.ModuleList(nn.Conv2d(n, channels, 5, padding=2) for n in inputs)
        outputs = [*[channels] * 4, 1]
        self.decoder = nn.ModuleList(nn.ConvTranspose2d(channels, n, 5, padding=2) for n in outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Residual [B, 1, H, W] of feature maps [B, 2, H, W]."""
        shortcuts = []
        for number, layer in enumerate(self.encoder):
            x = F.relu(layer(x))
            if number in (1, 3):
                shortcuts.append(x)
        for number, layer in enumerate(self.decoder):
            x = layer(x)
            if number in (0, 2):
                x = F.relu(x + shortcuts.pop())
            elif number != 4:
                x = F.relu(x)
        return x


class UNet(nn.Module):
    """A plain U-Net (Ronneberger et al., MICCAI 2015): two 3x3 convolutions a level, halved and doubled three times.

    Args:
        widths: channels of the four levels, finest first.
    """

    def __init__(self, widths: tuple[int, int, int, int]) -> None:
        super().__init__()

        def pair(channels_in: int, channels: int) -> nn.Sequential:
            first, second = (nn.Conv2d(n, channels, 3, padding=1) for n in (channels_in, channels))
            return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())

        self.encoder = nn.ModuleList(pair(n, m) for n, m in zip((FEATURE_MAPS, *widths), widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(widths[n + 1], widths[n], 2, stride=2) for n in range(3))
        self.decoder = nn.ModuleList(pair(2 * widths[n], widths[n]) for n in range(3))
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Residual [B, 1, H, W] of feature maps [B, 2, H, W] whose sides are multiples of 8."""
        skips = []
        for level, layers in enumerate(self.encoder):
            x = layers(x if level == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        skips.pop()
        for level in reversed(range(3)):
            x = self.decoder[level](torch.cat([self.up[level](x), skips[level]], dim=1))
        residual: Tensor = self.head(x)
        return residual


class Baseline(GuidedNetwork):
    """A body behind MIRA-Net's interface; it starts as MIRA-Net does, as the identity.

    Args:
        body: feature maps [B, 2, H, W] to a residual [B, 1, H, W].
        last: its last layer, which is set to zero.
        multiple: what the body needs H and W to be a multiple of; images are mirrored up to it.
    """

    def __init__(self, body: nn.Module, last: nn.Module, multiple: int) -> None:
        super().__init__(NoGuidance(1), 1)
        self.body = body
        self.multiple = multiple
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def restore(self, features: Tensor, instruction: Tensor) -> Tensor:
        """Residual of feature maps; the instruction is ignored."""
        height, width = features.shape[-2:]
        padded = F.pad(features, (0, -width % self.multiple, 0, -height % self.multiple), mode="reflect")
        residual: Tensor = self.body(padded)
        return residual[:, :, :height, :width]


def restormer() -> Any:
    """A small Restormer (Zamir et al., CVPR 2022), in MONAI's implementation: dim 16, two blocks a level.

    Raises:
        ConfigurationError: when MONAI is not installed.
    """
    try:
        from monai.networks.nets.restormer import Restormer  # needed by this baseline alone
    except ImportError as error:
        raise ConfigurationError("The Restormer baseline needs MONAI: pip install 'mira-net[study]'.") from error
    return Restormer(
        spatial_dims=2,
        in_channels=FEATURE_MAPS,
        out_channels=1,
        dim=16,
        num_blocks=(2, 2, 2, 2),
        heads=(1, 2, 4, 8),
        num_refinement_blocks=2,
    )


def baseline(name: str) -> Baseline:
    """A baseline by name: `red-cnn`, `red-cnn-32` (32 channels in place of 96), `unet`, `restormer`.

    Raises:
        ConfigurationError: for an unknown name, or where a package is missing.
    """
    if name in ("red-cnn", "red-cnn-32"):
        red = RedCnn(96 if name == "red-cnn" else 32)
        return Baseline(red, red.decoder[-1], 1)
    if name == "unet":
        unet = UNet((12, 24, 48, 64))
        return Baseline(unet, unet.head, 8)
    if name == "restormer":
        body = restormer()
        return Baseline(body, body.output, 8)
    raise ConfigurationError(f"Unknown baseline {name!r}. Use red-cnn, red-cnn-32, unet or restormer.")


def named_network(name: str) -> GuidedNetwork:
    """A network by the name of its size, or of its baseline.

    A size may be followed by `-label` or `-unguided` for the ablations, or `-3slices` for one that sees its neighbours.
    """
    size, _, variant = name.partition("-")
    variants: dict[str, dict[str, Any]] = {
        "": {},
        "label": {"guide": "label"},
        "unguided": {"guide": "none"},
        "3slices": {"slices": 3},
    }
    if size in SIZES and variant in variants:
        return MiraNet(replace(SIZES[size], **variants[variant]))
    return baseline(name)
