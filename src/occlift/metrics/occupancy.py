"""Occupancy scores. This text is their definition.

Everything comes from one histogram per mask: h[a, b] = the number of evaluated voxels with truth a and prediction b,
a and b in 0..17 (17 = free), **summed over all key frames of the split**. A mean of per-frame scores is another
number and is not offered.

*Mask*: which voxels are evaluated. `camera`: Occ3D's `mask_camera`; `lidar`: Occ3D's `mask_lidar`; `none`: all.
*IoU of class c*: h[c,c] / (Σ_b h[c,b] + Σ_a h[a,c] − h[c,c]). A class is *absent* when the denominator is zero, that
is when neither truth nor prediction holds it; a class that is only predicted counts with IoU 0.
*mIoU*: the mean of the IoU over `17` classes (0..16) or `15` (without others and other_flat); free never counts.
An absent class is `skipped`, or counts as `zero`; published numbers use either, so the name of a score says which.
*Geometric IoU*: occupied (0..16) against free, over the same voxels.

All scores are percentages. Protocol: Occ3D (arXiv 2304.14365); the variants in use are listed because the same
prediction scores very differently under them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from occlift.classes import CLASS_NAMES, FREE, NUM_CLASSES, OTHER_FLAT, OTHERS
from occlift.errors import DataError

Mask = Literal["camera", "lidar", "none"]
ClassSet = Literal[17, 15]
AbsentClass = Literal["skipped", "zero"]

MASKS: Final[tuple[Mask, ...]] = ("camera", "lidar", "none")
CLASS_SETS: Final[dict[ClassSet, tuple[int, ...]]] = {
    17: tuple(range(FREE)),
    15: tuple(c for c in range(FREE) if c not in (OTHERS, OTHER_FLAT)),
}
ABSENT_RULES: Final[tuple[AbsentClass, ...]] = ("skipped", "zero")

Histogram = Int[np.ndarray, "18 18"]


def histogram(
    truth: UInt8[np.ndarray, "*volume"],
    prediction: UInt8[np.ndarray, "*volume"],
    evaluated: Bool[np.ndarray, "*volume"] | None = None,
) -> Histogram:
    """h[truth, prediction] over the voxels that are true in `evaluated` (None: all), int64.

    Raises:
        DataError: shapes differ, the prediction holds a value above 17 anywhere, or the truth does where evaluated.
            A prediction must decide: unknown (255) is not an answer.
    """
    if truth.shape != prediction.shape or (evaluated is not None and evaluated.shape != truth.shape):
        raise DataError(
            f"truth {truth.shape}, prediction {prediction.shape} and mask "
            f"{None if evaluated is None else evaluated.shape} must have one shape"
        )
    if prediction.size and int(prediction.max()) >= NUM_CLASSES:
        raise DataError(
            f"a prediction must hold classes 0..{FREE} (free), got {int(prediction.max())}: decide for every voxel; "
            "unknown (255) is for labels"
        )
    if evaluated is not None:
        truth, prediction = truth[evaluated], prediction[evaluated]
    if truth.size and int(truth.max()) >= NUM_CLASSES:
        raise DataError(f"the truth must hold classes 0..{FREE} where it is evaluated, got {int(truth.max())}")
    joint = truth.astype(np.int64).ravel() * NUM_CLASSES + prediction.ravel()
    return np.bincount(joint, minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)


def class_iou(h: Histogram) -> Float[np.ndarray, "18"]:
    """IoU per class, percent; NaN where the class is absent from truth and prediction."""
    hits = np.diagonal(h).astype(np.float64)
    union = h.sum(axis=1) + h.sum(axis=0) - hits
    return np.divide(100.0 * hits, union, out=np.full(NUM_CLASSES, np.nan), where=union > 0)


def mean_iou(h: Histogram, *, classes: ClassSet = 17, absent: AbsentClass = "skipped") -> float:
    """mIoU, percent; NaN when every class is absent and skipped."""
    iou = class_iou(h)[list(CLASS_SETS[classes])]
    if absent == "zero":
        iou = np.nan_to_num(iou, nan=0.0)
    present = iou[~np.isnan(iou)]
    return float(present.mean()) if present.size else float("nan")


def geometric_iou(h: Histogram) -> float:
    """IoU of occupied against free, percent; NaN when neither truth nor prediction is occupied anywhere."""
    hits = int(h[:FREE, :FREE].sum())
    union = int(h.sum()) - int(h[FREE, FREE])
    return 100.0 * hits / union if union else float("nan")


def score_name(mask: Mask, classes: ClassSet, absent: AbsentClass) -> str:
    """The full name of an mIoU, such as `miou_17_camera_absent_skipped`."""
    return f"miou_{classes}_{mask}_absent_{absent}"


@dataclass(frozen=True, kw_only=True, eq=False)
class OccupancyScores:
    """The histograms of a split, one per mask, and everything that follows from them."""

    histograms: Mapping[Mask, Histogram]

    def mean_iou(self, mask: Mask, *, classes: ClassSet = 17, absent: AbsentClass = "skipped") -> float:
        return mean_iou(self.histograms[mask], classes=classes, absent=absent)

    def geometric_iou(self, mask: Mask) -> float:
        return geometric_iou(self.histograms[mask])

    def class_iou(self, mask: Mask) -> dict[str, float]:
        """IoU per class name, free included; NaN where absent."""
        return dict(zip(CLASS_NAMES, map(float, class_iou(self.histograms[mask])), strict=True))

    def named(self) -> dict[str, float]:
        """Every mIoU variant and the geometric IoU of every mask by full name."""
        scores = {f"iou_{mask}": self.geometric_iou(mask) for mask in self.histograms}
        for mask in self.histograms:
            for classes in CLASS_SETS:
                for absent in ABSENT_RULES:
                    scores[score_name(mask, classes, absent)] = self.mean_iou(mask, classes=classes, absent=absent)
        return scores


def require_same_tokens(predicted: Collection[str], truth: Collection[str]) -> None:
    """Refuses to score a part of a split as if it were the whole.

    Raises:
        DataError: lists the tokens that only one side has.
    """
    without_prediction = sorted(set(truth) - set(predicted))
    without_truth = sorted(set(predicted) - set(truth))
    problems = [
        f"{len(tokens)} without a {what}: {', '.join(tokens[:10])}{', ...' if len(tokens) > 10 else ''}"
        for tokens, what in ((without_prediction, "prediction"), (without_truth, "truth"))
        if tokens
    ]
    if problems:
        raise DataError("predictions and truth must hold the same tokens; " + "; ".join(problems))
