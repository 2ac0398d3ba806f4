"""The walk of the public code of RayIoU: its twin, step by step, and where our own differs from it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.errors import ConfigError, DataError
from occlift.evaluation.compare import compare
from occlift.evaluation.occupancy import Evaluation, evaluate, merge
from occlift.geometry.grids import OCC3D_GRID, VoxelGrid
from occlift.geometry.raycast import first_hit
from occlift.geometry.transforms import inverse, rigid_transform, rotation_about_z
from occlift.label_space import CAR, DRIVEABLE_SURFACE, FREE, OCC3D, LabelSpace
from occlift.labels.files import label_path, prediction_path, read_label, write_prediction
from occlift.metrics.rays import (
    RayCounts,
    float32_ray_origins,
    ray_directions,
    ray_histogram,
    ray_origins,
)

VOXEL_M = np.float32(0.4)
ALL = ray_directions()
FEW = np.unique([*range(0, len(ALL), 53), *range(0, len(ALL), 90)])
"""Some of the rays; of each pitch those along the axes, which run in faces if they start in one."""
ON_FACES = np.array([0.943713, 0.0, 1.84])
"""A lidar in the middle of the vehicle: y = 0 is a face between voxels, and z = 1.84 is none."""


def world(seed: int = 8, filled: float = 0.02) -> np.ndarray:
    rng = np.random.default_rng(seed)
    semantics = np.full(OCC3D_GRID.shape, FREE, np.uint8)
    semantics[:, :, 2] = DRIVEABLE_SURFACE
    occupied = rng.random(semantics.shape) < filled
    semantics[occupied] = rng.integers(0, FREE, int(occupied.sum()))
    return semantics


def published_hits(semantics: np.ndarray, origin_m: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, ...]:
    """(classes, distances in metres, single precision) as the published code is read: everything written out."""
    lower, size = np.array([-40.0, -40.0, -1.0]), np.float64(VOXEL_M)
    start = np.float64(np.float32((origin_m - lower) / size))
    ends = np.float64(np.float32((np.float64(np.float32(directions)) + origin_m - lower) / size))
    labels, distances = np.full(len(directions), semantics[0, 0, 0]), np.full(len(directions), -1.0)
    for ray, end in enumerate(ends):
        way = end - start
        direction = way / np.sqrt(way[0] * way[0] + way[1] * way[1] + way[2] * way[2])
        voxel = start.astype(int)  # towards zero
        step = np.where(direction >= 0, 1, -1)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(direction != 0, (voxel + (step > 0) - start) / direction, sys.float_info.max)
            delta = np.where(direction != 0, step / direction, sys.float_info.max)
        was_inside = False
        for _ in range(1001):
            inside = bool(((voxel >= 0) & (voxel < semantics.shape)).all())
            if was_inside and not inside:
                break
            was_inside = inside
            here = tuple(voxel)
            axis = (0 if t[0] < t[2] else 2) if t[0] < t[1] else (1 if t[1] < t[2] else 2)
            if inside:
                labels[ray], distances[ray] = semantics[here], t[axis]
                if semantics[here] < FREE:
                    break
            voxel[axis] += step[axis]
            t[axis] += delta[axis]
    return labels, np.float32(distances) * VOXEL_M


def published_histogram(
    truth: np.ndarray, prediction: np.ndarray, origin_m: np.ndarray, directions: np.ndarray
) -> np.ndarray:
    h = np.zeros((FREE, FREE + 1, 4), np.int64)
    (a, there_m), (b, here_m) = (published_hits(volume, origin_m, directions) for volume in (truth, prediction))
    bins = (np.abs(there_m - here_m)[:, None] >= np.float32([1, 2, 4])).sum(1)
    counted = a < FREE
    np.add.at(h, (a[counted], b[counted], np.where(b == FREE, 3, bins)[counted]), 1)
    return h


@pytest.mark.parametrize(
    ("origin_m", "stride"),
    [
        (ON_FACES, 1),
        (np.array([4.0, -2.8, 1.8]), 1),
        (np.array([3.3, 5.1, -1.2]), 1),
        # Rays that never are in the grid are slow to follow.
        (np.array([2.0, 0.1, 9.0]), 8),
    ],
    ids=["on one face", "on a corner", "just below the grid", "above it"],
)
def test_single_precision_counts_what_the_published_code_counts(
    origin_m: np.ndarray, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    directions = ALL[FEW][::stride]
    monkeypatch.setattr("occlift.metrics.rays.ray_directions", lambda: directions)
    truth, prediction = world(), np.roll(world(), 1, axis=0)
    found = ray_histogram(truth=truth, prediction=prediction, origins_m=origin_m[None], walk="float32")
    expected = published_histogram(truth, prediction, origin_m, directions)
    assert found.sum() > 50 / stride
    assert (found == expected).all()


def test_a_ray_that_never_is_in_the_grid_meets_its_first_voxel() -> None:
    """So the published code: the label of voxel [0, 0, 0], as often as there are such rays."""
    truth = world()
    truth[0, 0, 0] = CAR
    high = np.array([[0.0, 0.3, 9.0]])
    found = ray_histogram(truth=truth, prediction=truth, origins_m=high, walk="float32")
    plain = ray_histogram(truth=truth, prediction=truth, origins_m=high)
    upwards = int((ALL[:, 2] > 0).sum())
    assert found[CAR, CAR, 0] - plain[CAR, CAR, 0] >= upwards


def test_off_the_faces_both_walks_meet_the_same_voxels() -> None:
    """But for rays that pass so close to an edge that single precision decides which side they are on."""
    semantics, directions = world(), ALL[::37]
    for origin_m in (np.array([0.943713, 0.123, 1.84023]), np.array([-12.371, 4.118, 1.911])):
        labels, distances_m = published_hits(semantics, origin_m, directions)
        hits = first_hit(semantics < FREE, OCC3D_GRID, np.broadcast_to(origin_m, directions.shape), directions)
        ours = np.where(hits.found, semantics[tuple(hits.voxel.T)], FREE)
        same = (labels == ours) & (~hits.found | (np.abs(distances_m - hits.exit_range_m) < 1e-3))
        assert (~same).sum() <= 3, (~same).sum()


def test_on_a_face_the_walks_differ_and_the_scores_hardly() -> None:
    truth, prediction = world(), np.roll(world(), 1, axis=0)
    scores = []
    for walk in ("float64", "float32"):
        h = ray_histogram(truth=truth, prediction=prediction, origins_m=ON_FACES[None] - [0, 1e-13, 0], walk=walk)
        scores.append(RayCounts(histogram=h, walk=walk).named()["ray_iou_17"])
    assert scores[0] != scores[1]
    assert abs(scores[0] - scores[1]) < 1


def test_origins_are_rounded_in_the_frame_of_the_lidar() -> None:
    ego_from_lidar = rigid_transform(rotation_about_z(-1.5), (0.943713, 0.0, 1.84023))
    poses = [rigid_transform(rotation_about_z(0.7 + 0.01 * i), (1010.3 + 5 * i, 612.7 + 2 * i, 0.1)) for i in range(12)]
    global_from_lidar = np.stack([pose @ ego_from_lidar for pose in poses])
    exact = ray_origins(global_from_lidar, poses[3])
    rounded = float32_ray_origins(global_from_lidar, 3, ego_from_lidar)
    assert rounded.shape == exact.shape
    assert 0 < np.abs(rounded - exact).max() < 1e-5
    # The scored key frame's own is where it is mounted, to the last bit.
    assert (rounded == ego_from_lidar[:3, 3]).all(1).sum() == 1
    other = inverse(global_from_lidar[3]) @ global_from_lidar[0]
    expected = ego_from_lidar[:3, :3] @ np.float64(np.float32(other[:3, 3])) + ego_from_lidar[:3, 3]
    assert np.allclose(rounded[0], expected, rtol=0, atol=1e-12)


def test_an_evaluation_says_how_its_rays_walked(small_town: Path, tmp_path: Path) -> None:
    data, truth = NuScenes.open(small_town), small_town / "gts"
    scene = data.scenes("val")[0]
    tokens = data.key_frame_tokens(scene)[:1]
    semantics = read_label(label_path(truth, scene, tokens[0])).semantics
    write_prediction(prediction_path(tmp_path / "predictions", tokens[0]), np.roll(semantics, 1, axis=0))

    def scored(**how: object) -> Evaluation:
        return evaluate(tmp_path / "predictions", truth, tokens=tokens, masks=("none",), rays=data, **how)  # type: ignore[arg-type]

    ours, published = scored(), scored(ray_walk="float32")
    assert (ours.rays.walk, published.rays.walk) == ("float64", "float32")  # type: ignore[union-attr]
    assert Evaluation.from_json(published.to_json()).to_json() == published.to_json()
    with pytest.raises(DataError, match="parts hold different scores"):
        merge([ours, Evaluation.from_json(published.to_json().replace(tokens[0], "other"))])
    for name, evaluation in (("ours", ours), ("published", published)):
        (tmp_path / f"{name}.json").write_text(evaluation.to_json(), encoding="utf-8")
    (note,) = compare([tmp_path / "ours.json", tmp_path / "published.json"]).notes()
    assert note.startswith("The rays of published walked in float32, those of ours in float64")
    with pytest.raises(ConfigError, match="computed on the CPU, not on cpu:0"):
        scored(ray_walk="float32", device="cpu:0")


def test_other_grids_are_no_matter_but_for_voxels_that_are_no_cubes() -> None:
    flat = VoxelGrid(lower_m=(0.0, 0.0, 0.0), voxel_size_m=(1.0, 1.0, 0.5), shape=(4, 4, 4))
    volume = np.full(flat.shape, FREE, np.uint8)
    space = LabelSpace(grid=flat, taxonomy=OCC3D.taxonomy)
    with pytest.raises(ConfigError, match="knows one voxel size"):
        ray_histogram(truth=volume, prediction=volume, origins_m=np.ones((1, 3)), space=space, walk="float32")
