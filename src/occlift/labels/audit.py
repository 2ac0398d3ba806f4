"""How a label compares with the truth, voxel by voxel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage

from occlift.classes import UNKNOWN


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Counts of voxels.

    Attributes:
        compared: known in the label, and in the mask if there is one.
        equal: of those, the same class or free in both.
        on_boundary: of those that differ, the ones that touch a boundary in the truth: among the 3×3×3 voxels around
            them there are two classes (free being one).
    """

    compared: int
    equal: int
    on_boundary: int

    @property
    def share_equal(self) -> float:
        """Of the voxels compared; 1 if there were none."""
        return self.equal / self.compared if self.compared else 1.0

    @property
    def off_boundary(self) -> int:
        """Voxels that differ in the midst of something uniform: never a matter of rounding."""
        return self.compared - self.equal - self.on_boundary


def agreement(
    semantics: UInt8[np.ndarray, "x y z"],
    truth: UInt8[np.ndarray, "x y z"],
    *,
    among: Bool[np.ndarray, "x y z"] | None = None,
) -> Agreement:
    """Compares a label with the truth on the voxels it knows.

    Args:
        semantics: of the label; voxels of class 255 are not compared.
        truth: without 255.
        among: compare only these, such as the truth's `mask_camera`. What lies beyond the grid is taken to be like its
            outermost voxels; where boundaries matter, leave those out.
    """
    compared = semantics != UNKNOWN
    if among is not None:
        compared &= among
    differs = compared & (semantics != truth)
    boundary = ndimage.maximum_filter(truth, 3, mode="nearest") != ndimage.minimum_filter(truth, 3, mode="nearest")
    return Agreement(
        compared=int(compared.sum()),
        equal=int(compared.sum() - differs.sum()),
        on_boundary=int((differs & boundary).sum()),
    )
