"""The step from voxel to voxel that every ray caster here shares, as compiled scalar functions.

Everything is in units of voxels: o is where a ray starts, d its direction, inv = 1/d (0 where the ray is parallel to
the planes), and voxel i lies between the planes i and i + 1. A parameter t measures along the ray, in whatever unit d
is "per". A kernel calls `enter` once, `next_plane` per axis, and then `step` until t says that it is over. Where
most of the time goes into passing empty voxels, `pass_empty` takes all those steps at once, in half the time.

The traversal is that of Amanatides and Woo, "A Fast Voxel Traversal Algorithm for Ray Tracing" (Eurographics 1987),
with one change: where a ray crosses the next plane is computed from the plane instead of being summed up, so that
errors do not grow along the ray. Where a ray crosses planes of two axes at once (through an edge or a corner) it steps
along z before y before x, as the public evaluation of RayIoU does: it also touches the voxels beside the edge and
cannot slip through a diagonal. A point on a face belongs to the voxel with the larger index, as in `VoxelGrid.indices`.

numba's cache of a kernel looks at the kernel's own file only, not at what it calls. So files with kernels that call
these name the digest of this one; whoever changes it changes them (`tests/test_conventions.py` says to what), and no
kernel of an older version goes on running.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import UInt8

from occlift.runtime.kernels import njit

# Direction components below this (per unit of t, in voxels) count as parallel to the planes: such a ray moves by 1e-9
# voxels in a thousand units, and its reciprocal might overflow.
_PARALLEL: Final = 1e-12
# Rays that start this many voxels away meet nothing: from there float64 hardly tells one voxel from the next, and from
# farther still the search for the voxel of entry would not end.
_FAR: Final = 2.0**40


@njit
def reciprocal(d: float) -> float:
    return 0.0 if abs(d) < _PARALLEL else 1.0 / d


@njit
def next_plane(o: float, inv: float, index: int) -> float:
    """t at which the ray leaves the slab of voxels `index` of one axis."""
    if inv > 0.0:
        return (index + 1 - o) * inv
    if inv < 0.0:
        return (index - o) * inv
    return np.inf


@njit
def _slab_entry(o: float, inv: float, count: int) -> float:
    """t at which the ray enters the grid's slab of one axis; -1 if it starts inside it, +inf if it never does."""
    if 0.0 <= o < count:
        return -1.0
    if inv > 0.0 and o < 0.0:
        return -o * inv
    if inv < 0.0 and o >= count:
        return (count - o) * inv
    return np.inf


@njit
def _index_at(o: float, d: float, inv: float, t: float, axis: int, entry_axis: int) -> int:
    """Index along `axis` of a ray that has just crossed a plane of `entry_axis` at t.

    Rounding may put the point on the wrong side of a plane; what counts is which planes were crossed before,
    with ties in the order z, y, x.
    """
    if inv == 0.0:
        return int(np.floor(o))
    start = int(np.floor(o))
    index = int(np.floor(o + d * t))
    step = 1 if inv > 0.0 else -1
    while True:
        crossing = next_plane(o, inv, index)
        if not (crossing < t or (crossing == t and axis > entry_axis)):
            break
        index += step
    while (index - start) * step > 0:
        crossing = next_plane(o, inv, index - step)
        if crossing < t or (crossing == t and axis > entry_axis):
            break
        index -= step
    return index


@njit
def enter(
    ox: float, oy: float, oz: float, dx: float, dy: float, dz: float, ix: float, iy: float, iz: float,
    nx: int, ny: int, nz: int,
) -> tuple[int, int, int, float, int]:  # fmt: skip
    """(x, y, z, t, axis) of the first voxel of the grid on the ray; t = +inf if there is none.

    `ix`, `iy`, `iz` are the reciprocals of the direction.
    """
    tx, ty, tz = _slab_entry(ox, ix, nx), _slab_entry(oy, iy, ny), _slab_entry(oz, iz, nz)
    t, axis = tz, 2
    if ty >= t:
        t, axis = ty, 1
    if tx >= t:
        t, axis = tx, 0
    if t == np.inf or not (abs(ox) < _FAR and abs(oy) < _FAR and abs(oz) < _FAR):
        return -1, -1, -1, np.inf, -1
    if t < 0.0:
        return int(ox), int(oy), int(oz), 0.0, -1
    x = (0 if ix > 0.0 else nx - 1) if axis == 0 else _index_at(ox, dx, ix, t, 0, axis)
    y = (0 if iy > 0.0 else ny - 1) if axis == 1 else _index_at(oy, dy, iy, t, 1, axis)
    z = (0 if iz > 0.0 else nz - 1) if axis == 2 else _index_at(oz, dz, iz, t, 2, axis)
    if x < 0 or x >= nx or y < 0 or y >= ny or z < 0 or z >= nz:
        return -1, -1, -1, np.inf, -1
    return x, y, z, t, axis


@njit
def step(
    x: int, y: int, z: int, tx: float, ty: float, tz: float, ox: float, oy: float, oz: float,
    inv_x: float, inv_y: float, inv_z: float, nx: int, ny: int, nz: int,
) -> tuple[int, int, int, float, int, float, float, float]:  # fmt: skip
    """(x, y, z, t, axis, tx, ty, tz) of the next voxel; t = +inf where the ray leaves the grid.

    `tx`, `ty`, `tz` are where the ray crosses the next plane of each axis.
    """
    if tx < ty and tx < tz:
        x += 1 if inv_x > 0.0 else -1
        return x, y, z, (tx if 0 <= x < nx else np.inf), 0, next_plane(ox, inv_x, x), ty, tz
    if ty < tz:
        y += 1 if inv_y > 0.0 else -1
        return x, y, z, (ty if 0 <= y < ny else np.inf), 1, tx, next_plane(oy, inv_y, y), tz
    z += 1 if inv_z > 0.0 else -1
    return x, y, z, (tz if 0 <= z < nz else np.inf), 2, tx, ty, next_plane(oz, inv_z, z)


@njit
def pass_empty(
    codes: UInt8[np.ndarray, " cells"], stops: int, x: int, y: int, z: int, tx: float, ty: float, tz: float,
    ox: float, oy: float, oz: float, inv_x: float, inv_y: float, inv_z: float, nx: int, ny: int, nz: int,
) -> tuple[int, int, int, float, float, float]:  # fmt: skip
    """(x, y, z, tx, ty, tz) of the first voxel from (x, y, z) on, itself included, whose code has a bit of `stops`.

    The same walk as with `step`, without looking for the end of the grid.

    Args:
        codes: flat, of a grid with one voxel more on every side, [nx + 2, ny + 2, nz + 2]. The codes of this border
            must have a bit of `stops`; the walk may end in it.
    """
    sign_x, sign_y, sign_z = 1 if inv_x > 0.0 else -1, 1 if inv_y > 0.0 else -1, 1 if inv_z > 0.0 else -1
    stride_x, stride_y = (ny + 2) * (nz + 2), nz + 2
    place = (x + 1) * stride_x + (y + 1) * stride_y + z + 1
    by_x, by_y = sign_x * stride_x, sign_y * stride_y
    # The next planes as floating-point numbers: exact, and no conversion at every step.
    px, py, pz = float(x + (inv_x > 0.0)), float(y + (inv_y > 0.0)), float(z + (inv_z > 0.0))
    step_x, step_y, step_z = float(sign_x), float(sign_y), float(sign_z)
    # An unsigned index, because a signed one is checked for counting from the end.
    while codes[np.uint64(place)] & stops == 0:
        if tx < ty and tx < tz:
            px += step_x
            tx = (px - ox) * inv_x
            place += by_x
        elif ty < tz:
            py += step_y
            ty = (py - oy) * inv_y
            place += by_y
        else:
            pz += step_z
            tz = (pz - oz) * inv_z
            place += sign_z
    column = place // stride_y
    return column // (ny + 2) - 1, column % (ny + 2) - 1, place % stride_y - 1, tx, ty, tz
