"""What foundation models get wrong, by stated amounts: errors that are put on true depth and class maps.

All lengths in pixels are for images 400 pixels wide and scale with the width. All randomness comes from the generator
that is passed in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Float32, UInt8, UInt16
from scipy import ndimage, special

from occlift.label_space import OCC3D, UNKNOWN, Taxonomy
from occlift.runtime.noise import smooth_noise

REFERENCE_WIDTH_PX: Final = 400

CONFUSED_OBJECTS: Final[Mapping[str, tuple[str, ...]]] = {
    "bicycle": ("motorcycle",),
    "bus": ("truck",),
    "car": ("truck",),
    "construction_vehicle": ("truck",),
    "motorcycle": ("bicycle",),
    "pedestrian": ("bicycle",),
    "traffic_cone": ("pedestrian",),
    "trailer": ("truck", "bus"),
    "truck": ("car", "bus", "trailer"),
}
"""Classes that a whole object may be taken for; those that a taxonomy does not have play no part."""

CONFUSED_GROUND: Final[Mapping[str, tuple[str, ...]]] = {
    "driveable_surface": ("sidewalk", "other_flat"),
    "other_flat": ("driveable_surface", "sidewalk"),
    "sidewalk": ("driveable_surface", "terrain"),
    "terrain": ("sidewalk", "driveable_surface"),
}
"""Classes that a patch of ground may be taken for."""


def confusions(names: Mapping[str, tuple[str, ...]], taxonomy: Taxonomy) -> dict[int, tuple[int, ...]]:
    """A table of class names as one of class ids, without names that the taxonomy does not have."""
    ids = {
        taxonomy.id_of(name): tuple(taxonomy.id_of(other) for other in others if other in taxonomy.names)
        for name, others in names.items()
        if name in taxonomy.names
    }
    return {class_id: others for class_id, others in ids.items() if others}


@dataclass(frozen=True, kw_only=True)
class DepthCorruption:
    """Errors of a metric depth map; by default none. Relative errors are errors of the logarithm of the depth.

    Attributes:
        scale_sigma: standard deviation of the error of the image as a whole (focal length, scale ambiguity).
        smooth_sigma: of an error that varies slowly over the image (a wall that leans, a road that bends).
        smooth_cell_px: how far apart values of the slow error are that have little to do with each other.
        pixel_sigma: of an error that is independent for every pixel.
        growth_per_m: the smooth and the pixel error grow by this much of themselves with every metre of depth.
        bleed_px: within this distance of a discontinuity, depth is smeared over it: in-between depths, which hang in
            the air.
        edge_ratio: neighbouring depths that differ by more than this factor are a discontinuity.
        sky_depth_m: depth that is given to the sky; a network has no infinity.
    """

    scale_sigma: float = 0.0
    smooth_sigma: float = 0.0
    smooth_cell_px: float = 60.0
    pixel_sigma: float = 0.0
    growth_per_m: float = 0.0
    bleed_px: float = 0.0
    edge_ratio: float = 1.15
    sky_depth_m: float | None = None

    def apply(
        self, depth_m: Float32[np.ndarray, "height width"], rng: np.random.Generator
    ) -> Float32[np.ndarray, "height width"]:
        """The depth map with the errors on it; pixels of infinite depth keep it, unless `sky_depth_m` is set."""
        height, width = depth_m.shape
        per_pixel = width / REFERENCE_WIDTH_PX
        depth = depth_m.astype(np.float64)
        if self.sky_depth_m is not None:
            depth[np.isinf(depth)] = self.sky_depth_m
        if self.bleed_px > 0:
            depth = smeared(depth, max(1, round(self.bleed_px * per_pixel)), self.edge_ratio)
        error = np.full((height, width), self.scale_sigma * rng.standard_normal())
        if self.smooth_sigma > 0 or self.pixel_sigma > 0:
            noise = self.smooth_sigma * smooth_noise(rng, (height, width), self.smooth_cell_px * per_pixel)
            noise += self.pixel_sigma * rng.standard_normal((height, width))
            finite = np.isfinite(depth)
            error[finite] += noise[finite] * (1 + self.growth_per_m * depth[finite])
        return (depth * np.exp(error)).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class SemanticsCorruption:
    """Errors of a class map; by default none. They happen in the order of the attributes.

    Attributes:
        missed_below_px: objects of fewer pixels (area in an image 400 pixels wide) are not found: they take the class
            of what surrounds them.
        confused_objects: the share of objects that are taken for another class as a whole (`CONFUSED_OBJECTS`).
        confused_ground: the share of ground that is taken for another kind, patch by patch (`CONFUSED_GROUND`).
        ground_patch_px: the size of such patches.
        sky_bleed_px: standard deviation of how far the sky reaches into what it borders on, or the other way round.
        outline_px: how far outlines are off along each image axis, standard deviation.
        outline_cell_px: how far apart along an outline errors are that have little to do with each other.
    """

    missed_below_px: float = 0.0
    confused_objects: float = 0.0
    confused_ground: float = 0.0
    ground_patch_px: float = 30.0
    sky_bleed_px: float = 0.0
    outline_px: float = 0.0
    outline_cell_px: float = 12.0

    def apply(
        self,
        class_id: UInt8[np.ndarray, "height width"],
        instance: UInt16[np.ndarray, "height width"],
        rng: np.random.Generator,
        *,
        taxonomy: Taxonomy = OCC3D.taxonomy,
    ) -> UInt8[np.ndarray, "height width"]:
        """The class map with the errors on it.

        Args:
            instance: object that a pixel shows, 0 for none.
        """
        per_pixel = class_id.shape[1] / REFERENCE_WIDTH_PX
        result = class_id
        if self.missed_below_px > 0:
            result, instance = without_small_objects(result, instance, self.missed_below_px * per_pixel**2)
        if self.confused_objects > 0:
            result = with_confused_objects(
                result, instance, self.confused_objects, rng, confusions(CONFUSED_OBJECTS, taxonomy)
            )
        if self.confused_ground > 0:
            result = with_confused_ground(
                result,
                self.confused_ground,
                self.ground_patch_px * per_pixel,
                rng,
                confusions(CONFUSED_GROUND, taxonomy),
            )
        if self.sky_bleed_px > 0:
            cell_px = self.outline_cell_px * per_pixel
            result = with_sky_bleed(result, self.sky_bleed_px * per_pixel, cell_px, rng, taxonomy.free)
        if self.outline_px > 0:
            result = with_jittered_outlines(result, self.outline_px * per_pixel, self.outline_cell_px * per_pixel, rng)
        return result


def smeared(
    depth_m: Float[np.ndarray, "height width"], radius_px: int, edge_ratio: float
) -> Float[np.ndarray, "height width"]:
    """Depth with every pixel within `radius_px` of a discontinuity averaged (in log depth) over the square around it.

    Pixels of infinite depth stay, and enter no average.
    """
    finite = np.isfinite(depth_m)
    log_depth = np.log(np.where(finite, depth_m, 1.0))
    nearest = ndimage.minimum_filter(np.where(finite, log_depth, np.inf), 3)
    farthest = ndimage.maximum_filter(np.where(finite, log_depth, -np.inf), 3)
    at_edge = farthest - nearest > np.log(edge_ratio)
    # A 3×3 window finds the pixels on both sides of an edge, so those at distance one already.
    size = 2 * radius_px + 1
    near_edge = ndimage.maximum_filter(at_edge, 2 * radius_px - 1) & finite
    total = ndimage.uniform_filter(np.where(finite, log_depth, 0.0), size)
    share = ndimage.uniform_filter(finite.astype(np.float64), size)
    return np.where(near_edge, np.exp(total / np.maximum(share, 1e-12)), depth_m)


def without_small_objects(
    class_id: UInt8[np.ndarray, "height width"], instance: UInt16[np.ndarray, "height width"], area_px: float
) -> tuple[UInt8[np.ndarray, "height width"], UInt16[np.ndarray, "height width"]]:
    """Classes and objects after objects of fewer than `area_px` pixels took the values of the nearest other pixel."""
    areas = np.bincount(instance.ravel())
    small = areas < area_px
    small[0] = False
    missed = small[instance]
    if not missed.any() or missed.all():
        return class_id, instance
    row, column = ndimage.distance_transform_edt(missed, return_distances=False, return_indices=True)
    return class_id[row, column], instance[row, column]


def with_confused_objects(
    class_id: UInt8[np.ndarray, "height width"],
    instance: UInt16[np.ndarray, "height width"],
    share: float,
    rng: np.random.Generator,
    confused: Mapping[int, tuple[int, ...]],
) -> UInt8[np.ndarray, "height width"]:
    """Classes after each object became, with probability `share`, as a whole something else."""
    result = class_id.copy()
    for number in np.unique(instance[instance > 0]):
        flips, choice = rng.random(2)
        pixels = (instance == number) & (class_id != UNKNOWN)
        if flips >= share or not pixels.any():
            continue
        others = confused.get(int(np.bincount(class_id[pixels]).argmax()))
        if others is not None:
            result[pixels] = others[int(choice * len(others))]
    return result


def with_confused_ground(
    class_id: UInt8[np.ndarray, "height width"],
    share: float,
    patch_px: float,
    rng: np.random.Generator,
    confused: Mapping[int, tuple[int, ...]],
) -> UInt8[np.ndarray, "height width"]:
    """Classes after `share` of the ground, in expectation, became another kind of ground, in patches."""
    patches = smooth_noise(rng, class_id.shape, patch_px) > special.ndtri(1 - share)
    result = class_id.copy()
    for ground, others in confused.items():
        result[patches & (class_id == ground)] = rng.choice(others)
    return result


def with_sky_bleed(
    class_id: UInt8[np.ndarray, "height width"], sigma_px: float, cell_px: float, rng: np.random.Generator, sky_id: int
) -> UInt8[np.ndarray, "height width"]:
    """Classes after the border of the sky moved out or in by a smooth random distance."""
    sky = class_id == sky_id
    if not sky.any() or sky.all():
        return class_id
    reach_px = sigma_px * smooth_noise(rng, class_id.shape, cell_px)
    to_sky_px = ndimage.distance_transform_edt(~sky)
    to_other_px, (row, column) = ndimage.distance_transform_edt(sky, return_indices=True)
    result = class_id.copy()
    result[~sky & (to_sky_px <= reach_px)] = sky_id
    loses = sky & (to_other_px <= -reach_px)
    result[loses] = class_id[row[loses], column[loses]]
    return result


def with_jittered_outlines(
    class_id: UInt8[np.ndarray, "height width"], sigma_px: float, cell_px: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "height width"]:
    """Classes read at places that a smooth random field moves by `sigma_px` along each axis."""
    height, width = class_id.shape
    down = np.rint(sigma_px * smooth_noise(rng, (height, width), cell_px)).astype(int)
    right = np.rint(sigma_px * smooth_noise(rng, (height, width), cell_px)).astype(int)
    row = np.clip(np.arange(height)[:, None] + down, 0, height - 1)
    column = np.clip(np.arange(width) + right, 0, width - 1)
    return class_id[row, column]
