"""Measured depth as a judge of labels: does a label hold something where a sensor met it, and nothing before?

For whoever has no truth. Each measured point is a ray from the sensor to the point, in the ego frame of the label's key
frame. Of the points inside the grid, by the length of their ray:

- *hit*, *miss*, *unknown*: the point lies in an occupied, a free, an unknown voxel; the three add up to 100 %.
- *near*: the point's voxel or one of the 26 around it is occupied.
- *occluded*: the ray meets an occupied voxel before it comes to these 27. A ray that grazes a rightly labelled road
  does so, too, because it runs through the road's layer of voxels for metres.
- *pierced*: it also comes out of an occupied voxel again, before it comes to these 27, which neither a grazed nor a
  thick surface explains: the label holds something where the sensor saw through.

A label that calls everything occupied has 100 % hits, and 100 % occluded; an empty one 0 % of each. So the numbers
belong together, beside those of a flat road (`flat_road`), which is what a label without any image would be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage

from occlift.errors import ConfigError
from occlift.evaluation.audit_measures import ground_levels
from occlift.geometry.ego_vehicle import on_ego
from occlift.geometry.grids import VoxelGrid
from occlift.geometry.raycast import first_hit
from occlift.geometry.transforms import transform_points
from occlift.label_space import OCC3D, UNKNOWN, LabelSpace
from occlift.labels.fuse import window
from occlift.labels.unproject import unproject
from occlift.labels.view import default_free_stride, view_of
from occlift.scenes.dataset import DrivingDataset, require_lidar
from occlift.scenes.frames import CameraImage
from occlift.teachers.registry import depth_teacher
from occlift.teachers.teacher import DepthMap, SemanticMap

LIDAR: Final = "lidar"
"""The points of the sweep as they are; other names are teachers of depth."""

RANGES_M: Final = (0.0, 10.0, 20.0, 30.0, 40.0)
"""Rays are counted apart by their length: from each of these up to the next, and from the last on."""

OUTCOMES: Final = ("points", "hit", "near", "miss", "unknown", "occluded", "pierced")

_MIDDLE: Final = 1_000_000
"""A key frame of a scene without beginning and end."""

Rays = tuple[Float[np.ndarray, "rays 3"], Float[np.ndarray, "rays 3"]]
"""Where rays start (a sensor) and end (what it measured), metres."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DepthAgreement:
    """Counts of measured points, which add up over key frames.

    Attributes:
        counts: [range, outcome] in the order of `RANGES_M` and `OUTCOMES`, whose meaning stands above.
        outside: number of measured points outside of the grid, which are in no other count.
    """

    counts: Int[np.ndarray, "ranges outcomes"]
    outside: int = 0

    @classmethod
    def zero(cls) -> DepthAgreement:
        """The counts of no point."""
        return cls(counts=np.zeros((len(RANGES_M), len(OUTCOMES)), np.int64))

    def __add__(self, other: DepthAgreement) -> DepthAgreement:
        return DepthAgreement(counts=self.counts + other.counts, outside=self.outside + other.outside)

    def shares(self) -> dict[str, dict[str, float]]:
        """Range in metres (`10-20`, and `all`) → outcome → share of its points, per cent; NaN where there is none."""
        ends = [f"{start:.0f}-{end:.0f}" for start, end in pairwise(RANGES_M)]
        rows = zip((*ends, f"{RANGES_M[-1]:.0f}-", "all"), (*self.counts, self.counts.sum(axis=0)), strict=True)
        return {
            name: {
                outcome: 100.0 * int(count) / int(row[0]) if row[0] else float("nan")
                for outcome, count in zip(OUTCOMES[1:], row[1:], strict=True)
            }
            for name, row in rows
        }

    def to_dict(self) -> dict[str, Any]:
        """Counts and shares as JSON values."""
        counts = [dict(zip(OUTCOMES, row, strict=True)) for row in self.counts.tolist()]
        return {"ranges_m": list(RANGES_M), "counts": counts, "outside": self.outside, "shares": self.shares()}


def compare_with_rays(
    semantics: UInt8[np.ndarray, "x y z"],
    origins_m: Float[np.ndarray, "rays 3"],
    ends_m: Float[np.ndarray, "rays 3"],
    *,
    space: LabelSpace = OCC3D,
) -> DepthAgreement:
    """What a label says of measured points and of the way to them.

    Args:
        semantics: classes of the label, 255 where unknown.
        origins_m: the sensor, per point, metres in the grid's frame; inside or outside of the grid.
        ends_m: the measured points.
    """
    inside = space.grid.indices(ends_m)[1]
    origins_m, ends_m = origins_m[inside], ends_m[inside]
    outcomes = ray_outcomes(semantics, origins_m, ends_m, space=space)
    bins = np.searchsorted(RANGES_M, np.linalg.norm(ends_m - origins_m, axis=1), side="right") - 1
    counts = [np.bincount(bins[outcome], minlength=len(RANGES_M)) for outcome in outcomes.T]
    return DepthAgreement(counts=np.stack(counts, axis=1), outside=int((~inside).sum()))


def ray_outcomes(
    semantics: UInt8[np.ndarray, "x y z"],
    origins_m: Float[np.ndarray, "rays 3"],
    ends_m: Float[np.ndarray, "rays 3"],
    *,
    space: LabelSpace = OCC3D,
) -> Bool[np.ndarray, "rays outcomes"]:
    """Which of `OUTCOMES` every ray has; arguments as in `compare_with_rays`, with ends inside of the grid."""
    index, inside = space.grid.indices(ends_m)
    assert inside.all(), "ends inside of the grid"
    occupied, end = semantics < space.taxonomy.free, tuple(index.T)
    near = ndimage.binary_dilation(occupied, np.ones((3, 3, 3), bool))[end]
    occluded, pierced = _met_before(occupied, space.grid, origins_m, ends_m, index)
    is_unknown = semantics[end] == UNKNOWN
    is_free = ~occupied[end] & ~is_unknown
    return np.stack([inside, occupied[end], near, is_free, is_unknown, occluded, pierced], axis=1)


def _met_before(
    occupied: Bool[np.ndarray, "x y z"],
    grid: VoxelGrid,
    origins_m: Float[np.ndarray, "rays 3"],
    ends_m: Float[np.ndarray, "rays 3"],
    end_index: Int[np.ndarray, "rays 3"],
) -> tuple[Bool[np.ndarray, " rays"], Bool[np.ndarray, " rays"]]:
    """Which rays meet an occupied voxel before they come to the 27 around their end; which of them leave it again."""
    towards_m = ends_m - origins_m
    length_m = np.linalg.norm(towards_m, axis=1)

    def before(voxel: Int[np.ndarray, "rays 3"], entry_m: Float[np.ndarray, " rays"]) -> Bool[np.ndarray, " rays"]:
        return (voxel[:, 0] >= 0) & (entry_m < length_m) & (np.abs(voxel - end_index).max(axis=1, initial=0) > 1)

    met = first_hit(occupied, grid, origins_m, towards_m)
    occluded = before(met.voxel, met.entry_range_m)
    # On from the middle of what was met, where rounding cannot say another voxel.
    start_m = np.where(occluded, (met.entry_range_m + met.exit_range_m) / 2, 0.0)
    starts_m = (
        origins_m + towards_m * np.divide(start_m, length_m, out=np.zeros_like(start_m), where=length_m > 0)[:, None]
    )
    left = first_hit(~occupied, grid, starts_m, towards_m)
    return occluded, occluded & before(left.voxel, start_m + left.entry_range_m)


def flat_road(semantics: UInt8[np.ndarray, "x y z"], *, space: LabelSpace = OCC3D) -> UInt8[np.ndarray, "x y z"]:
    """A label that looked at no image: one layer of ground at the height of the label's own ground around the ego (at
    z = 0 if it has none), and free everywhere else."""
    level = ground_levels(semantics, space=space).median
    z = int(level) if np.isfinite(level) else int(np.floor(-space.grid.lower_m[2] / space.grid.voxel_size_m[2]))
    flat = np.full(space.grid.shape, space.taxonomy.free, np.uint8)
    flat[:, :, np.clip(z, 0, space.grid.shape[2] - 1)] = 0
    return flat


class MeasuredDepth:
    """Measured rays of key frames: lidar sweeps, or the maps of a teacher of depth.

    Args:
        data: the data set.
        name: `lidar` for the points of the sweeps, or a teacher of depth such as `files:FOLDER`.
        options: of the teacher.
        offset: of the key frame that measured, in key frames of the scene from that of the label; its poses lead from
            one to the other, and what moves by itself is then elsewhere.

    Raises:
        ConfigError: the data set has no lidar, there is no such teacher, or one of its options is wrong.
    """

    def __init__(
        self, data: DrivingDataset, name: str = LIDAR, *, options: Mapping[str, str] | None = None, offset: int = 0
    ) -> None:
        self.name, self.offset = name, offset
        self._data = data
        self._teacher = depth_teacher(name, data, options=options or {}) if name != LIDAR else None
        if name == LIDAR and options:
            raise ConfigError(f"--depth-option {next(iter(options))}: the points of a lidar have no options")
        if name == LIDAR:
            require_lidar(data, (t for scene in data.scenes() for t in data.key_frame_tokens(scene)), "--against-depth")

    def made(self, config: Mapping[str, Any]) -> bool:
        """Whether labels of this configuration (`Manifest.config`) contain the very depth that is to judge them."""
        teacher = config.get("depth_teacher", {})
        same = teacher.get("teacher") == LIDAR if self._teacher is None else teacher == self._teacher.settings
        fused = window(_MIDDLE, 2 * _MIDDLE, config.get("frames", 1), config.get("window", "centred"))
        return bool(same) and _MIDDLE + self.offset in fused

    def rays(self, token: str) -> Rays | None:
        """In the ego frame of this key frame, what the key frame `offset` further on measured; None beyond the scene.

        Returns from the ego vehicle's own body are left out, and so are pixels that the image does not cover. Of maps
        every n-th pixel of every n-th row is taken, about 4,000 in all.

        Raises:
            DataError: a file is missing or damaged.
        """
        frame = self._data.key_frame(token)
        tokens = self._data.key_frame_tokens(frame.scene)
        place = tokens.index(token) + self.offset
        if not 0 <= place < len(tokens):
            return None
        measured = self._data.key_frame(tokens[place])
        if self._teacher is None:
            sweep = measured.lidar_sweep()
            points_lidar = sweep.source.read()[:, :3].astype(np.float64)
            points_lidar = points_lidar[~on_ego(transform_points(sweep.ego_from_lidar, points_lidar))]
            parts = [_rays(frame.ego_from_lidar(sweep), points_lidar)]
        else:
            maps = zip(measured.cameras, self._teacher.depth(measured), strict=True)
            parts = [_rays(frame.ego_from_camera(image), _points(image, found)) for image, found in maps]
        return np.concatenate([origins for origins, _ in parts]), np.concatenate([ends for _, ends in parts])


def _rays(ego_from_sensor: Float[np.ndarray, "4 4"], points: Float[np.ndarray, "points 3"]) -> Rays:
    points = points[np.isfinite(points).all(axis=1)]
    return np.broadcast_to(ego_from_sensor[:3, 3], points.shape), transform_points(ego_from_sensor, points)


def _points(image: CameraImage, depth: DepthMap) -> Float[np.ndarray, "points 3"]:
    """Some of the points of a depth map in the frame of the camera; NaN where nothing was measured."""
    shape = depth.depth_m.shape
    anything = SemanticMap(class_id=np.zeros(shape, np.uint8), score=np.ones(shape, np.float32))
    view = view_of(image, anything, depth, stride=default_free_stride(*shape))
    return unproject(view.depth_m, view.intrinsics_px, np.eye(4), stride=view.stride).reshape(-1, 3)
