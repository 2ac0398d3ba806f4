"""Exact occupancy truth by Occ3D's rules, from the same geometry that the pictures show.

Surfaces are sampled evenly at `SPACING_M`; a voxel is occupied when at least `MIN_SAMPLES` samples fall into it (a
surface of about 0.05 m², a third of a voxel's face) and takes the class that covers most of it. As in Occ3D, whose
truth comes from lidar points, objects are shells: what is inside a car is not observed by anyone and stays free
with both masks 0. The ground is the surface itself, one or two voxels thick.

Masks (reference: Occ3D): `mask_lidar` holds the voxels that a beam of any key frame of the scene ends in or
passes on its way, at the resolution of a 0.2 m grid in the global frame; `mask_camera` holds those that a camera of
this key frame sees with no occupied voxel before them, within `mask_lidar`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8, UInt16
from numba import prange

from occlift.geometry.grids import OCC3D_GRID, VoxelGrid
from occlift.geometry.raycast import crossed_voxels
from occlift.geometry.transforms import inverse
from occlift.label_space import FREE
from occlift.runtime.kernels import njit
from occlift.town import parts as p
from occlift.town.layout import TownScene
from occlift.town.roads import GROUND_CELL_M
from occlift.town.trace import Ground, ground_height

SPACING_M: Final = GROUND_CELL_M
MIN_SAMPLES: Final = 3
_OBSERVED_CELL_M: Final = 0.2
_CAVITY_M: Final = 0.02
"""Samples this far below the ground are buried."""


def _square(u_m: float, v_m: float) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """An even grid over [−1, 1]² with as many samples as a face of u × v metres needs."""
    nu, nv = max(1, round(u_m / SPACING_M)), max(1, round(v_m / SPACING_M))
    u, v = np.meshgrid((2 * np.arange(nu) + 1) / nu - 1, (2 * np.arange(nv) + 1) / nv - 1, indexing="ij")
    return u.ravel(), v.ravel()


def _box_surface(row: Float[np.ndarray, "columns"], *, bottom: bool) -> Float[np.ndarray, "n 3"]:
    hx, hy, hz = row[p.HALF : p.HALF + 3]
    taper = row[p.TAPER]

    def length_at(v: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        return hx * (1 - (1 - taper) * (v + 1) / 2)

    faces = []
    u, v = _square(2 * hx, 2 * hz)
    faces += [np.stack([u * length_at(v), np.full_like(u, side * hy), v * hz], -1) for side in (-1, 1)]
    u, v = _square(2 * hy, 2 * hz)
    faces += [np.stack([side * length_at(v), u * hy, v * hz], -1) for side in (-1, 1)]
    u, v = _square(2 * hx * taper, 2 * hy)
    faces.append(np.stack([u * hx * taper, v * hy, np.full_like(u, hz)], -1))
    if bottom:
        u, v = _square(2 * hx, 2 * hy)
        faces.append(np.stack([u * hx, v * hy, np.full_like(u, -hz)], -1))
    return np.concatenate(faces)


def _round_surface(row: Float[np.ndarray, "columns"], *, cone: bool, bottom: bool) -> Float[np.ndarray, "n 3"]:
    """Upright cylinder or cone."""
    r, hz = row[p.HALF], row[p.HALF + 2]
    u, v = _square(2 * np.pi * r, 2 * hz)
    radius = r * (1 - v) / 2 if cone else np.full_like(u, r)
    if cone:  # as many samples per area near the apex as at the base
        keep = ((np.arange(len(u)) * 0.6180339887) % 1.0) < (1 - v) / 2
        u, v, radius = u[keep], v[keep], radius[keep]
    faces = [np.stack([radius * np.cos(np.pi * u), radius * np.sin(np.pi * u), v * hz], -1)]
    a, b = _square(2 * r, 2 * r)
    disc = a * a + b * b <= 1
    ends = ([] if cone else [hz]) + ([-hz] if bottom else [])
    faces += [np.stack([a[disc] * r, b[disc] * r, np.full(int(disc.sum()), end)], -1) for end in ends]
    return np.concatenate(faces)


def _ellipsoid_surface(row: Float[np.ndarray, "columns"]) -> Float[np.ndarray, "n 3"]:
    half = row[p.HALF : p.HALF + 3]
    # Knud Thomsen's approximation of the area, and a Fibonacci lattice.
    a, b, c = half**1.6075
    area = 4 * np.pi * ((a * b + a * c + b * c) / 3) ** (1 / 1.6075)
    n = max(8, round(area / SPACING_M**2))
    i = np.arange(n)
    z = 1 - (2 * i + 1) / n
    r, angle = np.sqrt(1 - z * z), i * 2.399963229728653
    return np.stack([r * np.cos(angle), r * np.sin(angle), z], -1) * half


def _wheel_surface(row: Float[np.ndarray, "columns"]) -> Float[np.ndarray, "n 3"]:
    upright = row.copy()
    upright[p.HALF + 2] = row[p.HALF + 1]
    return _round_surface(upright, cone=False, bottom=True)[:, [0, 2, 1]]


def surface_samples(
    parts: Float[np.ndarray, "n columns"], ground_m: Float[np.ndarray, "n"] | float = 0.0
) -> tuple[Float[np.ndarray, "m 3"], UInt8[np.ndarray, "m"]]:
    """Even samples of the parts' surfaces in the parts' common frame (metres), and classes.

    Args:
        ground_m: the height on which each part's object stands; bottoms that lie on it have no samples.
    """
    points, class_ids = [np.zeros((0, 3))], [np.zeros(0, np.uint8)]
    raised = parts[:, p.CENTER + 2] - parts[:, p.HALF + 2] - ground_m > 0.1
    for row, bottom in zip(parts, raised, strict=True):
        kind = p.Kind(int(row[p.KIND]))
        if kind is p.Kind.BOX:
            local = _box_surface(row, bottom=bool(bottom))
        elif kind is p.Kind.ELLIPSOID:
            local = _ellipsoid_surface(row)
        elif kind is p.Kind.WHEEL:
            local = _wheel_surface(row)
        else:
            local = _round_surface(row, cone=kind is p.Kind.CONE, bottom=bool(bottom))
        cos, sin = row[p.COS], row[p.SIN]
        x, y, z = local.T
        points.append(np.stack([cos * x - sin * y, sin * x + cos * y, z], -1) + row[p.CENTER : p.CENTER + 3])
        class_ids.append(np.full(len(local), int(row[p.CLASS]), np.uint8))
    return np.concatenate(points), np.concatenate(class_ids)


@njit
def _unburied(ground: Ground, points: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, "n"]:
    keep = np.empty(points.shape[0], np.bool_)
    for i in range(points.shape[0]):
        keep[i] = points[i, 2] >= ground_height(ground, points[i, 0], points[i, 1]) - _CAVITY_M
    return keep


@njit(inline="always")
def _voxel_of(
    m: Float[np.ndarray, "4 4"], lower: Float[np.ndarray, "3"], size: Float[np.ndarray, "3"], x: float, y: float,
    z: float,
) -> tuple[int, int, int]:  # fmt: skip
    """Indices of the voxel that a point falls into after the transform m; they may lie outside of the grid."""
    a = int(np.floor((m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3] - lower[0]) / size[0]))
    b = int(np.floor((m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3] - lower[1]) / size[1]))
    c = int(np.floor((m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3] - lower[2]) / size[2]))
    return a, b, c


@njit
def _count_points(
    points: Float[np.ndarray, "n 3"], class_ids: UInt8[np.ndarray, "n"], m: Float[np.ndarray, "4 4"],
    lower: Float[np.ndarray, "3"], size: Float[np.ndarray, "3"], votes: UInt16[np.ndarray, "x y z classes"],
) -> None:  # fmt: skip
    nx, ny, nz = votes.shape[0], votes.shape[1], votes.shape[2]
    for i in range(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        a, b, c = _voxel_of(m, lower, size, x, y, z)
        if 0 <= a < nx and 0 <= b < ny and 0 <= c < nz:
            votes[a, b, c, class_ids[i]] += 1


@njit
def _mark_points(
    points: Float[np.ndarray, "n 3"], m: Float[np.ndarray, "4 4"], lower: Float[np.ndarray, "3"],
    size: Float[np.ndarray, "3"], mask: Bool[np.ndarray, "x y z"],
) -> None:  # fmt: skip
    for i in range(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        a, b, c = _voxel_of(m, lower, size, x, y, z)
        if 0 <= a < mask.shape[0] and 0 <= b < mask.shape[1] and 0 <= c < mask.shape[2]:
            mask[a, b, c] = True


@njit
def _count_ground(
    ground: Ground, covered: Bool[np.ndarray, "x y"], m: Float[np.ndarray, "4 4"], lower: Float[np.ndarray, "3"],
    size: Float[np.ndarray, "3"], reach: float, votes: UInt16[np.ndarray, "x y z classes"],
) -> None:  # fmt: skip
    nx, ny, nz = votes.shape[0], votes.shape[1], votes.shape[2]
    # The ego's position in the global frame is −Rᵀt of global → ego.
    ex = -(m[0, 0] * m[0, 3] + m[1, 0] * m[1, 3] + m[2, 0] * m[2, 3])
    ey = -(m[0, 1] * m[0, 3] + m[1, 1] * m[1, 3] + m[2, 1] * m[2, 3])
    cell = ground.cell_m
    i0, i1 = int((ex - reach - ground.lower_x) / cell), int((ex + reach - ground.lower_x) / cell)
    j0, j1 = int((ey - reach - ground.lower_y) / cell), int((ey + reach - ground.lower_y) / cell)
    for i in range(max(i0, 0), min(i1, ground.height_m.shape[0])):
        for j in range(max(j0, 0), min(j1, ground.height_m.shape[1])):
            if covered[i, j]:
                continue
            x, y = ground.lower_x + (i + 0.5) * cell, ground.lower_y + (j + 0.5) * cell
            z = ground.height_m[i, j]
            a, b, c = _voxel_of(m, lower, size, x, y, z)
            if 0 <= a < nx and 0 <= b < ny and 0 <= c < nz:
                votes[a, b, c, ground.class_id[i, j]] += 1


@njit(parallel=True)
def _majority(votes: UInt16[np.ndarray, "x y z classes"], min_samples: int) -> UInt8[np.ndarray, "x y z"]:
    nx, ny, nz, classes = votes.shape
    semantics = np.empty((nx, ny, nz), np.uint8)
    for x in prange(nx):
        for y in range(ny):
            for z in range(nz):
                total, best, winner = 0, 0, FREE
                for k in range(classes):
                    n = votes[x, y, z, k]
                    total += n
                    if n > best:
                        best, winner = n, k
                semantics[x, y, z] = winner if total >= min_samples else FREE
    return semantics


def _covered(ground: Ground, parts: Float[np.ndarray, "n columns"]) -> Bool[np.ndarray, "x y"]:
    """Ground cells below boxes that stand on the ground (buildings, walls): nobody will ever see them."""
    nx, ny = ground.height_m.shape
    covered = np.zeros((nx, ny), dtype=bool)
    solid = (parts[:, p.KIND] == p.Kind.BOX) & (parts[:, p.CENTER + 2] - parts[:, p.HALF + 2] < 0.4)
    for row in parts[solid]:
        reach = float(np.hypot(row[p.HALF], row[p.HALF + 1]))
        low = np.floor((row[p.CENTER : p.CENTER + 2] - reach) / ground.cell_m).astype(int).clip(0)
        high = np.ceil((row[p.CENTER : p.CENTER + 2] + reach) / ground.cell_m).astype(int).clip(0)
        i, j = np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]), indexing="ij")
        inside_raster = (i < nx) & (j < ny)
        i, j = i[inside_raster], j[inside_raster]
        x, y = (i + 0.5) * ground.cell_m - row[p.CENTER], (j + 0.5) * ground.cell_m - row[p.CENTER + 1]
        u, v = row[p.COS] * x + row[p.SIN] * y, -row[p.SIN] * x + row[p.COS] * y
        inside = (np.abs(u) < row[p.HALF]) & (np.abs(v) < row[p.HALF + 1])
        covered[i[inside], j[inside]] = True
    return covered


class SceneTruth:
    """Truth of one scene, key frame by key frame; what does not change is sampled once.

    Args:
        scene: the world.
        grid: in the ego frame at the lidar's time.
    """

    def __init__(self, scene: TownScene, grid: VoxelGrid = OCC3D_GRID) -> None:
        self._scene, self._grid = scene, grid
        parts = scene.static.parts
        stands_at_m = np.array([ground_height(scene.ground, x, y) for x, y in parts[:, p.CENTER : p.CENTER + 2]])
        points, class_ids = surface_samples(parts, stands_at_m)
        keep = _unburied(scene.ground, points)
        self._static_points, self._static_classes = points[keep], class_ids[keep]
        self._covered = _covered(scene.ground, scene.static.parts)
        self._object_samples = [surface_samples(thing.shape.parts) for thing in scene.objects]
        size = np.array(scene.ground.height_m.shape) * scene.ground.cell_m
        nx, ny, nz = (int(np.ceil(n / _OBSERVED_CELL_M)) for n in (*size, 8.0))
        self._observed_grid = VoxelGrid(
            lower_m=(scene.ground.lower_x, scene.ground.lower_y, -1.6),
            voxel_size_m=(_OBSERVED_CELL_M, _OBSERVED_CELL_M, _OBSERVED_CELL_M),
            shape=(nx, ny, nz),
        )
        self._observed = np.zeros(self._observed_grid.shape, dtype=bool)
        self._ends_global: list[Float[np.ndarray, "n 3"]] = []

    def semantics(self, global_from_ego: Float[np.ndarray, "4 4"], time_s: float) -> UInt8[np.ndarray, "x y z"]:
        """Classes 0..16, 17 = free, at a time, in the grid of the ego frame."""
        grid = self._grid
        votes = np.zeros((*grid.shape, FREE), np.uint16)
        lower, size = np.array(grid.lower_m), np.array(grid.voxel_size_m)
        ego_from_global = inverse(global_from_ego)
        reach = 1.01 * float(np.hypot(*np.maximum(np.abs(grid.lower_m[:2]), np.abs(grid.upper_m[:2]))))
        _count_ground(self._scene.ground, self._covered, ego_from_global, lower, size, reach, votes)
        _count_points(self._static_points, self._static_classes, ego_from_global, lower, size, votes)
        for (x, y, z, yaw), (points, class_ids) in zip(self._scene.poses(time_s), self._object_samples, strict=True):
            if np.hypot(global_from_ego[0, 3] - x, global_from_ego[1, 3] - y) > reach + 10:
                continue
            cos, sin = np.cos(yaw), np.sin(yaw)
            global_from_object = np.array([[cos, -sin, 0, x], [sin, cos, 0, y], [0, 0, 1, z], [0, 0, 0, 1]])
            _count_points(points, class_ids, ego_from_global @ global_from_object, lower, size, votes)
        return _majority(votes, MIN_SAMPLES)

    def add_beams(self, origin_global: Float[np.ndarray, "3"], ends_global: Float[np.ndarray, "n 3"]) -> None:
        """Records what the beams of one sweep ended in or passed."""
        grid = self._observed_grid
        self._observed |= crossed_voxels(grid, np.broadcast_to(origin_global, ends_global.shape).copy(), ends_global)
        self._ends_global.append(ends_global)

    def mask_lidar(self, global_from_ego: Float[np.ndarray, "4 4"]) -> Bool[np.ndarray, "x y z"]:
        """Voxels that the beams recorded so far ended in or passed."""
        observed, grid = self._observed_grid, self._grid
        mask = _look_up(
            self._observed,
            np.array(observed.lower_m),
            np.array(observed.voxel_size_m),
            global_from_ego,
            np.array(grid.lower_m),
            np.array(grid.voxel_size_m),
            np.array(grid.shape),
        )
        # Returns are marked in the voxels of this frame itself: the global grid would blur them.
        lower, size = np.array(grid.lower_m), np.array(grid.voxel_size_m)
        for ends_global in self._ends_global:
            _mark_points(ends_global, inverse(global_from_ego), lower, size, mask)
        return mask


@njit(parallel=True)
def _look_up(
    observed: Bool[np.ndarray, "x y z"], observed_lower: Float[np.ndarray, "3"], observed_size: Float[np.ndarray, "3"],
    m: Float[np.ndarray, "4 4"], lower: Float[np.ndarray, "3"], size: Float[np.ndarray, "3"],
    shape: Int[np.ndarray, "3"],
) -> Bool[np.ndarray, "x2 y2 z2"]:  # fmt: skip
    out = np.zeros((shape[0], shape[1], shape[2]), np.bool_)
    for x in prange(shape[0]):
        for y in range(shape[1]):
            for z in range(shape[2]):
                for corner in range(8):  # the centres of the voxel's eight octants
                    px = lower[0] + (x + 0.25 + 0.5 * (corner & 1)) * size[0]
                    py = lower[1] + (y + 0.25 + 0.5 * ((corner >> 1) & 1)) * size[1]
                    pz = lower[2] + (z + 0.25 + 0.5 * (corner >> 2)) * size[2]
                    a, b, c = _voxel_of(m, observed_lower, observed_size, px, py, pz)
                    inside = 0 <= a < observed.shape[0] and 0 <= b < observed.shape[1] and 0 <= c < observed.shape[2]
                    if inside and observed[a, b, c]:
                        out[x, y, z] = True
                        break
    return out
