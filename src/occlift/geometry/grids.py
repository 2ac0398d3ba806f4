"""Voxel grids and grids on the ground: where a voxel or a cell lies, and which one a point falls into.

Volumes are indexed [x, y, z], bird's-eye views [x, y]; index = ⌊(p − lower) / size⌋; the centre of voxel or cell i lies
at lower + (i + 0.5) · size (Occ3D).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from occlift.errors import DataError


@dataclass(frozen=True, kw_only=True)
class VoxelGrid:
    """An axis-aligned voxel grid, in whatever frame its user says (for Occ3D: the ego frame at the lidar's time).

    Attributes:
        lower_m: the corner with the smallest coordinates, metres.
        voxel_size_m: edge lengths along x, y, z, metres.
        shape: the number of voxels along x, y, z.

    >>> import numpy as np
    >>> grid = VoxelGrid(lower_m=(-10, -5, -1), voxel_size_m=(0.5, 0.5, 0.5), shape=(40, 20, 8))
    >>> index, inside_grid = grid.indices(np.array([0.1, 0.1, 0.1]))
    >>> index.tolist(), bool(inside_grid)
    ([20, 10, 2], True)
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

    def is_symmetric(self, axis: Literal["x", "y"]) -> bool:
        """Whether the grid is its own mirror image when this axis changes its sign."""
        number = "xyz".index(axis)
        return abs(self.lower_m[number] + self.upper_m[number]) < 1e-6

    @property
    def num_voxels(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]

    def indices(self, points: Float[np.ndarray, "*n 3"]) -> tuple[Int[np.ndarray, "*n 3"], Bool[np.ndarray, "*n"]]:
        """Voxel indices of points (metres, the grid's frame), and which of them are inside the grid.

        Indices of points outside are meaningless for indexing: use the mask.
        """
        return _indices(points, self.lower_m, self.voxel_size_m, self.shape)

    def check_shape(self, shape: Sequence[int], what: str) -> None:
        """Sees to it that a volume has the shape of this grid.

        Args:
            what: what the volume is, the beginning of the error.

        Raises:
            DataError: it has another.
        """
        if tuple(shape) != self.shape:
            raise DataError(
                f"{what} should have the shape {self.shape} [x, y, z], but has {tuple(shape)}; is it of another grid? "
                "Then say which (space=..., or --space)"
            )

    def occupied_by(self, points: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, "x y z"]:
        """Which voxels hold at least one of the points (metres, the grid's frame); points outside count nowhere."""
        index, inside_grid = self.indices(points)
        occupied = np.zeros(self.shape, dtype=bool)
        occupied[tuple(index[inside_grid].T)] = True
        return occupied

    def centers(self) -> Float[np.ndarray, "x y z 3"]:
        """Centres of all voxels, metres, in the grid's frame."""
        axes = (_axis_centers(self.lower_m[i], self.voxel_size_m[i], self.shape[i]) for i in range(3))
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


@dataclass(frozen=True, kw_only=True)
class BevGrid:
    """A grid of cells on the x-y plane, seen from above, in whatever frame its user says (for ours: the ego frame).

    Attributes:
        lower_m: the corner with the smallest coordinates (x, y), metres.
        cell_size_m: edge lengths along x and y, metres.
        shape: the number of cells along x and y.
    """

    lower_m: tuple[float, float]
    cell_size_m: tuple[float, float]
    shape: tuple[int, int]

    def indices(self, points: Float[np.ndarray, "*n 2"]) -> tuple[Int[np.ndarray, "*n 2"], Bool[np.ndarray, "*n"]]:
        """Cell indices of points (x, y), metres, in the grid's frame, and which of them are inside the grid.

        Indices of points outside are meaningless for indexing: use the mask.
        """
        return _indices(points, self.lower_m, self.cell_size_m, self.shape)

    def axis_centers(self) -> tuple[Float[np.ndarray, "x"], Float[np.ndarray, "y"]]:
        """The x coordinates of the centres of the cells along x, and the y coordinates of those along y, metres."""
        x, y = (_axis_centers(self.lower_m[i], self.cell_size_m[i], self.shape[i]) for i in range(2))
        return x, y

    def centers(self) -> Float[np.ndarray, "x y 2"]:
        """Centres (x, y) of all cells, metres, in the grid's frame."""
        return np.stack(np.meshgrid(*self.axis_centers(), indexing="ij"), axis=-1)


def _indices(
    points: Float[np.ndarray, "*n axes"], lower_m: Sequence[float], size_m: Sequence[float], shape: Sequence[int]
) -> tuple[Int[np.ndarray, "*n axes"], Bool[np.ndarray, "*n"]]:
    scaled = (points - np.asarray(lower_m)) / np.asarray(size_m)
    inside_grid = np.asarray(np.all((scaled >= 0) & (scaled < np.asarray(shape)), axis=-1))
    # Casting NaN or huge values to int is undefined; those points are outside anyway.
    index = np.floor(np.where(inside_grid[..., None], scaled, -1.0)).astype(np.int64)
    return index, inside_grid


def _axis_centers(lower_m: float, size_m: float, count: int) -> Float[np.ndarray, "count"]:
    return lower_m + (np.arange(count) + 0.5) * size_m


OCC3D_GRID: Final = VoxelGrid(lower_m=(-40.0, -40.0, -1.0), voxel_size_m=(0.4, 0.4, 0.4), shape=(200, 200, 16))
"""Occ3D: the ego frame at the lidar's time stamp, x forward, y left, z up."""

BEV_GRID: Final = BevGrid(lower_m=(-50.0, -50.0), cell_size_m=(0.5, 0.5), shape=(200, 200))
"""Bird's-eye-view segmentation, as it is usually scored: the ego frame at the lidar's time stamp, x forward, y left."""
