"""Rigid transforms as 4×4 matrices, named `destination_from_source`.

They chain by equal inner words: `global_from_camera = global_from_ego @ ego_from_camera`. Lengths are metres.
Quaternions are (w, x, y, z).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from occlift.errors import DataError


def rotation_from_quaternion(quaternion_wxyz: Sequence[float]) -> Float[np.ndarray, "3 3"]:
    """The rotation matrix of a quaternion (w, x, y, z), which need not be of unit length.

    Raises:
        DataError: the quaternion has not four finite numbers, or is zero.
    """
    q = np.asarray(quaternion_wxyz, dtype=np.float64)
    norm = float(np.linalg.norm(q)) if q.shape == (4,) else 0.0
    if not np.isfinite(norm) or norm < 1e-9:
        raise DataError(f"expected a quaternion (w, x, y, z) of finite non-zero length, got {list(quaternion_wxyz)}")
    w, x, y, z = q / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_from_rotation(rotation: Float[np.ndarray, "3 3"]) -> tuple[float, float, float, float]:
    """The unit quaternion (w, x, y, z) with w ≥ 0 of a rotation matrix."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    sign = -1.0 if w < 0 else 1.0
    return float(sign * w), float(sign * x), float(sign * y), float(sign * z)


def rigid_transform(
    rotation: Float[np.ndarray, "3 3"], translation_m: Sequence[float] | NDArray[np.float64]
) -> Float[np.ndarray, "4 4"]:
    """The 4×4 matrix that rotates first and translates afterwards; float64."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = translation_m
    return matrix


def inverse(a_from_b: Float[np.ndarray, "*batch 4 4"]) -> Float[np.ndarray, "*batch 4 4"]:
    """`b_from_a` of a rigid transform `a_from_b`, by transposing the rotation (no general inverse)."""
    rotation = np.swapaxes(a_from_b[..., :3, :3], -1, -2)
    b_from_a = np.zeros_like(a_from_b)
    b_from_a[..., :3, :3] = rotation
    b_from_a[..., :3, 3] = -(rotation @ a_from_b[..., :3, 3:])[..., 0]
    b_from_a[..., 3, 3] = 1
    return b_from_a


def transform_points(
    a_from_b: Float[np.ndarray, "4 4"], points_b: Float[np.ndarray, "*batch 3"]
) -> Float[np.ndarray, "*batch 3"]:
    """Points of frame b, metres, expressed in frame a."""
    return points_b @ a_from_b[:3, :3].T + a_from_b[:3, 3]


def rotation_about_z(angle_rad: float) -> Float[np.ndarray, "3 3"]:
    """Counter-clockwise seen from above (z up)."""
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
