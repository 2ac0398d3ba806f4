"""From views to votes: what a label rests on.

A pixel votes for its class in the voxel into which its point falls. What is kept beside a label is not the decision
but the evidence: the votes, how far rays got (`Votes.obstruction`) and how often they passed (`Votes.passed`). From
that `occlift.labels.decide` makes a label, and makes it again under other rules without looking at an image again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8, UInt32

from occlift.errors import DataError
from occlift.geometry.evidence import ray_evidence
from occlift.geometry.grids import VoxelGrid
from occlift.label_space import OCC3D, LabelSpace
from occlift.labels.unproject import unproject
from occlift.labels.view import View
from occlift.runtime.kernels import njit
from occlift.runtime.npz import read_npz, write_npz


@dataclass(frozen=True, kw_only=True, eq=False)
class Votes:
    """What a label rests on.

    Attributes:
        voxel: flat index (C order) into the grid, ascending.
        class_id: semantic classes, ascending within a voxel.
        count: how many points of this class fell into this voxel.
        obstruction: per voxel the number of points in the fullest voxel that a ray passed before it (255 for more),
            on the ray where that is least; 255 where no ray came. The voxel is seen to be free at every threshold
            above it: at such a threshold nothing stood in that ray's way.
        passed: how many rays went through the voxel and ended behind it (255 for more).
        points_per_ray: how many pixels show points for every pixel that casts a ray.
    """

    voxel: UInt32[np.ndarray, " votes"]
    class_id: UInt8[np.ndarray, " votes"]
    count: UInt32[np.ndarray, " votes"]
    obstruction: UInt8[np.ndarray, "x y z"]
    passed: UInt8[np.ndarray, "x y z"]
    points_per_ray: float = 1.0

    @property
    def points(self) -> UInt32[np.ndarray, "x y z"]:
        """How many points fell into each voxel."""
        total = np.zeros(self.obstruction.size, np.uint32)
        np.add.at(total, self.voxel, self.count)
        return total.reshape(self.obstruction.shape)


class Tally:
    """Counts the votes of views in one grid, in one pass per view without a cloud of points in between.

    Its table (44 MB for Occ3D's grid and classes) is used again for the next label after `votes` was called without
    `keep`.

    Args:
        classes: number of semantic classes; ids from there on (free, unknown) do not vote.
        clamp: whether points outside of the grid vote in the voxel of its border that is nearest, instead of not at
            all.
    """

    def __init__(self, grid: VoxelGrid, *, classes: int = OCC3D.taxonomy.free, clamp: bool = False) -> None:
        self._grid, self._clamp = grid, clamp
        self._lower_m, self._size_m = np.asarray(grid.lower_m), np.asarray(grid.voxel_size_m)
        self._counts = np.zeros((grid.num_voxels, classes), np.uint32)
        self._origins_m: list[Float[np.ndarray, "3"]] = []
        self._ends_m: list[Float[np.ndarray, "rays 3"]] = []

    def add_view(self, view: View, grid_from_camera: Float[np.ndarray, "4 4"], voting: Bool[np.ndarray, "256"]) -> None:
        """The points of a view vote, and its rays pass.

        Args:
            grid_from_camera: into the frame of the grid; in double precision, a global frame is kilometres wide.
            voting: which class ids take part. Pixels of the others neither vote nor cast a ray.
        """
        # From (u, v, 1) · depth to coordinates in voxels in one product.
        rotation = (grid_from_camera[:3, :3] @ np.linalg.inv(view.intrinsics_px)) / self._size_m[:, None]
        origin = (grid_from_camera[:3, 3] - self._lower_m) / self._size_m
        shape = self._grid.shape
        _vote_pixels(
            view.class_id, view.depth_m, view.stride, rotation, origin, voting, *shape, self._clamp, self._counts
        )  # fmt: skip
        ray_depth_m = np.where(voting[view.free_class_id], view.free_depth_m, np.float32(np.nan))
        ends_m = unproject(ray_depth_m, view.intrinsics_px, grid_from_camera, stride=view.free_stride).reshape(-1, 3)
        self._origins_m.append(np.ascontiguousarray(grid_from_camera[:3, 3]))
        self._ends_m.append(ends_m[~np.isnan(ends_m[:, 0])])

    def add_points(self, points_grid: Float[np.ndarray, "points 3"], class_id: UInt8[np.ndarray, " points"]) -> None:
        """Points (metres, the grid's frame) vote; NaN, free or unknown they do not, nor outside
        of the grid without `clamp`."""
        points = (np.asarray(points_grid, np.float64) - self._lower_m) / self._size_m
        _vote_points(points, np.asarray(class_id, np.uint8), *self._grid.shape, self._clamp, self._counts)

    def votes(self, *, points_per_ray: float = 1.0, keep: bool = False) -> Votes:
        """The votes since the last call, and what the rays passed; `points_per_ray` as in `Votes`.

        Args:
            keep: what comes next adds to these votes, instead of starting anew.
        """
        hit, totals = _voxels_with_votes(self._counts)
        counts = self._counts[hit]
        row, class_id = np.nonzero(counts)
        weight = np.zeros(self._grid.num_voxels, np.uint8)
        weight[hit] = np.minimum(totals, 255)
        number = [len(ends) for ends in self._ends_m]
        obstruction, passed = ray_evidence(
            weight.reshape(self._grid.shape),
            self._grid,
            np.repeat(np.array(self._origins_m).reshape(-1, 3), number, axis=0),
            np.concatenate(self._ends_m) if self._ends_m else np.zeros((0, 3)),
        )
        if not keep:
            self._counts[hit] = 0
            self._origins_m, self._ends_m = [], []
        return Votes(
            voxel=hit[row].astype(np.uint32),
            class_id=class_id.astype(np.uint8),
            count=counts[row, class_id],
            obstruction=obstruction,
            passed=passed,
            points_per_ray=points_per_ray,
        )


_DTYPES: Final = {
    "voxel": "uint32",
    "class_id": "uint8",
    "count": "uint32",
    "obstruction": "uint8",
    "passed": "uint8",
    "points_per_ray": "float64",
}


def write_votes(path: Path, votes: Votes) -> None:
    """Writes votes, atomically; equal votes give equal bytes.

    Raises:
        OSError: the file cannot be written.
    """
    write_npz(
        path,
        {name: np.atleast_1d(np.asarray(getattr(votes, name), dtype)) for name, dtype in _DTYPES.items()},
        level=1,
    )


def read_votes(path: Path, *, space: LabelSpace = OCC3D) -> Votes:
    """Reads votes that `write_votes` wrote.

    Raises:
        DataError: the file is missing or damaged, or its arrays do not belong together or to this grid and classes.
    """
    grid, free = space.grid, space.taxonomy.free
    arrays = read_npz(path, tuple(_DTYPES))
    votes = Votes(
        voxel=arrays["voxel"],
        class_id=arrays["class_id"],
        count=arrays["count"],
        obstruction=arrays["obstruction"],
        passed=arrays["passed"],
    )
    right = all(arrays[name].dtype == dtype for name, dtype in _DTYPES.items())
    right = right and votes.obstruction.shape == votes.passed.shape == grid.shape
    right = right and arrays["points_per_ray"].shape == (1,) and votes.voxel.ndim == 1
    right = right and votes.voxel.shape == votes.class_id.shape == votes.count.shape
    if not (right and (votes.voxel < grid.num_voxels).all() and (votes.class_id < free).all()):
        raise DataError(
            f"{path}: these are no votes for a grid of {grid.shape} voxels (arrays: "
            + ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items())
            + "); make the label again"
        )
    return replace(votes, points_per_ray=float(arrays["points_per_ray"][0]))


@njit(inline="always")
def _into(place: float, size: int) -> float:
    """The nearest place (in voxels) within a grid of so many; NaN stays."""
    if place < 0:
        return 0.0
    return size - 0.5 if place >= size else place


@njit
def _vote_pixels(
    class_id: UInt8[np.ndarray, "rows columns"], depth_m: Float32[np.ndarray, "rows columns"], stride: int,
    rotation: Float[np.ndarray, "3 3"], origin: Float[np.ndarray, "3"], voting: Bool[np.ndarray, "256"], nx: int,
    ny: int, nz: int, clamp: bool, counts: UInt32[np.ndarray, "voxels classes"],
) -> None:  # fmt: skip
    rows, columns = depth_m.shape
    for row in range(rows):
        v = row * stride + stride // 2 + 0.5
        # What the ray of a pixel does not owe to its column.
        ray_x = rotation[0, 1] * v + rotation[0, 2]
        ray_y = rotation[1, 1] * v + rotation[1, 2]
        ray_z = rotation[2, 1] * v + rotation[2, 2]
        for column in range(columns):
            found = class_id[row, column]
            if found >= counts.shape[1] or not voting[found]:
                continue
            u = column * stride + stride // 2 + 0.5
            depth = float(depth_m[row, column])
            x = origin[0] + depth * (rotation[0, 0] * u + ray_x)
            y = origin[1] + depth * (rotation[1, 0] * u + ray_y)
            z = origin[2] + depth * (rotation[2, 0] * u + ray_z)
            if clamp:
                x, y, z = _into(x, nx), _into(y, ny), _into(z, nz)
            # Written so that NaN fails.
            if 0 <= x < nx and 0 <= y < ny and 0 <= z < nz:
                counts[(int(x) * ny + int(y)) * nz + int(z), found] += 1


@njit
def _vote_points(
    points: Float[np.ndarray, "points 3"], class_id: UInt8[np.ndarray, " points"], nx: int, ny: int, nz: int,
    clamp: bool, counts: UInt32[np.ndarray, "voxels classes"],
) -> None:  # fmt: skip
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        if clamp:
            x, y, z = _into(x, nx), _into(y, ny), _into(z, nz)
        if class_id[i] < counts.shape[1] and 0 <= x < nx and 0 <= y < ny and 0 <= z < nz:
            counts[(int(x) * ny + int(y)) * nz + int(z), class_id[i]] += 1


@njit
def _voxels_with_votes(
    counts: UInt32[np.ndarray, "voxels classes"],
) -> tuple[Int[np.ndarray, " hit"], Int[np.ndarray, " hit"]]:
    hit = np.empty(len(counts), np.int64)
    totals = np.empty(len(counts), np.int64)
    number = 0
    for voxel in range(len(counts)):
        total = 0
        for c in range(counts.shape[1]):
            total += counts[voxel, c]
        if total > 0:
            hit[number], totals[number] = voxel, total
            number += 1
    return hit[:number], totals[:number]
