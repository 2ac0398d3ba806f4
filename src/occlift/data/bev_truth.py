"""The truth of bird's-eye-view segmentation from the annotations of a key frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Bool

from occlift.data.key_frame import BoxAnnotation, KeyFrame
from occlift.geometry.footprints import box_footprints
from occlift.geometry.grids import BEV_GRID, BevGrid
from occlift.geometry.transforms import inverse

_HARDLY_VISIBLE: Final = 1
"""The visibility token of objects of which the six images together show 0 to 40 %."""


def vehicle_truth(
    frame: KeyFrame, boxes: Sequence[BoxAnnotation], grid: BevGrid = BEV_GRID
) -> tuple[Bool[np.ndarray, "x y"], Bool[np.ndarray, "x y"]]:
    """Where vehicles stand, and which of these cells a score with visibility filter leaves out.

    A vehicle is every annotation whose category starts with `vehicle`, bicycles and trailers too, seen or not.

    Args:
        boxes: all annotations of the key frame (`NuScenes.boxes`).
        grid: of the ego frame at the lidar's time.

    Returns:
        truth: the cell's centre lies in the bottom face of a vehicle's box (`box_footprints`).
        ignored: every vehicle that covers the cell is hardly visible (visibility token 1: 0 to 40 %). A cell that no
            vehicle covers is never ignored, nor is one where the table says nothing about visibility.
    """
    vehicles = [box for box in boxes if box.category.split(".")[0] == "vehicle"]
    ego_from_global = inverse(frame.global_from_ego)
    covered = box_footprints(
        np.array([ego_from_global @ box.global_from_box for box in vehicles]).reshape(-1, 4, 4),
        np.array([box.size_wlh_m for box in vehicles]).reshape(-1, 3),
        grid,
    )
    hardly_visible = np.array([box.visibility == _HARDLY_VISIBLE for box in vehicles], dtype=bool)
    truth, seen = (np.logical_or.reduce(some, axis=0) for some in (covered, covered[~hardly_visible]))
    return truth, truth & ~seen
