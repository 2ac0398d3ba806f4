"""The cameras of a key frame as tensors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from occlift.errors import DataError
from occlift.geometry.cameras import CameraRig
from occlift.scenes.frames import KeyFrame


def rig_of(key_frame: KeyFrame) -> CameraRig:
    """The cameras of a key frame as a rig, float64; ego motion between image and lidar is in the transforms.

    Raises:
        ConfigError: a camera is distorted.
        DataError: the images have different sizes.
    """
    sizes = {(camera.height, camera.width) for camera in key_frame.cameras}
    if len(sizes) != 1:
        raise DataError(f"sample {key_frame.token}: expected images of one size, got {sorted(sizes)}")
    height, width = sizes.pop()
    return CameraRig(
        intrinsics_px=torch.tensor(np.stack([camera.pinhole_intrinsics_px for camera in key_frame.cameras])).double(),
        ego_from_camera=torch.tensor(
            np.stack([key_frame.ego_from_camera(camera) for camera in key_frame.cameras])
        ).double(),
        height=height,
        width=width,
    )


def single_rigs(key_frame: KeyFrame) -> tuple[CameraRig, ...]:
    """Each camera of a key frame as a rig of its own, as `rig_of`: images may have different sizes."""
    return tuple(rig_of(replace(key_frame, cameras=(camera,))) for camera in key_frame.cameras)
