"""Key frames made of arrays."""

from __future__ import annotations

import numpy as np

from occlift.scenes.frames import CameraImage, KeyFrame


def key_frame(
    *cameras: CameraImage, token: str = "sample", scene: str = "scene", global_from_ego: np.ndarray | None = None
) -> KeyFrame:
    """A key frame without lidar; by default its ego frame is the global frame."""
    pose = np.eye(4) if global_from_ego is None else global_from_ego
    return KeyFrame(token=token, scene=scene, index=0, timestamp_us=0, cameras=cameras, global_from_ego=pose)
