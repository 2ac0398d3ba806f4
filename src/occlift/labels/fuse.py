"""From the views of several key frames to one cloud in the ego frame of one of them.

EasyOcc (arXiv 2509.26087) fuses 13 key frames and takes from all but the current one only what does not move by
itself, so that a car that drives is not drawn thirteen times.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from occlift.classes import DYNAMIC_CLASSES
from occlift.geometry.transforms import inverse
from occlift.labels.unproject import View, strided, unproject


@dataclass(frozen=True, kw_only=True, eq=False)
class FusedViews:
    """What the views of a window say, in the current ego frame (at the lidar's time), metres.

    Attributes:
        points_ego: where pixels end; NaN for pixels that show no point.
        class_id: what they show.
        ray_origins_ego: cameras, one per ray.
        ray_ends_ego: up to where a ray has certainly met nothing; NaN for rays that say nothing.
    """

    points_ego: Float[np.ndarray, "points 3"]
    class_id: UInt8[np.ndarray, " points"]
    ray_origins_ego: Float[np.ndarray, "rays 3"]
    ray_ends_ego: Float[np.ndarray, "rays 3"]


def window(current: int, count: int, frames: int) -> range:
    """Which of `count` key frames of a scene are fused for number `current`: `frames` of them around it.

    6 before and 6 after for 13; for an even number one more before than after. Where the scene begins or ends the
    window is cut off, not moved.
    """
    return range(max(0, current - frames // 2), min(count, current + (frames - 1) // 2 + 1))


def without_moving(view: View) -> View:
    """The view without what may move by itself: those pixels neither show a point nor clear a ray.

    Not the ray either: what stood where at another time is least certain where things move.
    """
    moving = np.isin(view.class_id, list(DYNAMIC_CLASSES))
    nothing = np.float32(np.nan)
    return View(
        class_id=view.class_id,
        depth_m=np.where(moving, nothing, view.depth_m),
        free_depth_m=np.where(moving, nothing, view.free_depth_m),
        intrinsics_px=view.intrinsics_px,
        global_from_camera=view.global_from_camera,
    )


def fuse(
    views: Iterable[View],
    global_from_ego: Float[np.ndarray, "4 4"],
    *,
    stride: int = 1,
    free_stride: int = 1,
) -> FusedViews:
    """All points and rays of the views, in the ego frame that `global_from_ego` says.

    Args:
        stride: of the pixels that show points; see `unproject`.
        free_stride: of the pixels that cast rays.
    """
    ego_from_global = inverse(global_from_ego)
    points, classes, origins, ends = [], [], [], []
    for view in views:
        # One product per view in double precision: global coordinates are kilometres, depths are float32.
        ego_from_camera = ego_from_global @ view.global_from_camera
        points.append(unproject(view.depth_m, view.intrinsics_px, ego_from_camera, stride=stride).reshape(-1, 3))
        classes.append(strided(view.class_id, stride).ravel())
        ends.append(
            unproject(view.free_depth_m, view.intrinsics_px, ego_from_camera, stride=free_stride).reshape(-1, 3)
        )
        origins.append(np.broadcast_to(ego_from_camera[:3, 3], ends[-1].shape))
    return FusedViews(
        points_ego=np.concatenate(points) if points else np.zeros((0, 3)),
        class_id=np.concatenate(classes) if classes else np.zeros(0, np.uint8),
        ray_origins_ego=np.concatenate(origins) if origins else np.zeros((0, 3)),
        ray_ends_ego=np.concatenate(ends) if ends else np.zeros((0, 3)),
    )
