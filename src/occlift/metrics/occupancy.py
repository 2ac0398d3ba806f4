"""Occupancy scores. This text is their definition; `docs/metrics.md` has the same with examples.

Everything comes from one histogram per mask: h[a, b] = the number of evaluated voxels with truth a and prediction b,
a and b in 0..17 (17 = free), **summed over all key frames of the split**. A mean of per-frame scores is another
number and is not offered. Histograms of parts of a split add up to that of the whole, in any order, on any machine.

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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numba import get_num_threads, prange

from occlift.errors import DataError
from occlift.label_space import CLASS_NAMES, FREE, NUM_CLASSES, OTHER_FLAT, OTHERS
from occlift.runtime.kernels import njit

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

# Camera and lidar; `none` needs no mask.
_MAX_MASKS: Final = 2
# 0..17, and one more for everything that is no class.
_CODES: Final = NUM_CLASSES + 1
_LANES: Final = 4


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
    mask: Mask = "none" if evaluated is None else "camera"
    return histograms(truth, prediction, {mask: evaluated})[mask]


def histograms(
    truth: UInt8[np.ndarray, "*volume"],
    prediction: UInt8[np.ndarray, "*volume"],
    evaluated: Mapping[Mask, Bool[np.ndarray, "*volume"] | None],
) -> dict[Mask, Histogram]:
    """One histogram per mask, as `histogram` makes them, in one pass over the voxels.

    Args:
        evaluated: per mask the voxels it evaluates; None: all.

    Raises:
        DataError: as `histogram`.
    """
    # Typed as NumPy arrays, but a caller's tensor or list would reach the kernel as something slow or wrong.
    assert truth.dtype == prediction.dtype == np.uint8, (truth.dtype, prediction.dtype)
    masks = [(name, mask) for name, mask in evaluated.items() if mask is not None]
    assert len(masks) <= _MAX_MASKS, list(evaluated)
    for name, array in (("prediction", prediction), *((f"mask {name}", mask) for name, mask in masks)):
        if array.shape != truth.shape:
            raise DataError(f"truth {truth.shape} and {name} {array.shape} must have one shape")
    # A voxel belongs to one of four sets: bit i of the set's number says whether mask i evaluates it.
    first, second = (
        np.ascontiguousarray(masks[i][1], np.bool_).ravel().view(np.uint8)
        if i < len(masks)
        else np.zeros(truth.size, np.uint8)
        for i in range(_MAX_MASKS)
    )
    parts = np.zeros((get_num_threads(), _LANES, 2**_MAX_MASKS, _CODES, _CODES), np.int64)
    _count(np.ascontiguousarray(truth).ravel(), np.ascontiguousarray(prediction).ravel(), first, second, parts)
    counts = parts.sum(axis=(0, 1))
    if counts[:, :, NUM_CLASSES].any():
        raise DataError(
            f"a prediction must hold classes 0..{FREE} (free), got {int(prediction.max())}: decide for every voxel; "
            "unknown (255) is for labels"
        )
    result: dict[Mask, Histogram] = {}
    number = {name: bit for bit, (name, _) in enumerate(masks)}
    for name in evaluated:
        sets = [code for code in range(len(counts)) if name not in number or code >> number[name] & 1]
        h = counts[sets].sum(axis=0)
        if h[NUM_CLASSES].any():
            found = truth if name not in number else truth[dict(masks)[name]]
            raise DataError(
                f"the truth must hold classes 0..{FREE} where it is evaluated (mask {name}), got {int(found.max())}"
            )
        result[name] = h[:NUM_CLASSES, :NUM_CLASSES].copy()
    return result


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
class OccupancyCounts:
    """The histograms of some key frames, one per mask, and every score that follows from them.

    Counts of parts of a split add up to those of the whole.
    """

    histograms: Mapping[Mask, Histogram]

    def __add__(self, other: OccupancyCounts) -> OccupancyCounts:
        assert self.histograms.keys() == other.histograms.keys(), (list(self.histograms), list(other.histograms))
        return OccupancyCounts(histograms={mask: h + other.histograms[mask] for mask, h in self.histograms.items()})

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


@njit(parallel=True)
def _count(
    truth: UInt8[np.ndarray, " voxels"], prediction: UInt8[np.ndarray, " voxels"],
    first_mask: UInt8[np.ndarray, " voxels"], second_mask: UInt8[np.ndarray, " voxels"],
    parts: Int[np.ndarray, "workers lanes sets codes codes"],
) -> None:  # fmt: skip
    workers = len(parts)
    for worker in prange(workers):
        begin, end = len(truth) * worker // workers, len(truth) * (worker + 1) // workers
        _count_range(truth, prediction, first_mask, second_mask, begin, end, parts[worker])


@njit
def _count_range(
    truth: UInt8[np.ndarray, " voxels"], prediction: UInt8[np.ndarray, " voxels"],
    first_mask: UInt8[np.ndarray, " voxels"], second_mask: UInt8[np.ndarray, " voxels"], begin: int, end: int,
    lanes: Int[np.ndarray, "lanes sets codes codes"],
) -> None:  # fmt: skip
    no_class = np.uint32(NUM_CLASSES)
    # Neighbours are counted in different lanes: most voxels are free and predicted so, and adding to a count has to
    # wait for the addition before.
    for i in range(begin, end):
        row, column = min(np.uint32(truth[i]), no_class), min(np.uint32(prediction[i]), no_class)
        lanes[i & (_LANES - 1), first_mask[i] + 2 * second_mask[i], row, column] += 1
