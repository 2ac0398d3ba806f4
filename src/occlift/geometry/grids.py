"""Voxel grids: where a voxel lies, and which voxel a point falls into.

Volumes are indexed [x, y, z]; index = ⌊(p − lower) / voxel size⌋; the centre of voxel i lies at
lower + (i + 0.5) · voxel size (Occ3D-nuScenes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, kw_only=True)
class VoxelGrid:
    """An axis-aligned voxel grid, in whatever frame its user says (for Occ3D: the ego frame at the lidar's time).

    Attributes:
        lower_m: the corner with the smallest coordinates, metres.
        voxel_size_m: edge lengths along x, y, z, metres.
        shape: the number of voxels along x, y, z.
    """

    lower_m: tuple[float, float, float]
    voxel_size_m: tuple[float, float, float]
    shape: tuple[int, int, int]

    @property
    def upper_m(self) -> tuple[float, float, float]:
        """The corner with the largest coordinates, metres."""
        x, y, z = (
            lower + size * count for lower, size, count in zip(self.lower_m, self.voxel_size_m, self.shape, strict=True)
        )
        return x, y, z

    @property
    def num_voxels(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]

    def indices(self, points: Float[np.ndarray, "*n 3"]) -> tuple[Int[np.ndarray, "*n 3"], Bool[np.ndarray, "*n"]]:
        """Voxel indices of points (metres, the grid's frame), and which of them are inside the grid.

        Indices of points outside are meaningless for indexing: use the mask.
        """
        scaled = (points - np.asarray(self.lower_m)) / np.asarray(self.voxel_size_m)
        inside_grid = np.all((scaled >= 0) & (scaled < np.asarray(self.shape)), axis=-1)
        # Casting NaN or huge values to int is undefined; those points are outside anyway.
        index = np.floor(np.where(inside_grid[..., None], scaled, -1.0)).astype(np.int64)
        return index, inside_grid

    def occupied_by(self, points: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, "x y z"]:
        """Which voxels hold at least one of the points (metres, the grid's frame); points outside count nowhere."""
        index, inside_grid = self.indices(points)
        occupied = np.zeros(self.shape, dtype=bool)
        occupied[tuple(index[inside_grid].T)] = True
        return occupied

    def centers(self) -> Float[np.ndarray, "x y z 3"]:
        """Centres of all voxels, metres, in the grid's frame."""
        axes = [
            lower + (np.arange(count) + 0.5) * size
            for lower, size, count in zip(self.lower_m, self.voxel_size_m, self.shape, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


OCC3D_GRID: Final = VoxelGrid(lower_m=(-40.0, -40.0, -1.0), voxel_size_m=(0.4, 0.4, 0.4), shape=(200, 200, 16))
"""Occ3D-nuScenes: the ego frame at the lidar's time stamp, x forward, y left, z up."""
