"""The error map: what the network expects the error of each restored pixel to be (aleatoric uncertainty).

A small head on the decoder's last features predicts the logarithm of the expected absolute error, in the unit of the
training loss. It works at half the resolution: an expectation does not change from pixel to pixel as the noise does,
and it costs a quarter. It learns by the likelihood of a Laplace distribution (Kendall and Gal, NeurIPS 2017), whose
minimum is the mean absolute error, from features and errors that are cut off the gradient: the restoration neither
gains nor loses by it. After training one factor per modality turns the figure into a standard deviation
(`model.calibration`).

What is predicted is the difference from the routine scan, whose own noise is part of it. Errors that training never
showed, an unknown artefact say, are not in it.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mira.tasks import Modality

FLOOR = 0.01  # loss units (0.2 HU, 0.002 SUV, 0.03 % of the MR scale): less is not told apart from none
LIMITS = (math.log(FLOOR), math.log(1e3))  # of what is given out, so that no input whatever makes it infinite
UNCALIBRATED = math.sqrt(2.0)  # standard deviation over mean absolute error of a Laplace distribution


class ErrorHead(nn.Module):
    """Predicts the logarithm of the expected absolute error in loss units (`model.units.LOSS_UNIT`).

    Attributes:
        scale: for each `Modality`, what turns the expected absolute error into a standard deviation.

    Args:
        channels: of the decoder's last features.
    """

    scale: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.predict = nn.Conv2d(channels, 4, 3, padding=1)
        for parameter in self.predict.parameters():
            nn.init.zeros_(parameter)
        self.register_buffer("scale", torch.full((len(Modality),), UNCALIBRATED))

    def forward(self, features: Tensor) -> Tensor:
        """Map features [B, C, H, W], which get no gradient, to [B, 1, H, W]."""
        height, width = features.shape[-2:]
        coarse = self.predict(F.gelu(self.down(features.detach())))
        return F.pixel_shuffle(coarse, 2)[:, :, :height, :width]

    def deviation(self, logarithm: Tensor, selector: Tensor) -> Tensor:
        """Standard deviation in loss units, float32 [B, 1, H, W], of what `forward` gave for modalities [B, 3]."""
        scale = (selector * self.scale.float()).sum(dim=1)[:, None, None, None]
        return torch.exp(logarithm.float().clamp(*LIMITS)) * scale


def error_loss(logarithm: Tensor, error: Tensor) -> Tensor:
    """Mean negative log-likelihood, up to a constant, of errors under Laplace distributions.

    Args:
        logarithm: what `ErrorHead` gave, [B, 1, H, W].
        error: restored minus reference in loss units; it gets no gradient.
    """
    logarithm = logarithm.float()
    return (logarithm + (error.detach().abs() + FLOOR) * torch.exp(-logarithm)).mean()
