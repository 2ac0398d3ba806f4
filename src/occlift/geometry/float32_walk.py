"""The walk of the public evaluation of RayIoU, rounding for rounding, for those who compare with its numbers.

`two_volumes` is more exact and is what everything else uses. This walk differs from it on purpose in what that code
does: where a ray starts, and a point one metre along it, are rounded to single precision in units of voxels; the
direction is their difference; t is summed up plane by plane; an origin is taken for inside by the whole part of its
coordinates, so also up to one voxel below the grid; rays are given up after 1,001 steps; a ray that never was in the
grid meets voxel [0, 0, 0] at minus one voxel; and distances are single precision. All of it was read off the published
kernel (SparseOcc, arXiv 2312.17118) as facts; a plain twin stands in `tests/metrics/test_float32_walk.py`.
"""

from __future__ import annotations

import sys
from typing import Final

import numpy as np
from jaxtyping import Float, Int, UInt8
from numba import prange
from numpy.typing import ArrayLike

from occlift.geometry.grids import VoxelGrid
from occlift.runtime.kernels import njit
from occlift.runtime.threads import kernel_threads

_MAX_STEPS: Final = 1001
_NEVER: Final = sys.float_info.max


def count_first_hits(
    first: UInt8[np.ndarray, "x y z"],
    second: UInt8[np.ndarray, "x y z"],
    grid: VoxelGrid,
    origins_m: Float[np.ndarray, "origins 3"],
    directions: Float[np.ndarray, "directions 3"],
    *,
    empty: int,
    bins_m: Float[np.ndarray, " edges"],
) -> Int[np.ndarray, "classes classes_and_empty bins"]:
    """As `occlift.geometry.two_volumes.count_first_hits`, on a grid of cubes."""
    assert first.shape == second.shape == grid.shape, (first.shape, second.shape, grid.shape)
    assert len(set(grid.voxel_size_m)) == 1, grid.voxel_size_m
    lower, size = _rounded(grid.lower_m), _rounded(grid.voxel_size_m)
    origins_m = np.asarray(origins_m, np.float64).reshape(-1, 3)
    ends_m = origins_m[:, None] + _rounded(directions)
    starts, ends = (_rounded((points_m - lower) / size) for points_m in (origins_m, ends_m))
    counts = np.zeros((kernel_threads(), empty, empty + 1, len(bins_m) + 1), np.int64)
    _count(
        np.ascontiguousarray(first), np.ascontiguousarray(second), starts, np.ascontiguousarray(ends), empty,
        np.float32(grid.voxel_size_m[0]), np.asarray(bins_m, np.float32), counts,
    )  # fmt: skip
    return counts.sum(axis=0)


def _rounded(values: ArrayLike) -> Float[np.ndarray, "..."]:
    """Values of single precision in double: what the kernel is handed, and how it computes."""
    return np.asarray(values, np.float32).astype(np.float64)


@njit(parallel=True)
def _count(
    first: UInt8[np.ndarray, "x y z"], second: UInt8[np.ndarray, "x y z"], starts: Float[np.ndarray, "origins 3"],
    ends: Float[np.ndarray, "origins directions 3"], empty: int, voxel_m: np.float32,
    bins_m: Float[np.ndarray, " edges"], counts: Int[np.ndarray, "workers classes classes_and_empty bins"],
) -> None:  # fmt: skip
    workers = len(counts)
    rays = len(starts) * ends.shape[1]
    for worker in prange(workers):
        for ray in range(rays * worker // workers, rays * (worker + 1) // workers):
            origin, direction = ray // ends.shape[1], ray % ends.shape[1]
            a, b, t_a, t_b = _first_hits(first, second, starts[origin], ends[origin, direction], empty)
            if a < empty:
                # In single precision, as are the bins.
                apart_m = abs(np.float32(t_b) * voxel_m - np.float32(t_a) * voxel_m)
                edge = 0
                while edge < len(bins_m) and (b == empty or apart_m >= bins_m[edge]):
                    edge += 1
                counts[worker, a, b, edge] += 1


@njit
def _first_hits(
    first: UInt8[np.ndarray, "x y z"], second: UInt8[np.ndarray, "x y z"], start: Float[np.ndarray, "3"],
    end: Float[np.ndarray, "3"], empty: int,
) -> tuple[int, int, float, float]:  # fmt: skip
    """(class in first, class in second, t at which the ray leaves each of the voxels), t in voxels."""
    nx, ny, nz = first.shape
    # Towards zero, not down.
    x, y, z = int(start[0]), int(start[1]), int(start[2])
    dx, dy, dz = end[0] - start[0], end[1] - start[1], end[2] - start[2]
    length = np.sqrt(dx * dx + dy * dy + dz * dz)
    dx, dy, dz = dx / length, dy / length, dz / length
    tx, step_x, by_x = _axis(start[0], x, dx)
    ty, step_y, by_y = _axis(start[1], y, dy)
    tz, step_z, by_z = _axis(start[2], z, dz)
    a, b, t_a, t_b = empty, empty, -1.0, -1.0
    was_inside = False
    for _ in range(_MAX_STEPS):
        inside = 0 <= x < nx and 0 <= y < ny and 0 <= z < nz
        if was_inside and not inside:
            break
        was_inside = inside
        here_a, here_b = (first[x, y, z], second[x, y, z]) if inside else (empty, empty)
        if tx < ty and tx < tz:
            t = tx
            x, tx = x + step_x, tx + by_x
        elif ty < tz and not tx < ty:
            t = ty
            y, ty = y + step_y, ty + by_y
        else:
            t = tz
            z, tz = z + step_z, tz + by_z
        if a == empty and here_a < empty:
            a, t_a = int(here_a), t
        if b == empty and here_b < empty:
            b, t_b = int(here_b), t
        if a < empty and b < empty:
            break
    if not was_inside and a == empty and b == empty:
        a, b = int(first[0, 0, 0]), int(second[0, 0, 0])
    return a, b, t_a, t_b


@njit
def _axis(start: float, index: int, direction: float) -> tuple[float, int, float]:
    """(t at the next plane, step of the index, t from plane to plane) of one axis."""
    step = 1 if direction >= 0 else -1
    if direction == 0:
        return _NEVER, step, _NEVER
    return (index + (1 if step > 0 else 0) - start) / direction, step, step / direction
