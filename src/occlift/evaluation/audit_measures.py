"""Measures of labels: agreement with truth, height of the ground, agreement between neighbouring key frames.

Pure functions of arrays. What is kept are counts, which add up over key frames; shares are computed last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage

from occlift.geometry.grids import VoxelGrid
from occlift.geometry.transforms import transform_points
from occlift.label_space import OCC3D, UNKNOWN, LabelSpace, Taxonomy
from occlift.labels.files import OccupancyLabel
from occlift.metrics.occupancy import Histogram, Mask, OccupancyCounts, histogram, histograms

NEAR_M: Final = 10.0
"""Largest |x| and |y| at which the ground around the ego is measured: further off the street may climb."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Counts of voxels.

    Attributes:
        compared: known in the label, and in the mask if there is one.
        equal: of the compared, those with the same class or free in both.
        on_boundary: of those that differ, the ones that touch a boundary in the truth: among the 3×3×3 voxels around
            them there are two classes (free being one).
    """

    compared: int
    equal: int
    on_boundary: int

    @property
    def share_equal(self) -> float:
        """Share of equal voxels among those compared; 1 if there were none."""
        return self.equal / self.compared if self.compared else 1.0

    @property
    def off_boundary(self) -> int:
        """Voxels that differ in the midst of something uniform: never a matter of rounding."""
        return self.compared - self.equal - self.on_boundary


def agreement(
    semantics: UInt8[np.ndarray, "x y z"],
    truth: UInt8[np.ndarray, "x y z"],
    *,
    among: Bool[np.ndarray, "x y z"] | None = None,
) -> Agreement:
    """Compares a label with the truth on the voxels it knows.

    Args:
        semantics: classes of the label; unknown voxels (255) are not compared.
        truth: without 255.
        among: compare only these, such as the truth's `mask_camera`. What lies beyond the grid is taken to be like its
            outermost voxels; where boundaries matter, leave those out.
    """
    compared = semantics != UNKNOWN
    if among is not None:
        compared &= among
    differs = compared & (semantics != truth)
    boundary = ndimage.maximum_filter(truth, 3, mode="nearest") != ndimage.minimum_filter(truth, 3, mode="nearest")
    return Agreement(
        compared=int(compared.sum()),
        equal=int(compared.sum() - differs.sum()),
        on_boundary=int((differs & boundary).sum()),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelCounts:
    """Labels against truth, counted in two ways, per mask of the truth.

    Attributes:
        unknown_as_free: over all voxels of the mask; what a label does not know it is taken to call free, so that it is
            scored like the prediction of a network.
        known: only over those voxels of the mask that the label knows. Not a score to compare labels by: who knows
            less is asked less.
    """

    unknown_as_free: OccupancyCounts
    known: OccupancyCounts

    def __add__(self, other: LabelCounts) -> LabelCounts:
        return LabelCounts(unknown_as_free=self.unknown_as_free + other.unknown_as_free, known=self.known + other.known)

    def unknown_share(self, mask: Mask) -> float:
        """The share of the mask's voxels that the labels do not know, per cent; NaN where the mask is empty."""
        evaluated = int(self.unknown_as_free.histograms[mask].sum())
        return _per_cent(evaluated - int(self.known.histograms[mask].sum()), evaluated)


def count_against_truth(
    semantics: UInt8[np.ndarray, "x y z"],
    truth: UInt8[np.ndarray, "x y z"],
    masks: Mapping[Mask, Bool[np.ndarray, "x y z"] | None],
    *,
    taxonomy: Taxonomy = OCC3D.taxonomy,
) -> LabelCounts:
    """The histograms of one label, from which every score follows (`occlift.metrics.occupancy`).

    Args:
        semantics: classes of the label, 255 where unknown.
        masks: per mask the voxels of the truth that it evaluates; None: all.

    Raises:
        DataError: the truth is no class where it is evaluated, or shapes differ.
    """
    is_known = semantics != UNKNOWN
    filled = np.where(is_known, semantics, np.uint8(taxonomy.free))
    classes = taxonomy.num_classes
    known = {
        mask: histogram(
            truth=truth, prediction=filled, evaluated=is_known if among is None else is_known & among,
            num_classes=classes,
        )
        for mask, among in masks.items()
    }  # fmt: skip
    whole = histograms(truth=truth, prediction=filled, evaluated=masks, num_classes=classes)
    return LabelCounts(
        unknown_as_free=OccupancyCounts(histograms=whole, taxonomy=taxonomy),
        known=OccupancyCounts(histograms=known, taxonomy=taxonomy),
    )


def precision(h: Histogram) -> Float[np.ndarray, "classes"]:
    """Per class c the share of the voxels called c that are c, h[c,c] / Σ_a h[a,c], per cent; NaN where none is."""
    return _per_cents(np.diagonal(h), h.sum(axis=0))


def recall(h: Histogram) -> Float[np.ndarray, "classes"]:
    """Per class c the share of the voxels that are c and are called c, h[c,c] / Σ_b h[c,b], per cent; NaN where none
    is."""
    return _per_cents(np.diagonal(h), h.sum(axis=1))


@dataclass(frozen=True, kw_only=True, eq=False)
class Levels:
    """Histogram of heights, or of differences of heights, in whole voxels.

    Attributes:
        first: the number that `counts[0]` counts; the next ones follow in steps of 1.
    """

    first: int
    counts: Int[np.ndarray, " levels"]

    def __add__(self, other: Levels) -> Levels:
        assert (self.first, len(self.counts)) == (other.first, len(other.counts)), (self.first, other.first)
        return replace(self, counts=self.counts + other.counts)

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    @property
    def median(self) -> float:
        """Half are below, half above; between two numbers their mean. NaN where nothing was counted."""
        if not self.total:
            return float("nan")
        below = np.cumsum(self.counts)
        lower, upper = (np.searchsorted(below, half, side="right") for half in ((self.total - 1) // 2, self.total // 2))
        return self.first + float(lower + upper) / 2

    def shares(self) -> dict[int, float]:
        """Number → its share, per cent; those that occur."""
        return {
            self.first + level: _per_cent(int(self.counts[level]), self.total)
            for level in np.flatnonzero(self.counts).tolist()
        }


def top_ground(semantics: UInt8[np.ndarray, "x y z"], *, taxonomy: Taxonomy = OCC3D.taxonomy) -> Int[np.ndarray, "x y"]:
    """Per column the index z of the highest voxel of a ground class, −1 if none."""
    ground = taxonomy.table(taxonomy.ground)[semantics]
    height = semantics.shape[2]
    return np.where(ground.any(axis=2), height - 1 - ground[..., ::-1].argmax(axis=2), -1)


def ground_offsets(
    semantics: UInt8[np.ndarray, "x y z"], truth: UInt8[np.ndarray, "x y z"], *, taxonomy: Taxonomy = OCC3D.taxonomy
) -> Levels:
    """Histogram of the height of the label's ground above (+) or below (−) that of the truth, in voxels, over the
    columns that have ground in both.

    A column's ground is its highest ground voxel. A label's ground is thicker than truth's, because depth is not exact:
    single columns err upwards, the median does not, and is what a shift has to undo (with the opposite sign).
    """
    mine, theirs = (top_ground(volume, taxonomy=taxonomy) for volume in (semantics, truth))
    height = semantics.shape[2]
    found = (mine - theirs)[(mine >= 0) & (theirs >= 0)]
    return Levels(first=1 - height, counts=np.bincount(found + height - 1, minlength=2 * height - 1))


def ground_levels(
    semantics: UInt8[np.ndarray, "x y z"], *, space: LabelSpace = OCC3D, near_m: float = NEAR_M
) -> Levels:
    """The index z of the highest ground voxel of each column whose centre has |x| and |y| below `near_m` (metres).

    In a grid of the ego frame these are the columns around the car: with ego frames below the rear axle, on the road
    below the rear axle, their median is the voxel that holds z = 0 (`level_height_m`).
    """
    centers_m = space.grid.centers()[:, :, 0, :2]
    levels = top_ground(semantics, taxonomy=space.taxonomy)[(np.abs(centers_m) < near_m).all(axis=-1)]
    return Levels(first=0, counts=np.bincount(levels[levels >= 0], minlength=space.grid.shape[2]))


def level_height_m(level: float, grid: VoxelGrid) -> float:
    """The height of the centre of the voxels of this index z, metres, in the grid's frame."""
    return grid.lower_m[2] + (level + 0.5) * grid.voxel_size_m[2]


def shift(volume: np.ndarray, voxels: int, *, fill: Any) -> np.ndarray:
    """A volume [x, y, z] whose content is moved up (+) or down (−) by whole voxels.

    Args:
        fill: what comes in from below or above; what leaves the grid is lost.
    """
    moved = np.full_like(volume, fill)
    height = volume.shape[2]
    if abs(voxels) < height:
        moved[:, :, max(0, voxels) : height + min(0, voxels)] = volume[:, :, max(0, -voxels) : height + min(0, -voxels)]
    return moved


def shift_label(label: OccupancyLabel, voxels: int) -> OccupancyLabel:
    """A label moved up (+) or down (−) by whole voxels, for truth whose road lies elsewhere than the ego frame says.

    What comes in is unknown: outside of both masks, with no confidence.
    """
    return OccupancyLabel(
        semantics=shift(label.semantics, voxels, fill=UNKNOWN),
        mask_lidar=shift(label.mask_lidar, voxels, fill=False),
        mask_camera=shift(label.mask_camera, voxels, fill=False),
        confidence=None if label.confidence is None else shift(label.confidence, voxels, fill=0),
    )


@dataclass(frozen=True, kw_only=True)
class KindAgreement:
    """Agreement of two labels on the voxels of static classes, or on those of moving classes.

    Attributes:
        both, either: number of voxels, known in both labels, that such classes occupy in both, in at least one.
        equal: number of voxels of `both` with the same class.
    """

    both: int = 0
    either: int = 0
    equal: int = 0

    def __add__(self, other: KindAgreement) -> KindAgreement:
        return KindAgreement(
            both=self.both + other.both, either=self.either + other.either, equal=self.equal + other.equal
        )

    @property
    def iou(self) -> float:
        """both / either, per cent; NaN where neither has any."""
        return _per_cent(self.both, self.either)

    @property
    def equal_share(self) -> float:
        """equal / both, per cent; NaN where both never have any."""
        return _per_cent(self.equal, self.both)


@dataclass(frozen=True, kw_only=True)
class NeighbourAgreement:
    """Agreement of labels of neighbouring key frames about the same places.

    Attributes:
        pairs: number of pairs of labels.
        known: number of voxels that both labels know.
        static: agreement on classes that stand still. Their labels should agree: what differs is error, or the
            resampling of thin things.
        dynamic: agreement on classes that may move. Half a second is a car's length: this is no measure of quality by
            itself.
    """

    pairs: int = 0
    known: int = 0
    static: KindAgreement = KindAgreement()
    dynamic: KindAgreement = KindAgreement()

    def __add__(self, other: NeighbourAgreement) -> NeighbourAgreement:
        return NeighbourAgreement(
            pairs=self.pairs + other.pairs,
            known=self.known + other.known,
            static=self.static + other.static,
            dynamic=self.dynamic + other.dynamic,
        )


def neighbour_agreement(
    earlier: UInt8[np.ndarray, "x y z"],
    later: UInt8[np.ndarray, "x y z"],
    later_from_earlier: Float[np.ndarray, "4 4"],
    *,
    space: LabelSpace = OCC3D,
) -> NeighbourAgreement:
    """Compares two labels of a scene on the voxels that both know, in the grid of the earlier one.

    Each voxel is compared with the voxel of the later label that holds its centre; beyond that grid nothing is known.
    Unless the ego moved by whole voxels, this resampling alone costs agreement, the more the thinner things are:
    compare with what truth reaches.
    """
    grid, taxonomy = space.grid, space.taxonomy
    mine = earlier != UNKNOWN
    index, inside_grid = grid.indices(transform_points(later_from_earlier, grid.centers()[mine]))
    a, b = earlier[mine][inside_grid], later[tuple(index[inside_grid].T)]
    a, b = a[b != UNKNOWN], b[b != UNKNOWN]
    is_dynamic = taxonomy.table(taxonomy.moving)
    is_static = (np.arange(256) < taxonomy.free) & ~is_dynamic

    def of_kind(kind: Bool[np.ndarray, "256"]) -> KindAgreement:
        both = kind[a] & kind[b]
        return KindAgreement(
            both=int(both.sum()), either=int((kind[a] | kind[b]).sum()), equal=int((both & (a == b)).sum())
        )

    return NeighbourAgreement(pairs=1, known=len(a), static=of_kind(is_static), dynamic=of_kind(is_dynamic))


def _per_cent(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else float("nan")


def _per_cents(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(100.0 * part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
