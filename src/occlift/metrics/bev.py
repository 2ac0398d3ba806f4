"""Bird's-eye-view IoU. This text is its definition; `docs/metrics.md` has the same with examples.

*Input.* Per key frame and class a probability per cell of a grid (`BEV_GRID`: 200 × 200 cells of 0.5 m, x, y ∈ [−50,
50), ego frame at the lidar's time stamp), the truth, and which cells the visibility filter leaves out. For vehicles
`training.bev_truth.vehicle_truth` makes the latter two: the truth of a cell is whether its centre lies in the bottom
face of the box of any annotation whose category starts with `vehicle`.

*Predicted* is a cell whose probability is **greater than** 0.5. A cell at exactly 0.5 (an untrained network's logit of
zero) claims nothing. Public codes have both > (SimpleBEV rounds half to even) and ≥ (CVT).

*Which cells count.* `unfiltered`: all. `filtered`: all but those that are covered by objects of the class, **every one
of which** is at most 40 % visible in the images together (the lowest of four bins). A cell that no object covers always
counts, so that a false alarm is never excused; a cell that a visible object shares with a hidden one counts. (Public
codes differ there: CVT keeps the token of the box drawn last, SimpleBEV leaves out whatever a hidden box touches.) The
filter takes the hard objects away and is worth about 5 points of IoU, which is why both variants are counted
together and always named. Classes without visibility, such as those of a map, have the unfiltered variant only.

*IoU of a class* = Σ |predicted ∧ truth| / Σ |predicted ∨ truth|, both sums over the cells that count, of **all key
frames of the split**; NaN where the denominator is zero. A mean of per-frame IoUs is another number and is not offered.

Scores are per cent. Protocol: Lift-Splat-Shoot (arXiv 2008.05711), CVT (arXiv 2205.02833), SimpleBEV (arXiv
2206.07959).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from occlift.errors import ConfigError, DataError

Visibility = Literal["filtered", "unfiltered"]

VISIBILITIES: Final[tuple[Visibility, ...]] = ("filtered", "unfiltered")

VEHICLE: Final = ("vehicle",)

THRESHOLD: Final = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class BevCounts:
    """What was counted on some key frames, and every score that follows from it.

    Counts of parts of a split add up to those of the whole.

    Attributes:
        classes: their names, which become part of the names of the scores.
        cells: per variant and class the number of cells that are both predicted and true, predicted, true.
        threshold: probability above which a cell counts as predicted.
    """

    classes: tuple[str, ...]
    cells: Mapping[Visibility, Int[np.ndarray, "classes 3"]]
    threshold: float = THRESHOLD

    def __post_init__(self) -> None:
        for visibility, cells in self.cells.items():
            assert cells.shape == (len(self.classes), 3), (visibility, cells.shape, self.classes)

    def __add__(self, other: BevCounts) -> BevCounts:
        mine, others = ((one.classes, sorted(one.cells), one.threshold) for one in (self, other))
        if mine != others:
            raise ConfigError(
                "bird's-eye-view counts add up only if classes, visibility filter and threshold are the same: "
                f"{mine} and {others}"
            )
        cells = {visibility: counts + other.cells[visibility] for visibility, counts in self.cells.items()}
        return replace(self, cells=cells)

    def iou(self, visibility: Visibility) -> dict[str, float]:
        """IoU per class, per cent; NaN where nothing was predicted and nothing is true."""
        both, predicted, true = self.cells[visibility].T
        union = predicted + true - both
        iou = np.divide(100.0 * both, union, out=np.full(len(union), np.nan), where=union > 0)
        return dict(zip(self.classes, iou.tolist(), strict=True))

    def named(self) -> dict[str, float]:
        """Every IoU by its full name, such as `bev_iou_vehicle_filtered`."""
        return {
            f"bev_iou_{name}_{visibility}": iou
            for visibility in self.cells
            for name, iou in self.iou(visibility).items()
        }


def bev_counts(
    *,
    truth: Bool[np.ndarray, "*batch classes x y"],
    prediction: Float[np.ndarray, "*batch classes x y"] | Bool[np.ndarray, "*batch classes x y"],
    ignored: Bool[np.ndarray, "*batch classes x y"] | None,
    classes: Sequence[str] = VEHICLE,
    threshold: float = THRESHOLD,
) -> BevCounts:
    """Counts the cells of some key frames.

    Args:
        truth: which cells are of the class.
        prediction: probabilities, or decisions already made.
        ignored: which cells the visibility filter leaves out (`vehicle_truth`); None for classes without visibility,
            which then have no filtered score.
        classes: names along the third axis from the end.
        threshold: a cell is predicted if its probability is greater.

    Raises:
        DataError: shapes or types differ from these, a probability is not in 0..1 (logits?) or NaN, or a cell is
            ignored that is not true.
    """
    _check(prediction, truth, ignored, classes)
    predicted = prediction > threshold
    cells: dict[Visibility, Int[np.ndarray, "classes 3"]] = {}
    if ignored is not None:
        cells["filtered"] = _count(predicted & ~ignored, truth & ~ignored)
    cells["unfiltered"] = _count(predicted, truth)
    return BevCounts(classes=tuple(classes), cells=cells, threshold=threshold)


def _count(
    predicted: Bool[np.ndarray, "*batch classes x y"], truth: Bool[np.ndarray, "*batch classes x y"]
) -> Int[np.ndarray, "classes 3"]:
    all_but_class = (*range(truth.ndim - 3), truth.ndim - 2, truth.ndim - 1)
    # np.int64 by name: the default is 32 bits on some platforms.
    return np.stack(
        [cells.sum(axis=all_but_class, dtype=np.int64) for cells in (predicted & truth, predicted, truth)], axis=-1
    )


def _check(prediction: np.ndarray, truth: np.ndarray, ignored: np.ndarray | None, classes: Sequence[str]) -> None:
    if prediction.ndim < 3 or prediction.shape[-3] != len(classes):
        raise DataError(
            f"expected a prediction [..., {len(classes)}, x, y] for the classes {', '.join(classes)}, got "
            f"{prediction.shape}; a single class has an axis too"
        )
    for name, mask in (("truth", truth), ("ignored", ignored)):
        if mask is not None and (mask.shape != prediction.shape or mask.dtype != np.bool_):
            raise DataError(
                f"{name} should be bool of the prediction's shape {prediction.shape}, but is {mask.dtype} of shape "
                f"{mask.shape}"
            )
    if prediction.dtype != np.bool_:
        # NaN is in no range.
        outside = ~((prediction >= 0) & (prediction <= 1))
        if outside.any():
            raise DataError(
                f"a prediction should hold probabilities 0..1, got {prediction[outside][0]}; apply a sigmoid to logits"
            )
    if ignored is not None and (ignored & ~truth).any():
        raise DataError(
            "a cell is ignored where the truth holds no object; the truth must hold all objects, hardly visible ones "
            "too, and nothing but cells of those may be ignored (`training.bev_truth.vehicle_truth` makes both)"
        )
