"""Occupancy scores against numbers worked out by hand."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from occlift.errors import DataError
from occlift.label_space import CAR, DRIVEABLE_SURFACE, FREE, MANMADE, NUM_CLASSES, OTHERS, TRUCK, UNKNOWN
from occlift.metrics.occupancy import (
    MASKS,
    OccupancyCounts,
    class_iou,
    class_sets,
    evaluated_voxels,
    geometric_iou,
    histogram,
    histograms,
    mean_iou,
    stored_masks,
)


def test_a_perfect_prediction_scores_100() -> None:
    truth = np.random.default_rng(0).integers(0, NUM_CLASSES, (20, 20, 4)).astype(np.uint8)
    scores = OccupancyCounts(histograms={"none": histogram(truth=truth, prediction=truth)}).named()
    assert len(scores) == 5
    assert set(scores.values()) == {100.0}


def test_a_case_by_hand() -> None:
    truth = np.array([CAR, CAR, CAR, TRUCK, FREE, FREE, OTHERS], np.uint8)
    prediction = np.array([CAR, CAR, TRUCK, TRUCK, CAR, FREE, FREE], np.uint8)
    h = histogram(truth=truth, prediction=prediction)
    assert h.sum() == 7
    assert h[CAR, TRUCK] == 1
    iou = class_iou(h)
    assert iou[CAR] == pytest.approx(50)  # 2 of 3 + 3 − 2
    assert iou[TRUCK] == pytest.approx(50)  # 1 of 1 + 2 − 1
    assert iou[OTHERS] == 0
    assert iou[FREE] == pytest.approx(100 / 3)
    assert np.isnan(iou[1])
    # Absent classes skipped: car, truck and others remain of 17, car and truck of 15.
    assert mean_iou(h, classes=17) == pytest.approx(100 / 3)
    assert mean_iou(h, classes=15) == pytest.approx(50)
    assert mean_iou(h, classes=17, absent="zero") == pytest.approx(100 / 17)
    assert mean_iou(h, classes=15, absent="zero") == pytest.approx(100 / 15)
    assert geometric_iou(h) == pytest.approx(100 * 4 / 6)


def test_a_class_that_is_only_predicted_is_not_absent() -> None:
    h = histogram(truth=np.array([CAR, CAR], np.uint8), prediction=np.array([CAR, TRUCK], np.uint8))
    assert mean_iou(h) == pytest.approx(25)


def test_only_evaluated_voxels_count_and_free_is_no_class_of_the_mean() -> None:
    truth = np.array([CAR, CAR, FREE], np.uint8)
    prediction = np.array([CAR, FREE, FREE], np.uint8)
    assert mean_iou(histogram(truth=truth, prediction=prediction, evaluated=np.array([True, False, True]))) == 100
    assert mean_iou(histogram(truth=truth, prediction=prediction)) == 50
    assert all(FREE not in classes for classes in class_sets().values())
    assert {number: len(classes) for number, classes in class_sets().items()} == {17: 17, 15: 15}


def test_histograms_of_frames_add_up_to_that_of_the_split() -> None:
    truth, prediction = np.random.default_rng(1).integers(0, NUM_CLASSES, (2, 6, 50)).astype(np.uint8)
    parts = sum(histogram(truth=t, prediction=p) for t, p in zip(truth, prediction, strict=True))
    np.testing.assert_array_equal(parts, histogram(truth=truth, prediction=prediction))


def test_without_any_class_the_mean_is_nan() -> None:
    free = np.full(5, FREE, np.uint8)
    h = histogram(truth=free, prediction=free)
    assert np.isnan(mean_iou(h))
    assert np.isnan(geometric_iou(h))
    assert mean_iou(h, absent="zero") == 0


@pytest.mark.parametrize("value", [UNKNOWN, 18])
def test_a_prediction_must_decide(value: int) -> None:
    truth = np.full(5, FREE, np.uint8)
    prediction = truth.copy()
    prediction[2] = value
    with pytest.raises(DataError, match=str(value)):
        histogram(truth=truth, prediction=prediction, evaluated=np.zeros(5, bool))


def test_unknown_truth_is_refused_only_where_it_is_evaluated() -> None:
    prediction = np.full(2, FREE, np.uint8)
    truth = np.array([FREE, UNKNOWN], np.uint8)
    assert histogram(truth=truth, prediction=prediction, evaluated=np.array([True, False])).sum() == 1
    with pytest.raises(DataError, match="255"):
        histogram(truth=truth, prediction=prediction)


def plain_histogram(truth: np.ndarray, prediction: np.ndarray, evaluated: np.ndarray) -> np.ndarray:
    """Twin: one voxel after the other."""
    h = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    for t, p, counted in zip(truth.ravel(), prediction.ravel(), evaluated.ravel(), strict=True):
        if counted:
            h[t, p] += 1
    return h


@pytest.mark.parametrize("threads", [1, 2])
def test_all_masks_in_one_pass_equal_the_plain_twin(threads: int) -> None:
    rng = np.random.default_rng(3)
    # Not contiguous, and of a size that no number of threads divides.
    truth, prediction = rng.integers(0, NUM_CLASSES, (2, 23, 29, 7)).astype(np.uint8)[:, ::2]
    camera, lidar = rng.random((2, *truth.shape)) < 0.4
    before = numba.get_num_threads()
    numba.set_num_threads(min(threads, before))
    try:
        found = histograms(
            truth=truth, prediction=prediction, evaluated={"camera": camera, "none": None, "lidar": lidar}
        )
    finally:
        numba.set_num_threads(before)
    np.testing.assert_array_equal(found["camera"], plain_histogram(truth, prediction, camera))
    np.testing.assert_array_equal(found["lidar"], plain_histogram(truth, prediction, lidar))
    np.testing.assert_array_equal(found["none"], plain_histogram(truth, prediction, np.ones(truth.shape, bool)))
    np.testing.assert_array_equal(histogram(truth=truth, prediction=prediction, evaluated=lidar), found["lidar"])


def test_near_surfaces_are_two_voxels_around_what_is_occupied_in_the_truth() -> None:
    rng = np.random.default_rng(6)
    # A batch, not contiguous, with voxels at every border; unknown voxels are not occupied.
    truth = np.where(rng.random((2, 24, 11, 9)) < 0.98, FREE, rng.integers(0, FREE, (2, 24, 11, 9))).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = 255
    truth[0, 0, 0, 0] = truth[0, -1, -1, -1] = 0
    truth, camera, lidar = truth[:, ::2], *(rng.random((2, 2, 12, 11, 9)) < 0.6)
    expected = np.zeros(truth.shape, bool)
    for b, x, y, z in np.argwhere(truth < FREE):
        expected[b, max(x - 2, 0) : x + 3, max(y - 2, 0) : y + 3, max(z - 2, 0) : z + 3] = True
    assert 0.1 < expected.mean() < 0.9
    found = evaluated_voxels(MASKS, truth=truth, stored={"camera": camera, "lidar": lidar})
    near = found["near_surface"]
    assert near is not None
    np.testing.assert_array_equal(near, expected & camera)
    # All masks in one pass, as `evaluate` counts them.
    known = np.where(truth == 255, FREE, truth)
    counted = histograms(truth=known, prediction=known, evaluated=found)
    assert list(counted) == list(MASKS)
    assert counted["near_surface"].sum() == (expected & camera).sum()
    np.testing.assert_array_equal(counted["camera"], plain_histogram(known, known, camera))
    assert stored_masks(("near_surface",)) == ("camera",)


@pytest.mark.usefixtures("without_shape_checks")
def test_shapes_that_differ_are_refused() -> None:
    truth = np.full((2, 3), FREE, np.uint8)
    with pytest.raises(DataError, match=r"truth \(2, 3\) and prediction \(3, 2\)"):
        histogram(truth=truth, prediction=truth.T)
    with pytest.raises(DataError, match=r"truth \(2, 3\) and mask camera \(6,\)"):
        histogram(truth=truth, prediction=truth, evaluated=np.ones(6, bool))


def test_counts_of_parts_add_up() -> None:
    truth, prediction = np.random.default_rng(5).integers(0, NUM_CLASSES, (2, 6, 50)).astype(np.uint8)
    parts = [
        OccupancyCounts(histograms={"none": histogram(truth=t, prediction=p)})
        for t, p in zip(truth, prediction, strict=True)
    ]
    whole = OccupancyCounts(histograms={"none": histogram(truth=truth, prediction=prediction)})
    for order in (parts, parts[::-1]):
        total = order[0]
        for part in order[1:]:
            total += part
        assert total.named() == whole.named()


# How much a road counts that lies one voxel off. The world: a flat road, a wall on it, air above.
ROAD_Z = 2


def flat_world() -> tuple[np.ndarray, np.ndarray]:
    """Truth, and what a camera sees of it: nothing below the surface of the road."""
    truth = np.full((40, 40, 16), FREE, np.uint8)
    truth[:, :, ROAD_Z] = DRIVEABLE_SURFACE
    truth[0, :, ROAD_Z + 1 :] = MANMADE
    mask_camera = np.zeros(truth.shape, bool)
    mask_camera[:, :, ROAD_Z:] = True
    return truth, mask_camera


def test_a_road_one_voxel_too_high_is_no_road() -> None:
    truth, mask_camera = flat_world()
    prediction = truth.copy()
    prediction[1:, :, ROAD_Z] = FREE
    prediction[1:, :, ROAD_Z + 1] = DRIVEABLE_SURFACE
    prediction[0, :, ROAD_Z] = FREE
    for mask in (mask_camera, None):
        h = histogram(truth=truth, prediction=prediction, evaluated=mask)
        iou = class_iou(h)
        assert iou[DRIVEABLE_SURFACE] == 0
        assert iou[MANMADE] == 100
        assert mean_iou(h) == 50
        # Right: 40 × 13 voxels of wall. Wrong: 40 × 40 of road that are missed, 39 × 40 where none is.
        assert geometric_iou(h) == pytest.approx(100 * 520 / (520 + 1600 + 1560))


def test_a_road_two_voxels_thick_costs_half_of_it_without_the_camera_mask_and_nothing_with_it() -> None:
    truth, mask_camera = flat_world()
    prediction = truth.copy()
    prediction[:, :, ROAD_Z - 1] = DRIVEABLE_SURFACE
    assert mean_iou(histogram(truth=truth, prediction=prediction, evaluated=mask_camera)) == 100
    unmasked = histogram(truth=truth, prediction=prediction)
    assert class_iou(unmasked)[DRIVEABLE_SURFACE] == 50
    assert mean_iou(unmasked) == 75


def test_published_pairs_are_one_run_divided_by_17_or_15() -> None:
    """15 of 17 classes scored, others and other_flat at 0: the two published means differ by 17/15 (13.86, 15.71)."""
    per_class = 23.5
    h = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    for c in class_sets()[15]:
        h[c, c], h[c, FREE] = 47, 153  # 47 of 200: 23.5 %
    h[OTHERS, FREE] = h[12, FREE] = 10
    assert mean_iou(h, classes=15) == pytest.approx(per_class)
    assert mean_iou(h, classes=17) == pytest.approx(per_class * 15 / 17)
    assert pytest.approx(15.71, abs=0.01) == 13.86 * 17 / 15
