"""Labels by the surface on which views agree: against slow loops, and what a wall and a road come out as."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_from_views import CAR, FREE, GROUND, SPACE, WALKER, WALL, view

from occlift import PosedView, label_from_views, open_dataset
from occlift.errors import ConfigError
from occlift.evaluation.label_sweep import sweep
from occlift.geometry.grids import VoxelGrid
from occlift.label_space import UNKNOWN
from occlift.labels.config import LabelConfig
from occlift.labels.decide import DecisionConfig
from occlift.labels.files import read_confidence, read_label
from occlift.labels.generate import generate_labels
from occlift.labels.surface import depth_error, fuse_surface, points_step
from occlift.labels.view import View, clean_view
from occlift.metrics.calibration import calibration_counts, calibration_error
from occlift.town.scene_writer import GTS

GRID, TAXONOMY = SPACE.grid, SPACE.taxonomy


def cleaned(views: list[PosedView], stride: int = 1) -> list[tuple[View, np.ndarray, bool]]:
    ones = [np.ones(v.class_id.shape, np.float32) for v in views]
    return [
        (
            clean_view(
                v.class_id, v.depth_m, v.intrinsics_px, v.ego_from_camera, score=one, confidence=one, valid=v.valid,
                stride=stride, free_stride=1, min_score=0, min_confidence=0, taxonomy=TAXONOMY,
            ),
            v.ego_from_camera,
            v.current,
        )
        for v, one in zip(views, ones, strict=True)
    ]  # fmt: skip


def average_slowly(
    posed: list[tuple[View, np.ndarray, bool]], scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(average distance, share of the weight close to a surface, votes per class), voxel by voxel."""
    distance, weight, near = (np.zeros(GRID.shape) for _ in range(3))
    grazed = np.zeros(GRID.shape)
    classes = np.zeros((*GRID.shape, FREE))
    for (one, pose, current), factor in zip(posed, scale, strict=True):
        centers = GRID.centers().reshape(-1, 3)
        camera = (centers - pose[:3, 3]) @ pose[:3, :3]
        holds_a_point = voxels_with_points(one, pose, factor, current)
        for index, (x, y, z) in zip(np.ndindex(GRID.shape), camera, strict=True):
            if z < 0.3:
                continue
            u, v, _ = one.intrinsics_px @ (x / z, y / z, 1.0)
            row, column = int(np.floor(v / one.stride)), int(np.floor(u / one.stride))
            if not (0 <= row < one.class_id.shape[0] and 0 <= column < one.class_id.shape[1]):
                continue
            found, depth = one.class_id[row, column], float(one.depth_m[row, column]) * factor
            if found == UNKNOWN or (found in (CAR, CAR + 1) and not current):
                continue
            sigma = 0.3 + 0.05 * (z if found == FREE else depth)
            limit = max(0.6, 2 * sigma)
            signed = limit if found == FREE else depth - z
            if not signed >= -limit:
                continue
            weight[index] += 1 / sigma**2
            distance[index] += min(signed, limit) / sigma**2
            if signed < limit:
                near[index] += 1 / sigma**2
                classes[(*index, found)] += 1 / sigma**2
            elif found != FREE and holds_a_point[index]:
                grazed[index] += 1 / sigma**2
    assert grazed.any() or posed[0][0].stride > 1
    known = np.maximum(weight, 1e-12)
    return distance / known, (near + grazed) / known, classes


def voxels_with_points(one: View, pose: np.ndarray, factor: float, current: bool) -> np.ndarray:
    """Where a point of a pixel lies: exact to a voxel, so that none is moved."""
    found = np.zeros(GRID.shape, bool)
    step = points_step(one.intrinsics_px, one.stride, GRID)
    for row, column in np.ndindex(one.class_id.shape):
        if row % step != step // 2 or column % step != step // 2 or one.class_id[row, column] >= FREE:
            continue
        if one.class_id[row, column] in (CAR, CAR + 1) and not current:
            continue
        v, u = (cell * one.stride + one.stride // 2 + 0.5 for cell in (row, column))
        ray = np.linalg.inv(one.intrinsics_px) @ (u, v, 1.0)
        place = pose[:3, :3] @ (ray * float(one.depth_m[row, column]) * factor) + pose[:3, 3]
        index = (place - np.array(GRID.lower_m)) / np.array(GRID.voxel_size_m)
        if (index >= 0).all() and (index < GRID.shape).all():
            found[tuple(index.astype(int))] = True
    return found


@pytest.mark.parametrize("stride", [1, 2])
def test_distances_and_classes_are_averaged_as_slowly(stride: int) -> None:
    views = [view(), view(40, 70, forward_m=0.53, current=False), view(forward_m=1.07, current=False)]
    views[1].depth_m[:, 20:30] = np.nan
    posed = cleaned(views, stride)
    surface = fuse_surface(posed, GRID, TAXONOMY)
    distance, near, classes = average_slowly(posed, surface.scale)
    assert (surface.views > 0).mean() > 0.3
    np.testing.assert_allclose(surface.distance_m, distance, atol=2e-4)
    np.testing.assert_allclose(surface.near, near, atol=1e-4)
    seen = classes.max(axis=-1) > 0
    best = np.sort(classes[seen], axis=-1)
    clear = best[:, -1] > 1.01 * best[:, -2]
    np.testing.assert_array_equal(surface.class_id[seen][clear], classes[seen].argmax(axis=-1)[clear])


def test_exact_depth_gives_a_floor_and_a_wall_one_voxel_thick() -> None:
    views = [view(), *(view(forward_m=0.4 * n, current=False) for n in (1, 2, 3))]
    found = label_from_views(views, space=SPACE, decision=DecisionConfig(fusion="surface")).semantics
    floor, wall = (int((a - lower) / 0.2) for a, lower in ((0.03, -0.6), (8.07, 0.0)))
    middle = found[:, 14:17]
    for x in range(20, 34):
        assert (middle[x, :, floor] == GROUND).all(), x
        assert (middle[x, :, floor + 1 :] == FREE).mean() > 0.95, x
    assert (middle[wall, :, floor + 3 : floor + 7] == WALL).all()
    assert (middle[wall - 1, :, floor + 3 : floor + 7] == FREE).all()
    assert (middle[wall + 3 :] == UNKNOWN).all()


@pytest.mark.parametrize("above_the_road_m", [0.0, 0.2, 0.4, 0.6])
def test_the_road_is_where_it_is_however_the_grid_lies(above_the_road_m: float) -> None:
    # A camera that grazes the road looks far through the centres of voxels that reach above it.
    lower_m = (-40.0, -2.0, 0.03 - 0.79 - above_the_road_m)
    grid = VoxelGrid(lower_m=lower_m, voxel_size_m=(0.8, 0.8, 0.8), shape=(50, 5, 3))
    views = [view(480, 720, forward_m=-20.0), *(view(480, 720, forward_m=-20.7 - n, current=False) for n in range(5))]
    found = label_from_views(views, space=replace(SPACE, grid=grid)).semantics[35:50]
    without_the_car = found[~(found == CAR).any(axis=-1)]
    assert ((without_the_car == GROUND).sum(axis=-1) == 1).mean() > 0.9, "in a column there is one voxel of road"


def test_noise_makes_no_walls_thick_where_votes_do() -> None:
    rng = np.random.default_rng(0)
    views = [view(forward_m=0.2 * n, current=n == 0) for n in range(9)]
    noisy = [replace(v, depth_m=(v.depth_m * np.exp(0.06 * rng.standard_normal())).astype(np.float32)) for v in views]
    error = depth_error(cleaned(noisy), TAXONOMY)
    assert 0.03 < error.relative.mean() < 0.09
    assert depth_error(cleaned(views), TAXONOMY).relative.mean() < 0.01

    def thickness(fusion: str) -> float:
        decision = DecisionConfig(fusion=fusion)  # type: ignore[arg-type]
        walls = label_from_views(noisy, space=SPACE, decision=decision).semantics[25:, 12:20, 6:10] == WALL
        return float(walls.sum(axis=0).mean())

    assert 0.7 < thickness("surface") < 2.5 < thickness("votes")


def test_the_scale_of_an_image_follows_the_others() -> None:
    views = [view(forward_m=0.2 * n, current=n == 0) for n in range(9)]
    views[4] = replace(views[4], depth_m=views[4].depth_m * np.float32(1.1))
    scale = fuse_surface(cleaned(views), GRID, TAXONOMY).scale
    assert scale.argmin() == 4
    assert scale[4] < 0.96
    assert np.abs(np.delete(scale, 4) - 1).max() < 0.03


@pytest.mark.parametrize(("class_id", "believed"), [(WALKER, True), (WALL, False)])
def test_a_point_off_the_surface_is_believed_of_a_thin_thing_that_moves_alone(class_id: int, believed: bool) -> None:
    names = {TAXONOMY.names[WALL], TAXONOMY.names[WALKER]}
    space = replace(SPACE, taxonomy=replace(TAXONOMY, thin=tuple(name for name in TAXONOMY.names if name in names)))
    views = [view(forward_m=0.2 * n, current=n == 0) for n in range(5)]
    shown, depth_m = views[0].class_id.copy(), views[0].depth_m.copy()
    rows, columns = (np.nonzero(views[0].class_id == WALL)[axis] for axis in (0, 1))
    middle = np.argsort(np.hypot(rows - rows.mean(), columns - columns.mean()))[:4]
    shown[rows[middle], columns[middle]], depth_m[rows[middle], columns[middle]] = class_id, 5.1
    views[0] = replace(views[0], class_id=shown, depth_m=depth_m)
    semantics = label_from_views(views, space=space).semantics
    at = int((5.1 + views[0].ego_from_camera[0, 3] - GRID.lower_m[0]) / GRID.voxel_size_m[0])
    assert (semantics[at] == class_id).any() == believed


def test_carried_points_are_occupied_by_their_class() -> None:
    at = np.array([[2.1, 2.1, 0.5], [np.nan, 0, 0]])
    surface = fuse_surface(cleaned([view()]), GRID, TAXONOMY, carried=[(at, np.array([CAR, CAR], np.uint8))])
    index, _ = GRID.indices(at[:1])
    assert surface.points[tuple(index[0])] == 1
    assert surface.class_id[tuple(index[0])] == CAR


def test_a_rule_for_votes_is_refused() -> None:
    with pytest.raises(ConfigError, match="min_points: rules for votes, without effect on fusion=surface"):
        label_from_views([view()], space=SPACE, decision=DecisionConfig(fusion="surface", min_points=2))


def test_votes_are_neither_kept_nor_swept_where_there_are_none(small_town: Path, tmp_path: Path) -> None:
    data, config = open_dataset(small_town), LabelConfig(frames=1, decision=DecisionConfig(fusion="surface"))
    with pytest.raises(ConfigError, match="keep_votes: labels of fusion=surface rest on no votes"):
        generate_labels(data, tmp_path / "labels", config, keep_votes=True)
    generate_labels(data, tmp_path / "labels", config, scenes=data.scenes("val"))
    with pytest.raises(ConfigError, match="only labels of fusion=votes can be swept"):
        sweep(tmp_path / "labels", small_town / GTS, min_points=(2,))


def test_confidence_falls_with_the_error_of_depth_and_rises_with_views() -> None:
    rng = np.random.default_rng(0)
    exact = [view(forward_m=0.2 * n, current=n == 0) for n in range(9)]
    noisy = [replace(v, depth_m=(v.depth_m * np.exp(0.1 * rng.standard_normal())).astype(np.float32)) for v in exact]

    def sure_of_the_floor(views: list[PosedView]) -> float:
        label = label_from_views(views, space=SPACE, decision=DecisionConfig(fusion="surface"), confidence=True)
        assert label.confidence is not None
        assert (label.confidence[label.semantics == UNKNOWN] == 0).all()
        return float(label.confidence[label.semantics == GROUND].mean()) / 255

    assert sure_of_the_floor(exact) > 0.8
    assert sure_of_the_floor(noisy) < sure_of_the_floor(exact) - 0.1
    assert sure_of_the_floor(noisy[:2]) < sure_of_the_floor(noisy)


def test_confidence_of_a_town_is_how_often_labels_are_right(small_town: Path, tmp_path: Path) -> None:
    data = open_dataset(small_town)
    scenes = data.scenes("val")
    config = LabelConfig(frames=4, confidence=True, decision=DecisionConfig(fusion="surface"))
    generate_labels(data, tmp_path / "labels", config, scenes=scenes)
    counts = np.zeros((256, 2), np.int64)
    for path in sorted((tmp_path / "labels").glob("*/*/labels.npz")):
        truth = read_label(small_town / GTS / path.relative_to(tmp_path / "labels")).semantics
        semantics = read_label(path, allow_unknown=True).semantics
        known = semantics != UNKNOWN
        counts += calibration_counts(read_confidence(path)[known], (semantics == truth)[known])
    assert calibration_error(counts) < 0.05
