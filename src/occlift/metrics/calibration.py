"""Whether a confidence is a probability: how often what is said with it is right (docs/metrics.md, "Calibration")."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int64, UInt8


def calibration_counts(
    confidence: UInt8[np.ndarray, "*volume"], right: Bool[np.ndarray, "*volume"]
) -> Int64[np.ndarray, "256 2"]:
    """Per confidence (0..255 for 0..1) the number of voxels that are wrong and right; counts of parts add up.

    >>> counts = calibration_counts(np.array([255, 128, 128, 0], np.uint8), np.array([True, True, False, False]))
    >>> counts[128].tolist(), round(calibration_error(counts), 3)
    ([1, 1], 0.001)
    """
    pairs = confidence.ravel().astype(np.int64) * 2 + right.ravel()
    return np.bincount(pairs, minlength=512).reshape(256, 2)


def calibration_error(counts: Int64[np.ndarray, "256 2"]) -> float:
    """Expected calibration error, 0..1 (Naeini et al., Obtaining Well Calibrated Probabilities Using Bayesian Binning,
    AAAI 2015): the mean over voxels of the difference between a confidence and the share that is right with it. Every
    confidence that occurs is a bin: label files know 17. NaN without any voxel.
    """
    total = counts.sum(axis=1)
    if not total.any():
        return float("nan")
    expected = total * np.arange(256) / 255
    return float(np.abs(counts[:, 1] - expected).sum() / total.sum())
