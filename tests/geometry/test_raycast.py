"""The compiled ray caster against twins that say the same in the plainest way."""

from __future__ import annotations

import numba
import numpy as np
import pytest
import torch

from occlift.geometry import raycast_torch
from occlift.geometry.evidence import ray_evidence
from occlift.geometry.grids import VoxelGrid
from occlift.geometry.raycast import crossed_voxels, first_hit, observed_by_camera
from occlift.geometry.transforms import inverse, rigid_transform, rotation_about_z, transform_points

GRID = VoxelGrid(lower_m=(-2.0, -1.5, -1.0), voxel_size_m=(0.5, 0.3, 0.4), shape=(9, 11, 6))


def in_voxels(grid: VoxelGrid, point) -> np.ndarray:
    return (np.asarray(point, float) - grid.lower_m) / grid.voxel_size_m


def voxels_on_ray(grid: VoxelGrid, o, d) -> list[tuple[tuple[int, ...], float, float, int]]:
    """Twin of the traversal: (voxel, entry, exit, entry axis) for every voxel of the grid on the ray o + t d,
    in order.

    o and d are in voxels. Starts in the voxel of the origin, in the grid or not, lists every crossing of
    every plane that bounds a voxel of the grid on the ray's side, sorts them by range and axis, and walks.
    """
    index = np.floor(o).astype(int)
    events = []
    for axis in range(3):
        if abs(d[axis]) < 1e-12:
            continue
        planes = range(min(index[axis], 0) - 1, max(index[axis], grid.shape[axis]) + 3)
        ahead = [p for p in planes if (p > index[axis] if d[axis] > 0 else p <= index[axis])]
        events += [((p - o[axis]) * (1.0 / d[axis]), axis, 1 if d[axis] > 0 else -1) for p in ahead]
    events.sort(key=lambda event: (event[0], -event[1]))
    visited, entry, entry_axis = [], 0.0, -1
    for crossing, axis, step in events:
        if all(0 <= i < n for i, n in zip(index, grid.shape, strict=True)):
            visited.append((tuple(int(i) for i in index), entry, crossing, entry_axis))
        index[axis] += step
        entry, entry_axis = crossing, axis
    return visited


def first_hit_of_one_ray(occupied, grid, origin, direction, max_range_m=np.inf):
    per_metre = direction / np.sqrt(sum(c * c for c in direction)) / grid.voxel_size_m
    for voxel, entry, leave, axis in voxels_on_ray(grid, in_voxels(grid, origin), per_metre):
        if entry <= max_range_m and occupied[voxel]:
            return voxel, entry, leave, axis
    return (-1, -1, -1), np.inf, np.inf, -1


def crossed_by_one_segment(grid, origin, end, blocked) -> set[tuple[int, ...]]:
    o, e = in_voxels(grid, origin), in_voxels(grid, end)
    end_voxel = tuple(np.floor(e).astype(int))
    crossed = set()
    for voxel, entry, _, _ in voxels_on_ray(grid, o, e - o):
        if entry >= 1 or voxel == end_voxel or blocked[voxel]:
            break
        crossed.add(voxel)
    return crossed


def observed_one_by_one(occupied, grid, intrinsics_px, grid_from_camera, height, width):
    """Twin of the camera rule: for every voxel the points to look at, for every point the voxels in
    between."""
    camera = grid_from_camera[:3, 3]
    size = np.asarray(grid.voxel_size_m)
    centers = grid.centers()
    camera_voxel = tuple(np.floor(in_voxels(grid, camera)).astype(int))
    observed = np.zeros(grid.shape, bool)

    def in_sight(point, target) -> bool:
        u, v, depth = intrinsics_px @ transform_points(inverse(grid_from_camera), point)
        if depth <= 0 or not (0 <= u / depth < width and 0 <= v / depth < height):
            return False
        between = []
        o = in_voxels(grid, camera)
        for voxel, entry, _, _ in voxels_on_ray(grid, o, in_voxels(grid, point) - o):
            if entry >= 1 - 1e-9 or voxel == target:
                break
            between.append(voxel)
        return not any(occupied[voxel] for voxel in between if voxel != camera_voxel)

    for target in np.ndindex(*grid.shape):
        if not occupied[target]:
            observed[target] = in_sight(centers[target], target)
            continue
        for axis in range(3):
            for side in (-1, 1):
                neighbour = np.array(target)
                neighbour[axis] += side
                exposed = not all(0 <= i < n for i, n in zip(neighbour, grid.shape, strict=True))
                exposed = exposed or not occupied[tuple(neighbour)]
                face = centers[target].copy()
                face[axis] += side * size[axis] / 2
                if exposed and (camera[axis] - face[axis]) * side > 1e-9 and in_sight(face, target):
                    observed[target] = True
    return observed


def many_rays(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rays of all kinds: from inside and outside, along the axes, in planes, through corners, off the
    lattice."""
    lower, size = np.asarray(GRID.lower_m), np.asarray(GRID.voxel_size_m)
    span = size * GRID.shape
    origins = lower + span * rng.uniform(-0.7, 1.7, (count, 3))
    directions = rng.normal(size=(count, 3))
    on_lattice = rng.random(count) < 0.3
    lattice = lower + size * rng.integers(-3, np.asarray(GRID.shape) + 4, (count, 3))
    origins[on_lattice] = lattice[on_lattice]
    # Through corners: towards a lattice point; diagonal in voxel units; along one or two axes.
    kind = rng.integers(0, 6, count)
    corner = lower + size * rng.integers(0, np.asarray(GRID.shape) + 1, (count, 3))
    directions[kind == 0] = (corner - origins)[kind == 0]
    directions[kind == 1] = (rng.choice([-1.0, 1.0], (count, 3)) * size)[kind == 1]
    directions[kind == 2] = np.eye(3)[rng.integers(0, 3, count)][kind == 2] * rng.choice([-1, 1])
    flat = rng.choice([-1.0, 0.0, 1.0], (count, 3))
    directions[kind == 3] = flat[kind == 3]
    directions[np.all(directions == 0, axis=1)] = [1.0, 0.0, 0.0]
    return origins, directions


@pytest.mark.parametrize("filled", [0.0, 0.05, 0.5, 1.0])
def test_first_hit_equals_its_twin_compiled_and_on_torch(filled: float) -> None:
    """100,000 rays in all."""
    rng = np.random.default_rng(7)
    occupied = rng.random(GRID.shape) < filled
    origins, directions = many_rays(rng, 25_000)
    hits = first_hit(occupied, GRID, origins, directions)
    for ray, (origin, direction) in enumerate(zip(origins, directions, strict=True)):
        voxel, entry, leave, axis = first_hit_of_one_ray(occupied, GRID, origin, direction)
        case = (origin, direction)
        assert tuple(hits.voxel[ray]) == voxel, case
        assert hits.entry_axis[ray] == axis, case
        assert hits.entry_range_m[ray] == entry or abs(hits.entry_range_m[ray] - entry) < 1e-12, case
        assert hits.exit_range_m[ray] == leave or abs(hits.exit_range_m[ray] - leave) < 1e-12, case
    if filled == 1.0:
        inside = np.all((origins >= GRID.lower_m) & (origins < GRID.upper_m), axis=1)
        assert np.array_equal(hits.entry_axis == -1, inside | ~hits.found)
        assert inside.sum() > 1000
        assert (~hits.found).sum() > 1000
    voxel, exit_range_m = raycast_torch.first_hit(torch.from_numpy(occupied), GRID, origins, directions)
    # Not nearly: to the last bit.
    assert np.array_equal(voxel.numpy(), hits.voxel)
    assert np.array_equal(exit_range_m.numpy(), hits.exit_range_m)


def one_ray(occupied_voxels: list[tuple[int, int, int]], origin: list[float], direction: list[float]):
    """First hit in a grid of 4 × 4 × 4 voxels of 1 m with its corner at the origin."""
    grid = VoxelGrid(lower_m=(0.0, 0.0, 0.0), voxel_size_m=(1.0, 1.0, 1.0), shape=(4, 4, 4))
    occupied = np.zeros(grid.shape, bool)
    for voxel in occupied_voxels:
        occupied[voxel] = True
    hits = first_hit(occupied, grid, np.array([origin]), np.array([direction]))
    on_torch = raycast_torch.first_hit(torch.from_numpy(occupied), grid, np.array([origin]), np.array([direction]))
    assert on_torch[0].tolist() == hits.voxel.tolist()
    assert on_torch[1].tolist() == hits.exit_range_m.tolist()
    return tuple(hits.voxel[0].tolist()), float(hits.entry_range_m[0]), float(hits.exit_range_m[0])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_ray_along_an_axis(axis: int, sign: float) -> None:
    origin, direction, voxel = [1.25, 1.25, 1.25], [0.0, 0.0, 0.0], [1, 1, 1]
    direction[axis] = sign
    voxel[axis] = 3 if sign > 0 else 0
    entry = 1.75 if sign > 0 else 0.25
    assert one_ray([tuple(voxel)], origin, direction) == (tuple(voxel), entry, entry + 1)  # type: ignore[list-item]


def test_a_ray_from_outside_of_the_grid() -> None:
    assert one_ray([(1, 2, 2)], [-3.0, 2.5, 2.5], [2.0, 0.0, 0.0]) == ((1, 2, 2), 4.0, 5.0)
    assert one_ray([(1, 2, 2)], [-3.0, 2.5, 2.5], [-1.0, 0.0, 0.0])[0] == (-1, -1, -1)
    assert one_ray([(1, 2, 2)], [-3.0, 4.5, 2.5], [1.0, 0.0, 0.0])[0] == (-1, -1, -1)
    # Through the roof, straight down.
    assert one_ray([(0, 0, 3), (0, 0, 0)], [0.5, 0.5, 9.0], [0.0, 0.0, -1.0]) == ((0, 0, 3), 5.0, 6.0)


def test_a_ray_that_starts_in_an_occupied_voxel_meets_it_and_leaves_it() -> None:
    assert one_ray([(1, 1, 1), (3, 1, 1)], [1.75, 1.5, 1.5], [1.0, 0.0, 0.0]) == ((1, 1, 1), 0.0, 0.25)


def test_through_a_corner_a_ray_steps_along_z_then_y_then_x() -> None:
    corner = 0.5 * np.sqrt(3)
    diagonal = [0.5, 0.5, 0.5], [1.0, 1.0, 1.0]
    everything = [(0, 0, 1), (0, 1, 1), (1, 1, 1)]
    for number, voxel in enumerate(everything):
        found, entry, leave = one_ray(everything[number:], *diagonal)
        assert found == voxel
        assert entry == pytest.approx(corner)
        # Voxels that are touched at the corner only are entered and left at once.
        assert leave == pytest.approx(corner if number < 2 else 3 * corner)
    # The other neighbours of the corner are not touched.
    assert one_ray([(1, 0, 0), (0, 1, 0), (1, 0, 1), (1, 1, 0)], *diagonal)[0] == (-1, -1, -1)


def test_first_hit_lies_where_it_says() -> None:
    """Independent of the twin: half-way between entry and exit the ray is in the voxel."""
    rng = np.random.default_rng(8)
    occupied = rng.random(GRID.shape) < 0.2
    origins, directions = rng.normal(size=(2, 4000, 3)) * 2
    hits = first_hit(occupied, GRID, origins, directions)
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    middle = origins + unit * ((hits.entry_range_m + hits.exit_range_m) / 2)[:, None]
    index, inside_grid = GRID.indices(middle[hits.found])
    assert hits.found.sum() > 500
    assert inside_grid.all()
    assert np.array_equal(index, hits.voxel[hits.found])


def test_first_hit_range_limit_and_degenerate_rays() -> None:
    occupied = np.zeros(GRID.shape, bool)
    occupied[6] = True
    origins = np.zeros((5, 3))
    directions = np.array([[2.0, 0, 0], [-1, 0, 0], [0, 0, 0], [np.nan, 1, 0], [np.inf, 0, 0]])
    hits = first_hit(occupied, GRID, origins, directions)
    assert hits.found.tolist() == [True, False, False, False, False]
    assert hits.entry_range_m[0] == pytest.approx(1.0)
    assert hits.exit_range_m[0] == pytest.approx(1.5)
    assert np.isinf(hits.entry_range_m[1:]).all()
    assert not first_hit(occupied, GRID, origins, directions, max_range_m=0.99).found.any()
    assert first_hit(occupied, GRID, origins, directions, max_range_m=1.01).found[0]
    assert not first_hit(occupied, GRID, np.full((1, 3), np.nan), directions[:1]).found[0]
    assert len(first_hit(occupied, GRID, np.zeros((0, 3)), np.zeros((0, 3))).found) == 0


@pytest.mark.parametrize("distance_m", [1e13, 1e25, 1e300])
def test_a_ray_from_too_far_away_meets_nothing(distance_m: float) -> None:
    """Float64 does not resolve voxels from there; the search for the voxel of entry must end all the same."""
    directions = np.random.default_rng(14).normal(size=(50, 3))
    assert not first_hit(np.ones(GRID.shape, bool), GRID, -directions * distance_m, directions).found.any()


@pytest.mark.parametrize("filled", [0.0, 0.05])
def test_crossed_voxels_equals_its_twin(filled: float) -> None:
    rng = np.random.default_rng(9)
    blocked = rng.random(GRID.shape) < filled
    origins, directions = many_rays(rng, 600)
    # Ends off the lattice: on it, the order of an end and a crossing at the same point is one of rounding.
    ends = origins + directions * rng.uniform(0.3, 4.0, (600, 1))
    everything: set[tuple[int, ...]] = set()
    for origin, end in zip(origins, ends, strict=True):
        crossed = crossed_voxels(GRID, origin[None], end[None], blocked=blocked)
        expected = crossed_by_one_segment(GRID, origin, end, blocked)
        assert {tuple(map(int, v)) for v in np.argwhere(crossed)} == expected, (origin, end)
        everything |= expected
    together = crossed_voxels(GRID, origins, ends, blocked=blocked)
    assert {tuple(map(int, v)) for v in np.argwhere(together)} == everything
    assert not (together & blocked).any()


def test_obstruction_answers_for_every_threshold() -> None:
    rng = np.random.default_rng(12)
    weight = rng.choice(np.array([0, 0, 0, 1, 2, 5, 254, 255], np.uint8), GRID.shape)
    origins, directions = many_rays(rng, 3000)
    ends = origins + directions * rng.uniform(0.3, 4.0, (3000, 1))
    least, _ = ray_evidence(weight, GRID, origins, ends)
    for threshold in (1, 2, 3, 6, 254, 255):
        crossed = crossed_voxels(GRID, origins, ends, blocked=weight >= threshold)
        assert np.array_equal((least < threshold) & (weight < threshold), crossed), threshold
    nothing, never = ray_evidence(weight, GRID, origins[:0], ends[:0])
    assert (nothing == 255).all()
    assert (never == 0).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_rays_that_pass_are_counted(threads: int) -> None:
    rng = np.random.default_rng(13)
    blocked = rng.random(GRID.shape) < 0.05
    origins, directions = many_rays(rng, 1500)
    ends = origins + directions * rng.uniform(0.3, 4.0, (1500, 1))
    expected = np.zeros(GRID.shape, int)
    for origin, end in zip(origins, ends, strict=True):
        # What stops a ray is passed into, not through; the twin lists what lies before it.
        crossed = crossed_by_one_segment(GRID, origin, end, blocked)
        for voxel in crossed:
            expected[voxel] += 1
    before = numba.get_num_threads()
    numba.set_num_threads(min(threads, before))
    try:
        _, passed = ray_evidence(np.where(blocked, 255, 0).astype(np.uint8), GRID, origins, ends)
    finally:
        numba.set_num_threads(before)
    assert np.array_equal(passed[~blocked], np.minimum(expected, 255)[~blocked])
    assert passed.max() > 10


def test_crossed_voxels_does_not_depend_on_threads() -> None:
    rng = np.random.default_rng(10)
    origins, ends = rng.normal(size=(2, 20000, 3)) * 2
    before = numba.get_num_threads()
    results = []
    try:
        for threads in (1, numba.config.NUMBA_NUM_THREADS):
            numba.set_num_threads(threads)
            results.append(crossed_voxels(GRID, origins, ends))
    finally:
        numba.set_num_threads(before)
    assert np.array_equal(results[0], results[1])


def test_a_segment_does_not_cross_the_voxel_it_ends_in() -> None:
    crossed = crossed_voxels(GRID, np.array([[-1.9, 0.1, 0.1]]), np.array([[0.6, 0.1, 0.1]]))
    assert np.argwhere(crossed).tolist() == [[i, 5, 2] for i in range(5)]
    unfinished = crossed_voxels(GRID, np.array([[-1.9, 0.1, 0.1]]), np.array([[np.inf, 0.1, 0.1]]))
    assert not unfinished.any()


@pytest.mark.parametrize("filled", [0.0, 0.03, 0.3])
@pytest.mark.parametrize("place", ["inside", "outside"])
def test_observed_by_camera_equals_its_twin(filled: float, place: str) -> None:
    rng = np.random.default_rng(11)
    occupied = rng.random(GRID.shape) < filled
    position = [-0.13, 0.07, 0.21] if place == "inside" else [-3.7, 0.4, 1.9]
    forward = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    for turn in (0.0, 0.3):
        grid_from_camera = rigid_transform(rotation_about_z(turn) @ forward, position)
        intrinsics_px = np.array([[40.0, 0.0, 31.0], [0.0, 42.0, 20.0], [0.0, 0.0, 1.0]])
        observed = observed_by_camera(occupied, GRID, intrinsics_px, grid_from_camera, 40, 64)
        expected = observed_one_by_one(occupied, GRID, intrinsics_px, grid_from_camera, 40, 64)
        assert np.array_equal(observed, expected)
        assert observed.any()
        among = rng.random(GRID.shape) < 0.5
        some = observed_by_camera(occupied, GRID, intrinsics_px, grid_from_camera, 40, 64, among=among)
        assert np.array_equal(some, observed & among)


def test_nothing_is_observed_behind_a_wall() -> None:
    grid = VoxelGrid(lower_m=(0.0, -10.0, -10.0), voxel_size_m=(1.0, 1.0, 1.0), shape=(20, 20, 20))
    occupied = np.zeros(grid.shape, bool)
    occupied[8] = True
    occupied[12, 10, 10] = True
    forward = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    intrinsics_px = np.array([[50.0, 0.0, 50.0], [0.0, 50.0, 50.0], [0.0, 0.0, 1.0]])
    observed = observed_by_camera(occupied, grid, intrinsics_px, rigid_transform(forward, (0.4, 0.3, 0.2)), 100, 100)
    assert not observed[9:].any()
    assert observed[8].sum() > 100
    assert observed[7, 8:12, 8:12].all()


@pytest.mark.parametrize("filled", [0.03, 0.3])
def test_only_valid_pixels_observe(filled: float) -> None:
    """As a camera with several images would observe that together are the valid pixels."""
    rng = np.random.default_rng(12)
    occupied = rng.random(GRID.shape) < filled
    forward = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    camera = np.array([[40.0, 0.0, 31.0], [0.0, 42.0, 20.0], [0.0, 0.0, 1.0]]), rigid_transform(forward, [-3.7, 0.1, 0])
    whole = observed_by_camera(occupied, GRID, *camera, 40, 64)
    assert np.array_equal(observed_by_camera(occupied, GRID, *camera, 40, 64, valid=np.ones((40, 64), bool)), whole)
    assert not observed_by_camera(occupied, GRID, *camera, 40, 64, valid=np.zeros((40, 64), bool)).any()
    valid = np.zeros((40, 64), bool)
    valid[:, :29] = True
    left = observed_by_camera(occupied, GRID, *camera, 40, 64, valid=valid)
    assert np.array_equal(left, observed_by_camera(occupied, GRID, *camera, 40, 29))
    assert 0 < left.sum() < whole.sum()
    right = observed_by_camera(occupied, GRID, *camera, 40, 64, valid=~valid)
    assert np.array_equal(left | right, whole)
