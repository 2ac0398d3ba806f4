"""Depth errors. This text is their definition; `docs/metrics.md` has the same with examples.

*Input.* Per image (one camera at one key frame) a predicted depth map and a true one, metres along the optical axis, of
one size. The truth is NaN where nothing was measured. `scenes.lidar_depth` makes it from a lidar sweep, projected
through the ego poses of both time stamps; returns nearer than 1 m to the camera are the ego's own and left out; where
several fall into a pixel of the image in its own size, the nearest counts. A smaller prediction is enlarged first; how
(nearest, bilinear) belongs to the number.

*Evaluated* are the pixels whose true depth t fulfils 0.1 m < t < 80 m. The prediction d must be finite and positive
there: a depth that is missing is refused, for left-out pixels would make two predictions incomparable.

*Scaling*, before anything else. `metric`: the prediction as it is. `median`: times median(t) / median(d) of the
evaluated pixels of the image (the ratio of two medians; of an even number of values the mean of the middle two), for
predictions whose scale is unknown. A network that claims metres is scored by `metric`.
*Clamping*: afterwards d is clamped to 0.1 .. 80 m.

*Measures* over a set of n pixels, ln the natural logarithm:

    abs_rel   mean |d − t| / t                       rmse      √ mean (d − t)²            metres
    sq_rel    mean (d − t)² / t          metres      rmse_log  √ mean (ln d − ln t)²
    a1 a2 a3  share of max(d/t, t/d) < 1.25, 1.25², 1.25³, **per cent** (published as a fraction)

*Averaging*, because published codes differ. `per_image`: each measure over the pixels of an image, then the mean over
the images that have evaluated pixels; what most codes publish. `pooled`: over the pixels of all images at once, roots
taken last, so that images with many returns count more. rmse per image is never larger than pooled if images are
equally dense.

Everything is added up in double precision; the numbers of pixels and images, and the pixels of a1..a3, are integers,
the same in any order. NaN where nothing was evaluated.

Protocol: Eigen et al. (arXiv 1406.2283); range and sources of truth as usual for surround cameras (SurroundDepth,
arXiv 2204.03636).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Float, Int

from occlift.errors import DataError

Scaling = Literal["metric", "median"]
Averaging = Literal["per_image", "pooled"]

SCALINGS: Final[tuple[Scaling, ...]] = ("metric", "median")
AVERAGINGS: Final[tuple[Averaging, ...]] = ("per_image", "pooled")
MEASURES: Final = ("abs_rel", "sq_rel", "rmse", "rmse_log", "a1", "a2", "a3")
ERRORS: Final = MEASURES[:4]
WITHIN: Final = MEASURES[4:]

MIN_DEPTH_M: Final = 0.1
MAX_DEPTH_M: Final = 80.0


@dataclass(frozen=True, kw_only=True, eq=False)
class DepthSums:
    """What was added up over some images, and every measure that follows from it.

    Sums of parts of a split add up to those of the whole: integers exactly, the others up to double precision.

    Attributes:
        images: with at least one evaluated pixel.
        pixels: evaluated.
        per_image: per scaling the sums over images of `MEASURES`, each of one image.
        errors: per scaling the sums over pixels of |d − t| / t, (d − t)² / t, (d − t)² and (ln d − ln t)².
        within: per scaling the number of pixels that count for a1, a2 and a3.
    """

    images: int
    pixels: int
    per_image: Mapping[Scaling, Float[np.ndarray, "7"]]
    errors: Mapping[Scaling, Float[np.ndarray, "4"]]
    within: Mapping[Scaling, Int[np.ndarray, "3"]]

    def __add__(self, other: DepthSums) -> DepthSums:
        return DepthSums(
            images=self.images + other.images,
            pixels=self.pixels + other.pixels,
            per_image={scaling: self.per_image[scaling] + other.per_image[scaling] for scaling in SCALINGS},
            errors={scaling: self.errors[scaling] + other.errors[scaling] for scaling in SCALINGS},
            within={scaling: self.within[scaling] + other.within[scaling] for scaling in SCALINGS},
        )

    def measures(self, averaging: Averaging, scaling: Scaling) -> dict[str, float]:
        """The seven measures by their short names; NaN where nothing was evaluated."""
        if not self.pixels:
            values = np.full(len(MEASURES), np.nan)
        elif averaging == "per_image":
            values = self.per_image[scaling] / self.images
        else:
            values = _measures(self.errors[scaling], self.within[scaling], self.pixels)
        return dict(zip(MEASURES, values.tolist(), strict=True))

    def named(self) -> dict[str, float]:
        """Every measure by its full name, such as `per_image_abs_rel_metric`."""
        return {
            f"{averaging}_{measure}_{scaling}": value
            for averaging in AVERAGINGS
            for scaling in SCALINGS
            for measure, value in self.measures(averaging, scaling).items()
        }


def depth_sums(
    *, truth_m: Float[np.ndarray, "*images height width"], prediction_m: Float[np.ndarray, "*images height width"]
) -> DepthSums:
    """Adds up the errors of some images.

    Args:
        truth_m: depth along the optical axis, metres; NaN where nothing was measured.
        prediction_m: the same; anything where the truth is not evaluated.

    Raises:
        DataError: the sizes differ, or a prediction is NaN, infinite, zero or negative at an evaluated pixel.
    """
    if prediction_m.shape != truth_m.shape or prediction_m.ndim < 2:
        raise DataError(
            f"expected a prediction and a truth [..., height, width] of one size, got {prediction_m.shape} and "
            f"{truth_m.shape}; resize the prediction to the size of the truth"
        )
    # Sums of nothing are those to start from: an image without truth adds nothing.
    images = pixels = 0
    per_image = {scaling: np.zeros(len(MEASURES)) for scaling in SCALINGS}
    errors = {scaling: np.zeros(len(ERRORS)) for scaling in SCALINGS}
    within = {scaling: np.zeros(len(WITHIN), np.int64) for scaling in SCALINGS}
    shape = (-1, prediction_m.shape[-2] * prediction_m.shape[-1])
    pairs = zip(prediction_m.reshape(shape), truth_m.reshape(shape), strict=True) if prediction_m.size else ()
    for number, (predicted, true) in enumerate(pairs):
        evaluated = (true > MIN_DEPTH_M) & (true < MAX_DEPTH_M)
        d, t = predicted[evaluated].astype(np.float64), true[evaluated].astype(np.float64)
        decided = np.isfinite(d) & (d > 0)
        if not decided.all():
            raise DataError(
                f"image {number}: the predicted depth is {d[~decided][0]} at {int((~decided).sum())} of {d.size} "
                "pixels with truth; a prediction must give a finite depth above 0 m wherever it is evaluated"
            )
        if not t.size:
            continue
        images, pixels = images + 1, pixels + t.size
        for scaling in SCALINGS:
            scale = 1.0 if scaling == "metric" else np.median(t) / np.median(d)
            image_errors, image_within = _sums(np.clip(d * scale, MIN_DEPTH_M, MAX_DEPTH_M), t)
            errors[scaling] += image_errors
            within[scaling] += image_within
            per_image[scaling] += _measures(image_errors, image_within, t.size)
    return DepthSums(images=images, pixels=pixels, per_image=per_image, errors=errors, within=within)


def _sums(
    d: Float[np.ndarray, "pixels"], t: Float[np.ndarray, "pixels"]
) -> tuple[Float[np.ndarray, "4"], Int[np.ndarray, "3"]]:
    """Sums of the four errors, and the numbers of pixels within the three ratios."""
    difference = d - t
    squared = difference**2
    errors = np.array([(np.abs(difference) / t).sum(), (squared / t).sum(), squared.sum(), (np.log(d / t) ** 2).sum()])
    ratio = np.maximum(d / t, t / d)
    within = np.array([np.count_nonzero(ratio < 1.25**k) for k in (1, 2, 3)], np.int64)
    return errors, within


def _measures(errors: Float[np.ndarray, "4"], within: Int[np.ndarray, "3"], pixels: int) -> Float[np.ndarray, "7"]:
    abs_rel, sq_rel, squared, squared_log = errors / pixels
    return np.array([abs_rel, sq_rel, np.sqrt(squared), np.sqrt(squared_log), *(100.0 * within / pixels)])
