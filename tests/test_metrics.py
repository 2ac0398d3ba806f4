"""Occupancy scores against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from occlift.classes import CAR, FREE, NUM_CLASSES, OTHERS, TRUCK, UNKNOWN
from occlift.errors import DataError
from occlift.metrics.occupancy import (
    CLASS_SETS,
    OccupancyScores,
    class_iou,
    geometric_iou,
    histogram,
    mean_iou,
    require_same_tokens,
)


def test_a_perfect_prediction_scores_100() -> None:
    truth = np.random.default_rng(0).integers(0, NUM_CLASSES, (20, 20, 4)).astype(np.uint8)
    scores = OccupancyScores(histograms={"none": histogram(truth, truth)}).named()
    assert len(scores) == 5
    assert set(scores.values()) == {100.0}


def test_a_case_by_hand() -> None:
    truth = np.array([CAR, CAR, CAR, TRUCK, FREE, FREE, OTHERS], np.uint8)
    prediction = np.array([CAR, CAR, TRUCK, TRUCK, CAR, FREE, FREE], np.uint8)
    h = histogram(truth, prediction)
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
    h = histogram(np.array([CAR, CAR], np.uint8), np.array([CAR, TRUCK], np.uint8))
    assert mean_iou(h) == pytest.approx(25)


def test_only_evaluated_voxels_count_and_free_is_no_class_of_the_mean() -> None:
    truth = np.array([CAR, CAR, FREE], np.uint8)
    prediction = np.array([CAR, FREE, FREE], np.uint8)
    assert mean_iou(histogram(truth, prediction, np.array([True, False, True]))) == 100
    assert mean_iou(histogram(truth, prediction)) == 50
    assert all(FREE not in classes for classes in CLASS_SETS.values())
    assert {number: len(classes) for number, classes in CLASS_SETS.items()} == {17: 17, 15: 15}


def test_histograms_of_frames_add_up_to_that_of_the_split() -> None:
    truth, prediction = np.random.default_rng(1).integers(0, NUM_CLASSES, (2, 6, 50)).astype(np.uint8)
    parts = sum(histogram(t, p) for t, p in zip(truth, prediction, strict=True))
    np.testing.assert_array_equal(parts, histogram(truth, prediction))


def test_without_any_class_the_mean_is_nan() -> None:
    free = np.full(5, FREE, np.uint8)
    h = histogram(free, free)
    assert np.isnan(mean_iou(h))
    assert np.isnan(geometric_iou(h))
    assert mean_iou(h, absent="zero") == 0


@pytest.mark.parametrize("value", [UNKNOWN, 18])
def test_a_prediction_must_decide(value: int) -> None:
    truth = np.full(5, FREE, np.uint8)
    prediction = truth.copy()
    prediction[2] = value
    with pytest.raises(DataError, match=str(value)):
        histogram(truth, prediction, np.zeros(5, bool))


def test_unknown_truth_is_refused_only_where_it_is_evaluated() -> None:
    prediction = np.full(2, FREE, np.uint8)
    truth = np.array([FREE, UNKNOWN], np.uint8)
    assert histogram(truth, prediction, np.array([True, False])).sum() == 1
    with pytest.raises(DataError, match="255"):
        histogram(truth, prediction)


def test_missing_tokens_are_listed() -> None:
    require_same_tokens(["a", "b"], ["b", "a"])
    with pytest.raises(DataError, match=r"1 without a prediction: c; 1 without a truth: a"):
        require_same_tokens(["a", "b"], ["b", "c"])
