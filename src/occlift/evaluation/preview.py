"""One key frame through the teachers: what they say, how far it is from lidar, how long it takes, and what label it
gives, before anybody pays for a whole data set.

*Depth against lidar*: the key frame's sweep is projected into every image (`occlift.scenes.lidar_depth`), and the
pixels in which a point lies are compared with the teacher's map there (nearest pixel where the map is smaller).
`covered` is the share of these points for which the teacher says a depth; the rest is over those that it says.
`scale` is the median of the teacher's depth over the lidar's: 1.1 says that depth is about 10 % too large. `abs_rel`
and `a1` are those of `occlift.metrics.depth`, metric; `abs_rel_scaled` is `abs_rel` after each image was multiplied by
one number (the ratio of medians): what is left where only the scale is wrong.

*The label of this frame alone* is what the surface fusion gives for the images of one moment: thinner and with more
that is unknown than a label of many key frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from occlift.errors import DataError
from occlift.evaluation.timed_teachers import TeacherTime, TimedDepth, TimedSemantics
from occlift.geometry.transforms import inverse
from occlift.label_space import OCC3D, LabelSpace
from occlift.labels.config import LabelConfig
from occlift.labels.depth_check import DepthCheck, check_depth
from occlift.labels.engine import make_teachers
from occlift.labels.from_views import decide_by_surface
from occlift.labels.view import View, view_of
from occlift.metrics.depth import MAX_DEPTH_M, MIN_DEPTH_M, depth_sums
from occlift.scenes.dataset import DrivingDataset, split_tokens
from occlift.scenes.frames import CameraImage, KeyFrame
from occlift.scenes.lidar_depth import lidar_depth_map
from occlift.teachers.teacher import DepthMap, DepthTeacher, SemanticMap, SemanticsTeacher
from occlift.viz.show import camera_caption, read_images

DISTANCES_M: Final = (0.0, 10.0, 20.0, 30.0, 40.0, 60.0, 80.0)
"""Bins of the depth that lidar measured."""

DEPTH_HEADS: Final = ("", "points", "covered", "scale", "abs_rel", "scaled", "a1")
"""Columns of `depth_cells`."""

_TRIED: Final = 20
"""Key frames of a split that are tried before its first fault is said."""


@dataclass(frozen=True, kw_only=True)
class DepthAgainstLidar:
    """A row of the comparison; per cent and ratios are NaN where nothing was compared.

    Attributes:
        name: camera, or span of depth, or `all`.
        points: pixels with a point of the lidar.
        covered: share of them where the teacher says a depth, 0..1.
        scale: median of the teacher's depth over the lidar's.
        abs_rel: mean |d − t| / t.
        abs_rel_scaled: the same after every image was multiplied by the ratio of its medians.
        a1: share within a factor of 1.25, per cent.
    """

    name: str
    points: int
    covered: float
    scale: float
    abs_rel: float
    abs_rel_scaled: float
    a1: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Preview:
    """What was seen of one key frame.

    Attributes:
        frame: the key frame.
        images: of its cameras.
        points_lidar: x, y, z of its sweep in the lidar's frame, metres; None where there is none that can be read.
        semantics, depth: the teachers' maps, one per camera.
        semantics_time, depth_time: how long they took.
        views: the maps as they are lifted: without sky, and without what is not sure enough.
        label: the label of this frame alone; class ids and 255.
        against_lidar: by camera, by distance, then all; empty without lidar.
        check: what other cameras and the wheels say about depth.
        notes: what could not be read, of this key frame and of those that were passed over, as sentences.
        space: grid and classes.
    """

    frame: KeyFrame
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]]
    points_lidar: Float32[np.ndarray, "points 3"] | None
    semantics: Sequence[SemanticMap]
    depth: Sequence[DepthMap]
    semantics_time: TeacherTime
    depth_time: TeacherTime
    views: Sequence[View]
    label: UInt8[np.ndarray, "x y z"]
    against_lidar: tuple[DepthAgainstLidar, ...]
    check: DepthCheck
    notes: tuple[str, ...] = ()
    space: LabelSpace = OCC3D


def preview(
    data: DrivingDataset,
    config: LabelConfig,
    *,
    token: str | None = None,
    split: str = "all",
    semantics: SemanticsTeacher | None = None,
    depth: DepthTeacher | None = None,
    space: LabelSpace = OCC3D,
) -> Preview:
    """Asks the teachers about one key frame, and looks at what they say.

    Args:
        config: names the teachers; of the rest, the stride, what is sure enough, and the seed are used.
        token: of the key frame; by default the first of the split whose images and maps can be read.
        semantics: a teacher of your own, instead of the one that the configuration names.
        depth: likewise.

    Raises:
        ConfigError: there is no such split or teacher, or a teacher lacks something.
        DataError: the key frame, an image or a map is missing or damaged.

    >>> from occlift.scenes import open_dataset
    >>> config = LabelConfig(semantics="oracle:perfect", depth="oracle:perfect")
    >>> seen = preview(open_dataset(town), config)
    >>> len(seen.depth), seen.against_lidar[-1].name
    (6, 'all')
    """
    config.check(space.taxonomy)
    made = make_teachers(data, config, space, semantics=semantics, depth=depth)
    teachers = TimedSemantics(made[0]), TimedDepth(made[1])
    if token is not None:
        return _look(data.key_frame(token), config, *teachers, space)
    skipped: list[str] = []
    for candidate in split_tokens(data, split)[:_TRIED]:
        try:
            seen = _look(data.key_frame(candidate), config, *teachers, space)
        except DataError as error:
            skipped.append(f"key frame {candidate} was passed over: {error}")
        else:
            return replace(seen, notes=(*skipped, *seen.notes))
    raise DataError(
        f"of the first {len(skipped)} key frames of the split {split!r} none can be looked at: {skipped[0]}"
    )


def _look(
    frame: KeyFrame, config: LabelConfig, semantics: TimedSemantics, depth: TimedDepth, space: LabelSpace
) -> Preview:
    taxonomy = space.taxonomy
    images = read_images(frame)
    # The first image by itself: what is loaded and compiled on the way is not what an image costs.
    first = replace(frame, cameras=frame.cameras[:1])
    for ask in (semantics.semantics, depth.depth):
        ask(first)
    classes, depths = semantics.semantics(frame), depth.depth(frame)
    for image, depth_map in zip(frame.cameras, depths, strict=True):
        if not (np.isfinite(depth_map.depth_m) & (depth_map.depth_m > 0)).any():
            raise DataError(
                f"{image.source.name}: the depth map ({config.depth}) has no pixel that is finite and above 0 m"
            )
    views = tuple(
        view_of(
            image, class_map, depth_map, stride=config.stride,
            free_stride=config.free_stride_of(*depth_map.depth_m.shape), min_score=config.min_score,
            min_confidence=config.min_confidence, taxonomy=taxonomy,
        )
        for image, class_map, depth_map in zip(frame.cameras, classes, depths, strict=True)
    )  # fmt: skip
    ego_from_global = inverse(frame.global_from_ego)
    decision = decide_by_surface(((view, ego_from_global @ view.global_from_camera, True) for view in views), space)
    points_lidar, notes = _read_lidar(frame)
    if config.depth == "lidar":
        notes = (*notes, "depth is made from the lidar that it is compared with: that they agree says nothing")
    return Preview(
        frame=frame,
        images=images,
        points_lidar=points_lidar,
        semantics=classes,
        depth=depths,
        semantics_time=semantics.time,
        depth_time=depth.time,
        views=views,
        label=decision.semantics,
        against_lidar=() if points_lidar is None else _against_lidar(frame, depths, points_lidar),
        check=check_depth((frame.global_from_ego, views), (), (frame.global_from_ego,), taxonomy),
        notes=notes,
        space=space,
    )


def _read_lidar(frame: KeyFrame) -> tuple[Float32[np.ndarray, "points 3"] | None, tuple[str, ...]]:
    """The sweep, if there is one, and a note where it cannot be read: the teachers need none."""
    try:
        return (None if frame.lidar is None else frame.lidar.source.read()[:, :3]), ()
    except DataError as error:
        return None, (f"depth is not compared with lidar: {error}",)


def _against_lidar(
    frame: KeyFrame, depths: Sequence[DepthMap], points_lidar: Float32[np.ndarray, "points 3"]
) -> tuple[DepthAgainstLidar, ...]:
    """By camera, by distance, and all."""
    images = [
        _points(frame, camera, depth_map, points_lidar)
        for camera, depth_map in zip(frame.cameras, depths, strict=True)
    ]  # fmt: skip
    rows = [
        _row(camera_caption(camera.camera), [image], 0.0, MAX_DEPTH_M)
        for camera, image in zip(frame.cameras, images, strict=True)
    ]
    rows += [_row(f"{low:.0f} to {high:.0f} m", images, low, high) for low, high in pairwise(DISTANCES_M)]
    return (*rows, _row("all", images, 0.0, MAX_DEPTH_M))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Points:
    """The points of the lidar in an image, metres: the lidar's depth, the teacher's (NaN: none), and the teacher's
    after the scale of the image was taken out."""

    true_m: Float64[np.ndarray, " points"]
    said_m: Float64[np.ndarray, " points"]
    scaled_m: Float64[np.ndarray, " points"]


def _points(
    frame: KeyFrame, camera: CameraImage, depth_map: DepthMap, points_lidar: Float32[np.ndarray, "points 3"]
) -> _Points:
    truth_m = lidar_depth_map(frame, camera, points_lidar)
    valid = camera.valid()
    measured = (truth_m > MIN_DEPTH_M) & (truth_m < MAX_DEPTH_M)
    row, column = np.nonzero(measured if valid is None else measured & valid)
    rows, columns = depth_map.depth_m.shape
    # The pixel of the map in which the centre of the image's pixel lies.
    said_m = depth_map.depth_m[
        ((row + 0.5) * rows / camera.height).astype(int), ((column + 0.5) * columns / camera.width).astype(int)
    ].astype(np.float64)
    said_m = np.where(np.isfinite(said_m) & (said_m > 0), said_m, np.nan)
    true_m = truth_m[row, column].astype(np.float64)
    both = np.isfinite(said_m)
    scale = np.median(true_m[both]) / np.median(said_m[both]) if both.any() else 1.0
    return _Points(true_m=true_m, said_m=said_m, scaled_m=said_m * scale)


def _row(name: str, images: Sequence[_Points], low: float, high: float) -> DepthAgainstLidar:
    true_m, said_m, scaled_m = (
        np.concatenate([getattr(image, kind) for image in images]) for kind in ("true_m", "said_m", "scaled_m")
    )
    inside = (true_m >= low) & (true_m < high)
    both = inside & np.isfinite(said_m)
    metric, scaled = (
        depth_sums(truth_m=true_m[None, both], prediction_m=depth_m[None, both]).measures("pooled", "metric")
        for depth_m in (said_m, scaled_m)
    )
    points, compared = int(inside.sum()), int(both.sum())
    return DepthAgainstLidar(
        name=name,
        points=points,
        covered=compared / points if points else float("nan"),
        scale=float(np.median(said_m[both] / true_m[both])) if compared else float("nan"),
        abs_rel=metric["abs_rel"],
        abs_rel_scaled=scaled["abs_rel"],
        a1=metric["a1"],
    )


def depth_cells(row: DepthAgainstLidar) -> tuple[str, ...]:
    """A row as text: name, points, covered, scale, abs_rel, abs_rel_scaled, a1."""
    numbers = (
        percent(row.covered), f"{row.scale:.3f}", f"{row.abs_rel:.3f}", f"{row.abs_rel_scaled:.3f}",
        percent(row.a1 / 100),
    )  # fmt: skip
    return (row.name, str(row.points), *("–" if "nan" in number else number for number in numbers))


def percent(share: float) -> str:
    """0.123 → 12.3 %."""
    return f"{100 * share:.1f} %"
