"""The compiled loops over voxels and pixels of `occlift.labels.surface`."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int32, UInt8, UInt32
from numba import prange

from occlift.runtime.kernels import njit

SIGMA_M: Final = 0.3
SIGMA_PER_M: Final = 0.05
"""Error with which a view enters the average, by depth: that of a good network. Measured errors in its place were worse
on every data set, because they cut the average off where views disagree."""

TRUNCATION: Final = 2.0
TRUNCATION_M: Final = 0.6
"""Where distances are cut off, in standard deviations of the view, but no closer than this."""

NEAREST_M: Final = 0.3
"""Voxels closer to a camera than this are not seen by it."""

ON_SURFACE_M: Final = 0.8
SAME_SURFACE: Final = 0.25
"""What scales and errors are measured at: voxels this close to the surface, and depths that differ by less than this
share; others see something else."""

SURFACE_SIGMA_M: Final = 0.2
SURFACE_SIGMA_SHARE: Final = 0.5
"""Error of the averaged surface along a ray: half a voxel's extent along the gradient of the distance, which is large
where surfaces are grazed; at least the former."""

STEPS: Final = 2
"""Newton steps by which a point finds the surface along its ray."""


@njit
def truncation_m(depth_m: Any) -> Any:
    """Where the distances of a view are cut off that sees something at this depth (a number or an array): views that
    differ by more do not mean the same surface."""
    return np.maximum(TRUNCATION_M, TRUNCATION * (SIGMA_M + SIGMA_PER_M * depth_m))


@njit(inline="always")
def _column_is_unseen(
    pixel_from_grid: Float64[np.ndarray, "3 4"], x: float, y: float, bottom: float, top: float, width: int, height: int
) -> bool:
    """Whether all of a column of voxels is behind the camera or beside the image; a line's image is a line."""
    behind = left = right = above = below = 0
    for z in (bottom, top):
        depth = (
            pixel_from_grid[2, 0] * x + pixel_from_grid[2, 1] * y + pixel_from_grid[2, 2] * z + pixel_from_grid[2, 3]
        )
        u = pixel_from_grid[0, 0] * x + pixel_from_grid[0, 1] * y + pixel_from_grid[0, 2] * z + pixel_from_grid[0, 3]
        v = pixel_from_grid[1, 0] * x + pixel_from_grid[1, 1] * y + pixel_from_grid[1, 2] * z + pixel_from_grid[1, 3]
        behind += depth < NEAREST_M
        left += u < 0
        right += u >= depth * width
        above += v < 0
        below += v >= depth * height
    return behind == 2 or left == 2 or right == 2 or above == 2 or below == 2


@njit(parallel=True)
def add_distances(
    class_id: UInt8[np.ndarray, "rows columns"], depth_m: Float32[np.ndarray, "rows columns"], stride: int,
    pixel_from_grid: Float64[np.ndarray, "3 4"], counted: Bool[np.ndarray, "256"], free: int, scale: float,
    relative: Float64[np.ndarray, "100"], lower_m: Float64[np.ndarray, "3"], size_m: Float64[np.ndarray, "3"],
    distance: Float32[np.ndarray, "x y z"], weight: Float32[np.ndarray, "x y z"], near: Float32[np.ndarray, "x y z"],
    views: UInt8[np.ndarray, "x y z"], sigma_m: Float32[np.ndarray, "x y z"],
    classes: Float32[np.ndarray, "voxels classes"],
) -> None:  # fmt: skip
    rows, columns = depth_m.shape
    nx, ny, nz = distance.shape
    p = pixel_from_grid
    bottom, top = lower_m[2] + 0.5 * size_m[2], lower_m[2] + (nz - 0.5) * size_m[2]
    for i in prange(nx):
        x = lower_m[0] + (i + 0.5) * size_m[0]
        for j in range(ny):
            y = lower_m[1] + (j + 0.5) * size_m[1]
            if _column_is_unseen(p, x, y, bottom, top, columns * stride, rows * stride):
                continue
            for k in range(nz):
                z = lower_m[2] + (k + 0.5) * size_m[2]
                ahead = p[2, 0] * x + p[2, 1] * y + p[2, 2] * z + p[2, 3]
                if ahead < NEAREST_M:
                    continue
                column = (p[0, 0] * x + p[0, 1] * y + p[0, 2] * z + p[0, 3]) / (ahead * stride)
                row = (p[1, 0] * x + p[1, 1] * y + p[1, 2] * z + p[1, 3]) / (ahead * stride)
                if not (0 <= column < columns and 0 <= row < rows):
                    continue
                found = class_id[int(row), int(column)]
                if found > free or not counted[found]:
                    continue
                if found == free:
                    sigma = SIGMA_M + SIGMA_PER_M * ahead
                    limit = truncation_m(ahead)
                    signed = limit
                else:
                    depth = float(depth_m[int(row), int(column)]) * scale
                    sigma = SIGMA_M + SIGMA_PER_M * depth
                    limit = truncation_m(depth)
                    signed = depth - ahead
                    # Written so that NaN fails.
                    if not signed >= -limit:
                        continue
                share = 1 / (sigma * sigma)
                weight[i, j, k] += share
                if views[i, j, k] < 255:
                    views[i, j, k] += 1
                if signed >= limit:
                    distance[i, j, k] += share * limit
                    continue
                distance[i, j, k] += share * signed
                near[i, j, k] += share
                sigma_m[i, j, k] = min(sigma_m[i, j, k], relative[min(99, int(depth))] * depth)
                if len(classes) > 0:
                    classes[(i * ny + j) * nz + k, found] += share


@njit
def depth_ratios(
    class_id: UInt8[np.ndarray, "rows columns"], depth_m: Float32[np.ndarray, "rows columns"], stride: int,
    pixel_from_grid: Float64[np.ndarray, "3 4"], counted: Bool[np.ndarray, "256"], free: int,
    lower_m: Float64[np.ndarray, "3"], size_m: Float64[np.ndarray, "3"], distance_m: Float32[np.ndarray, "x y z"],
    weight: Float32[np.ndarray, "x y z"], ratio: Float64[np.ndarray, " _voxels"],
) -> int:  # fmt: skip
    """Logarithms of the depth of the surface over the depth of the view, at voxels close to both; how many."""
    rows, columns = depth_m.shape
    nx, ny, nz = distance_m.shape
    p = pixel_from_grid
    bottom, top = lower_m[2] + 0.5 * size_m[2], lower_m[2] + (nz - 0.5) * size_m[2]
    count = 0
    for i in range(nx):
        x = lower_m[0] + (i + 0.5) * size_m[0]
        for j in range(ny):
            y = lower_m[1] + (j + 0.5) * size_m[1]
            if _column_is_unseen(p, x, y, bottom, top, columns * stride, rows * stride):
                continue
            for k in range(nz):
                if weight[i, j, k] == 0 or abs(distance_m[i, j, k]) >= ON_SURFACE_M:
                    continue
                z = lower_m[2] + (k + 0.5) * size_m[2]
                ahead = p[2, 0] * x + p[2, 1] * y + p[2, 2] * z + p[2, 3]
                if ahead < NEAREST_M or ahead + distance_m[i, j, k] < NEAREST_M:
                    continue
                column = (p[0, 0] * x + p[0, 1] * y + p[0, 2] * z + p[0, 3]) / (ahead * stride)
                row = (p[1, 0] * x + p[1, 1] * y + p[1, 2] * z + p[1, 3]) / (ahead * stride)
                if not (0 <= column < columns and 0 <= row < rows):
                    continue
                found = class_id[int(row), int(column)]
                depth = float(depth_m[int(row), int(column)])
                if found < free and counted[found] and abs(depth - ahead) < SAME_SURFACE * depth:
                    ratio[count] = np.log((ahead + distance_m[i, j, k]) / depth)
                    count += 1
    return count


@njit
def compare(
    class_id: UInt8[np.ndarray, "rows columns"], depth_m: Float32[np.ndarray, "rows columns"], stride: int,
    grid_from_pixel: Float[np.ndarray, "3 3"], origin_m: Float[np.ndarray, "3"],
    other_class_id: UInt8[np.ndarray, "_rows _columns"], other_depth_m: Float32[np.ndarray, "_rows _columns"],
    other_stride: int, pixel_from_grid: Float64[np.ndarray, "3 4"], counted: Bool[np.ndarray, "256"], free: int,
    step: int, ratio: Float64[np.ndarray, " _samples"], depth_found: Float64[np.ndarray, " _samples"],
) -> int:  # fmt: skip
    """Logarithms of the other view's depth over that of every `step`-th pixel's point in it, and the pixel's depth."""
    rows, columns = other_depth_m.shape
    q, p = grid_from_pixel, pixel_from_grid
    count = 0
    for a in range(step // 2, depth_m.shape[0], step):
        v = a * stride + stride // 2 + 0.5
        for b in range(step // 2, depth_m.shape[1], step):
            found = class_id[a, b]
            depth = float(depth_m[a, b])
            if found >= free or not counted[found] or np.isnan(depth):
                continue
            u = b * stride + stride // 2 + 0.5
            x = origin_m[0] + depth * (q[0, 0] * u + q[0, 1] * v + q[0, 2])
            y = origin_m[1] + depth * (q[1, 0] * u + q[1, 1] * v + q[1, 2])
            z = origin_m[2] + depth * (q[2, 0] * u + q[2, 1] * v + q[2, 2])
            ahead = p[2, 0] * x + p[2, 1] * y + p[2, 2] * z + p[2, 3]
            if ahead < NEAREST_M:
                continue
            column = (p[0, 0] * x + p[0, 1] * y + p[0, 2] * z + p[0, 3]) / (ahead * other_stride)
            row = (p[1, 0] * x + p[1, 1] * y + p[1, 2] * z + p[1, 3]) / (ahead * other_stride)
            if not (0 <= column < columns and 0 <= row < rows) or other_class_id[int(row), int(column)] != found:
                continue
            seen = float(other_depth_m[int(row), int(column)])
            if not np.isnan(seen):
                ratio[count], depth_found[count] = np.log(seen / ahead), depth
                count += 1
    return count


@njit(parallel=True)
def measure_extents(
    distance_m: Float32[np.ndarray, "x y z"], weight: Float32[np.ndarray, "x y z"],
    extent_m: Float32[np.ndarray, "x y z"],
) -> None:  # fmt: skip
    """Half the sum over the axes of the larger difference to a neighbour that is known.

    A plane crosses a cube if its distance from the centre is at most half the sum of its changes along the edges.
    """
    nx, ny, nz = distance_m.shape
    for i in prange(nx):
        for j in range(ny):
            for k in range(nz):
                if weight[i, j, k] == 0:
                    continue
                here = distance_m[i, j, k]
                along_x = along_y = along_z = np.float32(0)
                for side in (-1, 1):
                    if 0 <= i + side < nx and weight[i + side, j, k] > 0:
                        along_x = max(along_x, abs(distance_m[i + side, j, k] - here))
                    if 0 <= j + side < ny and weight[i, j + side, k] > 0:
                        along_y = max(along_y, abs(distance_m[i, j + side, k] - here))
                    if 0 <= k + side < nz and weight[i, j, k + side] > 0:
                        along_z = max(along_z, abs(distance_m[i, j, k + side] - here))
                extent_m[i, j, k] = np.float32(0.5) * (along_x + along_y + along_z)


@njit
def _distance_at(
    distance_m: Float32[np.ndarray, "x y z"], weight: Float32[np.ndarray, "x y z"], x: float, y: float, z: float
) -> float:
    """The distance at a place (in voxels), interpolated between those of the eight nearest centres that are known; NaN
    if none is."""
    i, j, k = int(np.floor(x - 0.5)), int(np.floor(y - 0.5)), int(np.floor(z - 0.5))
    total = parts = 0.0
    for a in range(max(i, 0), min(i + 2, distance_m.shape[0])):
        for b in range(max(j, 0), min(j + 2, distance_m.shape[1])):
            for c in range(max(k, 0), min(k + 2, distance_m.shape[2])):
                if weight[a, b, c] > 0:
                    part = (1 - abs(x - 0.5 - a)) * (1 - abs(y - 0.5 - b)) * (1 - abs(z - 0.5 - c))
                    total += part * distance_m[a, b, c]
                    parts += part
    return total / parts if parts > 1e-6 else np.nan


@njit
def _weight_of_passing(
    class_id: UInt8[np.ndarray, "rows columns"], depth_m: Float32[np.ndarray, "rows columns"], stride: int,
    pixel_from_grid: Float64[np.ndarray, "3 4"], free: int, scale: float, x: float, y: float, z: float,
) -> float:  # fmt: skip
    """The weight of a view that looks through this place, and sees no surface near it; 0 of others."""
    p = pixel_from_grid
    ahead = p[2, 0] * x + p[2, 1] * y + p[2, 2] * z + p[2, 3]
    if ahead < NEAREST_M:
        return 0.0
    column = (p[0, 0] * x + p[0, 1] * y + p[0, 2] * z + p[0, 3]) / (ahead * stride)
    row = (p[1, 0] * x + p[1, 1] * y + p[1, 2] * z + p[1, 3]) / (ahead * stride)
    if not (0 <= column < depth_m.shape[1] and 0 <= row < depth_m.shape[0]):
        return 0.0
    if class_id[int(row), int(column)] >= free:
        return 0.0
    depth = float(depth_m[int(row), int(column)]) * scale
    sigma = SIGMA_M + SIGMA_PER_M * depth
    return 1 / (sigma * sigma) if depth - ahead >= truncation_m(depth) else 0.0


@njit
def add_points(
    class_id: UInt8[np.ndarray, "rows columns"], depth_m: Float32[np.ndarray, "rows columns"], stride: int,
    step: int, rotation: Float[np.ndarray, "3 3"], origin: Float[np.ndarray, "3"],
    counted: Bool[np.ndarray, "256"], free: int, scale: float, relative: Float64[np.ndarray, "100"], finest_m: float,
    distance_m: Float32[np.ndarray, "x y z"], weight: Float32[np.ndarray, "x y z"],
    extent_m: Float32[np.ndarray, "x y z"], thin_ids: Int[np.ndarray, "256"], near: Float32[np.ndarray, " voxels"],
    classes: Float32[np.ndarray, "voxels classes"], points: UInt32[np.ndarray, " voxels"],
    thin_points: UInt32[np.ndarray, "voxels thin"], pixel_from_grid: Float64[np.ndarray, "3 4"],
    lower_m: Float64[np.ndarray, "3"], size_m: Float64[np.ndarray, "3"], number: int,
    counted_last: Int32[np.ndarray, " voxels"], grazed: Float32[np.ndarray, " voxels"],
) -> None:  # fmt: skip
    """The points of a view where they lie on the surface; those of thin classes also where they lie by themselves.

    A point whose depth is exact to a voxel stays. Others follow their ray to the surface, unless that is further than
    their error and the surface's allow; they go as far as the errors say: all the way if theirs is much the larger.

    A view that looks through the centre of a voxel, and has a point in it, grazes a surface there: its weight is
    evidence for the surface and not against it, once, however many points (`grazed`; `number` is the view's, from 1).
    """
    rows, columns = depth_m.shape
    nx, ny, nz = distance_m.shape
    before = -1
    for a in range(rows):
        v = a * stride + stride // 2 + 0.5
        for b in range(columns):
            found = class_id[a, b]
            if found >= free or not counted[found]:
                continue
            thin = thin_ids[found]
            on_raster = a % step == step // 2 and b % step == step // 2
            if thin < 0 and not on_raster:
                continue
            depth = float(depth_m[a, b])
            if np.isnan(depth):
                continue
            u = b * stride + stride // 2 + 0.5
            ray_x = rotation[0, 0] * u + rotation[0, 1] * v + rotation[0, 2]
            ray_y = rotation[1, 0] * u + rotation[1, 1] * v + rotation[1, 2]
            ray_z = rotation[2, 0] * u + rotation[2, 1] * v + rotation[2, 2]
            if thin >= 0:
                x, y, z = origin[0] + depth * ray_x, origin[1] + depth * ray_y, origin[2] + depth * ray_z
                if 0 <= x < nx and 0 <= y < ny and 0 <= z < nz:
                    thin_points[(int(x) * ny + int(y)) * nz + int(z), thin] += 1
                if not on_raster:
                    continue
            depth *= scale
            x, y, z = origin[0] + depth * ray_x, origin[1] + depth * ray_y, origin[2] + depth * ray_z
            if not (0 <= x < nx and 0 <= y < ny and 0 <= z < nz):
                continue
            sigma = relative[min(99, int(depth))] * depth
            if sigma > finest_m:
                surface_sigma = max(SURFACE_SIGMA_M, SURFACE_SIGMA_SHARE * 2 * extent_m[int(x), int(y), int(z)])
                allowed = np.sqrt(sigma * sigma + surface_sigma * surface_sigma)
                moved = 0.0
                for _ in range(STEPS):
                    there = depth + moved
                    x, y, z = origin[0] + there * ray_x, origin[1] + there * ray_y, origin[2] + there * ray_z
                    if not (0 <= x < nx and 0 <= y < ny and 0 <= z < nz):
                        break
                    distance = _distance_at(distance_m, weight, x, y, z)
                    if np.isnan(distance):
                        break
                    moved += distance
                    if abs(moved) > allowed:
                        break
                if abs(moved) > allowed:
                    continue
                depth += moved * sigma * sigma / (allowed * allowed)
                x, y, z = origin[0] + depth * ray_x, origin[1] + depth * ray_y, origin[2] + depth * ray_z
                if not (0 <= x < nx and 0 <= y < ny and 0 <= z < nz):
                    continue
            i, j, k = int(x), int(y), int(z)
            voxel = (i * ny + j) * nz + k
            points[voxel] += 1
            # Where some view passes, and once for this one.
            if voxel != before and near[voxel] < weight[i, j, k] and counted_last[voxel] != number:
                counted_last[voxel] = number
                grazed[voxel] += _weight_of_passing(
                    class_id, depth_m, stride, pixel_from_grid, free, scale,
                    lower_m[0] + (i + 0.5) * size_m[0], lower_m[1] + (j + 0.5) * size_m[1],
                    lower_m[2] + (k + 0.5) * size_m[2],
                )  # fmt: skip
            before = voxel
            # Where no view sees a surface through the centre of the voxel, its points name it.
            if near[voxel] == 0:
                classes[voxel, found] += 1


@njit(parallel=True)
def find_winners(
    classes: Float32[np.ndarray, "voxels classes"], class_id: UInt8[np.ndarray, " voxels"],
    share: Float32[np.ndarray, " voxels"],
) -> None:  # fmt: skip
    for voxel in prange(len(classes)):
        best = total = np.float32(0)
        for c in range(classes.shape[1]):
            total += classes[voxel, c]
            if classes[voxel, c] > best:
                best = classes[voxel, c]
                class_id[voxel] = c
        if total > 0:
            share[voxel] = best / total
