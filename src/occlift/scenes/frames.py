"""What a key frame of a nuScenes-format data set is, in memory.

Every sensor has its own time stamp and with it its own ego pose. `ego` without a time means the ego frame at the
*lidar's* time stamp (the frame of Occ3D's grids); the ego frame at a camera's time is `ego_at_image`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float

from occlift.geometry.transforms import inverse

CAMERA_CHANNELS: Final[tuple[str, ...]] = (
    "CAM_FRONT_LEFT",
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT",
    "CAM_BACK",
    "CAM_BACK_RIGHT",
)
"""The order in which cameras stand in every array of this project."""

LIDAR_CHANNEL: Final = "LIDAR_TOP"


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraImage:
    """One image of a key frame with its calibration and pose.

    Attributes:
        token: the sample_data token.
        path: of the JPEG; not opened yet, may be missing.
        intrinsics_px: 3×3, for an image of `height` × `width` pixels.
        ego_at_image_from_camera: the mounting, 4×4.
        global_from_ego_at_image: the ego pose at the image's time stamp, 4×4.
    """

    channel: str
    token: str
    path: Path
    timestamp_us: int
    height: int
    width: int
    intrinsics_px: Float[np.ndarray, "3 3"]
    ego_at_image_from_camera: Float[np.ndarray, "4 4"]
    global_from_ego_at_image: Float[np.ndarray, "4 4"]

    @property
    def global_from_camera(self) -> Float[np.ndarray, "4 4"]:
        return self.global_from_ego_at_image @ self.ego_at_image_from_camera


@dataclass(frozen=True, kw_only=True, eq=False)
class LidarSweep:
    """The LIDAR_TOP sweep of a key frame; attributes as in `CameraImage`."""

    token: str
    path: Path
    timestamp_us: int
    ego_from_lidar: Float[np.ndarray, "4 4"]
    global_from_ego: Float[np.ndarray, "4 4"]


@dataclass(frozen=True, kw_only=True, eq=False)
class KeyFrame:
    """A nuScenes sample.

    Attributes:
        token: the sample token.
        scene: the scene's name.
        index: position among the key frames of the scene, from 0.
        timestamp_us: of the sample.
        cameras: those of `CAMERA_CHANNELS` that the sample has, in that order.
        lidar: the LIDAR_TOP sweep.
    """

    token: str
    scene: str
    index: int
    timestamp_us: int
    cameras: tuple[CameraImage, ...]
    lidar: LidarSweep

    @property
    def global_from_ego(self) -> Float[np.ndarray, "4 4"]:
        """The ego pose at the lidar's time stamp."""
        return self.lidar.global_from_ego

    def ego_from_camera(self, camera: CameraImage) -> Float[np.ndarray, "4 4"]:
        """From a camera to the ego frame at the lidar's time, through the global frame and both ego poses."""
        ego_from_global = inverse(self.global_from_ego)
        return ego_from_global @ camera.global_from_camera


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxAnnotation:
    """An annotated object of a key frame.

    Attributes:
        token: the sample_annotation token.
        category: the nuScenes category name.
        size_wlh_m: width (y), length (x), height (z), metres, as nuScenes orders them.
        global_from_box: 4×4; the box frame has its origin at the centre, x along the length.
        visibility: 1..4 (0–40 %, 40–60 %, 60–80 %, 80–100 % visible), 0 where the table says nothing.
        num_lidar_points: inside the box, as the table says.
        attributes: attribute names.
        velocity_global_m_s: by central differences over prev/next as the devkit computes it; NaN where unknown.
    """

    token: str
    instance_token: str
    category: str
    size_wlh_m: tuple[float, float, float]
    global_from_box: Float[np.ndarray, "4 4"]
    visibility: int
    num_lidar_points: int
    attributes: tuple[str, ...]
    velocity_global_m_s: Float[np.ndarray, "3"]
