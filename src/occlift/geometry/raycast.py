"""Rays through voxel grids: what a ray meets first, what it crosses, and what a camera sees.

The compiled kernels run in parallel over rays (numba). Results do not depend on the number of threads: every ray
writes its own row, or sets bytes to 1 and nothing else, or goes into a minimum. Slow twins that say the same in the
plainest way stand in `tests/test_raycast.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int
from numba import prange

from occlift.geometry.grids import VoxelGrid
from occlift.geometry.transforms import inverse
from occlift.geometry.traversal import enter, next_plane, reciprocal, step
from occlift.runtime.kernels import njit

# Of traversal.py, whose functions are compiled into the kernels here: 663a892f55d3

# Of the segment's length: a face that is met closer than this to the segment's end is the face it ends on.
_AT_END: Final = 1.0 - 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class FirstHit:
    """The first occupied voxel on every ray.

    Attributes:
        voxel: its index, (-1, -1, -1) where the ray meets none within the range.
        entry_range_m: metres along the ray to where it enters the voxel; 0 where it starts inside, +inf for
            none.
        exit_range_m: metres along the ray to where it leaves the voxel; +inf for none.
        entry_axis: the axis (0, 1, 2) of the face through which the ray enters; -1 where it starts inside, or
            none.
    """

    voxel: Int[np.ndarray, "rays 3"]
    entry_range_m: Float[np.ndarray, " rays"]
    exit_range_m: Float[np.ndarray, " rays"]
    entry_axis: Int[np.ndarray, " rays"]

    @property
    def found(self) -> Bool[np.ndarray, " rays"]:
        """Which rays meet an occupied voxel."""
        return self.voxel[:, 0] >= 0


def first_hit(
    occupied: Bool[np.ndarray, "x y z"],
    grid: VoxelGrid,
    origins_m: Float[np.ndarray, "rays 3"],
    directions: Float[np.ndarray, "rays 3"],
    max_range_m: float = np.inf,
) -> FirstHit:
    """The first occupied voxel on every ray that is entered at a range of at most `max_range_m`.

    Args:
        occupied: [x, y, z], of the grid's shape.
        origins_m: where the rays start, metres, in the grid's frame; inside or outside of the grid.
        directions: of any length but zero, in the grid's frame. A ray of length zero, or with a coordinate
            that is not finite, meets nothing.
    """
    occupied = _volume(occupied, grid)
    origins_m, directions = _rows(origins_m), _rows(directions)
    assert origins_m.shape == directions.shape, (origins_m.shape, directions.shape)
    count = len(origins_m)
    voxel = np.full((count, 3), -1, np.int32)
    entry_range_m = np.full(count, np.inf)
    exit_range_m = np.full(count, np.inf)
    entry_axis = np.full(count, -1, np.int8)
    _first_hit(
        occupied,
        *_corner_and_size(grid),
        origins_m,
        directions,
        float(max_range_m),
        voxel,
        entry_range_m,
        exit_range_m,
        entry_axis,
    )
    return FirstHit(voxel=voxel, entry_range_m=entry_range_m, exit_range_m=exit_range_m, entry_axis=entry_axis)


def crossed_voxels(
    grid: VoxelGrid,
    origins_m: Float[np.ndarray, "rays 3"],
    ends_m: Float[np.ndarray, "rays 3"],
    *,
    blocked: Bool[np.ndarray, "x y z"] | None = None,
) -> Bool[np.ndarray, "x y z"]:
    """The voxels that segments pass through, before the voxel that holds their end.

    Args:
        origins_m: where the segments start, metres, in the grid's frame; inside or outside of the grid.
        ends_m: where they end; if outside of the grid, everything up to the grid's border is crossed.
            Segments without length, or with a coordinate that is not finite, cross nothing.
        blocked: a segment ends before the first of these voxels, which is not crossed itself.

    Returns:
        [x, y, z], true for every voxel that at least one segment crosses.
    """
    blocked = _volume(np.zeros(grid.shape, np.bool_) if blocked is None else blocked, grid)
    origins_m, ends_m = _rows(origins_m), _rows(ends_m)
    assert origins_m.shape == ends_m.shape, (origins_m.shape, ends_m.shape)
    crossed = np.zeros(grid.shape, np.bool_)
    _crossed_voxels(blocked, *_corner_and_size(grid), origins_m, ends_m, crossed)
    return crossed


def enter_grid(
    grid: VoxelGrid, origins_m: Float[np.ndarray, "rays 3"], directions: Float[np.ndarray, "rays 3"]
) -> tuple[
    Float[np.ndarray, "rays 3"], Float[np.ndarray, "rays 3"], Int[np.ndarray, "rays 3"], Float[np.ndarray, " rays"]
]:
    """Where rays begin their way through a grid: what a caster needs that walks elsewhere, such as on an accelerator.

    Returns:
        the origins in voxels; the reciprocals of the directions in voxels per metre (0 where parallel to the planes);
        the first voxel of each ray; metres to where it enters that, 0 if it starts inside, +inf if it never does.
    """
    origins_m, directions = _rows(origins_m), _rows(directions)
    assert origins_m.shape == directions.shape, (origins_m.shape, directions.shape)
    start, inverses = np.empty(origins_m.shape), np.empty(origins_m.shape)
    voxel, entry_range_m = np.full(origins_m.shape, -1, np.int32), np.full(len(origins_m), np.inf)
    _enter_grid(
        np.asarray(grid.shape), *_corner_and_size(grid), origins_m, directions, start, inverses, voxel, entry_range_m
    )
    return start, inverses, voxel, entry_range_m


def observed_by_camera(
    occupied: Bool[np.ndarray, "x y z"],
    grid: VoxelGrid,
    intrinsics_px: Float[np.ndarray, "3 3"],
    grid_from_camera: Float[np.ndarray, "4 4"],
    height: int,
    width: int,
    *,
    among: Bool[np.ndarray, "x y z"] | None = None,
    valid: Bool[np.ndarray, "height width"] | None = None,
) -> Bool[np.ndarray, "x y z"]:
    """What one camera observes of a grid: Occ3D's rule for `mask_camera`, in the limit of infinitely many pixels.

    Occ3D (arXiv 2304.14365) casts a ray per pixel and calls everything up to and including the
    first occupied voxel observed. Here a *free* voxel is observed when its centre lies in the image and the
    straight line from the camera to it meets no occupied voxel. An *occupied* voxel is observed when the
    centre of at least one of its exposed faces that look at the camera (no occupied neighbour across; the
    border of the grid counts as exposed) lies in the image and the line to it meets no other occupied voxel.
    The voxel in which the camera itself stands does not block its sight, and is observed only if it is free
    and its centre is in the image.

    Args:
        occupied: [x, y, z], of the grid's shape.
        intrinsics_px: for an image of `height` × `width` pixels.
        grid_from_camera: from camera coordinates to the frame of the grid (for Occ3D: `ego_from_camera`).
        among: the voxels to decide on, by default all; the rest is returned as false. All of `occupied` blocks.
        valid: pixels that show the world; the others are as outside of the image. None: all.
    """
    occupied = _volume(occupied, grid)
    lower_m, size_m = _corner_and_size(grid)
    # From coordinates in voxels to homogeneous pixels in one product.
    camera_from_grid = inverse(np.asarray(grid_from_camera, np.float64))
    rotation, translation_m = camera_from_grid[:3, :3], camera_from_grid[:3, 3]
    pixel_from_index = np.empty((3, 4))
    pixel_from_index[:, :3] = intrinsics_px @ (rotation * size_m)
    pixel_from_index[:, 3] = intrinsics_px @ (rotation @ lower_m + translation_m)
    camera_index = (np.asarray(grid_from_camera, np.float64)[:3, 3] - lower_m) / size_m
    observed = np.zeros(grid.shape, np.bool_)
    among = _volume(np.ones(grid.shape, np.bool_) if among is None else among, grid)
    assert valid is None or valid.shape == (height, width), (valid.shape, height, width)
    # The kernel takes no pixel at all for all pixels.
    valid = np.zeros((0, 0), np.bool_) if valid is None else np.ascontiguousarray(valid, np.bool_)
    _observed(occupied, among, pixel_from_index, camera_index, float(height), float(width), valid, observed)
    return observed


def _rows(points: Float[np.ndarray, "rays 3"]) -> Float[np.ndarray, "rays 3"]:
    assert points.shape == (len(points), 3), points.shape
    return np.ascontiguousarray(points, np.float64)


def _volume(voxels: Bool[np.ndarray, "x y z"], grid: VoxelGrid) -> Bool[np.ndarray, "x y z"]:
    assert voxels.shape == grid.shape, (voxels.shape, grid.shape)
    return np.ascontiguousarray(voxels, np.bool_)


def _corner_and_size(grid: VoxelGrid) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    return np.asarray(grid.lower_m, np.float64), np.asarray(grid.voxel_size_m, np.float64)


# Kernels; units as in `occlift.geometry.traversal`.


@njit
def _begin(
    lower_m: Float[np.ndarray, "3"], size_m: Float[np.ndarray, "3"], origin_m: Float[np.ndarray, "3"],
    direction: Float[np.ndarray, "3"], nx: int, ny: int, nz: int,
) -> tuple[tuple[float, float, float], tuple[float, float, float], tuple[int, int, int, float, int]]:  # fmt: skip
    """(o, inv, (x, y, z, t, axis)) of a ray where it enters the grid, with t in metres; t = +inf if nowhere."""
    ox = (origin_m[0] - lower_m[0]) / size_m[0]
    oy = (origin_m[1] - lower_m[1]) / size_m[1]
    oz = (origin_m[2] - lower_m[2]) / size_m[2]
    dx, dy, dz = direction[0], direction[1], direction[2]
    length = np.sqrt(dx * dx + dy * dy + dz * dz)
    if not (0.0 < length < np.inf):
        return (ox, oy, oz), (0.0, 0.0, 0.0), (-1, -1, -1, np.inf, -1)
    # Voxels per metre of ray, so that t is the range in metres.
    dx, dy, dz = dx / length / size_m[0], dy / length / size_m[1], dz / length / size_m[2]
    inv_x, inv_y, inv_z = reciprocal(dx), reciprocal(dy), reciprocal(dz)
    return (ox, oy, oz), (inv_x, inv_y, inv_z), enter(ox, oy, oz, dx, dy, dz, inv_x, inv_y, inv_z, nx, ny, nz)


@njit(parallel=True)
def _first_hit(
    occupied: Bool[np.ndarray, "x y z"], lower_m: Float[np.ndarray, "3"], size_m: Float[np.ndarray, "3"],
    origins_m: Float[np.ndarray, "rays 3"], directions: Float[np.ndarray, "rays 3"], max_range_m: float,
    voxel: Int[np.ndarray, "rays 3"], entry_range_m: Float[np.ndarray, " rays"],
    exit_range_m: Float[np.ndarray, " rays"], entry_axis: Int[np.ndarray, " rays"],
) -> None:  # fmt: skip
    nx, ny, nz = occupied.shape
    for ray in prange(len(origins_m)):
        (ox, oy, oz), (inv_x, inv_y, inv_z), (x, y, z, t, axis) = _begin(
            lower_m, size_m, origins_m[ray], directions[ray], nx, ny, nz
        )
        tx, ty, tz = next_plane(ox, inv_x, x), next_plane(oy, inv_y, y), next_plane(oz, inv_z, z)
        while t <= max_range_m and t < np.inf:
            if occupied[x, y, z]:
                voxel[ray, 0], voxel[ray, 1], voxel[ray, 2] = x, y, z
                entry_range_m[ray] = t
                exit_range_m[ray] = min(tx, ty, tz)
                entry_axis[ray] = axis
                break
            x, y, z, t, axis, tx, ty, tz = step(x, y, z, tx, ty, tz, ox, oy, oz, inv_x, inv_y, inv_z, nx, ny, nz)


@njit
def _enter_grid(
    shape: Int[np.ndarray, "3"], lower_m: Float[np.ndarray, "3"], size_m: Float[np.ndarray, "3"],
    origins_m: Float[np.ndarray, "rays 3"], directions: Float[np.ndarray, "rays 3"], start: Float[np.ndarray, "rays 3"],
    inverses: Float[np.ndarray, "rays 3"], voxel: Int[np.ndarray, "rays 3"], entry_range_m: Float[np.ndarray, " rays"],
) -> None:  # fmt: skip
    nx, ny, nz = shape
    for ray in range(len(origins_m)):
        (ox, oy, oz), (ix, iy, iz), (x, y, z, t, _) = _begin(
            lower_m, size_m, origins_m[ray], directions[ray], nx, ny, nz
        )
        start[ray, 0], start[ray, 1], start[ray, 2] = ox, oy, oz
        inverses[ray, 0], inverses[ray, 1], inverses[ray, 2] = ix, iy, iz
        voxel[ray, 0], voxel[ray, 1], voxel[ray, 2] = x, y, z
        entry_range_m[ray] = t


@njit
def _segment(
    lower_m: Float[np.ndarray, "3"], size_m: Float[np.ndarray, "3"], origin_m: Float[np.ndarray, "3"],
    end_m: Float[np.ndarray, "3"], nx: int, ny: int, nz: int,
) -> tuple[
    tuple[float, float, float], tuple[float, float, float], tuple[float, float, float], tuple[int, int, int, float]
]:  # fmt: skip
    """(o, inv, e, (x, y, z, t)) of a segment with t = 1 at its end, where it enters the grid; t = +inf if nowhere."""
    ox, oy, oz = (
        (origin_m[0] - lower_m[0]) / size_m[0],
        (origin_m[1] - lower_m[1]) / size_m[1],
        (origin_m[2] - lower_m[2]) / size_m[2],
    )
    ex, ey, ez = (
        (end_m[0] - lower_m[0]) / size_m[0],
        (end_m[1] - lower_m[1]) / size_m[1],
        (end_m[2] - lower_m[2]) / size_m[2],
    )
    dx, dy, dz = ex - ox, ey - oy, ez - oz
    ix, iy, iz = reciprocal(dx), reciprocal(dy), reciprocal(dz)
    x, y, z, t, _ = enter(ox, oy, oz, dx, dy, dz, ix, iy, iz, nx, ny, nz)
    if not np.isfinite(ex + ey + ez) or (ix == 0.0 and iy == 0.0 and iz == 0.0):
        t = np.inf
    return (ox, oy, oz), (ix, iy, iz), (np.floor(ex), np.floor(ey), np.floor(ez)), (x, y, z, t)


@njit(parallel=True)
def _crossed_voxels(
    blocked: Bool[np.ndarray, "x y z"], lower_m: Float[np.ndarray, "3"], size_m: Float[np.ndarray, "3"],
    origins_m: Float[np.ndarray, "rays 3"], ends_m: Float[np.ndarray, "rays 3"], crossed: Bool[np.ndarray, "x y z"],
) -> None:  # fmt: skip
    nx, ny, nz = blocked.shape
    for ray in prange(len(origins_m)):
        (ox, oy, oz), (ix, iy, iz), (end_x, end_y, end_z), (x, y, z, t) = _segment(
            lower_m, size_m, origins_m[ray], ends_m[ray], nx, ny, nz
        )
        tx, ty, tz = next_plane(ox, ix, x), next_plane(oy, iy, y), next_plane(oz, iz, z)
        while t < 1.0 and not (x == end_x and y == end_y and z == end_z) and not blocked[x, y, z]:
            if not crossed[x, y, z]:
                crossed[x, y, z] = True
            x, y, z, t, _, tx, ty, tz = step(x, y, z, tx, ty, tz, ox, oy, oz, ix, iy, iz, nx, ny, nz)


@njit
def _in_image(
    pixel_from_index: Float[np.ndarray, "3 4"], x: float, y: float, z: float, height: float, width: float,
    valid: Bool[np.ndarray, "rows columns"],
) -> bool:  # fmt: skip
    m = pixel_from_index
    depth = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
    if depth <= 0.0:
        return False
    u = m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]
    if not (0.0 <= u < width * depth):
        return False
    v = m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]
    if not (0.0 <= v < height * depth):
        return False
    rows, columns = valid.shape
    return rows == 0 or valid[min(int(v / depth), rows - 1), min(int(u / depth), columns - 1)]


@njit
def _in_sight(
    occupied: Bool[np.ndarray, "x y z"], ox: float, oy: float, oz: float, ex: float, ey: float, ez: float,
    target_x: int, target_y: int, target_z: int,
) -> bool:  # fmt: skip
    """Whether the segment from o to e, a point in or on the target voxel, meets no occupied voxel before
    that."""
    nx, ny, nz = occupied.shape
    dx, dy, dz = ex - ox, ey - oy, ez - oz
    inv_x, inv_y, inv_z = reciprocal(dx), reciprocal(dy), reciprocal(dz)
    x, y, z, t, axis = enter(ox, oy, oz, dx, dy, dz, inv_x, inv_y, inv_z, nx, ny, nz)
    tx, ty, tz = next_plane(ox, inv_x, x), next_plane(oy, inv_y, y), next_plane(oz, inv_z, z)
    at_camera = axis < 0
    while t < _AT_END and not (x == target_x and y == target_y and z == target_z):
        if occupied[x, y, z] and not at_camera:
            return False
        at_camera = False
        x, y, z, t, axis, tx, ty, tz = step(x, y, z, tx, ty, tz, ox, oy, oz, inv_x, inv_y, inv_z, nx, ny, nz)
    return True


@njit
def _face_in_sight(
    occupied: Bool[np.ndarray, "x y z"], pixel_from_index: Float[np.ndarray, "3 4"], camera: Float[np.ndarray, "3"],
    height: float, width: float, valid: Bool[np.ndarray, "rows columns"], x: int, y: int, z: int, axis: int,
) -> bool:  # fmt: skip
    """Whether the face of an occupied voxel across `axis` that looks at the camera is exposed and seen."""
    index = z if axis == 2 else (y if axis == 1 else x)
    if camera[axis] < index:
        side = -1
    elif camera[axis] > index + 1:
        side = 1
    else:
        return False
    sx = side if axis == 0 else 0
    sy = side if axis == 1 else 0
    sz = side if axis == 2 else 0
    nx, ny, nz = occupied.shape
    inside_grid = 0 <= x + sx < nx and 0 <= y + sy < ny and 0 <= z + sz < nz
    if inside_grid and occupied[x + sx, y + sy, z + sz]:
        return False
    fx, fy, fz = x + 0.5 + 0.5 * sx, y + 0.5 + 0.5 * sy, z + 0.5 + 0.5 * sz
    if not _in_image(pixel_from_index, fx, fy, fz, height, width, valid):
        return False
    return _in_sight(occupied, camera[0], camera[1], camera[2], fx, fy, fz, x, y, z)


@njit(parallel=True)
def _observed(
    occupied: Bool[np.ndarray, "x y z"], among: Bool[np.ndarray, "x y z"], pixel_from_index: Float[np.ndarray, "3 4"],
    camera: Float[np.ndarray, "3"], height: float, width: float, valid: Bool[np.ndarray, "rows columns"],
    observed: Bool[np.ndarray, "x y z"],
) -> None:  # fmt: skip
    nx, ny, nz = occupied.shape
    for column in prange(nx * ny):
        x, y = column // ny, column % ny
        for z in range(nz):
            if not among[x, y, z]:
                continue
            if occupied[x, y, z]:
                for axis in range(3):
                    if _face_in_sight(occupied, pixel_from_index, camera, height, width, valid, x, y, z, axis):
                        observed[x, y, z] = True
                        break
            elif _in_image(pixel_from_index, x + 0.5, y + 0.5, z + 0.5, height, width, valid):
                observed[x, y, z] = _in_sight(
                    occupied, camera[0], camera[1], camera[2], x + 0.5, y + 0.5, z + 0.5, x, y, z
                )
