"""Sweeps whose ego pose is not that of their key frame."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from occlift.geometry.grids import OCC3D_GRID
from occlift.geometry.transforms import inverse, rigid_transform, rotation_about_z, transform_points
from occlift.scenes import CameraImage, ImageArray, KeyFrame, LidarSource, LidarSweep
from occlift.scenes.lidar_depth import lidar_depth
from occlift.training.volume_targets import OCCUPIED, lidar_occupancy
from occlift.viz.show import lidar_in_ego


@dataclass(frozen=True, eq=False)
class Points(LidarSource):
    points: np.ndarray
    name: str = "points in memory"

    def read(self) -> np.ndarray:
        return self.points


EGO_FROM_CAMERA = np.array([[0.0, 0, 1, 1], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
EGO_FROM_LIDAR = rigid_transform(rotation_about_z(-math.pi / 2), (0.5, 0.0, 2.0))
POINT_GLOBAL = np.array([605.0, 812.1, 1.9])


def pose(along_m: float, turned_rad: float) -> np.ndarray:
    return rigid_transform(rotation_about_z(math.pi / 2 + turned_rad), (605.0, 800.0 + along_m, 0.0))


def key_frame(at_sweep: np.ndarray) -> KeyFrame:
    """A lidar that saw the point where it was; the ego frame of the key frame is another than that of the sweep."""
    point_lidar = transform_points(inverse(at_sweep @ EGO_FROM_LIDAR), POINT_GLOBAL[None])
    camera = CameraImage(
        camera="front", key="image", timestamp_us=0, height=90, width=160, ego_at_image_from_camera=EGO_FROM_CAMERA,
        intrinsics_px=np.array([[100.0, 0, 80], [0, 100.0, 45], [0, 0, 1]]), global_from_ego_at_image=pose(1.0, 0.0),
        source=ImageArray(np.zeros((90, 160, 3), np.uint8)),
    )  # fmt: skip
    lidar = LidarSweep(
        key="sweep", timestamp_us=0, ego_from_lidar=EGO_FROM_LIDAR, global_from_ego=at_sweep,
        source=Points(point_lidar.astype(np.float32)),
    )  # fmt: skip
    return KeyFrame(
        token="t", scene="s", index=0, timestamp_us=0, global_from_ego=pose(0.0, 0.0), cameras=(camera,), lidar=lidar
    )


@pytest.mark.parametrize("at_sweep", [pose(0.0, 0.0), pose(-2.0, 0.0), pose(1.5, 0.2)])
def test_a_point_is_where_it_was_whenever_the_lidar_saw_it(at_sweep: np.ndarray) -> None:
    frame = key_frame(at_sweep)
    np.testing.assert_allclose(lidar_in_ego(frame), [[12.1, 0.0, 1.9]], atol=1e-5)
    assert frame.lidar is not None
    pixels_uv, depth_m = lidar_depth(frame, frame.cameras[0], frame.lidar.source.read())
    np.testing.assert_allclose(depth_m, [10.1], atol=1e-5)
    np.testing.assert_allclose(pixels_uv, [[80.0, 45 - 40 / 10.1]], atol=1e-4)
    occupied = np.argwhere(lidar_occupancy(frame, OCC3D_GRID) == OCCUPIED)
    np.testing.assert_array_equal(occupied, OCC3D_GRID.indices(np.array([[12.1, 0.0, 1.9]]))[0])
    np.testing.assert_allclose(frame.lidar.global_from_lidar, at_sweep @ EGO_FROM_LIDAR)


def test_equal_poses_are_not_rounded() -> None:
    frame = key_frame(pose(0.0, 0.0))
    assert frame.lidar is not None
    np.testing.assert_array_equal(frame.ego_from_lidar(frame.lidar), EGO_FROM_LIDAR)
    later = replace(frame.lidar, global_from_ego=pose(2.0, 0.0))
    assert frame.ego_from_lidar(later)[0, 3] == pytest.approx(2.5)
