"""RayIoU against numbers worked out by hand, and first hits in each volume."""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest

from occlift.errors import DataError
from occlift.geometry.grids import OCC3D_GRID, VoxelGrid
from occlift.geometry.raycast import first_hit
from occlift.geometry.transforms import inverse, rigid_transform, rotation_about_z, transform_points
from occlift.label_space import CAR, DRIVEABLE_SURFACE, FREE, OCC3D, OTHER_FLAT, OTHERS, TRUCK, UNKNOWN, LabelSpace
from occlift.metrics.rays import RayCounts, ray_class_iou, ray_directions, ray_histogram, ray_origins

LIDAR = np.array([[0.94, 0.0, 1.84]])
GROUND_Z = 2
"""The road's layer of voxels, [−0.2, 0.2) m."""


def empty_world() -> np.ndarray:
    return np.full(OCC3D_GRID.shape, FREE, np.uint8)


def flat_road() -> np.ndarray:
    semantics = empty_world()
    semantics[:, :, GROUND_Z] = DRIVEABLE_SURFACE
    return semantics


def random_world(seed: int, filled: float = 0.02) -> np.ndarray:
    rng = np.random.default_rng(seed)
    semantics = flat_road()
    occupied = rng.random(semantics.shape) < filled
    semantics[occupied] = rng.integers(0, FREE, int(occupied.sum()))
    return semantics


def test_directions() -> None:
    directions = ray_directions()
    assert directions.shape == (14040, 3)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-12)
    pitch_deg = np.rad2deg(np.arcsin(directions[::360, 2]))
    assert len(pitch_deg) == 39
    # −45° first, then atan(1/2) below the horizon, and so on; the last step is that from 1:9 to 1:10.
    np.testing.assert_allclose(pitch_deg[:3], [-45, -26.565, -18.435], atol=1e-3)
    step = math.degrees(math.atan(1 / 9) - math.atan(1 / 10))
    np.testing.assert_allclose(np.diff(pitch_deg[8:]), step, atol=1e-9)
    assert np.rad2deg(0.21) <= pitch_deg[-1] < np.rad2deg(0.21) + step
    np.testing.assert_allclose(directions[90], [0, math.sqrt(0.5), -math.sqrt(0.5)], atol=1e-12)


def test_origins_are_where_the_lidar_was_within_39_metres() -> None:
    """A car that drives 9 m per key frame, seen from the ego frame of the sixth."""
    ego_from_lidar = rigid_transform(rotation_about_z(-math.pi / 2), (0.94, 0.0, 1.84))
    heading = rotation_about_z(0.7)
    poses = [rigid_transform(heading, heading @ (9.0 * i, 3.0, 0.5)) for i in range(12)]
    global_from_lidar = np.stack([pose @ ego_from_lidar for pose in poses])
    origins = ray_origins(global_from_lidar, poses[5])
    expected = [transform_points(inverse(poses[5]) @ pose @ ego_from_lidar, np.zeros(3)) for pose in poses]
    kept = [point for point in expected if abs(point[0]) < 39 and abs(point[1]) < 39]
    assert len(kept) == 9
    # Of nine, round(linspace(0, 8, 8)) leaves one out: 0, 1, 2, 3, 5, 6, 7, 8.
    np.testing.assert_allclose(origins, np.array(kept)[[0, 1, 2, 3, 5, 6, 7, 8]], atol=1e-9)


def test_an_origin_at_39_metres_is_out_and_heights_do_not_matter() -> None:
    places = [(39.0, 0, 0), (-38.99, 0, 0), (0, -39.0, 0), (0, 38.99, 30.0)]
    origins = ray_origins(np.stack([rigid_transform(np.eye(3), place) for place in places]), np.eye(4))
    np.testing.assert_allclose(origins, [places[1], places[3]])


def test_a_perfect_prediction_scores_100_and_samples_come_in_any_order() -> None:
    worlds = [random_world(seed) for seed in range(3)]
    perfect = RayCounts.zero()
    for world in worlds:
        perfect += RayCounts(histogram=ray_histogram(truth=world, prediction=world, origins_m=LIDAR))
    assert set(perfect.named().values()) == {100.0}
    assert perfect.histogram[..., 1:].sum() == 0
    predictions = [np.roll(world, 1, axis=0) for world in worlds]
    counts = [
        RayCounts(histogram=ray_histogram(truth=w, prediction=p, origins_m=LIDAR))
        for w, p in zip(worlds, predictions, strict=True)
    ]
    forwards, backwards = counts[0] + counts[1] + counts[2], counts[2] + counts[0] + counts[1]
    assert forwards.named() == backwards.named()
    assert 0 < forwards.named()["ray_iou_17"] < 100


def test_the_histogram_counts_first_hits_of_both_volumes() -> None:
    """The one walk through both against a walk through each, ray by ray."""
    truth, prediction = random_world(4), random_world(5)
    origins = np.array([[0.94, 0.03, 1.84], [12.3, -3.0, 1.9], [-20.1, 8.0, 7.0]])
    h = ray_histogram(truth=truth, prediction=prediction, origins_m=origins)
    directions = ray_directions()
    expected = np.zeros_like(h)
    for origin in origins:
        starts = np.broadcast_to(origin, directions.shape)
        hits = [first_hit(volume < FREE, OCC3D_GRID, starts, directions) for volume in (truth, prediction)]
        for ray in np.flatnonzero(hits[0].found):
            a = truth[tuple(hits[0].voxel[ray])]
            b, bin_ = FREE, 3
            if hits[1].found[ray]:
                b = prediction[tuple(hits[1].voxel[ray])]
                off = abs(hits[0].exit_range_m[ray] - hits[1].exit_range_m[ray])
                bin_ = sum(off >= edge for edge in (1, 2, 4))
            expected[a, b, bin_] += 1
    assert (h == expected).all()
    assert h.sum() > 20_000


def test_neither_threads_nor_device_change_a_count() -> None:
    truth, prediction = random_world(6), np.roll(random_world(6), 2, axis=1)
    before = numba.get_num_threads()
    results = [ray_histogram(truth=truth, prediction=prediction, origins_m=LIDAR, device="cpu:0")]  # cast by torch
    try:
        for threads in (1, before):
            numba.set_num_threads(threads)
            results.append(ray_histogram(truth=truth, prediction=prediction, origins_m=LIDAR))
    finally:
        numba.set_num_threads(before)
    assert all((result == results[0]).all() for result in results)
    assert results[0].sum() > 5_000


def counts(entries: dict[tuple[int, int, int], int]) -> RayCounts:
    total = RayCounts.zero()
    for entry, number in entries.items():
        total.histogram[entry] = number
    return total


def test_a_case_by_hand() -> None:
    """8 rays meet a car in the truth: 4 see it within 1 m, 1 within 2 m, 1 too far off, 1 a truck, 1 nothing."""
    score = counts({(CAR, CAR, 0): 4, (CAR, CAR, 1): 1, (CAR, CAR, 3): 1, (CAR, TRUCK, 0): 1, (CAR, FREE, 3): 1})
    iou = ray_class_iou(score.histogram)
    # Truth 8, prediction 6.
    np.testing.assert_allclose(iou[:, CAR], [100 * 4 / 10, 100 * 5 / 9, 100 * 5 / 9])
    # Only predicted, so present: 0.
    np.testing.assert_allclose(iou[:, TRUCK], 0)
    assert np.isnan(np.delete(iou, [CAR, TRUCK], axis=1)).all()
    named = score.named()
    assert named["ray_iou_17_1m"] == pytest.approx(20)
    assert named["ray_iou_17_2m"] == named["ray_iou_17_4m"] == pytest.approx(100 * 5 / 18)
    assert named["ray_iou_17"] == pytest.approx((20 + 2 * 100 * 5 / 18) / 3)
    assert score.class_iou()["car"] == pytest.approx((40 + 2 * 500 / 9) / 3)
    # Neither class is one of the two that the mean over 15 leaves out.
    assert {name: named[f"ray_iou_15{name[10:]}"] for name in named if "_17" in name} == {
        name: value for name, value in named.items() if "_17" in name
    }
    assert math.isnan(score.class_iou()["bus"])
    assert math.isnan(RayCounts.zero().named()["ray_iou_17"])


def test_the_mean_over_15_classes_leaves_out_the_vague_ones() -> None:
    score = counts({(CAR, CAR, 0): 6, (CAR, FREE, 3): 2, (OTHERS, OTHERS, 0): 1, (OTHER_FLAT, FREE, 3): 5})
    named = score.named()
    assert named["ray_iou_17"] == pytest.approx((75 + 100 + 0) / 3)
    assert named["ray_iou_15"] == named["ray_iou_15_1m"] == pytest.approx(75)


# Walls of 1 m voxels on the x axis, seen along it: what the difference of distances is, is plain.
ROW = VoxelGrid(lower_m=(0.0, -0.5, -0.5), voxel_size_m=(1.0, 1.0, 1.0), shape=(20, 1, 1))


@pytest.mark.parametrize(("shift", "expected_bin"), [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (9, 3)])
def test_a_difference_of_exactly_a_threshold_is_too_much(
    shift: int, expected_bin: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("occlift.metrics.rays.ray_directions", lambda: np.array([[1.0, 0.0, 0.0]]))
    space = LabelSpace(grid=ROW, taxonomy=OCC3D.taxonomy)
    truth, prediction = np.full((2, *ROW.shape), FREE, np.uint8)
    truth[5], prediction[5 + shift] = CAR, CAR
    for device in ("cpu", "cpu:0"):
        h = ray_histogram(
            truth=truth, prediction=prediction, origins_m=np.array([[0.0, 0.0, 0.0]]), space=space, device=device
        )
        assert h.sum() == 1
        assert h[CAR, CAR, expected_bin] == 1


def test_rays_whose_truth_is_free_do_not_count() -> None:
    prediction = flat_road()
    assert ray_histogram(truth=empty_world(), prediction=prediction, origins_m=LIDAR).sum() == 0
    missed = ray_histogram(truth=prediction, prediction=empty_world(), origins_m=LIDAR)
    assert missed[DRIVEABLE_SURFACE, FREE, 3] == missed.sum() > 0
    assert ray_histogram(truth=prediction, prediction=prediction, origins_m=np.zeros((0, 3))).sum() == 0


def test_a_road_two_voxels_thick_costs_nothing() -> None:
    thick = flat_road()
    thick[:, :, GROUND_Z - 1] = DRIVEABLE_SURFACE
    assert (
        RayCounts(histogram=ray_histogram(truth=flat_road(), prediction=thick, origins_m=LIDAR)).named()["ray_iou_17"]
        == 100
    )


def test_a_road_one_voxel_too_high_is_met_where_trigonometry_says() -> None:
    """Rays enter the road from above and leave it through its lower face, unless a side comes first.

    On an endless road of voxels of 0.4 m, seen at a grazing angle, a ray leaves the voxel that it enters through a
    side; so the difference in distance is 0.4 m / sin θ give or take a voxel's length, and a steep ray is within 1 m
    while a flat one is not.
    """
    raised = empty_world()
    raised[:, :, GROUND_Z + 1] = DRIVEABLE_SURFACE
    counts = RayCounts(histogram=ray_histogram(truth=flat_road(), prediction=raised, origins_m=LIDAR))
    directions = ray_directions()
    starts = np.broadcast_to(LIDAR[0], directions.shape)
    low, high = (first_hit(volume < FREE, OCC3D_GRID, starts, directions) for volume in (flat_road(), raised))
    both = low.found & high.found
    difference_m = np.abs(low.exit_range_m[both] - high.exit_range_m[both])
    expected_m = 0.4 / -directions[both, 2]
    # The longest way through a voxel at this pitch.
    slack_m = np.minimum(0.4 * np.sqrt(2) / np.cos(np.arcsin(directions[both, 2])), expected_m) + 1e-9
    assert (np.abs(difference_m - expected_m) <= slack_m).all()
    within = counts.histogram[DRIVEABLE_SURFACE, DRIVEABLE_SURFACE]
    assert within.tolist() == np.bincount(
        np.searchsorted([1, 2, 4], difference_m, side="right"), minlength=4
    ).tolist()  # fmt: skip
    assert within[0] > 0
    assert within[3] > 0
    # Without distances the two roads would be the same; with them the score says how wrong it is.
    named = counts.named()
    assert named["ray_iou_17_1m"] < named["ray_iou_17_2m"] < named["ray_iou_17_4m"] < 100


@pytest.mark.usefixtures("without_shape_checks")
def test_unknown_and_wrong_shapes_are_refused() -> None:
    road = flat_road()
    unknown = road.copy()
    unknown[0, 0, 0] = UNKNOWN
    with pytest.raises(DataError, match=r"prediction of classes 0..17.*255"):
        ray_histogram(truth=road, prediction=unknown, origins_m=LIDAR)
    with pytest.raises(DataError, match=r"truth of classes 0..17.*255"):
        ray_histogram(truth=unknown, prediction=road, origins_m=LIDAR)
    with pytest.raises(DataError, match=r"the prediction has the shape \(100, 200, 16\)"):
        ray_histogram(truth=road, prediction=road[:100], origins_m=LIDAR)
