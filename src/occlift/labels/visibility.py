"""Which voxels of a label count as seen: the masks of Occ3D, for labels that were made from images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8

from occlift.geometry.raycast import observed_by_camera
from occlift.label_space import OCC3D, UNKNOWN, LabelSpace
from occlift.labels.decide import Decision
from occlift.labels.files import OccupancyLabel

MaskCamera = tuple[
    Float[np.ndarray, "3 3"], Float[np.ndarray, "4 4"], int, int, Bool[np.ndarray, "_height _width"] | None
]
"""Of a camera the intrinsics (pixels), the transform from it to the grid's frame, height and width of its images, and
which of their pixels show the world (None: all)."""


def camera_mask(
    semantics: UInt8[np.ndarray, "x y z"], cameras: Sequence[MaskCamera], *, space: LabelSpace = OCC3D
) -> Bool[np.ndarray, "x y z"]:
    """The known voxels that at least one camera observes in valid pixels, by Occ3D's rule (`observed_by_camera`).

    Args:
        semantics: of the label; unknown voxels do not block the line of sight.
    """
    occupied = semantics < space.taxonomy.free
    observed = np.zeros(space.grid.shape, bool)
    for intrinsics_px, grid_from_camera, height, width, valid in cameras:
        open_voxels = (semantics != UNKNOWN) & ~observed
        observed |= observed_by_camera(
            occupied, space.grid, intrinsics_px, grid_from_camera, height, width, among=open_voxels, valid=valid
        )
    return observed


def label_of(
    decision: Decision, cameras: Sequence[MaskCamera], *, confidence: bool = False, space: LabelSpace = OCC3D
) -> OccupancyLabel:
    """The label with its masks and, if asked for, its confidence.

    `mask_camera`: what the cameras of the current key frame observe of what is known. `mask_lidar`: everything that is
    known, from whatever key frame; no lidar was used, the name is the place that Occ3D's layout has for it. As in
    Occ3D, the first is a subset of the second.
    """
    semantics = decision.semantics
    return OccupancyLabel(
        semantics=semantics,
        mask_lidar=semantics != UNKNOWN,
        mask_camera=camera_mask(semantics, cameras, space=space),
        confidence=decision.confidence if confidence else None,
    )
