"""The training task: one optimiser step of MIRA-Net, its schedule and its averaged weights."""

import math
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from model import units
from model.data import Batch
from model.error_map import error_loss
from model.losses import Losses, training_losses
from model.network import GuidedNetwork
from model.restorer import Restorer


class RestorationTask(pl.LightningModule):  # type: ignore[misc]  # lightning is not followed
    """Trains a network; `averaged` holds the exponential moving average of its weights, which is what is kept.

    Args:
        network: the network to train.
        total_steps: optimiser steps of the whole training.
        learning_rate: peak of the schedule.
        weight_decay: AdamW's decay of the convolution and linear weights.
        warmup_steps: steps over which the rate rises linearly; then it falls along a cosine to 1 % of the peak.
        ema_decay: decay per step of the averaged weights.
        indicator_weight: weight of the guidance's indicator losses.
    """

    def __init__(
        self,
        network: GuidedNetwork,
        total_steps: int,
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int,
        ema_decay: float,
        indicator_weight: float,
    ) -> None:
        super().__init__()
        self.restorer = Restorer(network)
        average = get_ema_multi_avg_fn(ema_decay)  # type: ignore[no-untyped-call]
        self.averaged = AveragedModel(network, multi_avg_fn=average).requires_grad_(False)
        self.total_steps, self.warmup_steps = total_steps, warmup_steps
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.indicator_weight = indicator_weight

    @property
    def averaged_network(self) -> GuidedNetwork:
        """The network with averaged weights."""
        network = self.averaged.module
        assert isinstance(network, GuidedNetwork)
        return network

    def losses(self, batch: Batch) -> Losses:
        """Losses of a batch with the network's own instruction."""
        value, seen, selector = self.restorer.estimate(batch.degraded, batch.modality, batch.mr_scale)
        if not seen.is_cuda or torch.is_autocast_enabled():
            seen = seen.contiguous(memory_format=torch.channels_last)
        network = self.restorer.network
        guidance = network.guide(seen, selector)
        residual, expected = network.restore_with_error(seen, guidance.instruction)
        restored = units.restored(value, residual, selector, network.keeps_local_mean)
        target = units.normalise(batch.reference, selector, batch.mr_scale)
        error = (restored - target) / units.choose(selector, units.LOSS_UNIT)
        losses = training_losses(error, guidance, batch.modality, batch.severity, self.indicator_weight)
        if expected is None:
            return losses
        # of parameters of its own, so its weight against the others means nothing
        return losses._replace(total=losses.total + error_loss(expected, error))

    def training_step(self, batch: Batch, batch_index: int) -> dict[str, Tensor]:
        """Losses of one step; Lightning minimises `loss`."""
        losses = self.losses(batch)
        return {
            "loss": losses.total,
            "restoration": losses.restoration.detach(),
            "modality": losses.modality.detach(),
            "degradation": losses.degradation.detach(),
        }

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step of the optimiser, then one of the averaged weights."""
        super().optimizer_step(*args, **kwargs)
        self.averaged.update_parameters(self.restorer.network)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Limit the norm of the error head's gradient by itself, so that the others' stay what they are without it."""
        head = self.restorer.network.error_head
        own = [] if head is None else list(head.parameters())
        apart = set(own)
        others = [weights for group in optimizer.param_groups for weights in group["params"] if weights not in apart]
        for limited in (others, own):
            torch.nn.utils.clip_grad_norm_(limited, gradient_clip_val)

    def rate(self, step: int) -> float:
        """Learning rate of a step as a share of the peak."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def configure_optimizers(self) -> Any:
        """AdamW without decay on biases, norms and gates, and the schedule per step."""
        parameters = [p for p in self.restorer.network.parameters() if p.requires_grad]
        groups = [
            {
                "params": [p for p in parameters if p.ndim > 1 and p.numel() > p.shape[0]],
                "weight_decay": self.weight_decay,
            },
            {"params": [p for p in parameters if not (p.ndim > 1 and p.numel() > p.shape[0])], "weight_decay": 0.0},
        ]
        # with mixed precision lightning refuses to clip the gradients of a fused optimiser
        fused = self._trainer is None or self.trainer.precision == "32-true"
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, betas=(0.9, 0.99), fused=fused)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
