"""Exact ray casting against the town's solids and its ground, compiled.

The town is not made of voxels: solids are intersected analytically, so that depth is exact and truth at any voxel
size can be derived from the same geometry. `geometry.raycast` starts where voxels start: masks, labels, scores.

Parts are found through a grid of square cells in x and y (a list of parts per cell); a ray walks through the cells
in order and stops at the first one in which its best hit lies. The ground is a raster of heights whose cells are
level (kerbs are vertical steps), walked in the same manner between its highest and its lowest level.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int32, UInt8
from numba import prange

from occlift.runtime.kernels import njit
from occlift.town import parts as p

MAX_RANGE_M: Final = 250.0
GROUND: Final = -2
"""`Hit.part` where the ray ended on the ground."""
SKY: Final = -1
"""`Hit.part` where the ray ended nowhere."""


class Ground(NamedTuple):
    """The ground as rasters [x, y]; cell (i, j) covers lower + cell·[i, i+1) × lower + cell·[j, j+1), metres.

    Outside the rasters the ground continues level at `outside_height_m`.
    """

    lower_x: float
    lower_y: float
    cell_m: float
    height_m: np.ndarray  # float32 [x, y]
    class_id: np.ndarray  # uint8 [x, y]
    paint: np.ndarray  # uint8 [x, y]: town.layout.Paint
    top_m: float
    outside_height_m: float


class PartIndex(NamedTuple):
    """Parts and, per cell of a grid over x and y, which of them reach into it."""

    parts: np.ndarray  # float64 [n, columns]
    lower_x: float
    lower_y: float
    cell_m: float
    count_x: int
    count_y: int
    start: np.ndarray  # int32 [cells + 1]
    item: np.ndarray  # int32
    top_m: float


@njit
def _bin_parts(
    parts: Float[np.ndarray, "n columns"], lower_x: float, lower_y: float, cell: float, nx: int, ny: int
) -> tuple[Int[np.ndarray, " cells_and_one"], Int[np.ndarray, " items"]]:
    count = np.zeros(nx * ny + 1, np.int32)
    n = parts.shape[0]
    spans = np.empty((n, 4), np.int32)
    for i in range(n):
        # The reach in x and y of a yawed rectangle (exact for boxes, generous for round parts).
        c, s = abs(parts[i, p.COS]), abs(parts[i, p.SIN])
        rx = c * parts[i, p.HALF] + s * parts[i, p.HALF + 1]
        ry = s * parts[i, p.HALF] + c * parts[i, p.HALF + 1]
        x, y = parts[i, p.CENTER] - lower_x, parts[i, p.CENTER + 1] - lower_y
        spans[i, 0] = max(0, int(np.floor((x - rx) / cell)))
        spans[i, 1] = min(nx - 1, int(np.floor((x + rx) / cell)))
        spans[i, 2] = max(0, int(np.floor((y - ry) / cell)))
        spans[i, 3] = min(ny - 1, int(np.floor((y + ry) / cell)))
        for a in range(spans[i, 0], spans[i, 1] + 1):
            for b in range(spans[i, 2], spans[i, 3] + 1):
                count[a * ny + b + 1] += 1
    start = np.cumsum(count).astype(np.int32)
    item = np.empty(start[-1], np.int32)
    cursor = start[:-1].copy()
    for i in range(n):
        for a in range(spans[i, 0], spans[i, 1] + 1):
            for b in range(spans[i, 2], spans[i, 3] + 1):
                item[cursor[a * ny + b]] = i
                cursor[a * ny + b] += 1
    return start, item


def index_parts(parts: Float[np.ndarray, "n columns"], ground: Ground, cell_m: float = 4.0) -> PartIndex:
    """Bins parts into cells that cover the ground's rasters; parts outside of it are not seen by rays."""
    nx = int(np.ceil(ground.height_m.shape[0] * ground.cell_m / cell_m))
    ny = int(np.ceil(ground.height_m.shape[1] * ground.cell_m / cell_m))
    start, item = _bin_parts(parts, ground.lower_x, ground.lower_y, cell_m, nx, ny)
    top = float((parts[:, p.CENTER + 2] + parts[:, p.HALF + 2]).max()) if len(parts) else 0.0
    return PartIndex(parts, ground.lower_x, ground.lower_y, cell_m, nx, ny, start, item, top)


@njit(inline="always")
def to_local(row: Float[np.ndarray, "columns"], x: float, y: float, z: float) -> tuple[float, float, float]:
    """Global point → the part's own axes."""
    x, y, z = x - row[p.CENTER], y - row[p.CENTER + 1], z - row[p.CENTER + 2]
    return row[p.COS] * x + row[p.SIN] * y, -row[p.SIN] * x + row[p.COS] * y, z


@njit
def _box(
    hx: float, hy: float, hz: float, taper: float, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float
) -> float:
    near, far = 0.0, 1e30
    # Front and back lean towards each other: |x| ≤ hx · (1 − lean · (z + hz)).
    lean = hx * (1.0 - taper) / (2.0 * hz)
    for k in range(6):
        if k == 0:
            num, den = hx - lean * (oz + hz) - ox, dx + lean * dz
        elif k == 1:
            num, den = hx - lean * (oz + hz) + ox, -dx + lean * dz
        elif k == 2:
            num, den = hy - oy, dy
        elif k == 3:
            num, den = hy + oy, -dy
        elif k == 4:
            num, den = hz - oz, dz
        else:
            num, den = hz + oz, -dz
        if den > 1e-12:
            far = min(far, num / den)
        elif den < -1e-12:
            near = max(near, num / den)
        elif num < 0:
            return -1.0
        if near > far:
            return -1.0
    return near


@njit
def _quadratic(a: float, b: float, c: float) -> tuple[float, float]:
    """Roots of a·t² + 2b·t + c, or two equal negative ones where there are none."""
    disc = b * b - a * c
    if disc < 0 or abs(a) < 1e-14:
        return -1.0, -1.0
    root = np.sqrt(disc)
    t0, t1 = (-b - root) / a, (-b + root) / a
    return (t0, t1) if t0 < t1 else (t1, t0)


@njit
def _upright(
    r: float, hz: float, cone: bool, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float
) -> float:
    """Vertical cylinder or cone with caps."""
    best = 1e30
    if cone:
        k = r / (2 * hz)
        w, dw = (hz - oz) * k, -dz * k
        t0, t1 = _quadratic(dx * dx + dy * dy - dw * dw, ox * dx + oy * dy - w * dw, ox * ox + oy * oy - w * w)
    else:
        t0, t1 = _quadratic(dx * dx + dy * dy, ox * dx + oy * dy, ox * ox + oy * oy - r * r)
    if t0 > 0 and abs(oz + t0 * dz) <= hz:
        best = t0
    elif t1 > 0 and abs(oz + t1 * dz) <= hz:
        best = t1
    if abs(dz) > 1e-12:
        for side in range(2):
            if cone and side == 1:
                continue
            t = ((hz if side == 1 else -hz) - oz) / dz
            if 0 < t < best:
                x, y = ox + t * dx, oy + t * dy
                if x * x + y * y <= r * r:
                    best = t
    return best if best < 1e29 else -1.0


@njit
def _part_distance(
    row: Float[np.ndarray, "columns"], ox: float, oy: float, oz: float, dx: float, dy: float, dz: float, limit: float
) -> float:
    """Range to the part, metres, or a negative number; `limit` is the best hit so far."""
    cx, cy, cz = row[p.CENTER] - ox, row[p.CENTER + 1] - oy, row[p.CENTER + 2] - oz
    along = cx * dx + cy * dy + cz * dz
    r2 = row[p.RADIUS] * row[p.RADIUS]
    if cx * cx + cy * cy + cz * cz - along * along > r2 or along < -row[p.RADIUS] or along - row[p.RADIUS] > limit:
        return -1.0
    lx, ly, lz = to_local(row, ox, oy, oz)
    c, s = row[p.COS], row[p.SIN]
    ux, uy = c * dx + s * dy, -s * dx + c * dy
    hx, hy, hz = row[p.HALF], row[p.HALF + 1], row[p.HALF + 2]
    kind = int(row[p.KIND])
    if kind == 0:
        return _box(hx, hy, hz, row[p.TAPER], lx, ly, lz, ux, uy, dz)
    if kind == 1 or kind == 2:
        return _upright(hx, hz, kind == 2, lx, ly, lz, ux, uy, dz)
    if kind == 3:
        ax, ay, az = lx / hx, ly / hy, lz / hz
        bx, by, bz = ux / hx, uy / hy, dz / hz
        t0, t1 = _quadratic(bx * bx + by * by + bz * bz, ax * bx + ay * by + az * bz, ax * ax + ay * ay + az * az - 1)
        return t0 if t0 > 0 else t1
    # A wheel is an upright cylinder lying on its side: swap the y and z axes.
    return _upright(hx, hy, False, lx, lz, ly, ux, dz, uy)


@njit
def part_normal(row: Float[np.ndarray, "columns"], x: float, y: float, z: float) -> tuple[float, float, float]:
    """Outward normal, in the part's own axes, at a point (own axes) on its surface."""
    hx, hy, hz = row[p.HALF], row[p.HALF + 1], row[p.HALF + 2]
    kind = int(row[p.KIND])
    if kind == 3:
        nx, ny, nz = x / (hx * hx), y / (hy * hy), z / (hz * hz)
    elif kind == 1 or kind == 2:
        if abs(z) > hz - 1e-6:
            return 0.0, 0.0, 1.0 if z > 0 else -1.0
        nx, ny, nz = x, y, 0.0
        if kind == 2:
            nz = np.sqrt(x * x + y * y) * hx / (2 * hz)
    elif kind == 4:
        if abs(y) > hy - 1e-6:
            return 0.0, 1.0 if y > 0 else -1.0, 0.0
        nx, ny, nz = x, 0.0, z
    else:
        lean = hx * (1.0 - row[p.TAPER]) / (2.0 * hz)
        gap_x = hx - lean * (z + hz) - abs(x)
        gap_y, gap_z = hy - abs(y), hz - abs(z)
        if gap_x <= gap_y and gap_x <= gap_z:
            nx, ny, nz = 1.0 if x > 0 else -1.0, 0.0, lean
        elif gap_y <= gap_z:
            return 0.0, 1.0 if y > 0 else -1.0, 0.0
        else:
            return 0.0, 0.0, 1.0 if z > 0 else -1.0
    length = np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
    return nx / length, ny / length, nz / length


@njit
def ground_height(ground: Ground, x: float, y: float) -> float:
    """Height of the ground below (x, y), metres."""
    i = int(np.floor((x - ground.lower_x) / ground.cell_m))
    j = int(np.floor((y - ground.lower_y) / ground.cell_m))
    if i < 0 or j < 0 or i >= ground.height_m.shape[0] or j >= ground.height_m.shape[1]:
        return ground.outside_height_m
    return ground.height_m[i, j]


@njit
def _ground_distance(
    ground: Ground, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float, limit: float
) -> float:
    """Range to the ground, metres, or −1. Walks in half cells below the ground's highest level, then bisects."""
    t = 0.0
    if oz > ground.top_m:
        if dz > -1e-9:
            return -1.0
        t = (oz - ground.top_m) / -dz
    elif dz >= 0 and oz + dz * 1e-3 > ground.top_m:
        return -1.0
    if t > limit:
        return -1.0
    horizontal = np.sqrt(dx * dx + dy * dy)
    step = 0.5 * ground.cell_m / max(horizontal, 0.05)
    before = t
    while t <= limit:
        z = oz + t * dz
        if dz > 0 and z > ground.top_m:
            return -1.0
        if z <= ground_height(ground, ox + t * dx, oy + t * dy):
            low, high = before, t
            for _ in range(10):
                mid = 0.5 * (low + high)
                if oz + mid * dz <= ground_height(ground, ox + mid * dx, oy + mid * dy):
                    high = mid
                else:
                    low = mid
            return high
        before = t
        t += step
    return -1.0


@njit
def _walk_parts(
    index: PartIndex, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float, limit: float, any_hit: bool
) -> tuple[float, int]:
    """Nearest part before `limit`: (range, part number), or (limit, −1)."""
    best, which = limit, -1
    nx, ny, cell = index.count_x, index.count_y, index.cell_m
    x0, y0 = (ox - index.lower_x) / cell, (oy - index.lower_y) / cell
    ux, uy = dx / cell, dy / cell
    # Enter the grid, leave it, and leave the slab of heights in which there are parts.
    t_in, t_out = 0.0, limit
    for axis in range(2):
        o, u, n = (x0, ux, nx) if axis == 0 else (y0, uy, ny)
        if abs(u) < 1e-12:
            if o < 0 or o >= n:
                return best, which
        else:
            ta, tb = -o / u, (n - o) / u
            t_in, t_out = max(t_in, min(ta, tb)), min(t_out, max(ta, tb))
    if dz > 1e-9:
        t_out = min(t_out, (index.top_m - oz) / dz)
    elif dz < -1e-9 and oz > index.top_m:
        t_in = max(t_in, (oz - index.top_m) / -dz)
    if t_in >= t_out:
        return best, which
    t = t_in + 1e-9
    i = min(max(int(np.floor(x0 + t * ux)), 0), nx - 1)
    j = min(max(int(np.floor(y0 + t * uy)), 0), ny - 1)
    step_i, step_j = (1 if ux > 0 else -1), (1 if uy > 0 else -1)
    next_i = ((i + (1 if ux > 0 else 0)) - x0) / ux if abs(ux) > 1e-12 else 1e30
    next_j = ((j + (1 if uy > 0 else 0)) - y0) / uy if abs(uy) > 1e-12 else 1e30
    delta_i = 1.0 / abs(ux) if abs(ux) > 1e-12 else 1e30
    delta_j = 1.0 / abs(uy) if abs(uy) > 1e-12 else 1e30
    while True:
        cell_index = i * ny + j
        for k in range(index.start[cell_index], index.start[cell_index + 1]):
            number = index.item[k]
            d = _part_distance(index.parts[number], ox, oy, oz, dx, dy, dz, best)
            if 1e-4 < d < best:
                best, which = d, number
                if any_hit:
                    return best, which
        leave = min(next_i, next_j)
        if best <= leave or leave >= t_out:
            return best, which
        if next_i < next_j:
            i += step_i
            next_i += delta_i
            if i < 0 or i >= nx:
                return best, which
        else:
            j += step_j
            next_j += delta_j
            if j < 0 or j >= ny:
                return best, which


@njit
def trace(
    ground: Ground, static: PartIndex, moving: PartIndex,
    ox: float, oy: float, oz: float, dx: float, dy: float, dz: float, limit: float,
) -> tuple[float, int, bool]:  # fmt: skip
    """First hit of one ray (unit direction): (range_m, part, is_moving); part is GROUND or SKY where it is none."""
    best, which = _walk_parts(static, ox, oy, oz, dx, dy, dz, limit, False)
    other, other_which = _walk_parts(moving, ox, oy, oz, dx, dy, dz, best, False)
    is_moving = other_which >= 0
    if is_moving:
        best, which = other, other_which
    t = _ground_distance(ground, ox, oy, oz, dx, dy, dz, best)
    if 0 <= t < best:
        return t, GROUND, False
    if which >= 0:
        return best, which, is_moving
    return limit, SKY, False


@njit
def in_shadow(
    static: PartIndex, moving: PartIndex, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float
) -> bool:
    """Whether anything stands between a point and the sun (direction d)."""
    _, which = _walk_parts(static, ox, oy, oz, dx, dy, dz, 80.0, True)
    if which >= 0:
        return True
    _, which = _walk_parts(moving, ox, oy, oz, dx, dy, dz, 80.0, True)
    return which >= 0


@njit(parallel=True)
def _trace_many(
    ground: Ground, static: PartIndex, moving: PartIndex, origins: Float[np.ndarray, "r 3"],
    directions: Float[np.ndarray, "r 3"], limit: float,
) -> tuple[Float[np.ndarray, "r"], UInt8[np.ndarray, "r"], Int32[np.ndarray, "r"]]:  # fmt: skip
    n = origins.shape[0]
    range_m = np.empty(n)
    class_id = np.empty(n, np.uint8)
    instance = np.zeros(n, np.int32)
    for r in prange(n):
        ox, oy, oz = origins[r, 0], origins[r, 1], origins[r, 2]
        dx, dy, dz = directions[r, 0], directions[r, 1], directions[r, 2]
        t, which, is_moving = trace(ground, static, moving, ox, oy, oz, dx, dy, dz, limit)
        range_m[r] = t
        if which == SKY:
            range_m[r] = np.inf
            class_id[r] = 17
        elif which == GROUND:
            i = int(np.floor((ox + t * dx - ground.lower_x) / ground.cell_m))
            j = int(np.floor((oy + t * dy - ground.lower_y) / ground.cell_m))
            inside = 0 <= i < ground.height_m.shape[0] and 0 <= j < ground.height_m.shape[1]
            class_id[r] = ground.class_id[i, j] if inside else 14
        else:
            row = moving.parts[which] if is_moving else static.parts[which]
            class_id[r] = np.uint8(row[p.CLASS])
            instance[r] = int(row[p.INSTANCE])
    return range_m, class_id, instance


def trace_rays(
    ground: Ground,
    static: PartIndex,
    moving: PartIndex,
    origins_global: Float[np.ndarray, "r 3"],
    directions: Float[np.ndarray, "r 3"],
    max_range_m: float = MAX_RANGE_M,
) -> tuple[Float[np.ndarray, "r"], UInt8[np.ndarray, "r"], Int32[np.ndarray, "r"]]:
    """Range (metres; inf = sky), class (17 = sky) and instance (0 = background) of the first hit; unit directions."""
    return _trace_many(ground, static, moving, origins_global, directions, max_range_m)
