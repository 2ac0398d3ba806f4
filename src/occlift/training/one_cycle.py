"""What all tasks have in common: how their weights move."""

from __future__ import annotations

from typing import Any

import torch

from occlift.runtime.extras import needs_extra
from occlift.training.mean_loss import TrainingDiverged
from occlift.training.optimizer import OptimizerConfig, adamw_one_cycle

with needs_extra("train", "training"):
    import lightning


class OneCycleTask(lightning.LightningModule):
    """A task under AdamW and a one-cycle schedule that advances at every step; logs the length of the gradient.

    Raises:
        TrainingDiverged: the gradient is not finite; the weights are those before the step.
    """

    def __init__(self, optimizer: OptimizerConfig) -> None:
        super().__init__()
        self._optimizer = optimizer

    def configure_optimizers(self) -> Any:
        optimizer, schedule = adamw_one_cycle(self.parameters(), self._optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Done here because Lightning refuses to clip for fused optimisers; without a loss scaler that is safe.
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), self._optimizer.gradient_norm)
        # The same in every process, because gradients are averaged before. Shortened, it would be no number any more.
        if not bool(norm.isfinite()):
            raise TrainingDiverged(
                f"step {self.global_step}: the length of the gradient is {norm.item()}, though the loss is finite; "
                "lower the learning rate, or train with precision fp32"
            )
        self.log("gradient_norm", norm)
