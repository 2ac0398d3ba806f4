"""Metrics; each module docstring is the definition of its metric.

The classes for training loops can be imported from here: `from occlift.metrics import OccupancyScore`. They are loaded
when asked for, because torchmetrics takes seconds to load and scoring files needs none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from occlift.metrics.streaming import BevScore, DepthScore, OccupancyScore, RayScore

__all__ = ["BevScore", "DepthScore", "OccupancyScore", "RayScore"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from occlift.metrics import streaming

        return getattr(streaming, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
