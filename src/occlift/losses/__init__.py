"""Losses: functions of tensors, usable alone in any training loop."""

from occlift.losses.occupancy import OccupancyLossConfig, class_weights, occupancy_loss
from occlift.losses.pseudo_loss import PseudoLoss

__all__ = ["OccupancyLossConfig", "PseudoLoss", "class_weights", "occupancy_loss"]
