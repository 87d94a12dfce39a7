"""What training minimises: the restoration error in comparable units, and the errors of the indicators."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.guidance import Guidance

CHARBONNIER_EPSILON = 0.5


class Losses(NamedTuple):
    """Mean losses of a batch: what is minimised, and its parts; `degradation` is told as mean absolute error."""

    total: Tensor
    restoration: Tensor
    modality: Tensor
    degradation: Tensor


def charbonnier(error: Tensor, epsilon: float = CHARBONNIER_EPSILON) -> Tensor:
    """Mean of sqrt(e^2 + epsilon^2) - epsilon: quadratic for small errors, linear for large ones.

    A wide epsilon is on purpose: near zero the minimum is the mean, as for the squared error, so that quantities (HU,
    SUV) are not pulled towards the median of skewed noise; large errors do not take over.
    """
    return (torch.sqrt(error * error + epsilon * epsilon) - epsilon).mean()


def training_losses(
    error: Tensor, guidance: Guidance, modality: Tensor, severity: Tensor, indicator_weight: float
) -> Losses:
    """Losses of a batch.

    Args:
        error: restored minus reference [B, 1, H, W], in loss units (`model.units.LOSS_UNIT`).
        guidance: what the guidance module estimated.
        modality: true modality indices int64 [B, 1].
        severity: true degradation [B, 1], 0 to 1.
        indicator_weight: weight of both indicator losses.
    """
    restoration = charbonnier(error)
    modality_loss = F.cross_entropy(guidance.modality_logits, modality[:, 0])
    degradation = guidance.degradation - severity
    # squared: an absolute error rests at the median of the few levels that a training set has
    total = restoration + indicator_weight * (modality_loss + 10 * (degradation * degradation).mean())
    return Losses(total, restoration, modality_loss, degradation.abs().mean())
