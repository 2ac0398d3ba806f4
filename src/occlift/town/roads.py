"""Roads, and the ground that they leave between them: classes, paint and heights as rasters."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Final

import numpy as np
from jaxtyping import Float, Int, UInt8
from numba import prange

from occlift.label_space import DRIVEABLE_SURFACE, OTHER_FLAT, SIDEWALK, TERRAIN
from occlift.runtime.kernels import njit
from occlift.town.trace import Ground

GROUND_CELL_M: Final = 0.125
KERB_M: Final = 0.15
MARKED_BEYOND_M: Final = 6.0
"""Lanes are marked where the kerb of any other road is at least so far away."""
_OUTSIDE_HEIGHT_M: Final = 0.12


class Paint(IntEnum):
    """Markings on driveable surface."""

    NONE = 0
    WHITE = 1
    YELLOW = 2
    CROSSING = 3
    BETWEEN_STRIPES = 4
    """Bare road that belongs to a crossing."""


@dataclass(frozen=True, eq=False)
class Polyline:
    """A curve in the global x-y plane.

    Attributes:
        points: [n, 2], metres.
    """

    points: Float[np.ndarray, "n 2"]

    def __post_init__(self) -> None:
        assert self.points.shape[0] >= 2, self.points.shape

    @cached_property
    def lengths(self) -> Float[np.ndarray, "n"]:
        """Arc length from the start to every point, metres."""
        return np.concatenate(([0.0], np.cumsum(np.linalg.norm(np.diff(self.points, axis=0), axis=1))))

    @property
    def length(self) -> float:
        return float(self.lengths[-1])

    @cached_property
    def _segments(self) -> tuple[list[float], list[tuple[float, float]], list[tuple[float, float, float]]]:
        """Arc lengths, points, and per segment its direction and heading, as plain floats: `pose` is called often."""
        steps = np.diff(self.points, axis=0)
        units = steps / np.linalg.norm(steps, axis=1, keepdims=True)
        headings = np.arctan2(steps[:, 1], steps[:, 0])
        rows = [(float(u), float(v), float(h)) for (u, v), h in zip(units, headings, strict=True)]
        return self.lengths.tolist(), [(float(x), float(y)) for x, y in self.points], rows

    def pose(self, along_m: float, offset_m: float = 0.0) -> tuple[float, float, float]:
        """(x, y, heading) at an arc length, `offset_m` to the left; straight on beyond both ends."""
        lengths, points, segments = self._segments
        last = len(segments) - 1
        i = min(max(bisect_left(lengths, along_m) - 1, 0), last)
        u, v, heading = segments[i]
        (x, y), ahead = points[i], along_m - lengths[i]
        # Headings are blended between segments: a car on a bend turns steadily, not from corner to corner.
        share = min(max(ahead / (lengths[i + 1] - lengths[i]), 0.0), 1.0)
        j = i + 1 if share > 0.5 else i - 1
        turn = 0.0
        if 0 <= j <= last:
            turn = (segments[j][2] - heading + math.pi) % (2 * math.pi) - math.pi
        return x + u * ahead - v * offset_m, y + v * ahead + u * offset_m, heading + abs(share - 0.5) * turn


@dataclass(frozen=True, kw_only=True, eq=False)
class Road:
    """A road with everything up to the outer edge of its sidewalks; widths in metres, per side.

    Attributes:
        line: the centre line.
        lanes: driving lanes per direction.
        parking_m: width of the parking lane, 0 for none.
        median_m: half width of a raised median (class other_flat), 0 for none.
        verge_m: width of the strip between road and sidewalk, 0 for none.
        verge_class: terrain or other_flat.
    """

    line: Polyline
    lanes: int
    lane_m: float
    parking_m: float
    median_m: float
    verge_m: float
    verge_class: int
    sidewalk_m: float

    @property
    def half_width_m(self) -> float:
        """From the centre line to the kerb."""
        return self.median_m + self.lanes * self.lane_m + self.parking_m

    @property
    def half_corridor_m(self) -> float:
        """From the centre line to the outer edge of the sidewalk."""
        return self.half_width_m + self.verge_m + self.sidewalk_m

    def lane_offset_m(self, lane: int) -> float:
        """Distance of a lane's centre from the centre line; lane 0 is the innermost."""
        return self.median_m + (lane + 0.5) * self.lane_m


@njit
def _project(
    points: Float[np.ndarray, "n 2"], lengths: Float[np.ndarray, "n"], x: float, y: float
) -> tuple[float, float]:
    """Signed distance (left positive) from a polyline and the arc length of the foot point."""
    best, best_d, best_s = 1e30, 0.0, 0.0
    n = points.shape[0]
    for i in range(n - 1):
        ax, ay = points[i, 0], points[i, 1]
        ux, uy = points[i + 1, 0] - ax, points[i + 1, 1] - ay
        norm2 = ux * ux + uy * uy
        px, py = x - ax, y - ay
        t = (px * ux + py * uy) / norm2
        # Roads go straight on beyond their ends.
        if i > 0 and t < 0:
            t = 0.0
        if i < n - 2 and t > 1:
            t = 1.0
        ex, ey = px - t * ux, py - t * uy
        d2 = ex * ex + ey * ey
        if d2 < best:
            best = d2
            norm = np.sqrt(norm2)
            best_d = np.sqrt(d2) * (1.0 if ux * py - uy * px > 0 else -1.0)
            best_s = lengths[i] + t * norm
    return best_d, best_s


def distance_to(line: Polyline, x: float, y: float) -> float:
    """Distance of a point from a polyline, metres."""
    return abs(_project(line.points, line.lengths, x, y)[0])


@njit
def _smooth(x: float, y: float, seed: float) -> float:
    """Sines with unrelated directions: a cheap smooth field in about −1..1 with features of unit size."""
    return (
        np.sin(1.3 * x + 0.4 * y + seed)
        + np.sin(-0.5 * x + 1.1 * y + 2.1 * seed)
        + np.sin(0.8 * x - 0.9 * y + 3.7 * seed)
    ) / 2.2


@njit(parallel=True)
def _paint_ground(
    lower_x: float, lower_y: float, cell: float, nx: int, ny: int, lines: Float[np.ndarray, "n 2"],
    lengths: Float[np.ndarray, "n"], starts: Int[np.ndarray, " roads_and_one"], widths: Float[np.ndarray, "roads 7"],
    fillet: float, plaza: float, seed: float,
) -> tuple[UInt8[np.ndarray, "x y"], UInt8[np.ndarray, "x y"], Float[np.ndarray, "x y"]]:  # fmt: skip
    class_id = np.empty((nx, ny), np.uint8)
    paint = np.zeros((nx, ny), np.uint8)
    height = np.empty((nx, ny), np.float32)
    roads = widths.shape[0]
    for i in prange(nx):
        d = np.empty(roads)
        s = np.empty(roads)
        for j in range(ny):
            x, y = lower_x + (i + 0.5) * cell, lower_y + (j + 0.5) * cell
            on = -1
            gap = 1e30  # beyond the kerb of the nearest road
            gap_road = 0
            for r in range(roads):
                d[r], s[r] = _project(lines[starts[r] : starts[r + 1]], lengths[starts[r] : starts[r + 1]], x, y)
                beyond = abs(d[r]) - widths[r, 0]
                if beyond < gap:
                    gap, gap_road = beyond, r
                if beyond < 0 and on < 0:
                    on = r
            crossing_roads = 0
            for r in range(roads):
                if abs(d[r]) < widths[r, 0] + fillet:
                    crossing_roads += 1
            if on < 0 and crossing_roads >= 2:
                # Kerbs are rounded where roads meet.
                a, b = fillet, fillet
                for r in range(roads):
                    beyond = abs(d[r]) - widths[r, 0]
                    if 0 <= beyond < fillet:
                        a, b = fillet - beyond, a
                if a * a + b * b > fillet * fillet:
                    on = gap_road
            verge, sidewalk = widths[gap_road, 1], widths[gap_road, 2]
            if on >= 0:
                class_id[i, j] = DRIVEABLE_SURFACE
                height[i, j] = 0.0
                half, lane, median, lanes = widths[on, 0], widths[on, 3], widths[on, 4], int(widths[on, 5])
                # Distance to the nearest other road: inside it there are no markings, before it a crossing.
                other = 1e30
                for r in range(roads):
                    if r != on:
                        other = min(other, abs(d[r]) - widths[r, 0])
                a = abs(d[on])
                if other > MARKED_BEYOND_M:
                    if median > 0 and a < median:
                        class_id[i, j] = OTHER_FLAT
                        height[i, j] = KERB_M
                    elif median == 0 and 0.08 < a < 0.2:
                        paint[i, j] = 2
                    for k in range(1, lanes + 1):
                        line = median + k * lane
                        if abs(a - line) < 0.07 and (k == lanes or s[on] % 9.0 < 3.0):
                            paint[i, j] = 1
                elif 1.5 < other < 4.5:
                    if a < half - 0.3:
                        paint[i, j] = 3 if d[on] % 1.1 < 0.55 else 4
                elif 5.2 < other < 5.6 and a < half - 0.2:
                    paint[i, j] = 1
            elif gap < verge:
                class_id[i, j] = int(widths[gap_road, 6])
                height[i, j] = KERB_M + 0.02
            elif gap < verge + sidewalk:
                class_id[i, j] = SIDEWALK
                height[i, j] = KERB_M
            else:
                far = gap - verge - sidewalk
                if _smooth(x * 0.11, y * 0.11, seed) > 1.0 - 2.0 * plaza:
                    class_id[i, j] = SIDEWALK
                    height[i, j] = KERB_M
                else:
                    class_id[i, j] = TERRAIN
                    rise = 0.16 * (1.0 + _smooth(x * 0.2, y * 0.2, seed + 1.0)) * min(far / 4.0, 1.0)
                    height[i, j] = KERB_M + min(max(rise, 0.0), 0.35)
    return class_id, paint, height


def paint_ground(
    roads: list[Road], *, lower: tuple[float, float], upper: tuple[float, float], plaza: float, seed: float
) -> Ground:
    """Rasters between two corners (metres); `plaza` is the share of open land that is paved."""
    nx, ny = (round((b - a) / GROUND_CELL_M) for a, b in zip(lower, upper, strict=True))
    lines = np.concatenate([road.line.points for road in roads])
    lengths = np.concatenate([road.line.lengths for road in roads])
    starts = np.cumsum([0] + [len(road.line.points) for road in roads])
    widths = np.array(
        [(r.half_width_m, r.verge_m, r.sidewalk_m, r.lane_m, r.median_m, r.lanes, r.verge_class) for r in roads],
        dtype=np.float64,
    )
    class_id, paint, height = _paint_ground(
        lower[0], lower[1], GROUND_CELL_M, nx, ny, lines, lengths, starts, widths, 5.0, plaza, seed
    )
    return Ground(
        lower[0],
        lower[1],
        GROUND_CELL_M,
        height,
        class_id,
        paint,
        float(height.max()) + 1e-3,
        _OUTSIDE_HEIGHT_M,
    )
