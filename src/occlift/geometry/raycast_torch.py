"""The ray caster for accelerators: all rays in lock-step, as tensor operations.

Every operation is the one that `occlift.geometry.traversal` does, in the same order and in double precision, and none
of them is fused with another: the results are those of the compiled kernels to the last bit. Where a ray enters the
grid is computed on the CPU (`enter_grid`), once per ray; the walk, voxel by voxel, is what takes time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from occlift.geometry.grids import VoxelGrid
from occlift.geometry.raycast import enter_grid

_STEPS_BETWEEN_SWEEPS: Final = 16
"""Rays that are done are taken out every so many steps; asking more often would wait for the device more often."""


def first_hit(
    occupied: Bool[Tensor, "x y z"],
    grid: VoxelGrid,
    origins_m: Float[np.ndarray, "rays 3"],
    directions: Float[np.ndarray, "rays 3"],
) -> tuple[Int[Tensor, "rays 3"], Float[Tensor, " rays"]]:
    """(voxel, exit range) of the first occupied voxel on every ray; (−1, −1, −1) and +inf where there is none.

    As `occlift.geometry.raycast.first_hit`, on the device of `occupied`.
    """
    assert tuple(occupied.shape) == grid.shape, (tuple(occupied.shape), grid.shape)
    walk = _Walk(grid, origins_m, directions, occupied.device)
    voxel = torch.full((walk.count, 3), -1, dtype=torch.int64, device=occupied.device)
    exit_m = torch.full((walk.count,), torch.inf, dtype=torch.float64, device=occupied.device)
    flat = occupied.reshape(-1)
    # Which rays still look for something; the walk ends when none does.
    looking = torch.ones(walk.count, dtype=torch.bool, device=occupied.device)
    while walk.active(looking):
        met = walk.inside & looking[walk.ray] & flat[walk.flat_index()]
        rays = walk.ray[met]
        voxel[rays] = walk.index[met]
        exit_m[rays] = walk.leave()[met]
        looking[rays] = False
        walk.step()
    return voxel, exit_m


def count_first_hits(
    first: UInt8[np.ndarray, "x y z"],
    second: UInt8[np.ndarray, "x y z"],
    grid: VoxelGrid,
    origins_m: Float[np.ndarray, "origins 3"],
    directions: Float[np.ndarray, "directions 3"],
    *,
    empty: int,
    bins_m: Sequence[float],
    device: str,
) -> Int[np.ndarray, "classes classes_and_empty bins"]:
    """As `occlift.geometry.two_volumes.count_first_hits`, on a device."""
    origins = np.repeat(np.asarray(origins_m, np.float64).reshape(-1, 3), len(directions), axis=0)
    rays = np.tile(np.asarray(directions, np.float64), (len(origins_m), 1))
    classes, ranges = [], []
    for volume in (first, second):
        on_device = torch.as_tensor(np.ascontiguousarray(volume), device=device)
        voxel, exit_m = first_hit(on_device < empty, grid, origins, rays)
        x, y, z = voxel.clamp(min=0).unbind(1)
        nothing = torch.full_like(x, empty)
        classes.append(torch.where(voxel[:, 0] >= 0, on_device[x, y, z].long(), nothing))
        ranges.append(exit_m)
    edges = torch.tensor(list(bins_m), dtype=torch.float64, device=device)
    # +inf − +inf is NaN, which no edge is below; those rays meet nothing in the first volume and do not count.
    difference = (ranges[0] - ranges[1]).abs()
    edge = (difference[:, None] >= edges).sum(dim=1)
    counted = classes[0] < empty
    code = (classes[0] * (empty + 1) + classes[1]) * (len(edges) + 1) + edge
    shape = (empty, empty + 1, len(edges) + 1)
    return torch.bincount(code[counted], minlength=int(np.prod(shape))).reshape(shape).cpu().numpy()


class _Walk:
    """Rays on their way through a grid, one voxel per step for all of them."""

    def __init__(self, grid: VoxelGrid, origins_m: np.ndarray, directions: np.ndarray, device: torch.device) -> None:
        start, inverses, index, t = enter_grid(grid, origins_m, directions)
        self.count = len(t)
        self._shape = torch.tensor(grid.shape, device=device)
        found = np.flatnonzero(t < np.inf)
        self.ray = torch.as_tensor(found, device=device)
        self.index = torch.as_tensor(index[found].astype(np.int64), device=device)
        self._origin = torch.as_tensor(start[found], device=device)
        # The same reciprocals as the kernels', with their 0 for parallel.
        self._inverse = torch.as_tensor(inverses[found], device=device)
        self._ahead = (self._inverse > 0).long()
        self._direction = torch.where(self._inverse > 0, 1, -1)
        self.inside = torch.ones(len(found), dtype=torch.bool, device=device)
        self._plane = self._next_planes()
        self._steps = 0

    def _next_planes(self) -> Float[Tensor, "rays 3"]:
        """Where each ray leaves the slab of voxels it is in, per axis; +inf for axes that it is parallel to."""
        planes = (self.index + self._ahead - self._origin) * self._inverse
        return torch.where(self._inverse == 0, torch.inf, planes)

    def flat_index(self) -> Int[Tensor, " rays"]:
        """Of the voxels the rays are in; of some voxel for rays that left the grid."""
        x, y, z = torch.minimum(self.index.clamp(min=0), self._shape - 1).unbind(1)
        return (x * self._shape[1] + y) * self._shape[2] + z

    def leave(self) -> Float[Tensor, " rays"]:
        """Where each ray leaves its voxel."""
        return self._plane.amin(dim=1)

    def active(self, looking: Bool[Tensor, " rays"]) -> bool:
        """Whether any ray goes on; takes those out that are done."""
        if self._steps % _STEPS_BETWEEN_SWEEPS == 0:
            going = self.inside & looking[self.ray]
            for name in ("ray", "index", "_origin", "_inverse", "_ahead", "_direction", "inside", "_plane"):
                setattr(self, name, getattr(self, name)[going])
        return len(self.ray) > 0

    def step(self) -> None:
        """Moves every ray to its next voxel; along z before y before x where planes coincide."""
        tx, ty, tz = self._plane.unbind(1)
        along_z = (tz <= ty) & (tz <= tx)
        along_y = ~along_z & (ty <= tx)
        moves = torch.stack((~along_z & ~along_y, along_y, along_z), dim=1)
        self.index = self.index + moves * self._direction
        self.inside = self.inside & ((self.index >= 0) & (self.index < self._shape)).all(dim=1)
        self._plane = torch.where(moves, self._next_planes(), self._plane)
        self._steps += 1
