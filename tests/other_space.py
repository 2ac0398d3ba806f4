"""Five classes on an asymmetric grid of 0.2 m, and a hall that is described in them: nothing here is like Occ3D."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from occlift import CameraImage, KeyFrame, KeyFrameList, LabelSpace, Taxonomy, VoxelGrid
from occlift.labels.files import OccupancyLabel, label_path, write_label
from occlift.scenes import BoxAnnotation, ImageArray, LidarSource, LidarSweep

WALL, ROBOT, FLOOR, SHELF, REST, FREE = range(6)

SPACE = LabelSpace(
    grid=VoxelGrid(lower_m=(-3.0, -5.0, -0.5), voxel_size_m=(0.2, 0.2, 0.2), shape=(50, 35, 10)),
    taxonomy=Taxonomy(
        names=("wall", "robot", "floor", "shelf", "rest"),
        # What is moving, thin, ground and vague has ids of other kinds in Occ3D.
        moving=("robot",), thin=("shelf",), ground=("floor",), vague=("rest",), categories={"agv": "robot"},
        colors=((200, 60, 60), (60, 60, 220), (60, 170, 60), (220, 180, 40), (150, 60, 180), (255, 255, 255)),
    ),
)  # fmt: skip

FLOOR_LEVEL, WALL_X, ROBOT_XY, STEP_VOXELS = 2, 42, (30, 10), 2
SIZES = {"left": (48, 64), "right": (40, 80)}


def hall(number: int) -> np.ndarray:
    """Truth of a key frame: floor, a wall ahead that comes nearer, a robot that keeps its distance; the rest free."""
    semantics = np.full(SPACE.grid.shape, FREE, np.uint8)
    semantics[:, :, FLOOR_LEVEL] = FLOOR
    semantics[WALL_X - STEP_VOXELS * number, :, FLOOR_LEVEL + 1 :] = WALL
    x, y = ROBOT_XY
    semantics[x : x + 3, y : y + 2, FLOOR_LEVEL + 1 : FLOOR_LEVEL + 4] = ROBOT
    return semantics


class Points(LidarSource):
    """A sweep in memory."""

    def __init__(self, points: np.ndarray) -> None:
        self._points = points

    @property
    def name(self) -> str:
        return "points in memory"

    def read(self) -> np.ndarray:
        return self._points


class HallDataset(KeyFrameList):
    """Cameras of two sizes, three key frames of each of two scenes, and a box about the robot."""

    def __init__(self, *, lidar: bool = True) -> None:
        frames = [key_frame(scene, number, lidar=lidar) for scene in ("morning", "evening") for number in range(3)]
        super().__init__(frames, splits={"train": ["morning"], "val": ["evening"]})

    def boxes(self, token: str) -> tuple[BoxAnnotation, ...]:
        index, grid = (*ROBOT_XY, FLOOR_LEVEL + 1), SPACE.grid
        size = np.array([3, 2, 3]) * 0.2
        box = np.eye(4)
        box[:3, 3] = np.array(grid.lower_m) + np.array(index) * 0.2 + size / 2
        pose = self.key_frame(token).global_from_ego
        length, width, height = size.tolist()
        return (
            BoxAnnotation(
                instance="r", category="agv", size_lwh_m=(length, width, height), global_from_box=pose @ box,
                num_lidar_points=None,
            ),
        )  # fmt: skip


def key_frame(scene: str, number: int, *, lidar: bool = True) -> KeyFrame:
    pose = np.eye(4)
    pose[0, 3] = STEP_VOXELS * 0.2 * number
    images = []
    for name, (height, width) in SIZES.items():
        mounting = np.array(
            [[0.0, 0, 1, 0], [-1, 0, 0, 0.5 if name == "left" else -0.5], [0, -1, 0, 1.0], [0, 0, 0, 1]]
        )
        pixels = np.random.default_rng(number).integers(90, 110, (height, width, 3), np.uint8)
        images.append(
            CameraImage(
                camera=name, key=f"{scene}-{name}-{number}", timestamp_us=number, height=height, width=width,
                intrinsics_px=np.array([[40.0, 0, width / 2], [0, 40, height / 2], [0, 0, 1]]),
                source=ImageArray(pixels), ego_at_image_from_camera=mounting, global_from_ego_at_image=pose,
            )
        )  # fmt: skip
    sweep = None
    if lidar:
        occupied = SPACE.grid.centers()[hall(number) < FREE]
        mounting = np.eye(4)
        mounting[2, 3] = 1.0
        points = np.column_stack((occupied - mounting[:3, 3], np.zeros((len(occupied), 1)))).astype(np.float32)
        sweep = LidarSweep(
            key=f"{scene}-lidar-{number}", timestamp_us=number, ego_from_lidar=mounting, global_from_ego=pose,
            source=Points(points),
        )  # fmt: skip
    return KeyFrame(
        token=f"{scene}-{number}", scene=scene, index=number, timestamp_us=number, global_from_ego=pose,
        cameras=tuple(images), lidar=sweep,
    )  # fmt: skip


def write_truth(folder: Path) -> Path:
    """Truth of all key frames; the camera's mask leaves out the lowest level."""
    for scene in ("morning", "evening"):
        for number in range(3):
            mask = np.ones(SPACE.grid.shape, bool)
            camera = mask.copy()
            camera[:, :, 0] = False
            label = OccupancyLabel(semantics=hall(number), mask_lidar=mask, mask_camera=camera)
            write_label(label_path(folder, scene, f"{scene}-{number}"), label, space=SPACE)
    return folder
