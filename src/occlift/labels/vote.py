"""From points and rays to votes, and from votes to a label.

A point votes for its class in the voxel it falls into. What is kept beside a label is not the decision but what it
rests on: the votes, and how far rays got (`Votes.obstruction`). From that `semantics_from_votes` decides again at any
threshold, without looking at an image a second time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8, UInt32
from numba import njit

from occlift.classes import FREE, UNKNOWN
from occlift.data.npz import read_npz, write_npz
from occlift.errors import ConfigError, DataError
from occlift.geometry.grids import VoxelGrid
from occlift.geometry.raycast import least_obstruction
from occlift.labels.fuse import FusedViews

MAX_MIN_POINTS: Final = 255
"""The largest threshold that can be decided later: obstruction is counted up to here, in one byte."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Votes:
    """What a label rests on.

    Attributes:
        voxel: flat index (C order) into the grid, ascending.
        class_id: 0..16, ascending within a voxel.
        count: how many points of this class fell into this voxel.
        obstruction: per voxel the number of points in the fullest voxel that a ray passed before it (255 for more),
            on the ray where that is least; 255 where no ray came. The voxel is seen to be free at every threshold
            above it: at such a threshold nothing stood in that ray's way.
    """

    voxel: UInt32[np.ndarray, " votes"]
    class_id: UInt8[np.ndarray, " votes"]
    count: UInt32[np.ndarray, " votes"]
    obstruction: UInt8[np.ndarray, "x y z"]

    @property
    def points(self) -> UInt32[np.ndarray, "x y z"]:
        """How many points fell into each voxel."""
        total = np.zeros(self.obstruction.size, np.uint32)
        np.add.at(total, self.voxel, self.count)
        return total.reshape(self.obstruction.shape)


def cast_votes(fused: FusedViews, grid: VoxelGrid) -> Votes:
    """The votes of all points inside the grid, and what the rays passed.

    Points that are NaN, outside of the grid or of class 17 or 255 do not vote.
    """
    counts = np.zeros(grid.num_voxels * FREE, np.uint32)
    totals = np.zeros(grid.num_voxels, np.uint32)
    lower_m, size_m = np.asarray(grid.lower_m, np.float64), np.asarray(grid.voxel_size_m, np.float64)
    _count(fused.points_ego, fused.class_id, lower_m, size_m, np.asarray(grid.shape), counts, totals)
    # The table is nearly empty: look only where something fell.
    hit = np.flatnonzero(totals)
    row, class_id = np.nonzero(counts.reshape(-1, FREE)[hit])
    weight = np.minimum(totals, MAX_MIN_POINTS).astype(np.uint8).reshape(grid.shape)
    return Votes(
        voxel=hit[row].astype(np.uint32),
        class_id=class_id.astype(np.uint8),
        count=counts.reshape(-1, FREE)[hit[row], class_id],
        obstruction=least_obstruction(weight, grid, fused.ray_origins_ego, fused.ray_ends_ego),
    )


def semantics_from_votes(votes: Votes, *, min_points: int) -> UInt8[np.ndarray, "x y z"]:
    """The label at a threshold.

    A voxel with at least `min_points` votes is occupied, by the class with the most of them (the lowest id, if several
    have as many). Of the others those are free (17) that a ray crosses before its end and before the first occupied
    voxel. What remains is unknown (255).

    Raises:
        ConfigError: `min_points` is not in 1..255.
    """
    check_min_points(min_points)
    points = votes.points
    semantics = np.full(votes.obstruction.shape, UNKNOWN, np.uint8)
    semantics[votes.obstruction < min_points] = FREE
    # By voxel, then by falling count, then by class; the first of each voxel wins.
    order = np.lexsort((votes.class_id, -votes.count.astype(np.int64), votes.voxel))
    voxel, first = np.unique(votes.voxel[order], return_index=True)
    enough = points.ravel()[voxel] >= min_points
    semantics.ravel()[voxel[enough]] = votes.class_id[order][first[enough]]
    return semantics


def check_min_points(min_points: int) -> None:
    """Raises ConfigError if a label cannot be decided at this threshold."""
    if not 1 <= min_points <= MAX_MIN_POINTS:
        raise ConfigError(f"min_points is {min_points}; expected 1 to {MAX_MIN_POINTS}")


def write_votes(path: Path, votes: Votes) -> None:
    """Writes votes, atomically; equal votes give equal bytes.

    Raises:
        OSError: the file cannot be written.
    """
    arrays = {
        "voxel": votes.voxel,
        "class_id": votes.class_id,
        "count": votes.count,
        "obstruction": votes.obstruction,
    }
    write_npz(path, arrays, compressed=True)


def read_votes(path: Path, grid: VoxelGrid) -> Votes:
    """Reads votes that `write_votes` wrote.

    Raises:
        DataError: the file is missing or damaged, or its arrays do not belong together or to this grid.
    """
    arrays = read_npz(path, ("voxel", "class_id", "count", "obstruction"))
    votes = Votes(**arrays)
    dtypes = {"voxel": "uint32", "class_id": "uint8", "count": "uint32", "obstruction": "uint8"}
    right = all(arrays[name].dtype == dtype for name, dtype in dtypes.items())
    right = right and votes.obstruction.shape == grid.shape
    right = right and votes.voxel.ndim == 1 and votes.voxel.shape == votes.class_id.shape == votes.count.shape
    if not (right and (votes.voxel < grid.num_voxels).all() and (votes.class_id < FREE).all()):
        raise DataError(
            f"{path}: these are no votes for a grid of {grid.shape} voxels (arrays: "
            + ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items())
            + "); make the label again"
        )
    return votes


@njit(cache=True)
def _count(points, class_id, lower_m, size_m, shape, counts, totals):  # type: ignore[no-untyped-def]
    for i in range(len(points)):
        x = (points[i, 0] - lower_m[0]) / size_m[0]
        y = (points[i, 1] - lower_m[1]) / size_m[1]
        z = (points[i, 2] - lower_m[2]) / size_m[2]
        # Written so that NaN fails.
        if class_id[i] < FREE and 0 <= x < shape[0] and 0 <= y < shape[1] and 0 <= z < shape[2]:
            voxel = (int(x) * shape[1] + int(y)) * shape[2] + int(z)
            counts[voxel * FREE + class_id[i]] += 1
            totals[voxel] += 1
