"""From the pixels of an image to points, straight into any frame that is asked for."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float, Float32

from occlift.runtime.kernels import njit

_BEYOND_EVERYTHING_M: Final = 1000.0
"""Depth at which the ray of a sky pixel ends: outside of any grid, from any camera of the window."""


def unproject(
    depth_m: Float32[np.ndarray, "rows columns"],
    intrinsics_px: Float[np.ndarray, "3 3"],
    destination_from_camera: Float[np.ndarray, "4 4"],
    *,
    stride: int = 1,
) -> Float[np.ndarray, "rows columns 3"]:
    """The points that pixels show (EasyOcc, arXiv 2509.26087: T · [D(u, v) · K⁻¹ · (u, v, 1); 1]).

    Args:
        depth_m: along the optical axis; +inf is taken for a point beyond everything on the pixel's ray.
        stride: `depth_m` holds every N-th pixel of every N-th row, from the middle of the first stride on
            (`occlift.labels.view.strided`).

    Returns:
        metres, in the destination frame; NaN where the depth is NaN. The point of pixel (column i, row j) lies on the
        ray through (i + 0.5, j + 0.5).
    """
    points = np.empty((*depth_m.shape, 3))
    rotation = destination_from_camera[:3, :3] @ np.linalg.inv(intrinsics_px)
    _unproject(depth_m, rotation, destination_from_camera[:3, 3].copy(), stride, points)
    return points


@njit
def _unproject(
    depth_m: Float32[np.ndarray, "rows columns"], rotation: Float[np.ndarray, "3 3"], origin_m: Float[np.ndarray, "3"],
    stride: int, points: Float[np.ndarray, "rows columns 3"],
) -> None:  # fmt: skip
    rows, columns = depth_m.shape
    for row in range(rows):
        v = row * stride + stride // 2 + 0.5
        for column in range(columns):
            u = column * stride + stride // 2 + 0.5
            depth = min(float(depth_m[row, column]), _BEYOND_EVERYTHING_M)
            if np.isnan(depth_m[row, column]):
                depth = np.nan
            for axis in range(3):
                ray = rotation[axis, 0] * u + rotation[axis, 1] * v + rotation[axis, 2]
                points[row, column, axis] = origin_m[axis] + depth * ray
