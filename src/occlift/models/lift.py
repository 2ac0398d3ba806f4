"""Lifting: image features → features at 3-D points, the mean over the cameras that see the point.

EasyOcc (arXiv 2509.26087) and OccNeRF sample the feature maps bilinearly at the projections of the voxel centres.
A camera of a surround rig sees about a sixth of the voxels, so six sampled volumes are mostly zeros. Here only the
(point, camera) pairs that see each other are listed, and the mean of bilinear samples is written as what it is: a
sparse matrix [points, feature pixels], four entries per pair, times the table of feature pixels. Neither the pairs'
features nor a volume per camera are ever held in memory; `benchmarks/lift_memory.py` measures what that saves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from occlift.geometry.cameras import CameraRig


@dataclass(frozen=True, kw_only=True, eq=False)
class VisiblePairs:
    """The (point, camera) pairs that see each other, ordered by point.

    Attributes:
        camera: index into the flattened [batch · cameras].
        point: index into the flattened [batch · points], ascending.
        uv: the projection as a fraction of the image's width and height, in [0, 1).
        views: how many cameras see each point, [batch, points].
    """

    camera: Int[Tensor, "pairs"]
    point: Int[Tensor, "pairs"]
    uv: Float[Tensor, "pairs 2"]
    views: Int[Tensor, "batch points"]


@torch.no_grad()
def visible_pairs(rig: CameraRig, points_ego: Float[Tensor, "points 3"]) -> VisiblePairs:
    """Lists which camera of a batched rig ([batch, cameras, ...]) sees which point; occlusion is not considered.

    Args:
        points_ego: metres, the ego frame at the lidar's time; the same points for every key frame of the batch.
    """
    assert rig.intrinsics_px.ndim == 4, f"expected a rig [batch, cameras, 3, 3], got {rig.intrinsics_px.shape}"
    pixels, _, visible = rig.project(points_ego)
    by_point = visible.transpose(1, 2)
    batch, point, camera = by_point.nonzero(as_tuple=True)
    size_px = pixels.new_tensor([rig.width, rig.height])
    return VisiblePairs(
        camera=batch * rig.num_cameras + camera,
        point=batch * points_ego.shape[0] + point,
        uv=pixels[batch, camera, point] / size_px,
        views=by_point.sum(-1),
    )


def lift(
    features: Float[Tensor, "batch cameras channels height width"], pairs: VisiblePairs
) -> Float[Tensor, "batch points channels"]:
    """Bilinear samples of the feature maps at the points, the mean over the cameras that see them; zero without any.

    Equal to `grid_sample(mode="bilinear", padding_mode="border", align_corners=False)` of every camera followed by
    the mean over those that see the point. The feature maps cover the whole image and are at least 2×2. Computed in
    float32 (float64 for float64 features) under autocast too, because the backward pass sums over many points.
    """
    channels, height, width = features.shape[2:]
    assert min(height, width) >= 2, (height, width)
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    table = features.permute(0, 1, 3, 4, 2).reshape(-1, width, channels).to(dtype)

    # Feature pixel i has its centre at i + 0.5; beyond the outermost centres the border value is kept.
    x = (pairs.uv[:, 0] * width - 0.5).clamp(0, width - 1)
    y = (pairs.uv[:, 1] * height - 0.5).clamp(0, height - 1)
    left, top = x.floor().clamp(max=width - 2), y.floor().clamp(max=height - 2)
    right_weight, bottom_weight = x - left, y - top
    left_weight, top_weight = 1 - right_weight, 1 - bottom_weight
    views = pairs.views.flatten()
    corner_weights = torch.stack(
        (
            top_weight * left_weight,
            top_weight * right_weight,
            bottom_weight * left_weight,
            bottom_weight * right_weight,
        ),
        1,
    ).div(views[pairs.point][:, None])
    top_left = (pairs.camera * height + top.long()) * width + left.long()
    lifted: Tensor = _SparseProduct.apply(  # type: ignore[no-untyped-call]
        table, height, top_left, corner_weights.to(dtype), pairs.point, views
    )
    return lifted.view(*pairs.views.shape, channels)


class _SparseProduct(torch.autograd.Function):
    """The matrix of bilinear weights times the table of feature pixels, and its transpose for the backward pass.

    Both directions are `embedding_bag`s, which gather, weigh and sum without storing what they gathered. Autograd's
    own backward of `embedding_bag` would sort all four corners of all pairs; sorting the pairs by their top left
    corner is enough, since the other three corners lie at fixed offsets from it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        table: Float[Tensor, "rows width channels"],
        height: int,
        top_left: Int[Tensor, "pairs"],
        corner_weights: Float[Tensor, "pairs 4"],
        point: Int[Tensor, "pairs"],
        views: Int[Tensor, "points"],
    ) -> Float[Tensor, "points channels"]:
        ctx.save_for_backward(top_left, corner_weights, point)
        ctx.table_shape, ctx.height = table.shape, height
        width = table.shape[1]
        corners = top_left[:, None] + top_left.new_tensor([0, 1, width, width + 1])
        return _weighted_sums(table.flatten(0, 1), corners.flatten(), corner_weights.flatten(), 4 * views)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        top_left, corner_weights, point = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        _, width, channels = ctx.table_shape
        pixels = ctx.table_shape[0] * width
        order = top_left.int().argsort()
        point, corner_weights = point[order], corner_weights[order]
        pairs_per_pixel = top_left.bincount(minlength=pixels)
        table_gradient = gradient.new_zeros(ctx.table_shape).view(-1, ctx.height, width, channels)
        for corner in range(4):
            sums = _weighted_sums(gradient, point, corner_weights[:, corner].contiguous(), pairs_per_pixel)
            down, right = divmod(corner, 2)
            sums = sums.view_as(table_gradient)[:, : ctx.height - down, : width - right]
            table_gradient[:, down:, right:] += sums
        return table_gradient.view(ctx.table_shape), None, None, None, None, None


def _weighted_sums(
    table: Float[Tensor, "rows channels"],
    index: Int[Tensor, "entries"],
    weight: Float[Tensor, "entries"],
    entries_per_sum: Int[Tensor, "sums"],
) -> Float[Tensor, "sums channels"]:
    """Sums of weighted table rows over consecutive runs of entries."""
    offsets = F.pad(entries_per_sum.cumsum(0), (1, 0))
    return F.embedding_bag(index, table, offsets, mode="sum", per_sample_weights=weight, include_last_offset=True)
