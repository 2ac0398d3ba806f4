"""What a bird's-eye-view network is pretrained to say about a volume (OccFeat, arXiv 2404.14027, section 3.2).

Occupancy is what the lidar touched, or what labels made from images say; a voxel of a feature target is an occupied
one that a camera sees, and its target is the mean over these cameras of the teacher's features at its centre.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, UInt8
from torch.nn import functional as F

from occlift.errors import ConfigError
from occlift.geometry.ego_vehicle import on_ego
from occlift.geometry.grids import VoxelGrid
from occlift.geometry.raycast import crossed_voxels, observed_by_camera
from occlift.geometry.transforms import inverse, transform_points
from occlift.label_space import OCC3D, UNKNOWN, LabelSpace
from occlift.labels.convert import resample
from occlift.scenes.frames import CameraImage, KeyFrame

OPEN: Final = 0
OCCUPIED: Final = 1
"""Of a voxel; 255 where nothing is known."""

Untouched = Literal["empty", "ignore"]


class Features(Protocol):
    """What is read of a teacher's feature map (`occlift.teachers.teacher.FeatureMap`)."""

    @property
    def features(self) -> Float[np.ndarray, "channels rows columns"]: ...

    @property
    def stride_px(self) -> tuple[float, float]: ...

    @property
    def offset_px(self) -> tuple[float, float]: ...


def lidar_occupancy(
    frame: KeyFrame, grid: VoxelGrid, *, others: Sequence[KeyFrame] = (), untouched: Untouched = "empty"
) -> UInt8[np.ndarray, "x y z"]:
    """Voxels that hold at least one lidar point which is not from the ego vehicle itself.

    Args:
        frame: the key frame; the grid lies in its ego frame.
        others: key frames of the same drive whose sweeps are added, moved by the ego's motion. What moves by itself
            leaves a trail.
        untouched: what voxels without a point are: `empty`, as in OccFeat; or empty only where a beam passed through
            and unknown elsewhere (`ignore`).

    Returns:
        0 open, 1 occupied, 255 unknown.

    Raises:
        DataError: a sweep is missing or damaged.
    """
    origins, ends = zip(*(_beams(sweep, frame) for sweep in (frame, *others)), strict=True)
    origins_ego, ends_ego = np.concatenate(origins), np.concatenate(ends)
    occupied = grid.occupied_by(ends_ego)
    if untouched == "empty":
        return np.where(occupied, OCCUPIED, OPEN).astype(np.uint8)
    crossed = crossed_voxels(grid, origins_ego, ends_ego)
    return np.where(occupied, OCCUPIED, np.where(crossed, OPEN, UNKNOWN)).astype(np.uint8)


def _beams(sweep: KeyFrame, frame: KeyFrame) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
    """Where the beams of a sweep start and end, metres, in the ego frame of `frame`."""
    lidar = sweep.lidar_sweep()
    points_lidar = lidar.source.read()[:, :3].astype(np.float64)
    points_lidar = points_lidar[~on_ego(transform_points(lidar.ego_from_lidar, points_lidar))]
    ego_from_lidar = frame.ego_from_lidar(lidar)
    ends_ego = transform_points(ego_from_lidar, points_lidar)
    return np.broadcast_to(ego_from_lidar[:3, 3], ends_ego.shape), ends_ego


def pooled_label(
    semantics: UInt8[np.ndarray, "label_x label_y label_z"], grid: VoxelGrid, space: LabelSpace = OCC3D
) -> tuple[UInt8[np.ndarray, "x y z"], UInt8[np.ndarray, "x y z"]]:
    """A label as occupancy and classes on a grid of larger voxels in the same frame, by the rule of `convert_label`.

    Args:
        space: grid and classes of the label.

    Returns:
        occupancy: 0 open, 1 occupied, 255 unknown.
        semantics: class per voxel, `Taxonomy.free` is free, 255 unknown.
    """
    assert is_coarser(grid, space.grid), (grid, space.grid)
    free = space.taxonomy.free
    pooled = resample(semantics, space.grid, grid, free)
    occupancy = np.where(pooled == UNKNOWN, UNKNOWN, np.where(pooled == free, OPEN, OCCUPIED)).astype(np.uint8)
    return occupancy, pooled


def check_coarser(grid: VoxelGrid, space: LabelSpace) -> None:
    """ConfigError unless labels of a space say something about every voxel of a pretraining head's grid."""
    if not is_coarser(grid, space.grid):
        raise ConfigError(
            f"labels with voxels of {space.grid.voxel_size_m} m do not fill a pretraining head's voxels of "
            f"{grid.voxel_size_m} m: give the head larger voxels (horizontal_stride, heights)"
        )


def is_coarser(grid: VoxelGrid, label_grid: VoxelGrid) -> bool:
    """Whether no voxel of a grid is smaller than those of a label: a label says something about each."""
    return all(size >= fine for size, fine in zip(grid.voxel_size_m, label_grid.voxel_size_m, strict=True))


def seen_voxels(
    occupied: Bool[np.ndarray, "x y z"], grid: VoxelGrid, frame: KeyFrame
) -> dict[str, Bool[np.ndarray, "x y z"]]:
    """Which of the occupied voxels each camera sees, by camera: what stands in the way is the other occupied voxels.

    The rule is that of `observed_by_camera`, for valid pixels. A voxel whose centre is outside of them is not seen.
    """
    return {
        camera.camera: observed_by_camera(
            occupied, grid, camera.pinhole_intrinsics_px, frame.ego_from_camera(camera), camera.height, camera.width,
            among=occupied, valid=camera.valid(),
        )
        for camera in frame.cameras
    }  # fmt: skip


def feature_targets(
    occupied: Bool[np.ndarray, "x y z"], grid: VoxelGrid, frame: KeyFrame, maps: Mapping[str, Features]
) -> tuple[Int[np.ndarray, "voxels 3"], Float32[np.ndarray, "voxels channels"]]:
    """The voxels that cameras see, and the teacher's features there.

    Args:
        maps: by camera channel, of the images of `frame`.

    Returns:
        index: of the voxels, in the grid's order.
        features: the mean, over the cameras that see the voxel, of their maps at its centre, sampled bilinearly.
    """
    seen = seen_voxels(occupied, grid, frame)
    index = np.argwhere(np.logical_or.reduce(list(seen.values()), axis=0))
    row_of = np.full(grid.shape, -1)
    row_of[tuple(index.T)] = np.arange(len(index))
    centers_ego = grid.centers()
    channels = next(iter(maps.values())).features.shape[0]
    sums, views = np.zeros((len(index), channels), np.float32), np.zeros(len(index), np.float32)
    for camera in frame.cameras:
        voxels = seen[camera.camera]
        pixels, inside_image = _projected(camera, frame, centers_ego[voxels])
        rows = row_of[voxels][inside_image]
        sums[rows] += sampled(maps[camera.camera], camera, pixels[inside_image])
        views[rows] += 1
    # A face of a voxel may be in the image while its centre is not.
    kept = views > 0
    return index[kept], sums[kept] / views[kept, None]


def _projected(
    camera: CameraImage, frame: KeyFrame, points_ego: Float[np.ndarray, "n 3"]
) -> tuple[Float[np.ndarray, "n 2"], Bool[np.ndarray, "n"]]:
    points_camera = transform_points(inverse(frame.ego_from_camera(camera)), points_ego)
    depth_m = points_camera[:, 2]
    in_front = depth_m > 0.1
    pixels = points_camera @ camera.pinhole_intrinsics_px.T
    pixels = pixels[:, :2] / np.where(in_front, depth_m, 1.0)[:, None]
    shown = in_front & (pixels >= 0).all(1) & (pixels < (camera.width, camera.height)).all(1)
    if (valid := camera.valid()) is not None:
        column, row = np.where(shown[:, None], pixels, 0.0).astype(np.int64).T
        shown &= valid[row, column]
    return pixels, shown


def sampled(
    feature_map: Features, camera: CameraImage, pixels: Float[np.ndarray, "n 2"]
) -> Float32[np.ndarray, "n channels"]:
    """The features of an image at pixels (u, v), bilinear; beyond the outermost cells' centres they stay as there.

    Cells of padding, whose centres lie outside of the image, are not read.
    """
    values, cells = feature_map.features, []
    for axis, size_px in ((0, camera.width), (1, camera.height)):
        stride, offset = feature_map.stride_px[axis], feature_map.offset_px[axis]
        inside_image = range(max(0, math.ceil(-offset / stride)), math.ceil((size_px - offset) / stride))
        values = values[:, :, inside_image.start : inside_image.stop].swapaxes(1, 2)
        count = values.shape[1]
        # From cells to the −1..1 of grid_sample, in which the outermost centres lie at the ends.
        cell = (pixels[:, axis] - offset) / stride - inside_image.start
        cells.append(cell * (2.0 / max(count - 1, 1)) - 1.0)
    where = torch.from_numpy(np.stack(cells, -1)).float()[None, :, None]
    table = torch.from_numpy(np.ascontiguousarray(values)).float()[None]
    samples = F.grid_sample(table, where, mode="bilinear", padding_mode="border", align_corners=True)
    return samples[0, :, :, 0].T.contiguous().numpy()
