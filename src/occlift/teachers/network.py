"""What teachers that run networks have in common: which options are settings, and what options may be."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

import numpy as np
from jaxtyping import Float32

from occlift.errors import ConfigError

_NO_SETTINGS: Final = frozenset({"model", "revision", "device", "batch"})


def settings_of(config: Any) -> dict[str, object]:
    """The options that maps depend on, as JSON values: all but those that say where weights are, and how they run."""
    return {name: value for name, value in asdict(config).items() if name not in _NO_SETTINGS}


def clamped(
    depth_m: Float32[np.ndarray, "height width"], min_depth_m: float, max_depth_m: float
) -> Float32[np.ndarray, "height width"]:
    """Depths within a range; NaN stays NaN, and what is not above 0 becomes NaN: nothing known."""
    depth_m = np.clip(depth_m, np.float32(min_depth_m), np.float32(max_depth_m))
    depth_m[~(depth_m > 0)] = np.nan
    return depth_m


def check_score_threshold(teacher: str, name: str, value: float) -> None:
    """ConfigError unless 0 <= `value` < 1."""
    if not 0 <= value < 1:
        raise ConfigError(f"{teacher}: {name} is {value}; expected 0 or more and less than 1")


def check_batch(teacher: str, name: str, value: int) -> None:
    """ConfigError unless `value` is at least 1."""
    if value < 1:
        raise ConfigError(f"{teacher}: {name} is {value}; expected 1 or more")


def check_depth_range(teacher: str, min_depth_m: float, max_depth_m: float, edge_ratio: float) -> None:
    """ConfigError unless 0 ≤ `min_depth_m` < `max_depth_m` and `edge_ratio` is above 1."""
    if not 0 <= min_depth_m < max_depth_m:
        raise ConfigError(
            f"{teacher}: min_depth_m is {min_depth_m} and max_depth_m {max_depth_m}; expected 0 <= min < max"
        )
    if not edge_ratio > 1:
        raise ConfigError(f"{teacher}: edge_ratio is {edge_ratio}; expected a factor above 1")
