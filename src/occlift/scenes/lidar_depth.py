"""The lidar of a key frame as depth in one of its images: sparse, and exact for whatever does not move in between.

A lidar looks over things that hide what lies behind them from a camera, because it is mounted higher. Such points are
returned too; where they fall into one pixel with a nearer point, `sparse_depth_map` drops them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Float32

from occlift.geometry.transforms import transform_points
from occlift.scenes.frames import CameraImage, KeyFrame
from occlift.scenes.rigs import rig_of

MIN_LIDAR_DEPTH_M: Final = 1.0
"""Returns nearer to a camera come from the ego vehicle (the devkit leaves them out, too)."""


def lidar_depth(
    frame: KeyFrame,
    camera: CameraImage,
    points_lidar: Float[np.ndarray, "points 3"],
    *,
    min_depth_m: float = MIN_LIDAR_DEPTH_M,
) -> tuple[Float[np.ndarray, "seen 2"], Float[np.ndarray, "seen"]]:
    """Projects a sweep into an image, from the ego pose at the sweep's time to that at the image's time.

    Args:
        camera: of the frame.
        points_lidar: x, y, z in the lidar's frame, metres (`frame.lidar_sweep().source.read()[:, :3]`).
        min_depth_m: nearer points are left out, as are those outside the image.

    Returns:
        (u, v) in pixels of the image, and depth along the optical axis, metres; float64, in the order of the points.
    """
    points_ego = transform_points(frame.ego_from_lidar(frame.lidar_sweep()), points_lidar.astype(np.float64))
    rig = rig_of(replace(frame, cameras=(camera,)))
    pixels, depth_m, visible = rig.project(torch.from_numpy(points_ego), min_depth_m=min_depth_m)
    seen = visible[0]
    return pixels[0, seen].numpy(), depth_m[0, seen].numpy()


def sparse_depth_map(
    pixels_uv: Float[np.ndarray, "points 2"], depth_m: Float[np.ndarray, "points"], *, height: int, width: int
) -> Float32[np.ndarray, "height width"]:
    """Depth per pixel, metres along the axis; NaN in pixels without a point.

    Pixel (row j, column i) holds the nearest of the points with ⌊u⌋ = i and ⌊v⌋ = j; points outside are left out.
    """
    nearest = np.full((height, width), np.inf, np.float32)
    column, row = np.floor(pixels_uv).astype(np.int64).T
    inside_image = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    np.minimum.at(nearest, (row[inside_image], column[inside_image]), depth_m[inside_image].astype(np.float32))
    return np.where(np.isfinite(nearest), nearest, np.float32(np.nan))


def lidar_depth_map(
    frame: KeyFrame, camera: CameraImage, points_lidar: Float[np.ndarray, "points 3"]
) -> Float32[np.ndarray, "height width"]:
    """The sweep as a sparse depth map of an image, in the image's own size; arguments as in `lidar_depth`."""
    pixels_uv, depth_m = lidar_depth(frame, camera, points_lidar)
    return sparse_depth_map(pixels_uv, depth_m, height=camera.height, width=camera.width)
