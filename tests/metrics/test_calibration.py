"""Expected calibration error, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from occlift.metrics.calibration import calibration_counts, calibration_error


def test_by_hand() -> None:
    confidence = np.array([[255, 255, 255, 255], [51, 51, 51, 51]], np.uint8)
    right = np.array([[True, True, True, False], [True, False, False, False]])
    counts = calibration_counts(confidence, right)
    assert counts[255].tolist() == [1, 3]
    assert counts.sum() == 8
    # Four say 1 and 3 of 4 are right; four say 0.2 and 1 of 4 is.
    assert calibration_error(counts) == pytest.approx(0.5 * 0.25 + 0.5 * 0.05)


def test_parts_add_up_and_a_calibrated_confidence_has_no_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.integers(0, 256, 400_000, np.uint8)
    right = rng.random(len(confidence)) < confidence / 255
    halves = [calibration_counts(confidence[part], right[part]) for part in (slice(0, None, 2), slice(1, None, 2))]
    np.testing.assert_array_equal(sum(halves), calibration_counts(confidence, right))
    assert calibration_error(sum(halves)) < 0.02  # type: ignore[arg-type]
    assert calibration_error(calibration_counts(confidence, ~right)) > 0.4


def test_nothing_has_no_error() -> None:
    assert np.isnan(calibration_error(calibration_counts(np.zeros(0, np.uint8), np.zeros(0, bool))))
