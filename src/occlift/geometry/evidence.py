"""What many rays together say about a grid: how well each voxel was seen, and how often it was seen through."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from numba import prange

from occlift.geometry.grids import VoxelGrid
from occlift.geometry.traversal import enter, next_plane, reciprocal, step
from occlift.runtime.kernels import njit
from occlift.runtime.threads import kernel_threads

# Of traversal.py, whose functions are compiled into the kernels here: 663a892f55d3


def ray_evidence(
    weight: UInt8[np.ndarray, "x y z"],
    grid: VoxelGrid,
    origins_m: Float[np.ndarray, "rays 3"],
    ends_m: Float[np.ndarray, "rays 3"],
) -> tuple[UInt8[np.ndarray, "x y z"], UInt8[np.ndarray, "x y z"]]:
    """How much stands, at the least, between a voxel and the origins of the rays that cross it; and how many cross it.

    The obstruction of a voxel on one ray is the largest weight of the voxels that the ray crosses before it; the
    result is its minimum over all rays. With it one pass answers for every threshold w in 1..255 what
    `crossed_voxels(..., blocked=weight >= w)` would: voxels with an obstruction and a weight of less than w.

    Args:
        weight: of every voxel; at 255 nothing is believed about what lies behind: the ray ends there.
        origins_m: where the rays start, metres, in the grid's frame; inside or outside of the grid.
        ends_m: where they end; if outside of the grid, everything up to the grid's border is crossed. Rays without
            length, or with a coordinate that is not finite, cross nothing. The voxel that holds the end is not crossed.

    Returns:
        obstruction: 255 where no ray comes, or none but through a weight of 255.
        passed: the number of rays that cross the voxel, 255 for more.
    """
    assert (weight.shape, weight.dtype.name) == (grid.shape, "uint8"), (weight.shape, weight.dtype, grid.shape)
    assert origins_m.shape == ends_m.shape == (len(ends_m), 3), (origins_m.shape, ends_m.shape)
    lower_m, size_m = np.asarray(grid.lower_m, np.float64), np.asarray(grid.voxel_size_m, np.float64)
    # Volumes of its own per worker, merged at the end: minimum and sum do not depend on who counted.
    workers = kernel_threads()
    least = np.full((workers, *grid.shape), 255, np.uint8)
    passed = np.zeros((workers, *grid.shape), np.uint8)
    _ray_evidence(
        np.ascontiguousarray(weight),
        lower_m,
        size_m,
        np.ascontiguousarray(origins_m, np.float64),
        np.ascontiguousarray(ends_m, np.float64),
        least,
        passed,
    )
    total = passed[0].astype(np.uint16)
    for other in passed[1:]:
        total += other
    return least.min(axis=0), np.minimum(total, 255).astype(np.uint8)


@njit(parallel=True)
def _ray_evidence(
    weight: UInt8[np.ndarray, "x y z"], lower_m: Float[np.ndarray, "3"], size_m: Float[np.ndarray, "3"],
    origins_m: Float[np.ndarray, "rays 3"], ends_m: Float[np.ndarray, "rays 3"],
    least: UInt8[np.ndarray, "workers x y z"], passed: UInt8[np.ndarray, "workers x y z"],
) -> None:  # fmt: skip
    workers = len(least)
    for worker in prange(workers):
        _rays_of_worker(weight, lower_m, size_m, origins_m, ends_m, worker, workers, least[worker], passed[worker])


@njit
def _rays_of_worker(
    weight: UInt8[np.ndarray, "x y z"], lower_m: Float[np.ndarray, "3"], size_m: Float[np.ndarray, "3"],
    origins_m: Float[np.ndarray, "rays 3"], ends_m: Float[np.ndarray, "rays 3"], worker: int, workers: int,
    least: UInt8[np.ndarray, "x y z"], passed: UInt8[np.ndarray, "x y z"],
) -> None:  # fmt: skip
    nx, ny, nz = weight.shape
    # Every N-th ray: neighbours take equally long.
    for ray in range(worker, len(origins_m), workers):
        ox, oy, oz = (
            (origins_m[ray, 0] - lower_m[0]) / size_m[0],
            (origins_m[ray, 1] - lower_m[1]) / size_m[1],
            (origins_m[ray, 2] - lower_m[2]) / size_m[2],
        )
        ex, ey, ez = (
            (ends_m[ray, 0] - lower_m[0]) / size_m[0],
            (ends_m[ray, 1] - lower_m[1]) / size_m[1],
            (ends_m[ray, 2] - lower_m[2]) / size_m[2],
        )
        if not np.isfinite(ex + ey + ez):
            continue
        dx, dy, dz = ex - ox, ey - oy, ez - oz
        ix, iy, iz = reciprocal(dx), reciprocal(dy), reciprocal(dz)
        if ix == 0.0 and iy == 0.0 and iz == 0.0:
            continue
        end_x, end_y, end_z = np.floor(ex), np.floor(ey), np.floor(ez)
        x, y, z, t, _ = enter(ox, oy, oz, dx, dy, dz, ix, iy, iz, nx, ny, nz)
        tx, ty, tz = next_plane(ox, ix, x), next_plane(oy, iy, y), next_plane(oz, iz, z)
        met = np.uint8(0)
        # t is 1 at the end of the ray.
        while t < 1.0 and met < 255 and not (x == end_x and y == end_y and z == end_z):
            if met < least[x, y, z]:
                least[x, y, z] = met
            if passed[x, y, z] < 255:
                passed[x, y, z] += 1
            met = max(met, weight[x, y, z])
            x, y, z, t, _, tx, ty, tz = step(x, y, z, tx, ty, tz, ox, oy, oz, ix, iy, iz, nx, ny, nz)
