"""What polygons and lines cover on a grid, and the outlines of what is covered.

A cell belongs to a polygon if its *centre* lies inside (even-odd rule, ring by ring: inside the exterior and in no
hole), and to a line if its centre lies within half the width of it. So areas are right on average, wherever a shape
lies and however it is turned: nothing is moved to whole cells first. A centre exactly on the border of two polygons
that share an edge belongs to one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from occlift.geometry.grids import BevGrid
from occlift.runtime.kernels import njit


@dataclass(frozen=True, kw_only=True, eq=False)
class Polygon:
    """An area in a plane, metres; rings are closed without repeating their first point.

    Attributes:
        exterior: fewer than three points cover nothing.
        holes: what lies in any of them is outside.
    """

    exterior: Float[np.ndarray, "n 2"]
    holes: tuple[Float[np.ndarray, "_ 2"], ...] = ()


def polygon_cells(polygon: Polygon, grid: BevGrid) -> Bool[np.ndarray, "x y"]:
    """Which cells' centres lie in a polygon, given in the grid's frame."""
    inside = _inside_ring(polygon.exterior, grid)
    for hole in polygon.holes:
        inside &= ~_inside_ring(hole, grid)
    return inside


def line_cells(line: Float[np.ndarray, "n 2"], width_m: float, grid: BevGrid) -> Bool[np.ndarray, "x y"]:
    """Which cells' centres lie within half of `width_m` of a line through points (metres, the grid's frame).

    Its ends and bends are round. A line of fewer than two points covers nothing.
    """
    assert width_m > 0, width_m
    near = np.zeros(grid.shape, dtype=np.bool_)
    _mark_near(np.ascontiguousarray(line, dtype=np.float64), 0.5 * width_m, *grid.lower_m, *grid.cell_size_m, near)
    return near


def outlines(cells: Bool[np.ndarray, "x y"]) -> list[Polygon]:
    """The borders of what is covered: one polygon per group of cells that share edges, in units of cells.

    Cell (i, j) covers [i, i + 1) × [j, j + 1). Exteriors run counter-clockwise, holes clockwise, and points stand where
    a border bends. `polygon_cells` of them gives the cells again.
    """
    from scipy.ndimage import find_objects, label

    groups, _ = label(cells)
    polygons = []
    for number, window in enumerate(find_objects(groups), start=1):
        lower = np.array([part.start for part in window], dtype=np.float64)
        rings = [ring + lower for ring in _rings(groups[window] == number)]
        polygons.append(Polygon(exterior=rings[0], holes=tuple(rings[1:])))
    return polygons


def _inside_ring(ring: Float[np.ndarray, "n 2"], grid: BevGrid) -> Bool[np.ndarray, "x y"]:
    inside = np.zeros(grid.shape, dtype=np.bool_)
    if len(ring) >= 3:
        _fill_ring(np.ascontiguousarray(ring, dtype=np.float64), *grid.lower_m, *grid.cell_size_m, inside)
    return inside


@njit
def _fill_ring(
    ring: Float[np.ndarray, "n 2"], lower_x: float, lower_y: float, size_x: float, size_y: float,
    inside: Bool[np.ndarray, "x y"],
) -> None:  # fmt: skip
    """Row by row of constant x: every edge that crosses the row flips all centres beyond it in y."""
    count_x, count_y = inside.shape
    for k in range(ring.shape[0]):
        ax, ay = ring[k - 1, 0], ring[k - 1, 1]
        bx, by = ring[k, 0], ring[k, 1]
        # Rows whose x lies in [low, high): an end point that two edges share is counted with one of them.
        low, high = min(ax, bx), max(ax, bx)
        first = max(np.ceil((low - lower_x) / size_x - 0.5), 0.0)
        end = min(np.ceil((high - lower_x) / size_x - 0.5), float(count_x))
        for i in range(int(first), int(max(end, first))):
            x = lower_x + (i + 0.5) * size_x
            y = ay + (x - ax) / (bx - ax) * (by - ay)
            j = max(np.ceil((y - lower_y) / size_y - 0.5), 0.0)
            if j < count_y:
                inside[i, int(j)] = not inside[i, int(j)]
    for i in range(count_x):
        for j in range(1, count_y):
            inside[i, j] = inside[i, j] != inside[i, j - 1]


@njit
def _mark_near(
    line: Float[np.ndarray, "n 2"], reach: float, lower_x: float, lower_y: float, size_x: float, size_y: float,
    near: Bool[np.ndarray, "x y"],
) -> None:  # fmt: skip
    count_x, count_y = near.shape
    for k in range(1, line.shape[0]):
        ax, ay = line[k - 1, 0], line[k - 1, 1]
        ux, uy = line[k, 0] - ax, line[k, 1] - ay
        norm2 = ux * ux + uy * uy
        # Clipped as floats: a segment far away has indices that no integer holds.
        i0 = max(np.floor((min(ax, ax + ux) - reach - lower_x) / size_x), 0.0)
        i1 = min(np.ceil((max(ax, ax + ux) + reach - lower_x) / size_x), float(count_x))
        j0 = max(np.floor((min(ay, ay + uy) - reach - lower_y) / size_y), 0.0)
        j1 = min(np.ceil((max(ay, ay + uy) + reach - lower_y) / size_y), float(count_y))
        for i in range(int(i0), int(max(i1, i0))):
            px = lower_x + (i + 0.5) * size_x - ax
            for j in range(int(j0), int(max(j1, j0))):
                py = lower_y + (j + 0.5) * size_y - ay
                t = 0.0 if norm2 == 0.0 else min(max((px * ux + py * uy) / norm2, 0.0), 1.0)
                dx, dy = px - t * ux, py - t * uy
                if dx * dx + dy * dy <= reach * reach:
                    near[i, j] = True


_STEP_X, _STEP_Y = (1, 0, -1, 0), (0, 1, 0, -1)


def _rings(cells: Bool[np.ndarray, "x y"]) -> list[Int[np.ndarray, "n 2"]]:
    """The closed borders of cells that hang together, covered cells on the left; the exterior first."""
    padded = np.pad(cells, 1)
    # [x, y, d]: whether a piece of border leaves the corner (x, y) in direction d (+x, +y, −x, −y).
    leaves = np.zeros((cells.shape[0] + 1, cells.shape[1] + 1, 4), dtype=bool)
    leaves[:-1, :-1, 0] = cells & ~padded[1:-1, :-2]
    leaves[1:, :-1, 1] = cells & ~padded[2:, 1:-1]
    leaves[1:, 1:, 2] = cells & ~padded[1:-1, 2:]
    leaves[:-1, 1:, 3] = cells & ~padded[:-2, 1:-1]
    # In order of x: the first piece has nothing covered before it, so it is one of the exterior.
    starts = np.argwhere(leaves).tolist()
    rings = []
    for start_x, start_y, start in starts:
        if not leaves[start_x, start_y, start]:
            continue
        x, y, direction, corners = start_x, start_y, start, []
        while leaves[x, y, direction]:
            leaves[x, y, direction] = False
            x, y = x + _STEP_X[direction], y + _STEP_Y[direction]
            # To the left first: where cells meet at a corner only, the border stays with its own cell.
            for turn in (1, 0, 3):
                following = (direction + turn) % 4
                if leaves[x, y, following] or (x, y, following) == (start_x, start_y, start):
                    break
            if following != direction:
                corners.append((x, y))
            direction = following
        rings.append(np.array(corners, dtype=np.int64))
    return rings
