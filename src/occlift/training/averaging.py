"""An exponential moving average of the weights (Polyak & Juditsky 1992), as a callback.

After step t the average moves towards the weights by 1 − d, d = min(decay, (1 + t) / (10 + t)): the rate rises with t,
so a short run is not dominated by where it began. Lightning's own callback puts the average in the place of the
weights before the last checkpoint is written; a run that is resumed from there would not be the uninterrupted one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from occlift.errors import ConfigError, DataError
from occlift.runtime.extras import needs_extra
from occlift.training.checkpoint import AVERAGED_WEIGHTS

with needs_extra("train", "training"):
    import lightning


class WeightAverage(lightning.Callback):
    """Keeps the average beside the weights, in checkpoints too, and validates with it.

    Running statistics of batch norms are averaged as the weights are; counters are copied.

    Args:
        decay: the part of the average that a late step keeps, in (0, 1).

    Raises:
        ConfigError: the decay is no such part.
    """

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise ConfigError(f"the decay of averaged weights must lie between 0 and 1, got {decay}")
        self._decay = decay
        self._average: dict[str, Tensor] = {}

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if AVERAGED_WEIGHTS not in checkpoint:
            raise DataError(
                "the checkpoint to resume from holds no averaged weights, because its run kept none: begin anew, or go "
                "on without them"
            )
        self._average = dict(checkpoint[AVERAGED_WEIGHTS])

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[AVERAGED_WEIGHTS] = self._average

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        weights = pl_module.state_dict()
        self._average = {name: self._average.get(name, w).detach().to(w.device).clone() for name, w in weights.items()}

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any, **__: Any
    ) -> None:
        step = trainer.global_step
        towards = 1 - min(self._decay, (1 + step) / (10 + step))
        for name, weight in pl_module.state_dict().items():
            if weight.is_floating_point():
                self._average[name].lerp_(weight, towards)
            else:
                self._average[name].copy_(weight)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._exchange(pl_module)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._exchange(pl_module)

    @torch.no_grad()
    def _exchange(self, pl_module: lightning.LightningModule) -> None:
        for name, weight in pl_module.state_dict().items():
            kept = weight.clone()
            weight.copy_(self._average[name])
            self._average[name].copy_(kept)
