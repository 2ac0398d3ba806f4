"""What boxes cover on the ground.

The footprint of a box is its bottom face, projected along z onto the grid's plane: a parallelogram, and a rectangle
where the box stands upright. A cell is covered if its *centre* lies in the footprint or on its edge. So a footprint of
2 × 4 m covers 8 m² on average, wherever it lies and however it is turned. Public codes of bird's-eye-view segmentation
(Lift-Splat and its successors) move the corners to whole cells and fill the polygon with OpenCV, which fills every cell
that the border touches: their vehicles are up to a cell wider and longer.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from occlift.geometry.grids import BevGrid


def box_footprints(
    ego_from_box: Float[np.ndarray, "boxes 4 4"], size_lwh_m: Float[np.ndarray, "boxes 3"], grid: BevGrid
) -> Bool[np.ndarray, "boxes x y"]:
    """Which cells each box covers.

    Args:
        ego_from_box: the box frame has its origin at the centre, x along the length, y along the width.
        size_lwh_m: length (x), width (y), height (z), metres.
        grid: of the ego frame.
    """
    assert ego_from_box.shape == (len(size_lwh_m), 4, 4), (ego_from_box.shape, size_lwh_m.shape)
    x, y = grid.axis_centers()
    covered = np.zeros((len(size_lwh_m), *grid.shape), dtype=bool)
    # One box at a time: coordinates of all cells in all boxes at once would take 600 kB per box.
    for cells, transform, (length_m, width_m, height_m) in zip(covered, ego_from_box, size_lwh_m, strict=True):
        along, across, up, origin = transform[:2].T
        center = origin - up * (height_m / 2)
        from_center_x, from_center_y = (x - center[0])[:, None], (y - center[1])[None, :]
        # The cell's position as center + a · along + b · across (Cramer's rule), without dividing: the footprint of a
        # box that stands on its end is a line.
        area = along[0] * across[1] - along[1] * across[0]
        a_times_area = from_center_x * across[1] - from_center_y * across[0]
        b_times_area = from_center_y * along[0] - from_center_x * along[1]
        cells[:] = (np.abs(a_times_area) <= abs(area) * length_m / 2) & (
            np.abs(b_times_area) <= abs(area) * width_m / 2
        )
    return covered
