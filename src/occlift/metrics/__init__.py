"""Metrics; each module docstring is the definition of its metric.

The classes for training loops can be imported from here: `from occlift.metrics import OccupancyScore`. They are loaded
when asked for, because torchmetrics takes seconds to load and scoring files needs none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from occlift.runtime.lazy import lazy_names

if TYPE_CHECKING:
    from occlift.metrics.streaming import BevScore, DepthScore, OccupancyScore, RayScore

__all__ = ["BevScore", "DepthScore", "OccupancyScore", "RayScore"]

__getattr__, __dir__ = lazy_names(__name__, dict.fromkeys(__all__, "occlift.metrics.streaming"))
