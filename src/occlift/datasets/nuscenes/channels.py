"""The sensors of nuScenes that are read."""

from __future__ import annotations

from typing import Final

CAMERA_CHANNELS: Final[tuple[str, ...]] = (
    "CAM_FRONT_LEFT",
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT",
    "CAM_BACK",
    "CAM_BACK_RIGHT",
)
"""The order in which cameras stand in every array."""

LIDAR_CHANNEL: Final = "LIDAR_TOP"
