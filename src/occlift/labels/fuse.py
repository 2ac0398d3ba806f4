"""Which key frames are fused into a label, and what becomes of objects that may have moved in between.

EasyOcc (arXiv 2509.26087) fuses 13 key frames and takes from all but the current one only what does not move by
itself, so that a car that drives is not drawn thirteen times. The price is that parked cars are seen from one key frame
alone; two other policies give them back (`Moving`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8

from occlift.geometry.grids import VoxelGrid
from occlift.geometry.transforms import inverse, transform_points
from occlift.label_space import Taxonomy
from occlift.labels.unproject import unproject
from occlift.labels.view import View
from occlift.scenes.frames import BoxAnnotation

WindowPolicy = Literal["centred", "past", "scene"]
"""Which key frames: around the current one, it and those before it, or all of the scene."""

Moving = Literal["drop", "keep", "still", "boxes"]
"""What becomes of the points of classes that may move by themselves, seen in *other* key frames than the current one.

`drop`: they are left out (EasyOcc). `keep`: they are fused like everything else, and leave ghosts. `still`: they are
fused in voxels in which many key frames of the window see such a class, because what drives does not stay that long.
`boxes`: points inside an annotated box go with the object to where it is in the current key frame; others are left out.
"""

BOX_MARGIN_M: Final = 0.25
"""By how much a box is enlarged on every side: depth is not exact, and boxes are annotated tightly."""

EVERYTHING: Final[Bool[np.ndarray, "256"]] = np.ones(256, bool)
"""Class ids that take part: all. Sky and unknown (255) have no vote, but the rays of the sky say what is free."""


def static_classes(taxonomy: Taxonomy) -> Bool[np.ndarray, "256"]:
    """Class ids that take part where the time is another: all without what may move by itself.

    Its rays do not take part either: what stood where at another time is least certain where things move.
    """
    return EVERYTHING & ~taxonomy.table(taxonomy.moving)


def window(current: int, count: int, frames: int, policy: WindowPolicy = "centred") -> range:
    """Which of `count` key frames of a scene are fused for number `current`.

    `centred`: 6 before and 6 after for 13 frames; for an even number one more before than after. `past`: `frames` of
    them that end with the current one. `scene`: all. Where the scene begins or ends the window is cut off, not moved.
    """
    if policy == "scene":
        return range(count)
    before = frames - 1 if policy == "past" else frames // 2
    after = 0 if policy == "past" else (frames - 1) // 2
    return range(max(0, current - before), min(count, current + after + 1))


def moving_points(
    view: View, destination_from_camera: Float[np.ndarray, "4 4"], taxonomy: Taxonomy
) -> tuple[Float[np.ndarray, "n 3"], UInt8[np.ndarray, " n"]]:
    """Points (metres, the destination frame) of a view that show a class that may move, and their classes."""
    shown = taxonomy.table(taxonomy.moving)[view.class_id] & ~np.isnan(view.depth_m)
    depth_m = np.where(shown, view.depth_m, np.float32(np.nan))
    points = unproject(depth_m, view.intrinsics_px, destination_from_camera, stride=view.stride)
    return points[shown], view.class_id[shown]


def carried_by_boxes(
    points_global: Float[np.ndarray, "n 3"],
    then: Sequence[BoxAnnotation],
    now: Sequence[BoxAnnotation],
    taxonomy: Taxonomy,
) -> Float[np.ndarray, "n 3"]:
    """Where points on annotated objects are now, metres in the global frame; NaN for points on none.

    Args:
        points_global: seen at the time of `then`.
        then, now: the annotations of two key frames. An object that is not annotated in both carries nothing. A point
            in several boxes goes with the first.
        taxonomy: says which categories of boxes are of a class that may move.
    """
    moving = taxonomy.ids(taxonomy.moving)
    poses_now = {box.instance: box.global_from_box for box in now}
    carried = np.full(points_global.shape, np.nan)
    waiting = np.ones(len(points_global), bool)
    for box in then:
        if taxonomy.class_of_category(box.category) not in moving or box.instance not in poses_now:
            continue
        points_box = transform_points(inverse(box.global_from_box), points_global)
        half_m = np.array(box.size_lwh_m) / 2 + BOX_MARGIN_M
        inside = waiting & (np.abs(points_box) <= half_m).all(axis=1)
        carried[inside] = transform_points(poses_now[box.instance], points_box[inside])
        waiting &= ~inside
    return carried


def standing_still(
    grid: VoxelGrid, points_grid: Sequence[Float[np.ndarray, "_ 3"]], *, frames: int
) -> Bool[np.ndarray, "x y z"]:
    """Voxels in which at least so many key frames have a point of a class that may move.

    An object of length l that drives at v stays in a voxel for l / v: with key frames at 2 Hz a car (4.5 m) that is
    seen there in 6 of them is slower than 2 m/s.

    Args:
        points_grid: of every key frame of the window, metres in the frame of the grid.
    """
    seen = np.zeros(grid.shape, np.int32)
    for points in points_grid:
        seen += grid.occupied_by(points)
    return seen >= frames
