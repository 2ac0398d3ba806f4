"""One walk through two volumes at once: what the same rays meet first in each of them.

Truth and prediction are met by the same rays, and most of a ray is empty in both; walking once costs half.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float, Int, UInt8
from numba import prange

from occlift.geometry.grids import VoxelGrid
from occlift.geometry.traversal import enter, next_plane, pass_empty, reciprocal
from occlift.runtime.kernels import njit
from occlift.runtime.threads import kernel_threads

# Of traversal.py, whose functions are compiled into the kernels here: 663a892f55d3

# What a ray may stop for in a voxel, as bits; the border around the grid stops every ray.
_IN_FIRST: Final = 1
_IN_SECOND: Final = 2
_BORDER: Final = 7


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
    """Counts rays by what they meet first in each of two volumes, and how far apart the two are.

    All directions are cast from every origin. A ray meets the first voxel whose class is below `empty`, at the range
    at which it *leaves* that voxel.

    Args:
        first, second: classes, 0..`empty`.
        origins_m: metres, in the grid's frame; inside or outside of the grid.
        directions: of any length but zero, in the grid's frame.
        empty: the class of voxels that rays pass.
        bins_m: edges, ascending; the bin of a ray is the number of edges that the difference of the two ranges
            reaches or exceeds.

    Returns:
        int64 [class in `first`, class in `second` or `empty` where the ray meets nothing there, bin]; without the rays
        that meet nothing in `first`. Where `second` has nothing, the bin is the last.
    """
    assert first.shape == second.shape == grid.shape, (first.shape, second.shape, grid.shape)
    assert first.dtype == second.dtype == np.uint8, (first.dtype, second.dtype)
    size_m = np.asarray(grid.voxel_size_m, np.float64)
    # In voxels: where rays start, and by how much they move per metre.
    starts = (np.asarray(origins_m, np.float64).reshape(-1, 3) - np.asarray(grid.lower_m)) / size_m
    directions = np.asarray(directions, np.float64)
    # Written out, to be what the other casters compute to the last bit.
    x, y, z = directions.T
    steps = np.ascontiguousarray(directions / np.sqrt(x * x + y * y + z * z)[:, None] / size_m)
    codes = np.full([n + 2 for n in grid.shape], _BORDER, np.uint8)
    codes[1:-1, 1:-1, 1:-1] = (first < empty) * np.uint8(_IN_FIRST) + (second < empty) * np.uint8(_IN_SECOND)
    counts = np.zeros((kernel_threads(), empty, empty + 1, len(bins_m) + 1), np.int64)
    _count_first_hits(
        codes.ravel(),
        np.ascontiguousarray(first),
        np.ascontiguousarray(second),
        starts,
        steps,
        empty,
        np.asarray(bins_m),
        counts,
    )
    return counts.sum(axis=0)


@njit(parallel=True)
def _count_first_hits(
    codes: UInt8[np.ndarray, " cells"], first: UInt8[np.ndarray, "x y z"], second: UInt8[np.ndarray, "x y z"],
    starts: Float[np.ndarray, "origins 3"], steps: Float[np.ndarray, "directions 3"], empty: int,
    bins_m: Float[np.ndarray, " edges"], counts: Int[np.ndarray, "workers classes classes_and_empty bins"],
) -> None:  # fmt: skip
    workers = len(counts)
    rays = len(starts) * len(steps)
    for worker in prange(workers):
        begin, end = rays * worker // workers, rays * (worker + 1) // workers
        _count_range(codes, first, second, starts, steps, begin, end, empty, bins_m, counts[worker])


@njit
def _count_range(
    codes: UInt8[np.ndarray, " cells"], first: UInt8[np.ndarray, "x y z"], second: UInt8[np.ndarray, "x y z"],
    starts: Float[np.ndarray, "origins 3"], steps: Float[np.ndarray, "directions 3"], begin: int, end: int, empty: int,
    bins_m: Float[np.ndarray, " edges"], counts: Int[np.ndarray, "classes classes_and_empty bins"],
) -> None:  # fmt: skip
    nx, ny, nz = first.shape
    for ray in range(begin, end):
        origin, direction = ray // len(steps), ray % len(steps)
        ox, oy, oz = starts[origin, 0], starts[origin, 1], starts[origin, 2]
        dx, dy, dz = steps[direction, 0], steps[direction, 1], steps[direction, 2]
        ix, iy, iz = reciprocal(dx), reciprocal(dy), reciprocal(dz)
        x, y, z, t, _ = enter(ox, oy, oz, dx, dy, dz, ix, iy, iz, nx, ny, nz)
        tx, ty, tz = next_plane(ox, ix, x), next_plane(oy, iy, y), next_plane(oz, iz, z)
        a, b = empty, empty
        range_a, range_b = 0.0, 0.0
        missing = _IN_FIRST | _IN_SECOND if t < np.inf else 0
        while missing != 0:
            x, y, z, tx, ty, tz = pass_empty(codes, missing, x, y, z, tx, ty, tz, ox, oy, oz, ix, iy, iz, nx, ny, nz)
            if not (0 <= x < nx and 0 <= y < ny and 0 <= z < nz):
                break
            if missing & _IN_FIRST and first[x, y, z] < empty:
                a, range_a = int(first[x, y, z]), min(tx, ty, tz)
                missing &= ~_IN_FIRST
            if missing & _IN_SECOND and second[x, y, z] < empty:
                b, range_b = int(second[x, y, z]), min(tx, ty, tz)
                missing &= ~_IN_SECOND
        if a < empty:
            edge = len(bins_m)
            if b < empty:
                edge = 0
                while edge < len(bins_m) and abs(range_a - range_b) >= bins_m[edge]:
                    edge += 1
            counts[a, b, edge] += 1
