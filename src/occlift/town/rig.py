"""The sensors of the town's car: mounted, timed and built like those of public data sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Float32
from numpy.random import Generator

from occlift.geometry.transforms import inverse, rigid_transform, transform_points
from occlift.town.layout import TownScene
from occlift.town.trace import trace_rays

# Channel: position in the ego frame (m), yaw (degrees, left positive), focal length and principal point in pixels
# of a 900 × 1600 image, and by how many microseconds the image is older than the lidar sweep.
_CAMERAS: Final = {
    "CAM_FRONT_LEFT": ((1.52, 0.49, 1.51), 55.5, 1272.0, (826.0, 480.0), 43_100),
    "CAM_FRONT": ((1.70, 0.02, 1.51), 0.3, 1266.0, (816.0, 491.0), 35_500),
    "CAM_FRONT_RIGHT": ((1.55, -0.49, 1.50), -56.0, 1261.0, (808.0, 495.0), 27_600),
    "CAM_BACK_LEFT": ((1.04, 0.48, 1.59), 108.5, 1257.0, (792.0, 493.0), 500),
    "CAM_BACK": ((0.03, 0.00, 1.58), 180.2, 809.0, (829.0, 482.0), 10_400),
    "CAM_BACK_RIGHT": ((1.01, -0.48, 1.56), -110.5, 1260.0, (807.0, 501.0), 20_000),
}
_LIDAR_POSITION_M: Final = (0.94, 0.0, 1.84)
_BEAMS: Final = 32
_AZIMUTHS: Final = 1084
_ELEVATION_DEG: Final = (-30.67, 10.67)
_LIDAR_RANGE_M: Final = 80.0
_RANGE_NOISE_M: Final = 0.015
# How bright a lidar sees each class, of 255.
_REFLECTIVITY: Final = np.array([30, 60, 20, 35, 30, 45, 25, 25, 70, 45, 35, 12, 18, 20, 22, 30, 16], dtype=np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class MountedCamera:
    """Calibration of one camera of a scene's car."""

    camera: str
    intrinsics_px: Float[np.ndarray, "3 3"]
    ego_from_camera: Float[np.ndarray, "4 4"]
    lag_us: int


@dataclass(frozen=True, kw_only=True, eq=False)
class SensorRig:
    """All sensors of a scene's car; cameras from left to right, in front and behind."""

    cameras: tuple[MountedCamera, ...]
    ego_from_lidar: Float[np.ndarray, "4 4"]


def _tilt(rng: Generator) -> Float[np.ndarray, "3 3"]:
    """A rotation by a few tenths of a degree: no sensor is mounted straight."""
    x, y, z = np.radians(rng.normal(0, 0.35, 3))
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    # Rodrigues to second order, made orthonormal.
    u, _, vt = np.linalg.svd(np.eye(3) + skew + skew @ skew / 2)
    return u @ vt


def build_rig(rng: Generator, *, height: int, width: int) -> SensorRig:
    """A rig for images of height × width pixels: fields of view cropped in height to the aspect ratio."""
    scale = width / 1600
    cameras = []
    for channel, (position, yaw_deg, focal, (cx, cy), lag_us) in _CAMERAS.items():
        yaw = np.radians(yaw_deg)
        forward = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
        rotation = np.stack([right, np.array([0.0, 0.0, -1.0]), forward], axis=1)
        f = focal * scale * (1 + rng.normal(0, 0.004))
        top = (900 * scale - height) / 2
        intrinsics = np.array([[f, 0.0, cx * scale], [0.0, f, cy * scale - top], [0.0, 0.0, 1.0]])
        mounting = rigid_transform(_tilt(rng) @ rotation, np.array(position) + rng.normal(0, 0.01, 3))
        cameras.append(MountedCamera(camera=channel, intrinsics_px=intrinsics, ego_from_camera=mounting, lag_us=lag_us))
    # The lidar's frame: x to the right, y forward, z up.
    lidar = _tilt(rng) @ np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    return SensorRig(cameras=tuple(cameras), ego_from_lidar=rigid_transform(lidar, np.array(_LIDAR_POSITION_M)))


def sweep_lidar(
    scene: TownScene, global_from_lidar: Float[np.ndarray, "4 4"], time_s: float, rng: Generator
) -> Float32[np.ndarray, "n 5"]:
    """One revolution, motion already undone: x y z (metres, lidar frame), intensity 0..255, ring 0..31 (lowest 0)."""
    elevation = np.radians(np.linspace(*_ELEVATION_DEG, _BEAMS))
    azimuth = np.arange(_AZIMUTHS) * (2 * np.pi / _AZIMUTHS)
    e, a = (grid.ravel() for grid in np.meshgrid(elevation, azimuth, indexing="ij"))
    ring = np.repeat(np.arange(_BEAMS), _AZIMUTHS)
    directions_lidar = np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], axis=-1)
    directions = directions_lidar @ global_from_lidar[:3, :3].T
    origins = np.broadcast_to(global_from_lidar[:3, 3], directions.shape).copy()
    range_m, class_id, _ = trace_rays(
        scene.ground, scene.static, scene.moving(time_s), origins, directions, _LIDAR_RANGE_M
    )
    # Far returns are lost more often, and everything within a metre of the sensor is the car itself.
    returned = (range_m > 1.0) & (range_m < _LIDAR_RANGE_M) & (rng.random(len(range_m)) > 0.03 + 0.2 * range_m / 80)
    measured = range_m[returned] + rng.normal(0, _RANGE_NOISE_M, int(returned.sum()))
    intensity = _REFLECTIVITY[class_id[returned]] * rng.uniform(0.5, 1.5, len(measured))
    points = directions_lidar[returned] * measured[:, None]
    return np.concatenate([points, np.round(intensity)[:, None], ring[returned][:, None]], axis=1).astype(np.float32)


def visible_share(
    scene: TownScene,
    cameras: list[tuple[MountedCamera, Float[np.ndarray, "4 4"], float]],
    *,
    height: int,
    width: int,
    rng: Generator,
    samples: int = 60,
) -> Float[np.ndarray, "objects"]:
    """Per object, the share of its lines of sight into the images that nothing blocks; −1 outside of all.

    Args:
        cameras: calibration, `global_from_camera` and time (seconds) of each image.
    """
    seen, aimed = np.zeros(len(scene.objects)), np.zeros(len(scene.objects))
    # Points within the middle of the boxes: a line of sight to them meets the object itself unless it is hidden.
    instances = np.array([thing.instance for thing in scene.objects])
    spread = rng.uniform(-0.35, 0.35, (samples, 3))
    for camera, global_from_camera, time_s in cameras:
        targets, owner = [], []
        for k, (x, y, z, yaw) in enumerate(scene.poses(time_s)):
            if np.hypot(x - global_from_camera[0, 3], y - global_from_camera[1, 3]) > 80:
                continue
            size = scene.objects[k].shape.size_lwh_m
            local = spread * size + (0, 0, size[2] / 2)
            cos, sin = np.cos(yaw), np.sin(yaw)
            targets.append(
                np.stack(
                    [
                        x + cos * local[:, 0] - sin * local[:, 1],
                        y + sin * local[:, 0] + cos * local[:, 1],
                        z + local[:, 2],
                    ],
                    axis=-1,
                )
            )
            owner.append(np.full(samples, k))
        if not targets:
            continue
        points, owners = np.concatenate(targets), np.concatenate(owner)
        in_camera = transform_points(inverse(global_from_camera), points)
        uv = in_camera[:, :2] / np.maximum(in_camera[:, 2:], 0.1)
        u = camera.intrinsics_px[0, 0] * uv[:, 0] + camera.intrinsics_px[0, 2]
        v = camera.intrinsics_px[1, 1] * uv[:, 1] + camera.intrinsics_px[1, 2]
        inside = (in_camera[:, 2] > 0.1) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        points, owners = points[inside], owners[inside]
        rays = points - global_from_camera[:3, 3]
        distance = np.linalg.norm(rays, axis=1)
        origins = np.broadcast_to(global_from_camera[:3, 3], rays.shape).copy()
        range_m, _, instance = trace_rays(
            scene.ground, scene.static, scene.moving(time_s), origins, rays / distance[:, None]
        )
        hit = instance == instances[owners]
        # A line that misses the object's own parts and everything else before it says nothing.
        counted = hit | (range_m < distance)
        np.add.at(seen, owners[counted], hit[counted])
        np.add.at(aimed, owners[counted], 1)
    return np.where(aimed > 0, seen / np.maximum(aimed, 1), -1.0)
