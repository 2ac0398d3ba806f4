"""The surface on which views agree: labels whose depth is averaged, not united.

Votes call every voxel occupied in which some depth ends, so that the errors of many views make surfaces thick. Here
views are averaged first: the signed distance from every voxel to what each view sees behind or before it, truncated
and weighted by accuracy (Curless and Levoy, A Volumetric Method for Building Complex Models from Range Images, SIGGRAPH
1996). A voxel through which the averaged surface passes is occupied. The points of the pixels are evidence as well:
they are moved onto the averaged surface as far as their own error may be larger than that of the surface, and not at
all where depth is exact to a voxel. How exact it is, is measured from how views disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt8, UInt32

from occlift.geometry.grids import VoxelGrid
from occlift.geometry.transforms import inverse
from occlift.label_space import OCC3D, UNKNOWN, Taxonomy
from occlift.labels.fuse import EVERYTHING, static_classes
from occlift.labels.surface_kernels import (
    NEAREST_M,
    SAME_SURFACE,
    SIGMA_PER_M,
    add_distances,
    add_points,
    compare,
    depth_ratios,
    find_winners,
    measure_extents,
)
from occlift.labels.view import View

PosedView = tuple[View, Float[np.ndarray, "4 4"], bool]
"""A view, the transform from its camera to the grid's frame, and whether what may move by itself counts in it."""

SCALE_SHARE: Final = 0.8
SCALE_VOXELS: Final = 50
"""How far the scale of an image follows the surface, because the image is part of it; and from how many voxels."""

_PAIRS: Final = 400
PIXELS_PER_VIEW: Final = 400
_PAIR_SAMPLES: Final = 50
_DISTANCES_M: Final = (0.0, 5.0, 8.0, 12.0, 18.0, 27.0, 40.0, 70.0)
"""From how many pairs of views and pixels of each the error is measured, in which bins of depth, with at least how many
samples in a bin."""

MOST: Final = 0.5
NEARLY_ALL: Final = 0.75
"""Share of the evidence (`Surface.near`) that must see a surface at a voxel and not far behind it: to believe points,
and to believe the averaged surface where there are none."""

_POINTS_ACROSS: Final = 4
"""Points across a voxel at the far end of the grid; more pixels say nothing new."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DepthError:
    """How much views disagree about the depth of what they both see.

    Attributes:
        at_m: metres along the optical axis.
        relative: standard deviation of the error of one view there, as a share of the depth.
        samples: comparisons of a pixel of one view with what another shows there.
    """

    at_m: Float64[np.ndarray, " bins"]
    relative: Float64[np.ndarray, " bins"]
    samples: int

    @classmethod
    def of(cls, ratio: Float64[np.ndarray, " n"], depth_m: Float64[np.ndarray, " n"]) -> DepthError:
        """From absolute logarithms of what two views show over each other, at these depths.

        Where there are too few comparisons, the error is taken to be that of a good network (5 %).
        """
        at_m, relative = [], []
        for low, high in pairwise(_DISTANCES_M):
            among = ratio[(depth_m >= low) & (depth_m < high) & (ratio < SAME_SURFACE)]
            if len(among) > _PAIR_SAMPLES:
                at_m.append((low + high) / 2)
                # Of a normal error the median of the absolute value is σ / 1.4826; two views have both one.
                relative.append(1.4826 * float(np.median(among)) / 2**0.5)
        if not at_m:
            at_m, relative = [0.0], [SIGMA_PER_M]
        return cls(at_m=np.array(at_m), relative=np.array(relative), samples=len(ratio))

    def by_metre(self) -> Float64[np.ndarray, "100"]:
        """The relative error at 0, 1, … 99 m, interpolated."""
        return np.interp(np.arange(100.0), self.at_m, self.relative)


@dataclass(frozen=True, kw_only=True, eq=False)
class Surface:
    """What a label rests on that was fused as a surface.

    Attributes:
        distance_m: average distance from the centre of the voxel to what the views see on their rays through it, along
            their optical axes; above 0 in front of a surface. 0 where no view says anything.
        extent_m: how much `distance_m` changes within the voxel from its centre to a corner: where it is larger than
            the distance, the surface passes through the voxel.
        near: share of the views' weights that see a surface close to the centre of the voxel, or have a point in the
            voxel; the others see something behind it, or the sky.
        views: number of views that say something (255 for more).
        sigma_m: error of the most accurate depth among those close to the voxel; infinite where there is none.
        class_id: of a surface in this voxel; 255 where there is none.
        class_share: share of the votes for it.
        points: how many points lie in the voxel, after they were moved onto the surface.
        thin: class that has the most points among thin classes that may move by themselves, where the points lie by
            themselves; 255 where there are none.
        error: of the depth.
        scale: by which the depth of each view was multiplied.
    """

    distance_m: Float32[np.ndarray, "x y z"]
    extent_m: Float32[np.ndarray, "x y z"]
    near: Float32[np.ndarray, "x y z"]
    views: UInt8[np.ndarray, "x y z"]
    sigma_m: Float32[np.ndarray, "x y z"]
    class_id: UInt8[np.ndarray, "x y z"]
    class_share: Float32[np.ndarray, "x y z"]
    points: UInt32[np.ndarray, "x y z"]
    thin: UInt8[np.ndarray, "x y z"]
    error: DepthError
    scale: Float64[np.ndarray, " views"]


def fuse_surface(
    views: Iterable[PosedView],
    grid: VoxelGrid,
    taxonomy: Taxonomy = OCC3D.taxonomy,
    *,
    carried: Sequence[tuple[Float[np.ndarray, "_ 3"], UInt8[np.ndarray, " _"]]] = (),
) -> Surface:
    """The surface on which views agree.

    A first average over every other voxel along each axis gives each image's scale; the second is over all.

    Args:
        carried: points (metres, the grid's frame; NaN: none) and their classes that count besides those of the views.
    """
    posed = list(views)
    static = static_classes(taxonomy)
    cast = [(view, _pixel_from_grid(view, pose), EVERYTHING if moves else static) for view, pose, moves in posed]
    error = depth_error(posed, taxonomy)
    relative = error.by_metre()
    scale = _scales(cast, grid, taxonomy, relative)
    lower_m, size_m = np.asarray(grid.lower_m, float), np.asarray(grid.voxel_size_m, float)
    average = _Average.of(cast, scale, grid.shape, lower_m, size_m, taxonomy, relative)
    extent_m = np.zeros(grid.shape, np.float32)
    measure_extents(average.distance_m, average.weight, extent_m)
    points = np.zeros(grid.shape, np.uint32)
    thin_ids = np.full(256, -1, np.int64)
    movers = thin_movers(taxonomy)
    thin_ids[list(movers)] = np.arange(len(movers))
    thin_points = np.zeros((grid.num_voxels, max(1, len(movers))), np.uint32)
    finest_m = float(size_m.min())
    counted_last, grazed = np.zeros(grid.num_voxels, np.int32), np.zeros(grid.num_voxels, np.float32)
    views_cast = zip(posed, cast, scale, strict=True)
    for number, ((view, pose, _), (_, pixel_from_grid, counted), factor) in enumerate(views_cast, 1):
        step = points_step(view.intrinsics_px, view.stride, grid)
        rotation = (pose[:3, :3] @ np.linalg.inv(view.intrinsics_px)) / size_m[:, None]
        origin = (pose[:3, 3] - lower_m) / size_m
        add_points(
            view.class_id, view.depth_m, view.stride, step, rotation, origin, counted, taxonomy.free,
            float(factor), relative, finest_m, average.distance_m, average.weight, extent_m, thin_ids,
            average.near.reshape(-1), average.classes, points.reshape(-1), thin_points, pixel_from_grid, lower_m,
            size_m, number, counted_last, grazed,
        )  # fmt: skip
    for points_grid, class_id in carried:
        index, inside = grid.indices(points_grid)
        flat = np.ravel_multi_index(tuple(index[inside].T), grid.shape)
        np.add.at(points.reshape(-1), flat, 1)
        np.add.at(average.classes, (flat, class_id[inside].astype(np.int64)), 1.0)
    class_id, class_share = _winners(average.classes)
    thin = np.full(grid.num_voxels, UNKNOWN, np.uint8)
    if movers:
        found = thin_points.any(axis=1)
        thin[found] = np.asarray(movers, np.uint8)[thin_points[found].argmax(axis=1)]
    weight = np.maximum(average.weight, np.float32(1e-12))
    return Surface(
        distance_m=average.distance_m,
        extent_m=extent_m,
        near=(average.near + grazed.reshape(grid.shape)) / weight,
        views=average.views,
        sigma_m=average.sigma_m,
        class_id=class_id.reshape(grid.shape),
        class_share=class_share.reshape(grid.shape),
        points=points,
        thin=thin.reshape(grid.shape),
        error=error,
        scale=scale,
    )


def depth_error(views: Sequence[PosedView], taxonomy: Taxonomy = OCC3D.taxonomy) -> DepthError:
    """The error of depth, from pixels of some views and what other views show at the same place.

    Compared are views from different places that look the same way, where both show the same class that does not move.
    The median does not care about what one of them cannot see. An error that all views share stays hidden.
    """
    static = static_classes(taxonomy)
    ratios, depths = [np.zeros(0)], [np.zeros(0)]
    for i, j in pairs_to_compare([pose for _, pose, _ in views]):
        (view, pose, _), (other, other_pose, _) = views[i], views[j]
        step = max(1, round((view.depth_m.size / PIXELS_PER_VIEW) ** 0.5))
        grid_from_pixel = pose[:3, :3] @ np.linalg.inv(view.intrinsics_px)
        ratio, depth = np.empty((2, view.depth_m.size // step + view.depth_m.shape[0] + 1))
        count = compare(
            view.class_id, view.depth_m, view.stride, grid_from_pixel, pose[:3, 3].copy(), other.class_id,
            other.depth_m, other.stride, _pixel_from_grid(other, other_pose), static, taxonomy.free, step, ratio, depth,
        )  # fmt: skip
        ratios.append(np.abs(ratio[:count]))
        depths.append(depth[:count])
    return DepthError.of(np.concatenate(ratios), np.concatenate(depths))


def thin_movers(taxonomy: Taxonomy) -> tuple[int, ...]:
    """Classes whose points are believed wherever they lie: thin things of which only one moment tells.

    Of what stands all moments tell, and their average is better than points of its own: barriers gained five points
    of IoU on a town. What moves was elsewhere at the other moments, and their views see through where it is now.
    """
    moving = set(taxonomy.ids(taxonomy.moving))
    return tuple(i for i in taxonomy.ids(taxonomy.thin) if i in moving)


def pairs_to_compare(poses: Sequence[Float[np.ndarray, "4 4"]]) -> list[tuple[int, int]]:
    """Views, by their transforms to one frame, from different places that look the same way: some hundred pairs."""
    at, ahead = (np.array([pose[:3, column] for pose in poses]).reshape(-1, 3) for column in (3, 2))
    moved_m = np.linalg.norm(at[:, None] - at[None], axis=-1)
    pairs = np.argwhere((ahead @ ahead.T > 0.7) & (moved_m > NEAREST_M))
    if len(pairs) > _PAIRS:
        pairs = pairs[np.linspace(0, len(pairs) - 1, _PAIRS).astype(int)]
    return [(int(i), int(j)) for i, j in pairs]


def points_step(intrinsics_px: Float[np.ndarray, "3 3"], stride: int, grid: VoxelGrid) -> int:
    """Number N; every N-th pixel of every N-th row is a point, some across a voxel at the far end of the grid."""
    finest_m = min(grid.voxel_size_m)
    reach_m = np.maximum(np.abs(grid.lower_m), np.abs(grid.upper_m)).max()
    return max(1, int(intrinsics_px[0, 0] / stride * finest_m / (reach_m * _POINTS_ACROSS)))


def _pixel_from_grid(view: View, grid_from_camera: Float[np.ndarray, "4 4"]) -> Float64[np.ndarray, "3 4"]:
    """From the grid's frame (metres) to (u, v, 1) · depth."""
    return np.ascontiguousarray(view.intrinsics_px @ inverse(grid_from_camera)[:3], np.float64)


_CastView = tuple[View, Float64[np.ndarray, "3 4"], Bool[np.ndarray, "256"]]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Average:
    distance_m: Float32[np.ndarray, "x y z"]
    weight: Float32[np.ndarray, "x y z"]
    near: Float32[np.ndarray, "x y z"]
    views: UInt8[np.ndarray, "x y z"]
    sigma_m: Float32[np.ndarray, "x y z"]
    classes: Float32[np.ndarray, "voxels classes"]

    @classmethod
    def of(
        cls,
        cast: Sequence[_CastView],
        scale: Float64[np.ndarray, " views"],
        shape: tuple[int, int, int],
        lower_m: Float64[np.ndarray, "3"],
        size_m: Float64[np.ndarray, "3"],
        taxonomy: Taxonomy,
        relative: Float64[np.ndarray, "100"],
        *,
        with_classes: bool = True,
    ) -> _Average:
        distance_m, weight, near = (np.zeros(shape, np.float32) for _ in range(3))
        views, sigma_m = np.zeros(shape, np.uint8), np.full(shape, np.inf, np.float32)
        classes = np.zeros((distance_m.size if with_classes else 0, taxonomy.free), np.float32)
        for (view, pixel_from_grid, counted), factor in zip(cast, scale, strict=True):
            add_distances(
                view.class_id, view.depth_m, view.stride, pixel_from_grid, counted, taxonomy.free, float(factor),
                relative, lower_m, size_m, distance_m, weight, near, views, sigma_m, classes,
            )  # fmt: skip
        np.divide(distance_m, weight, out=distance_m, where=weight > 0)
        return cls(
            distance_m=distance_m, weight=weight, near=near, views=views, sigma_m=sigma_m, classes=classes
        )  # fmt: skip


def _scales(
    cast: Sequence[_CastView], grid: VoxelGrid, taxonomy: Taxonomy, relative: Float64[np.ndarray, "100"]
) -> Float64[np.ndarray, " views"]:
    """By what the depth of each view is to be multiplied to agree with the average of all."""
    shape = tuple((n + 1) // 2 for n in grid.shape)
    size_m = np.asarray(grid.voxel_size_m, float)
    # Every other voxel, at its own centre.
    lower_m, spacing_m = np.asarray(grid.lower_m, float) - size_m / 2, size_m * 2
    scale = np.ones(len(cast))
    average = _Average.of(
        cast, scale, shape, lower_m, spacing_m, taxonomy, relative, with_classes=False  # type: ignore[arg-type]
    )  # fmt: skip
    ratio = np.empty(average.weight.size)
    for number, (view, pixel_from_grid, counted) in enumerate(cast):
        count = depth_ratios(
            view.class_id, view.depth_m, view.stride, pixel_from_grid, counted, taxonomy.free, lower_m, spacing_m,
            average.distance_m, average.weight, ratio,
        )  # fmt: skip
        if count > SCALE_VOXELS:
            scale[number] = np.exp(SCALE_SHARE * np.median(ratio[:count]))
    return scale


def _winners(
    classes: Float32[np.ndarray, "voxels classes"],
) -> tuple[UInt8[np.ndarray, " voxels"], Float32[np.ndarray, " voxels"]]:
    """Per voxel the class with the most votes (255 without any; the lowest of equals), and its share of them."""
    class_id, share = np.full(len(classes), UNKNOWN, np.uint8), np.zeros(len(classes), np.float32)
    find_winners(classes, class_id, share)
    return class_id, share
