"""Labels against measured depth: the walk of every ray against a twin, cases by hand, other times."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from occlift.errors import ConfigError
from occlift.evaluation.audit import audit
from occlift.evaluation.audit_depth import OUTCOMES, MeasuredDepth, compare_with_rays, flat_road, ray_outcomes
from occlift.geometry.grids import VoxelGrid
from occlift.geometry.transforms import rigid_transform
from occlift.label_space import CAR, DRIVEABLE_SURFACE, FREE, MANMADE, OCC3D, UNKNOWN, LabelSpace
from occlift.labels.files import OccupancyLabel, label_path, write_label
from occlift.scenes import KeyFrameList
from occlift.scenes.frames import CameraImage, KeyFrame, LidarSweep

SPACE = LabelSpace(
    grid=VoxelGrid(lower_m=(-2.0, -4.0, -1.0), voxel_size_m=(1.0, 0.8, 0.4), shape=(24, 10, 8)),
    taxonomy=OCC3D.taxonomy,
)


def voxels_on_the_way(grid: VoxelGrid, origin: np.ndarray, end: np.ndarray) -> list[tuple[int, ...]]:
    """Twin of the walk: cuts the segment at every plane between voxels, and asks in which voxel each piece lies."""
    cuts = [0.0, 1.0]
    for axis in range(3):
        for plane in grid.lower_m[axis] + np.arange(grid.shape[axis] + 1) * grid.voxel_size_m[axis]:
            t = (plane - origin[axis]) / (end[axis] - origin[axis])
            if 0 < t < 1:
                cuts.append(float(t))
    cuts.sort()
    middles = [origin + (a + b) / 2 * (end - origin) for a, b in pairwise(cuts) if b > a]
    found = (np.floor((middle - grid.lower_m) / grid.voxel_size_m).astype(int) for middle in middles)
    return [tuple(map(int, v)) for v in found if all(0 <= i < n for i, n in zip(v, grid.shape, strict=True))]


def outcomes_of_one_ray(semantics: np.ndarray, grid: VoxelGrid, origin: np.ndarray, end: np.ndarray) -> set[str]:
    way = voxels_on_the_way(grid, origin, end)
    x, y, z = way[-1]
    around = semantics[max(0, x - 1) : x + 2, max(0, y - 1) : y + 2, max(0, z - 1) : z + 2]
    before = [semantics[v] < FREE for v in way if max(abs(np.array(v) - way[-1])) > 1]
    state = semantics[x, y, z]
    return {
        "points",
        "hit" if state < FREE else "unknown" if state == UNKNOWN else "miss",
        *(["near"] if (around < FREE).any() else []),
        *(["occluded"] if any(before) else []),
        *(["pierced"] if any(a and not b for i, a in enumerate(before) for b in before[i:]) else []),
    }


@pytest.mark.parametrize("filled", [0.01, 0.1, 0.9])
def test_every_ray_equals_its_twin(filled: float) -> None:
    rng = np.random.default_rng(1)
    grid = SPACE.grid
    shares = [filled * 0.7, filled * 0.3, (1 - filled) * 0.7, (1 - filled) * 0.3]
    semantics = rng.choice(np.array([CAR, MANMADE, FREE, UNKNOWN], np.uint8), grid.shape, p=shares)
    lower, extent = np.array(grid.lower_m), np.array(grid.shape) * grid.voxel_size_m
    origins = lower + extent * rng.uniform(-0.3, 1.3, (400, 3))
    ends = lower + extent * rng.uniform(0, 1, (400, 3))
    found = ray_outcomes(semantics, origins, ends, space=SPACE)
    for outcomes, origin, end in zip(found, origins, ends, strict=True):
        expected = outcomes_of_one_ray(semantics, grid, origin, end)
        assert {name for name, is_so in zip(OUTCOMES, outcomes, strict=True) if is_so} == expected, (origin, end)
    assert found.any(axis=0).all()
    together = compare_with_rays(semantics, origins, ends, space=SPACE)
    assert together.counts.sum(axis=0).tolist() == found.sum(axis=0).tolist()
    parts = [compare_with_rays(semantics, origins[a:b], ends[a:b], space=SPACE) for a, b in ((0, 150), (150, 400))]
    assert np.array_equal((parts[0] + parts[1]).counts, together.counts)


def test_cases_by_hand() -> None:
    """A lidar at x = 0 that looks along x, 11 voxels of 1 m, at a wall at x = 10.5 m."""
    origin, end = np.array([[0.5, 0.1, 0.1]]), np.array([[10.5, 0.1, 0.1]])

    def shares(*occupied: tuple[slice, int], rest: int = FREE) -> dict[str, float]:
        semantics = np.full(SPACE.grid.shape, rest, np.uint8)
        for where, value in occupied:
            semantics[where] = value
        found = compare_with_rays(semantics, origin, end, space=SPACE)
        assert found.counts[1].sum() == found.counts.sum(), "10 m belong to the second range"
        return found.shares()["10-20"]

    wall = (slice(12, 13), MANMADE)
    nothing = dict.fromkeys(OUTCOMES[1:], 0.0)
    assert shares() == {**nothing, "miss": 100.0}
    assert shares(rest=UNKNOWN) == {**nothing, "unknown": 100.0}
    assert shares(wall) == {**nothing, "hit": 100.0, "near": 100.0}
    assert shares((slice(13, 14), MANMADE)) == {**nothing, "miss": 100.0, "near": 100.0}
    # One voxel too near is near, two are before it.
    assert shares((slice(11, 12), MANMADE), rest=UNKNOWN) == {**nothing, "unknown": 100.0, "near": 100.0}
    assert shares((slice(10, 11), MANMADE)) == {**nothing, "miss": 100.0, "occluded": 100.0}
    assert shares((slice(9, 10), MANMADE)) == {**nothing, "miss": 100.0, "occluded": 100.0, "pierced": 100.0}
    # A thick wall is met too early, but not seen through; a car before it is.
    thick = shares((slice(7, 13), MANMADE))
    assert thick == {**nothing, "hit": 100.0, "near": 100.0, "occluded": 100.0}
    assert shares((slice(5, 6), CAR), wall) == {**thick, "pierced": 100.0}
    assert shares(rest=MANMADE) == thick
    # Behind the point, and where the sensor cannot look, a label may say what it likes.
    assert shares(wall, (slice(14, 16), CAR)) == shares(wall)
    outside = compare_with_rays(np.full(SPACE.grid.shape, FREE, np.uint8), origin, end + 100, space=SPACE)
    assert (outside.counts.sum(), outside.outside) == (0, 1)
    assert np.isnan(outside.shares()["all"]["hit"])


def test_a_flat_road_lies_where_the_label_has_its_own() -> None:
    semantics = np.full(SPACE.grid.shape, FREE, np.uint8)
    assert np.unique(np.argwhere(flat_road(semantics, space=SPACE) < FREE)[:, 2]).tolist() == [2], "holds z = 0"
    semantics[:, :, 4] = DRIVEABLE_SURFACE
    semantics[:, :, 6] = MANMADE
    flat = flat_road(semantics, space=SPACE)
    assert np.array_equal(flat < FREE, np.broadcast_to(np.arange(8) == 4, SPACE.grid.shape))


class Points:
    """A sweep in memory."""

    name = "sweep"

    def __init__(self, points: np.ndarray) -> None:
        self._points = points

    def read(self) -> np.ndarray:
        return np.concatenate([self._points, np.zeros((len(self._points), 2))], axis=1).astype(np.float32)


class Nothing:
    """An image that nobody opens."""

    name, stem = "image.png", ""

    def valid(self) -> None:
        return None


def drive() -> KeyFrameList:
    """Four key frames, 2 m of way from one to the next, of a lidar and a camera 0.8 m above x = 0, and a wall across
    the way 20.2 m ahead of the first."""
    ego_from_lidar = rigid_transform(np.eye(3), np.array([0.0, 0.0, 0.8]))
    ego_from_camera = ego_from_lidar.copy()
    ego_from_camera[:3, :3] = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    frames = []
    for i in range(4):
        pose = rigid_transform(np.eye(3), np.array([2.0 * i, 0.0, 0.0]))
        y, z = (a.ravel() for a in np.meshgrid(np.linspace(-3, 3, 7), np.linspace(-1.1, 1.1, 5)))
        wall = np.stack([np.full(35, 20.2 - 2 * i), y, z], axis=1)
        own = np.array([[1.0, 0.0, -0.6], [np.nan, 0.0, 0.0]])
        image = CameraImage(
            camera="front", key=f"front_{i}", timestamp_us=i, height=20, width=40,
            intrinsics_px=np.array([[200.0, 0, 20], [0, 200, 10], [0, 0, 1]]), ego_at_image_from_camera=ego_from_camera,
            global_from_ego_at_image=pose, source=Nothing(),
        )  # fmt: skip
        sweep = LidarSweep(
            key=f"sweep_{i}", timestamp_us=i, ego_from_lidar=ego_from_lidar, global_from_ego=pose,
            source=Points(np.concatenate([wall, own])),
        )  # fmt: skip
        frames.append(
            KeyFrame(
                token=f"t{i}", scene="s", index=i, timestamp_us=i, global_from_ego=pose, cameras=(image,), lidar=sweep
            )
        )
    return KeyFrameList(frames)


def write_labels(folder: Path) -> None:
    """What is true of the drive, but that the label of the last key frame has the wall 1 m too near."""
    for i in range(4):
        semantics = np.full(SPACE.grid.shape, FREE, np.uint8)
        at = SPACE.grid.indices(np.array([[20.2 - 2 * i - (i == 3), 0.0, 0.0]]))[0][0, 0]
        semantics[at] = MANMADE
        seen = np.ones(SPACE.grid.shape, bool)
        write_label(
            label_path(folder, "s", f"t{i}"),
            OccupancyLabel(semantics=semantics, mask_lidar=seen, mask_camera=seen, confidence=None),
            space=SPACE,
        )


def test_sweeps_and_maps_of_this_time_and_another(tmp_path: Path) -> None:
    data = drive()
    write_labels(tmp_path / "labels")
    for i in range(4):
        path = tmp_path / "maps" / f"front_{i}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, np.full((20, 40), 20.2 - 2 * i, np.float32))
    options = {"root": str(tmp_path / "maps"), "pattern": "{stem}.npy"}
    for name, given, most in (("lidar", {}, 35), ("files", options, 20 * 40)):
        depth = MeasuredDepth(data, name, options=given)
        found = audit(tmp_path / "labels", space=SPACE, depth=depth).depth
        assert found
        # Three labels are right, whatever moves the ego; the own body and what is not a number are no points.
        assert found.frames == 4
        assert found.labels.counts[:, 0].sum() == 4 * most
        assert found.labels.shares()["all"]["hit"] == 75, name
        assert found.flat.shares()["all"]["hit"] < 40
        later = audit(tmp_path / "labels", space=SPACE, depth=MeasuredDepth(data, name, options=given, offset=-1)).depth
        assert later
        assert (later.frames, later.offset) == (3, -1)
        assert later.labels.shares()["all"]["hit"] == pytest.approx(100 * 2 / 3), name


def test_labels_from_the_same_depth_are_noticed(tmp_path: Path) -> None:
    data = drive()
    own = {"depth_teacher": {"teacher": "lidar", "window_rad": 0.012}, "frames": 3, "window": "centred"}
    assert [MeasuredDepth(data, offset=offset).made(own) for offset in (-2, -1, 0, 1, 2)] == [False, *[True] * 3, False]
    past = {**own, "window": "past"}
    assert [MeasuredDepth(data, offset=offset).made(past) for offset in (-2, -1, 0, 1)] == [True] * 3 + [False]
    assert not MeasuredDepth(data).made({**own, "depth_teacher": {"teacher": "hf_depth"}})
    assert not MeasuredDepth(data).made({})
    files = MeasuredDepth(data, f"files:{tmp_path}", options={"pattern": "{stem}.npy"})
    assert not files.made(own)


def test_what_cannot_be_compared() -> None:
    without = KeyFrameList([replace(drive().key_frame("t0"), lidar=None)])
    with pytest.raises(ConfigError, match="--against-depth: needs lidar sweeps"):
        MeasuredDepth(without)
    with pytest.raises(ConfigError, match="lidar have no options"):
        MeasuredDepth(drive(), options={"root": "x"})
    with pytest.raises(ConfigError, match="no teacher of depth called 'radar'"):
        MeasuredDepth(drive(), "radar")
