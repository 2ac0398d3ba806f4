"""From votes, or a fused surface, to a label: which voxels are occupied, by what, which are free, and how sure that is.

Pure functions of the evidence, so that other rules can be tried without looking at an image again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from jaxtyping import Float32, UInt8

from occlift.errors import ConfigError
from occlift.label_space import OCC3D, UNKNOWN, Taxonomy
from occlift.labels.surface import MOST, NEARLY_ALL, Surface
from occlift.labels.vote import Votes

Fusion = Literal["surface", "votes"]
"""How views become a label: by the surface on which they agree, or by the points that fall into a voxel (EasyOcc)."""

MAX_MIN_POINTS: Final = 255
"""The largest threshold that can be decided later: obstruction is counted up to here, in one byte."""

_CONFIDENCE_STEPS: Final = 16

_LEAST_EXTENT_M: Final = 0.05
_LEAST_ERROR_M: Final = 0.05
_LARGEST_ERROR_M: Final = 5.0
"""Limits of what confidence follows from. Voxels with points whose centre no view sees have the largest error: of these
one in eight was right."""


@dataclass(frozen=True, kw_only=True)
class DecisionConfig:
    """When a voxel is occupied, and by what.

    All but `fusion` are rules for votes; a fused surface needs no threshold.

    Attributes:
        fusion: averaging of depth into a surface, or votes of points as in EasyOcc.
        min_points: number of points that make a voxel occupied, 1 to 255; what is best grows with the number of pixels
            (3 gave the highest IoU for `foundation` on 13 frames of 6×96×176).
        class_min_points: number of points for voxels that single classes win, as class=points.
        thin_share: share of the votes with which a thin class (`Taxonomy.thin`) that has enough of them wins over the
            ground; 1 leaves it to the majority.
        carve: ratio of rays passed to rays ended above which a voxel is not occupied; infinite: rays do not overrule
            points.
    """

    fusion: Fusion = "surface"
    min_points: int = 3
    class_min_points: Mapping[str, int] = field(default_factory=dict)
    thin_share: float = 1.0
    carve: float = float("inf")

    def check(self, taxonomy: Taxonomy) -> None:
        """Raises ConfigError if a label of these classes cannot be decided by these rules."""
        votes_alone = [name for name in _VOTES_ALONE if getattr(self, name) != getattr(_DEFAULT, name)]
        if self.fusion == "surface" and votes_alone:
            raise ConfigError(
                f"{', '.join(votes_alone)}: rules for votes, without effect on fusion=surface; choose fusion=votes, or "
                "leave them out"
            )
        unknown = [name for name in self.class_min_points if name not in taxonomy.names]
        if unknown:
            raise ConfigError(f"there is no class {', '.join(unknown)}; expected some of {', '.join(taxonomy.names)}")
        for name, value in (("min_points", self.min_points), *self.class_min_points.items()):
            if not 1 <= value <= MAX_MIN_POINTS:
                raise ConfigError(f"the threshold {name} is {value}; expected 1 to {MAX_MIN_POINTS} points")
        if not 0 < self.thin_share <= 1:
            raise ConfigError(f"thin_share is {self.thin_share}; expected a share above 0, up to 1")
        if not self.carve > 0:
            raise ConfigError(f"carve is {self.carve}; expected a ratio above 0")


_DEFAULT: Final = DecisionConfig()
_VOTES_ALONE: Final = ("min_points", "class_min_points", "thin_share", "carve")


@dataclass(frozen=True, kw_only=True, eq=False)
class Decision:
    """A label as far as votes or a surface decide it.

    Attributes:
        semantics: semantic classes where occupied, `Taxonomy.free` (17 for Occ3D) where free, 255 unknown.
        confidence: 0..255 for 0..1, in 16 steps (finer ones say nothing and double the file). Of a surface: the
            probability that it is right (`decide_surface`). Of votes no probability: occupied: the winner's share of
            all evidence about the voxel: points, rays that passed (as many points each as there are per ray) and
            `min_points` more, as a doubt that fades. Free: p of p + 1 for p rays that passed. Unknown: 0.
    """

    semantics: UInt8[np.ndarray, "x y z"]
    confidence: UInt8[np.ndarray, "x y z"]


def decide(votes: Votes, config: DecisionConfig, taxonomy: Taxonomy = OCC3D.taxonomy) -> Decision:
    """The label that the votes give.

    A voxel with at least `min_points` points is occupied, by the class with the most of them; if several have as many,
    by the one with the lowest id. Of the others those are free that a ray crosses before its end and before the
    first voxel with `min_points` points. What remains is unknown (255). `DecisionConfig` has the exceptions.

    Raises:
        ConfigError: a rule is out of range.
    """
    config.check(taxonomy)
    free = taxonomy.free
    shape = votes.obstruction.shape
    semantics = np.full(shape, UNKNOWN, np.uint8)
    semantics[votes.obstruction < config.min_points] = free
    passed = votes.passed.ravel().astype(np.float64)
    confidence = np.where(semantics.ravel() == free, passed / (passed + 1), 0)

    count = votes.count.astype(np.int64)
    starts = np.flatnonzero(np.diff(votes.voxel.astype(np.int64), prepend=-1))
    voxel = votes.voxel[starts].astype(np.int64)
    points = np.add.reduceat(count, starts) if len(starts) else np.zeros(0, np.int64)
    winner = _winners(votes, count, points, starts, config, taxonomy)
    needed = np.full(free, config.min_points)
    for name, threshold in config.class_min_points.items():
        needed[taxonomy.id_of(name)] = threshold
    class_id = votes.class_id[winner]
    occupied = points >= needed[class_id]
    if np.isfinite(config.carve):
        occupied &= passed[voxel] * votes.points_per_ray <= config.carve * points
    voxel, points, winner, class_id = voxel[occupied], points[occupied], winner[occupied], class_id[occupied]
    semantics.ravel()[voxel] = class_id
    doubt = passed[voxel] * votes.points_per_ray + config.min_points
    confidence[voxel] = count[winner] / (points + doubt)
    return Decision(semantics=semantics, confidence=_in_steps(confidence).reshape(shape))


def decide_surface(
    surface: Surface, taxonomy: Taxonomy = OCC3D.taxonomy, *, voxel_size_m: float = OCC3D.grid.voxel_size_m[0]
) -> Decision:
    """The label that a fused surface gives; there is no threshold that depends on resolution or on the number of views.

    Occupied is a voxel in which points lie, if at least half of the evidence about it sees a surface near its centre or
    has a point in it, or nothing speaks about it; and one through which the averaged surface passes, if three quarters
    of the evidence do and no depth there is exact to a voxel: where it is, there would be points. A voxel with a point
    of a thin class that moves is of that class. What lies in front of the surface is free; what is behind it, or seen
    by nobody, unknown (255).

    Confidence is the probability that this is right, free or this very class: `_how_sure`.

    Args:
        voxel_size_m: smallest edge of a voxel.
    """
    known = surface.views > 0
    crossed = known & (np.abs(surface.distance_m) <= surface.extent_m) & (surface.near >= NEARLY_ALL)
    crossed &= surface.sigma_m > voxel_size_m
    hit = (surface.points > 0) & (~known | (surface.near >= MOST))
    occupied = (crossed | hit) & (surface.class_id != UNKNOWN)
    semantics = np.full(known.shape, UNKNOWN, np.uint8)
    semantics[known & (surface.distance_m > 0)] = taxonomy.free
    semantics[occupied] = surface.class_id[occupied]
    thin = surface.thin != UNKNOWN
    semantics[thin] = surface.thin[thin]
    return Decision(semantics=semantics, confidence=_in_steps(_how_sure(surface, semantics, taxonomy, voxel_size_m)))


def _how_sure(
    surface: Surface, semantics: UInt8[np.ndarray, "x y z"], taxonomy: Taxonomy, voxel_size_m: float
) -> Float32[np.ndarray, "x y z"]:
    """The probability that each voxel is what the label says, 0 where unknown.

    With v views, depth that errs by σ and a surface that passes d from the centre of a voxel of the extent e, the odds
    that it is in this voxel and no neighbour are 2.2 (v + 1)^0.9 (a / σ)^1.1 exp(-1.7 |d| / e) for an edge of length a;
    that it has this class is another matter: the class's share of the votes. Of free voxels the odds are 0.75
    (v + 1)^0.6 (1 + d / e)^2.1. The form is that of physics, the numbers are fitted (`benchmarks/calibration.py`).
    """
    views = surface.views + np.float32(1)
    offset = np.abs(surface.distance_m) / np.maximum(surface.extent_m, np.float32(_LEAST_EXTENT_M))
    error = np.clip(surface.sigma_m, _LEAST_ERROR_M, _LARGEST_ERROR_M)
    odds = 2.2 * views**0.9 * (voxel_size_m / error) ** 1.1 * np.exp(-1.7 * offset)
    occupied = surface.class_share * odds / (1 + odds)
    odds = 0.75 * views**0.6 * (1 + offset) ** 2.1
    sure = np.where(semantics == taxonomy.free, odds / (1 + odds), occupied).astype(np.float32)
    sure[semantics == UNKNOWN] = 0
    return sure


def _in_steps(confidence: np.ndarray) -> np.ndarray:
    """0..1 as 0..255 in steps."""
    return np.round(np.round(confidence * _CONFIDENCE_STEPS) * (255 / _CONFIDENCE_STEPS)).astype(np.uint8)


def _winners(
    votes: Votes,
    count: np.ndarray,
    points: np.ndarray,
    starts: np.ndarray,
    config: DecisionConfig,
    taxonomy: Taxonomy,
) -> np.ndarray:
    """Per voxel the row of the votes that wins it."""
    number = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(count))))
    strength = count.copy()
    if config.thin_share < 1:
        thin = taxonomy.table(taxonomy.thin)[votes.class_id]
        strong = thin & (count >= config.min_points) & (count >= config.thin_share * points[number])
        contested = np.zeros(len(starts), bool)
        contested[number[strong]] = True
        # Where a thin class is strong enough, the ground does not stand for election.
        strength[contested[number] & taxonomy.table(taxonomy.ground)[votes.class_id]] = 0
    # By voxel, then by falling strength, then by class; the first of each voxel wins.
    order = np.lexsort((votes.class_id, -strength, number))
    return order[starts]
