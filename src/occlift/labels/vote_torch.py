"""Voting for maps that are already on an accelerator: what `occlift.labels.vote.Tally` counts, as tensor operations.

Double precision and the order of operations are those of the compiled pass, so both count the same, voxel by voxel.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8
from torch import Tensor

from occlift.geometry.grids import VoxelGrid
from occlift.label_space import OCC3D


def count_votes(
    class_id: UInt8[Tensor, "height width"],
    depth_m: Float32[Tensor, "height width"],
    intrinsics_px: Float[np.ndarray, "3 3"],
    grid_from_camera: Float[np.ndarray, "4 4"],
    grid: VoxelGrid,
    *,
    without: frozenset[int] = frozenset(),
    stride: int = 1,
    classes: int = OCC3D.taxonomy.free,
) -> Int[Tensor, "x y z {classes}"]:
    """How many pixels of one image fall into each voxel, per class; counts of several images add up.

    Args:
        class_id: semantic classes; sky and unknown (255) do not vote.
        depth_m: metres along the optical axis; NaN where nothing is known. On the device of `class_id`.
        grid_from_camera: into the frame of the grid, at the image's own time.
        without: classes that do not vote, such as those that may move for another key frame than the current one.
        stride: N, to vote with every N-th pixel of every N-th row, from the middle of the first stride on.
        classes: number of semantic classes; ids from there on do not vote.

    Returns:
        int64 on the device of the maps.
    """
    device = class_id.device
    size_m, lower_m = np.asarray(grid.voxel_size_m), np.asarray(grid.lower_m)
    rotation = (grid_from_camera[:3, :3] @ np.linalg.inv(intrinsics_px)) / size_m[:, None]
    origin = (grid_from_camera[:3, 3] - lower_m) / size_m
    first = stride // 2
    class_id, depth_m = class_id[first::stride, first::stride], depth_m[first::stride, first::stride]
    rows, columns = class_id.shape
    v = (torch.arange(rows, device=device, dtype=torch.float64) * stride + first + 0.5)[:, None]
    u = (torch.arange(columns, device=device, dtype=torch.float64) * stride + first + 0.5)[None]
    voting = torch.arange(256, device=device) < classes
    voting[sorted(without)] = False
    counted = voting[class_id.long()]
    depth = depth_m.double()
    index = []
    for axis in range(3):
        # Products before sums, none of them fused: as the compiled pass computes it.
        ray = rotation[axis, 0] * u + (rotation[axis, 1] * v + rotation[axis, 2])
        coordinate = origin[axis] + depth * ray
        # Comparisons with NaN are false.
        counted = counted & (coordinate >= 0) & (coordinate < grid.shape[axis])
        index.append(coordinate)
    x, y, z = (coordinate[counted].long() for coordinate in index)
    flat = ((x * grid.shape[1] + y) * grid.shape[2] + z) * classes + class_id[counted].long()
    return torch.bincount(flat, minlength=grid.num_voxels * classes).reshape(*grid.shape, classes)
