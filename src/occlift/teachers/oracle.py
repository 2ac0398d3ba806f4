"""A teacher that reads the truth beside the images, and corrupts it by stated amounts.

It knows files (`occlift.scenes.truth_maps`), not where they come from. `perfect` is the truth itself; `foundation` is
an estimate of how wrong today's foundation models are on street scenes; `measured` has the errors of depth that a small
real network was seen to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8

from occlift.label_space import OCC3D, Taxonomy, class_mapping, class_table
from occlift.runtime.noise import generator_of
from occlift.scenes.dataset import HasTruthMaps
from occlift.scenes.frames import CameraImage, KeyFrame
from occlift.teachers.corruption import DepthCorruption, SemanticsCorruption
from occlift.teachers.teacher import DepthMap, SemanticMap

FOUNDATION_DEPTH: Final = DepthCorruption(
    # Metric depth networks are off by one factor per image when the scene says little about its size. Together with
    # the smooth error this makes a mean relative error of 0.05 near by, 0.07 to 0.1 over a street, about where such
    # networks stand on driving scenes they were not trained on.
    scale_sigma=0.04,
    # Surfaces lean and bend over tens of pixels: the part of the error that no single factor removes.
    smooth_sigma=0.035,
    smooth_cell_px=60.0,
    # Networks are smooth: next to nothing is independent from pixel to pixel.
    pixel_sigma=0.005,
    # Ground far away is squeezed into a few rows: at 50 m errors have doubled.
    growth_per_m=0.02,
    # Maps are predicted at a quarter of the resolution or less and enlarged: two pixels on each side of an edge.
    bleed_px=2.0,
    # Networks are trained to about 200 m and say that, or less, for the sky.
    sky_depth_m=200.0,
)
"""Amounts like those of Metric3Dv2 on driving data; an estimate with a reason for each, not a fit."""

MEASURED_DEPTH: Final = DepthCorruption(
    scale_sigma=0.041,
    # In proportion to the distance: 0.08 at 10 m and 0.23 at 30 m.
    smooth_sigma=0.01,
    growth_per_m=0.72,
    smooth_cell_px=37.0,
    pixel_sigma=0.0004,
    bleed_px=4.3,
    # It was never told how far the sky is.
    sky_depth_m=14.0,
)
"""Amounts of a small real network (RT-MonoDepth-S, trained on KITTI) on 17 frames of one KITTI drive, against stereo.

A fit from 5 to 40 m, not a choice (`benchmarks/depth_errors.py`; docs/results/labels.md has its table). Worse than
`FOUNDATION_DEPTH`, more so with the distance. What the model cannot say: that network's far depth is too small.
"""

FOUNDATION_SEMANTICS: Final = SemanticsCorruption(
    # Detectors find little below 8×8 pixels of a 400-pixel-wide image (32×32 of one 1600 wide: COCO's "small").
    missed_below_px=64.0,
    # One object in twelve gets a wrong word: "truck" for a van, "bicycle" for a motorcycle.
    confused_objects=0.08,
    # Sidewalk, terrain and road have no outline that a box detector could hold on to.
    confused_ground=0.06,
    ground_patch_px=30.0,
    # Sky shines through branches and cables, or takes them over.
    sky_bleed_px=1.0,
    # Masks are predicted at a quarter of the resolution: outlines are off by a pixel or two.
    outline_px=1.2,
    outline_cell_px=12.0,
)
"""Amounts like those of Grounded-SAM on driving data; an estimate with a reason for each, not a fit."""


@dataclass(frozen=True, kw_only=True)
class OracleSemanticsConfig(SemanticsCorruption):
    """Errors of the oracle, and what it calls classes other than Occ3D's, which truth maps hold.

    Attributes:
        mapping: TOML file, Occ3D's class = class asked for; without it as `class_mapping` says, by names.
    """

    mapping: Path | None = None


@dataclass(frozen=True, kw_only=True)
class OracleSemantics:
    """A `SemanticsTeacher`: the true classes, with errors. Scores are 1: it does not know where it is wrong.

    Attributes:
        truth: the data set whose truth maps are read.
        seed: with the image's key it decides about all errors, in whatever order images come.
        taxonomy: classes of the maps.
        classes: Occ3D's class, which truth maps hold → class of the taxonomy, `free` or `unknown`.
    """

    truth: HasTruthMaps
    corruption: SemanticsCorruption
    seed: int = 0
    taxonomy: Taxonomy = OCC3D.taxonomy
    classes: Mapping[str, str] = field(default_factory=lambda: class_mapping(OCC3D.taxonomy, OCC3D.taxonomy))

    @property
    def settings(self) -> Mapping[str, object]:
        amounts = {one.name: getattr(self.corruption, one.name) for one in fields(SemanticsCorruption)}
        # Without a word about Occ3D's own classes: labels from before there were others are the same labels.
        others = {} if self.taxonomy.names == OCC3D.taxonomy.names else {"classes": dict(self.classes)}
        return {"teacher": "oracle", "seed": self.seed, **amounts, **others}

    @cached_property
    def _table(self) -> UInt8[np.ndarray, "256"]:
        return class_table(OCC3D.taxonomy, self.taxonomy, self.classes)

    def semantics(self, frame: KeyFrame) -> list[SemanticMap]:
        """The class of every pixel, a map per camera; DataError where an image has no truth maps, or damaged ones."""
        return [self._of_image(image) for image in frame.cameras]

    def _of_image(self, image: CameraImage) -> SemanticMap:
        truth = self.truth.truth_maps(image)
        rng = generator_of(self.seed, "semantics", image.key)
        class_id = self._table[self.corruption.apply(truth.semantics, truth.instance, rng)]
        return SemanticMap(class_id=class_id, score=np.ones(class_id.shape, np.float32))


@dataclass(frozen=True, kw_only=True)
class OracleDepth:
    """A `DepthTeacher`: the true depth, with errors. Confidences are 1: it does not know where it is wrong.

    Attributes:
        truth, seed: as in `OracleSemantics`.
    """

    truth: HasTruthMaps
    corruption: DepthCorruption
    seed: int = 0

    @property
    def settings(self) -> Mapping[str, object]:
        return {"teacher": "oracle", "seed": self.seed, **asdict(self.corruption)}

    def depth(self, frame: KeyFrame) -> list[DepthMap]:
        """The depth of every pixel, a map per camera; DataError where an image has no truth maps, or damaged ones."""
        return [self._of_image(image) for image in frame.cameras]

    def _of_image(self, image: CameraImage) -> DepthMap:
        truth = self.truth.truth_maps(image)
        depth_m = self.corruption.apply(truth.depth_m, generator_of(self.seed, "depth", image.key))
        return DepthMap(depth_m=depth_m, confidence=np.ones(depth_m.shape, np.float32))
