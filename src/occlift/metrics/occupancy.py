"""Occupancy scores. This text is their definition; `docs/metrics.md` has the same with examples.

Everything comes from one histogram per mask: h[a, b] = the number of evaluated voxels with truth a and prediction b,
a and b in 0..n (n = the number of semantic classes = free; 17 for Occ3D), **summed over all key frames of the split**.
A mean of per-frame scores is another number and is not offered. Histograms of parts of a split add up to that of the
whole, in any order, on any machine.

*Mask*: which voxels are evaluated. `camera`: Occ3D's `mask_camera`; `lidar`: Occ3D's `mask_lidar`; `none`: all.
`near_surface` is ours: the voxels of `mask_camera` at most two voxels, along each axis, from an occupied voxel of the
truth. The share of free space in `mask_camera` differs much between makers of truth, near surfaces less.
*IoU of class c*: h[c,c] / (Σ_b h[c,b] + Σ_a h[a,c] − h[c,c]). A class is *absent* when the denominator is zero, that
is when neither truth nor prediction holds it; a class that is only predicted counts with IoU 0.
*mIoU*: the mean of the IoU over all n semantic classes, or over those that are not vague (`Taxonomy.vague`); free never
counts. The number of classes is part of the name of a score: for Occ3D `17`, and `15` without others and other_flat.
An absent class is `skipped`, or counts as `zero`; published numbers use either, so the name of a score says which.
*Geometric IoU*: occupied (any semantic class) against free, over the same voxels.

All scores are percentages. Protocol: Occ3D (arXiv 2304.14365); the variants in use are listed because the same
prediction scores very differently under them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numba import prange

from occlift.errors import ConfigError, DataError
from occlift.label_space import NUM_CLASSES, OCC3D, Taxonomy
from occlift.runtime.kernels import njit
from occlift.runtime.threads import kernel_threads

StoredMask = Literal["camera", "lidar"]
Mask = Literal["camera", "near_surface", "lidar", "none"]
AbsentClass = Literal["skipped", "zero"]

MASKS: Final[tuple[Mask, ...]] = ("camera", "near_surface", "lidar", "none")
ABSENT_RULES: Final[tuple[AbsentClass, ...]] = ("skipped", "zero")

Histogram = Int[np.ndarray, "classes classes"]

MASK_WORDS: Final[Mapping[Mask, str]] = {
    "camera": "camera mask",
    "near_surface": "near surfaces",
    "lidar": "lidar mask",
    "none": "no mask",
}
"""The masks, for the headings of tables."""

NEAR_VOXELS: Final = 2
"""How far, in voxels along each axis, the mask `near_surface` reaches from what is occupied."""

# All but `none`, which needs no mask.
_MAX_MASKS: Final = len(MASKS) - 1
_LANES: Final = 4


def class_sets(taxonomy: Taxonomy = OCC3D.taxonomy) -> dict[int, tuple[int, ...]]:
    """The sets of classes over which mIoUs are means, by their size: all semantic classes, and those not vague.

    >>> list(class_sets())
    [17, 15]
    >>> class_sets(Taxonomy(names=("ground", "car", "rest"), vague=("rest",)))
    {3: (0, 1, 2), 2: (0, 1)}
    """
    vague = taxonomy.ids(taxonomy.vague)
    clear = tuple(number for number in range(taxonomy.free) if number not in vague)
    return {taxonomy.free: tuple(range(taxonomy.free)), **({len(clear): clear} if clear else {})}


def stored_masks(masks: Collection[Mask]) -> tuple[StoredMask, ...]:
    """The masks of a file of truth that scores with `masks` need.

    >>> stored_masks(("near_surface", "none"))
    ('camera',)
    """
    camera = "camera" in masks or "near_surface" in masks
    wanted: dict[StoredMask, bool] = {"camera": camera, "lidar": "lidar" in masks}
    return tuple(mask for mask, needed in wanted.items() if needed)


def evaluated_voxels(
    masks: Collection[Mask],
    *,
    truth: UInt8[np.ndarray, "*batch x y z"],
    stored: Mapping[StoredMask, Bool[np.ndarray, "*batch x y z"]],
    num_classes: int = NUM_CLASSES,
) -> dict[Mask, Bool[np.ndarray, "*batch x y z"] | None]:
    """Per mask the voxels that it evaluates; None: all.

    Args:
        truth: class ids; the last class is free.
        stored: the masks that come with the truth, `stored_masks(masks)` among them.
        num_classes: number of classes, free among them.
    """
    found: dict[Mask, Bool[np.ndarray, "*batch x y z"] | None] = {}
    for mask in masks:
        if mask == "near_surface":
            found[mask] = near_surface(truth < num_classes - 1, stored["camera"])
        else:
            found[mask] = None if mask == "none" else stored[mask]
    return found


def near_surface(
    occupied: Bool[np.ndarray, "*batch x y z"], mask_camera: Bool[np.ndarray, "*batch x y z"]
) -> Bool[np.ndarray, "*batch x y z"]:
    """Voxels of `mask_camera` at most `NEAR_VOXELS` along each axis from an occupied one of the truth, seen or not.

    Raises:
        DataError: shapes differ.

    >>> row = np.array([[[1, 0, 0, 0, 0, 0, 0, 1]]], dtype=bool)
    >>> near_surface(row, np.array([[[1, 1, 1, 1, 1, 1, 1, 0]]], dtype=bool)).astype(int).tolist()
    [[[1, 1, 1, 0, 0, 1, 1, 0]]]
    """
    if occupied.shape != mask_camera.shape:
        raise DataError(f"truth {occupied.shape} and mask camera {mask_camera.shape} must have one shape")
    # Padded along z, so that whole arrays can be moved along it: in place, memory sees long runs only.
    near = np.zeros((*occupied.shape[:-1], occupied.shape[-1] + NEAR_VOXELS), np.uint8)
    near[..., :-NEAR_VOXELS] = occupied
    # A cube is reached axis by axis.
    for along in (near.reshape(-1), np.moveaxis(near, -2, 0), np.moveaxis(near, -3, 0)):
        before = along.copy(order="K")
        for voxels in range(1, NEAR_VOXELS + 1):
            along[voxels:] |= before[:-voxels]
            along[:-voxels] |= before[voxels:]
    return near[..., :-NEAR_VOXELS].view(np.bool_) & mask_camera


def histogram(
    *,
    truth: UInt8[np.ndarray, "*volume"],
    prediction: UInt8[np.ndarray, "*volume"],
    evaluated: Bool[np.ndarray, "*volume"] | None = None,
    num_classes: int = NUM_CLASSES,
) -> Histogram:
    """h[truth, prediction] over the voxels that are true in `evaluated` (None: all), int64 [classes, classes].

    Args:
        truth, prediction: class ids; the last class is free.
        num_classes: number of classes, free among them.

    Raises:
        DataError: shapes differ, the prediction holds what is no class anywhere, or the truth does where evaluated.
            A prediction must decide: unknown (255) is not an answer.
    """
    mask: Mask = "none" if evaluated is None else "camera"
    return histograms(truth=truth, prediction=prediction, evaluated={mask: evaluated}, num_classes=num_classes)[mask]


def histograms(
    *,
    truth: UInt8[np.ndarray, "*volume"],
    prediction: UInt8[np.ndarray, "*volume"],
    evaluated: Mapping[Mask, Bool[np.ndarray, "*volume"] | None],
    num_classes: int = NUM_CLASSES,
) -> dict[Mask, Histogram]:
    """One histogram per mask, as `histogram` makes them, in one pass over the voxels.

    Args:
        evaluated: per mask the voxels it evaluates; None: all.
        num_classes: number of classes, free among them.

    Raises:
        DataError: as `histogram`.
    """
    # Typed as NumPy arrays, but a caller's tensor or list would reach the kernel as something slow or wrong.
    for name, array in (("truth", truth), ("prediction", prediction)):
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
            kind = str(array.dtype) if isinstance(array, np.ndarray) else type(array).__name__
            raise DataError(f"the {name} should be a NumPy array of class ids, uint8, but is {kind}")
    masks = [(name, mask) for name, mask in evaluated.items() if mask is not None]
    assert len(masks) <= _MAX_MASKS, list(evaluated)
    for name, array in (("prediction", prediction), *((f"mask {name}", mask) for name, mask in masks)):
        if array.shape != truth.shape:
            raise DataError(f"truth {truth.shape} and {name} {array.shape} must have one shape")
    # A voxel belongs to one of a few sets: bit i of the set's number says whether mask i evaluates it.
    sets = np.zeros(truth.size, np.uint8)
    for bit, (_, mask) in enumerate(masks):
        sets |= np.ascontiguousarray(mask, np.bool_).ravel().view(np.uint8) << bit
    # One more row and column than classes, for everything that is no class.
    parts = np.zeros((kernel_threads(), _LANES, 2 ** len(masks), num_classes + 1, num_classes + 1), np.int64)
    _count(np.ascontiguousarray(truth).ravel(), np.ascontiguousarray(prediction).ravel(), sets, parts)
    counts = parts.sum(axis=(0, 1))
    if counts[:, :, num_classes].any():
        raise DataError(
            f"a prediction must hold classes 0..{num_classes - 1} (free), got {int(prediction.max())}: decide in every "
            "voxel; unknown (255) is for labels"
        )
    result: dict[Mask, Histogram] = {}
    number = {name: bit for bit, (name, _) in enumerate(masks)}
    for name in evaluated:
        evaluates = [code for code in range(len(counts)) if name not in number or code >> number[name] & 1]
        h = counts[evaluates].sum(axis=0)
        if h[num_classes].any():
            found = truth if name not in number else truth[dict(masks)[name]]
            raise DataError(
                f"the truth must hold classes 0..{num_classes - 1} where it is evaluated (mask {name}), got "
                f"{int(found.max())}{' (unknown); score under a mask that leaves it out' if found.max() == 255 else ''}"
            )
        result[name] = h[:num_classes, :num_classes].copy()
    return result


def class_iou(h: Histogram) -> Float[np.ndarray, "classes"]:
    """IoU per class, free last, per cent; NaN where the class is absent from truth and prediction."""
    hits = np.diagonal(h).astype(np.float64)
    union = h.sum(axis=1) + h.sum(axis=0) - hits
    return np.divide(100.0 * hits, union, out=np.full(len(h), np.nan), where=union > 0)


def mean_iou(
    h: Histogram,
    *,
    classes: int | None = None,
    absent: AbsentClass = "skipped",
    taxonomy: Taxonomy = OCC3D.taxonomy,
) -> float:
    """mIoU, per cent; NaN when every class is absent and skipped.

    Args:
        classes: number of classes of the mean, one of `class_sets(taxonomy)`; None: all semantic ones.

    Raises:
        ConfigError: the taxonomy has no set of so many classes.
    """
    assert len(h) == taxonomy.num_classes, (h.shape, taxonomy.all_names)
    sets = class_sets(taxonomy)
    classes = taxonomy.free if classes is None else classes
    if classes not in sets:
        raise ConfigError(f"there is no mIoU over {classes} classes here; expected {' or '.join(map(str, sets))}")
    iou = class_iou(h)[list(sets[classes])]
    if absent == "zero":
        iou = np.nan_to_num(iou, nan=0.0)
    present = iou[~np.isnan(iou)]
    return float(present.mean()) if present.size else float("nan")


def geometric_iou(h: Histogram) -> float:
    """IoU of occupied against free (the last class), per cent; NaN where truth and prediction are free everywhere."""
    hits = int(h[:-1, :-1].sum())
    union = int(h.sum()) - int(h[-1, -1])
    return 100.0 * hits / union if union else float("nan")


def score_name(mask: Mask, classes: int, absent: AbsentClass) -> str:
    """The full name of an mIoU, such as `miou_17_camera_absent_skipped`."""
    return f"miou_{classes}_{mask}_absent_{absent}"


@dataclass(frozen=True, kw_only=True, eq=False)
class OccupancyCounts:
    """The histograms of some key frames, one per mask, and every score that follows from them.

    Counts of parts of a split add up to those of the whole.

    Attributes:
        histograms: h[truth, prediction] per mask.
        taxonomy: classes of the histograms.
    """

    histograms: Mapping[Mask, Histogram]
    taxonomy: Taxonomy = OCC3D.taxonomy

    @classmethod
    def zero(cls, masks: Sequence[Mask] = MASKS, *, taxonomy: Taxonomy = OCC3D.taxonomy) -> OccupancyCounts:
        """The counts of no key frame."""
        shape = (taxonomy.num_classes, taxonomy.num_classes)
        return cls(histograms={mask: np.zeros(shape, np.int64) for mask in masks}, taxonomy=taxonomy)

    def __add__(self, other: OccupancyCounts) -> OccupancyCounts:
        mine, others = ((sorted(one.histograms), one.taxonomy.names, one.taxonomy.vague) for one in (self, other))
        if mine != others:
            raise ConfigError(
                f"occupancy counts add up only if masks, classes and vague classes are the same: {mine} and {others}"
            )
        total = {mask: h + other.histograms[mask] for mask, h in self.histograms.items()}
        return OccupancyCounts(histograms=total, taxonomy=self.taxonomy)

    def mean_iou(self, mask: Mask, *, classes: int | None = None, absent: AbsentClass = "skipped") -> float:
        """mIoU, per cent, over all semantic classes or another of `class_sets`; errors as in `mean_iou`."""
        return mean_iou(self.histograms[mask], classes=classes, absent=absent, taxonomy=self.taxonomy)

    def geometric_iou(self, mask: Mask) -> float:
        """IoU of occupied against free, per cent."""
        return geometric_iou(self.histograms[mask])

    def class_iou(self, mask: Mask) -> dict[str, float]:
        """IoU per class name, free included, per cent; NaN where absent."""
        return dict(zip(self.taxonomy.all_names, map(float, class_iou(self.histograms[mask])), strict=True))

    def named(self) -> dict[str, float]:
        """Every mIoU variant and the geometric IoU of every mask by full name."""
        scores = {f"iou_{mask}": self.geometric_iou(mask) for mask in self.histograms}
        for mask in self.histograms:
            for classes in class_sets(self.taxonomy):
                for absent in ABSENT_RULES:
                    scores[score_name(mask, classes, absent)] = self.mean_iou(mask, classes=classes, absent=absent)
        return scores


@njit(parallel=True)
def _count(
    truth: UInt8[np.ndarray, " voxels"], prediction: UInt8[np.ndarray, " voxels"],
    sets: UInt8[np.ndarray, " voxels"], parts: Int[np.ndarray, "workers lanes sets codes codes"],
) -> None:  # fmt: skip
    workers = len(parts)
    for worker in prange(workers):
        begin, end = len(truth) * worker // workers, len(truth) * (worker + 1) // workers
        _count_range(truth, prediction, sets, begin, end, parts[worker])


@njit
def _count_range(
    truth: UInt8[np.ndarray, " voxels"], prediction: UInt8[np.ndarray, " voxels"],
    sets: UInt8[np.ndarray, " voxels"], begin: int, end: int, lanes: Int[np.ndarray, "lanes sets codes codes"],
) -> None:  # fmt: skip
    no_class = np.uint32(lanes.shape[2] - 1)
    # Neighbours are counted in different lanes: most voxels are free and predicted so, and adding to a count has to
    # wait for the addition before.
    for i in range(begin, end):
        row, column = min(np.uint32(truth[i]), no_class), min(np.uint32(prediction[i]), no_class)
        lanes[i & (_LANES - 1), sets[i], row, column] += 1
