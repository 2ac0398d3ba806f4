"""BEVFormer (Li et al., arXiv 2203.17270) without its temporal part: every cell asks the images and its neighbours.

A learned query per cell passes layers of deformable attention (Zhu et al., *Deformable DETR*, arXiv 2010.04159): it
reads a few points of a map, at offsets and with weights that follow from the query itself. In a layer, first from the
map of queries, around its own cell; then from the images, around the projections of the points above its cell; then
comes a feed-forward network. Each of the three is added and normalised. With V the values (a projection of what is
read), r a reference point, o offsets, a the weights (a softmax over the points of a head), per head:

    self:    Σ_p  a_p · V(r + o_p)
    images:  Σ_z  mean over the cameras that see point z above the cell of  Σ_p a_zp · V_camera(r_z,camera + o_zp)

A point that no camera sees adds nothing, and which camera is which does not matter. Offsets are in pixels of the map
that is read; outside of it there are zeros. Sizes by default are those of the variant that SimpleBEV compares itself
with, heights too: 8 points, one above the other. No dropout: training draws nothing from a global random state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from occlift.errors import ConfigError
from occlift.geometry.cameras import CameraRig
from occlift.geometry.grids import BevGrid
from occlift.models.lift import VisiblePairs, visible_pairs
from occlift.models.pillars import Pillars


@dataclass(frozen=True, kw_only=True)
class BevFormerConfig(Pillars):
    """Shape of a `BevFormer`; its width is that of the map.

    Attributes:
        layers: of self-attention, attention to the images and feed-forward network.
        heads: of both attentions; divide the map's channels.
        points: per head and query; the heights share those in the images evenly.
        feed_forward: hidden channels of the feed-forward network.
    """

    layers: int = 6
    heads: int = 4
    points: int = 8
    feed_forward: int = 1028

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.layers, self.heads, self.points, self.feed_forward) < 1:
            raise ConfigError(f"expected at least one layer, head, point and hidden channel: {self}")
        if self.points % self.heights:
            raise ConfigError(f"{self.heights} heights cannot share {self.points} points evenly: choose a multiple")


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenPoints:
    """The points above the cells and the cameras that see them, as attention to the images needs them.

    Attributes:
        pairs: ordered by point; points are ordered as [batch, cell, height].
        by_image: numbers of the pairs of each image of the flattened [batch · cameras].
        row: of every pair, its place in the concatenation of `by_image`.
        bounds: where the pairs of each cell of the flattened [batch · cells] begin, and where the last ones end.
        share: of every pair: one over the number of cameras that see its point.
    """

    pairs: VisiblePairs
    by_image: tuple[Int[Tensor, "_"], ...]
    row: Int[Tensor, "pairs"]
    bounds: Int[Tensor, "bounds"]
    share: Float[Tensor, "pairs"]


@torch.no_grad()
def seen_points(rig: CameraRig, points_ego: Float[Tensor, "points 3"], *, heights: int) -> SeenPoints:
    """Which camera sees which point; found once for all layers.

    Args:
        rig: batched, [batch, cameras, ...].
        points_ego: metres, ordered as [cell, height].
        heights: points per cell.
    """
    pairs = visible_pairs(rig, points_ego)
    order = pairs.camera.sort(stable=True).indices
    images = rig.intrinsics_px.shape[0] * rig.num_cameras
    row = torch.empty_like(order)
    row[order] = torch.arange(len(order), device=order.device)
    per_cell = pairs.views.view(-1, heights).sum(-1)
    return SeenPoints(
        pairs=pairs,
        by_image=torch.split(order, pairs.camera.bincount(minlength=images).tolist()),
        row=row,
        bounds=F.pad(per_cell.cumsum(0), (1, 0)),
        share=pairs.views.flatten()[pairs.point].to(pairs.uv.dtype).reciprocal(),
    )


def attend(
    values: Float[Tensor, "maps heads depth rows columns"],
    where: Float[Tensor, "maps heads queries points 2"],
    weights: Float[Tensor, "maps heads queries points"],
) -> Float[Tensor, "maps queries heads*depth"]:
    """Weighted sums of bilinear samples of maps, zero outside.

    In the precision of `where`, under autocast too: rounded coordinates would be off by pixels.

    Args:
        where: (column, row) as fractions of the maps' width and height; [0, 1] covers a map from edge to edge.
    """
    maps, heads = values.shape[:2]
    with torch.autocast(where.device.type, enabled=False):
        samples = F.grid_sample(
            values.flatten(0, 1).to(where.dtype), 2 * where.flatten(0, 1) - 1, mode="bilinear", align_corners=False
        )
        sums = torch.einsum("mcqp,mqp->mqc", samples, weights.flatten(0, 1).to(where.dtype))
    return torch.unflatten(sums, 0, (maps, heads)).movedim(1, 2).flatten(2)


class _DeformableAttention(nn.Module):
    """The projections that both attentions share: values, offsets, weights and output.

    Args:
        inputs: channels of the maps that are read.
        channels: of the queries and of the result.
        steps: how far the farthest point of a head begins from its reference point, pixels.
    """

    def __init__(self, *, inputs: int, channels: int, heads: int, points: int, steps: int) -> None:
        super().__init__()
        self.heads, self.points = heads, points
        self.values = nn.Linear(inputs, channels)
        self.offsets = nn.Linear(channels, heads * points * 2)
        self.weights = nn.Linear(channels, heads * points)
        self.output = nn.Linear(channels, channels)
        # As in Deformable DETR: each head looks into a direction of its own, each point one step farther than the last.
        angles_rad = torch.arange(heads) * (2 * math.pi / heads)
        directions = torch.stack((angles_rad.cos(), angles_rad.sin()), -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        distances_px = torch.arange(points) % steps + 1
        with torch.no_grad():
            self.offsets.weight.zero_()
            self.offsets.bias.copy_((directions[:, None] * distances_px[:, None]).flatten())
            self.weights.weight.zero_()
            self.weights.bias.zero_()
        for projection in (self.values, self.output):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def value_maps(
        self, maps: Float[Tensor, "maps rows columns inputs"]
    ) -> Float[Tensor, "maps heads depth rows columns"]:
        """The values, laid out for `attend`."""
        return self.values(maps).unflatten(-1, (self.heads, -1)).permute(0, 3, 4, 1, 2)

    def offsets_px(self, asking: Float[Tensor, "*n channels"]) -> Float[Tensor, "*n heads points 2"]:
        """(column, row) in pixels of the map that is read."""
        return self.offsets(asking).unflatten(-1, (self.heads, self.points, 2))

    def shares(self, asking: Float[Tensor, "*n channels"]) -> Float[Tensor, "*n heads points"]:
        """The weights of the points; those of a head sum up to one."""
        return self.weights(asking).unflatten(-1, (self.heads, self.points)).softmax(-1)


class CellAttention(_DeformableAttention):
    """Deformable attention of the cells to their own map.

    Args:
        shape: of the map, (x, y).
    """

    centers: Tensor

    def __init__(self, *, channels: int, heads: int, points: int, shape: tuple[int, int]) -> None:
        super().__init__(inputs=channels, channels=channels, heads=heads, points=points, steps=points)
        self.shape = shape
        # Maps have rows along x and columns along y.
        row, column = ((torch.arange(count) + 0.5) / count for count in shape)
        centers = torch.stack((column.repeat(len(row)), row.repeat_interleave(len(column))), -1)
        self.register_buffer("centers", centers, persistent=False)

    def forward(
        self, queries: Float[Tensor, "batch cells channels"], place: Float[Tensor, "cells channels"]
    ) -> Float[Tensor, "batch cells channels"]:
        """What every cell, ordered as [x, y], reads; `place` says to a query where it is."""
        asking = queries + place
        count_x, count_y = self.shape
        offsets = self.offsets_px(asking).to(self.centers.dtype) / self.centers.new_tensor([count_y, count_x])
        where = self.centers[:, None, None] + offsets
        values = self.value_maps(torch.unflatten(queries, 1, self.shape))
        return self.output(attend(values, where.movedim(2, 1), self.shares(asking).movedim(2, 1)))


class ImageAttention(_DeformableAttention):
    """Deformable attention of the cells to the images, around the projections of the points above them."""

    def __init__(self, *, inputs: int, channels: int, heads: int, points: int, heights: int) -> None:
        super().__init__(inputs=inputs, channels=channels, heads=heads, points=points, steps=points // heights)
        self.heights = heights

    def forward(
        self,
        queries: Float[Tensor, "batch cells channels"],
        place: Float[Tensor, "cells channels"],
        features: Float[Tensor, "batch cameras inputs height width"],
        seen: SeenPoints,
    ) -> Float[Tensor, "batch cells channels"]:
        """What every cell reads; `place` says to a query where it is."""
        asking = queries + place
        uv = seen.pairs.uv
        size_px = uv.new_tensor([features.shape[-1], features.shape[-2]])
        # [batch · cells · heights, heads, points per height]: one row per reference point.
        offsets_px = self._per_height(self.offsets_px(asking).flatten(-2))
        offsets = torch.unflatten(offsets_px, -1, (-1, 2)).to(uv.dtype) / size_px
        weights = self._per_height(self.shares(asking))
        values = self.value_maps(features.flatten(0, 1).movedim(1, -1))
        read = []
        for image, members in enumerate(seen.by_image):
            point = seen.pairs.point[members]
            where = uv[members][:, None, None] + offsets[point]
            read.append(
                attend(values[image : image + 1], where.movedim(1, 0)[None], weights[point].movedim(1, 0)[None])
            )
        # Sums over the pairs of a cell, whichever image each was read from.
        sums = F.embedding_bag(
            seen.row,
            torch.cat(read, 1)[0],
            seen.bounds,
            mode="sum",
            per_sample_weights=seen.share,
            include_last_offset=True,
        )
        return self.output(sums.view_as(queries))

    def _per_height(
        self, values: Float[Tensor, "batch cells heads numbers"]
    ) -> Float[Tensor, "points heads numbers/{self.heights}"]:
        """Shared out among the reference points, which are ordered as [batch, cell, height]."""
        return torch.unflatten(values, -1, (self.heights, -1)).transpose(2, 3).flatten(0, 2)


class BevFormerLayer(nn.Module):
    """Attention to the other cells, attention to the images, feed-forward network."""

    def __init__(self, config: BevFormerConfig, *, inputs: int, channels: int, shape: tuple[int, int]) -> None:
        super().__init__()
        heads, points = config.heads, config.points
        self.cells = CellAttention(channels=channels, heads=heads, points=points, shape=shape)
        self.images = ImageAttention(
            inputs=inputs, channels=channels, heads=heads, points=points, heights=config.heights
        )
        self.feed_forward = nn.Sequential(
            nn.Linear(channels, config.feed_forward),
            nn.ReLU(inplace=True),
            nn.Linear(config.feed_forward, channels),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))

    def forward(
        self,
        queries: Float[Tensor, "batch cells channels"],
        place: Float[Tensor, "cells channels"],
        features: Float[Tensor, "batch cameras inputs height width"],
        seen: SeenPoints,
    ) -> Float[Tensor, "batch cells channels"]:
        queries = self.norms[0](queries + self.cells(queries, place))
        queries = self.norms[1](queries + self.images(queries, place, features, seen))
        return self.norms[2](queries + self.feed_forward(queries))


class BevFormer(nn.Module):
    """Feature maps of the cameras → a map on a grid of the ego frame.

    Args:
        grid: of the map; one query per cell.
        inputs: channels of the feature maps.
        channels: of the queries and of the map.

    Attributes:
        recompute: computes the activations inside the layers again in the backward pass, instead of keeping them.

    Raises:
        ConfigError: the heads do not divide the channels.
    """

    points_ego: Tensor

    def __init__(self, config: BevFormerConfig, *, grid: BevGrid, inputs: int, channels: int) -> None:
        super().__init__()
        if channels % config.heads:
            raise ConfigError(f"{config.heads} heads do not divide {channels} channels of the map: choose a multiple")
        self.config = config
        self.shape = grid.shape
        self.recompute = False
        self.register_buffer("points_ego", config.points_ego(grid), persistent=False)
        count_x, count_y = grid.shape
        # All cells begin with the same vector: a random one for each would be noise as large as what they read.
        self.queries = nn.Parameter(torch.randn(channels).repeat(count_x * count_y, 1))
        self.place_x = nn.Parameter(torch.randn(count_x, 1, channels))
        self.place_y = nn.Parameter(torch.randn(count_y, channels))
        self.layers = nn.ModuleList(
            BevFormerLayer(config, inputs=inputs, channels=channels, shape=grid.shape) for _ in range(config.layers)
        )

    def forward(
        self, features: Float[Tensor, "batch cameras inputs height width"], rig: CameraRig
    ) -> Float[Tensor, "batch channels x y"]:
        """The map; `rig` is that of the images, batched."""
        seen = seen_points(rig, self.points_ego, heights=self.config.heights)
        place = (self.place_x + self.place_y).flatten(0, 1)
        queries = self.queries.expand(features.shape[0], -1, -1)
        for layer in self.layers:
            if self.recompute and self.training and torch.is_grad_enabled():
                # Layer norms keep no statistics, so a second run leaves no trace.
                queries = checkpoint(
                    layer, queries, place, features, seen, use_reentrant=False, preserve_rng_state=False
                )
            else:
                queries = layer(queries, place, features, seen)
        return torch.unflatten(queries, 1, self.shape).movedim(-1, 1)
