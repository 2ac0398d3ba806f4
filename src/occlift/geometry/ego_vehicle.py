"""The vehicle that carries the sensors, about the ego frame's origin (below the middle of the rear axle)."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Bool, Float

EGO_BOXES_M: Final = (
    ((-0.9, -0.95, 0.15), (3.7, 0.95, 0.85)),
    ((-0.4, -0.8, 0.85), (2.3, 0.8, 1.55)),
)
"""Lower and upper corners of a body and a cabin of a common car."""

_MARGIN_M: Final = 0.5


def on_ego(points_ego: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, "n"]:
    """Which lidar returns come from the ego's own body: inside its outline, widened by half a metre, at any height.

    The devkit's rule, a radius of one metre about the lidar, leaves the bonnet: on the real frame 330 returns, and two
    square metres of voxels in front of every camera.
    """
    lower, upper = (np.asarray(corner[:2]) for corner in EGO_BOXES_M[0])
    return np.all((points_ego[:, :2] > lower - _MARGIN_M) & (points_ego[:, :2] < upper + _MARGIN_M), axis=1)
