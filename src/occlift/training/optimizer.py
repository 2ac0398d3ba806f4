"""AdamW under a one-cycle schedule (Loshchilov & Hutter 2019; Smith & Topin 2018)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from occlift.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW under a one-cycle schedule.

    Attributes:
        steps: number of steps of the schedule.
        learning_rate: peak learning rate.
        weight_decay: weight decay of tensors of two dimensions and more.
        warm_up: share of the steps during which the rate rises.
        gradient_norm: largest norm of the gradients; longer ones are shortened to it.
    """

    steps: int = 400
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warm_up: float = 0.15
    gradient_norm: float = 10.0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.warm_up <= 1 or self.learning_rate <= 0 or self.gradient_norm <= 0:
            raise ConfigError(f"steps, rate and norm must be positive, warm_up a fraction: {self}")


def adamw_one_cycle(
    parameters: Iterable[nn.Parameter], config: OptimizerConfig
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.OneCycleLR]:
    """The optimiser and its schedule, which advances at every step."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        # Biases and the scales of normalisations are not pulled to zero.
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
    # The schedule is asked once more after the last step.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=config.learning_rate, total_steps=config.steps + 1, pct_start=config.warm_up
    )
    return optimizer, schedule
