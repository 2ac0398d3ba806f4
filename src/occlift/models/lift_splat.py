"""Lift-splat (Philion & Fidler, arXiv 2008.05711): every feature pixel is spread along its ray and falls into cells.

A 1×1 convolution gives each feature pixel a context vector c and a distribution a over depths; the point at depth d of
its ray carries a_d · c, and the map holds the sum of what falls into a cell. The paper makes that cloud of points, then
sums it. But the sum is a sparse matrix [cells, pixels], whose entries are the a_d, times the table of contexts: written
as that product, a point costs three numbers instead of a vector, whatever the number of channels.

Ours, beyond lift-splat: the points lie at the centres of the depth bins, and the sums pass a 3×3 convolution and an
instance norm like SimpleBEV's volume. Its image features are those of the other networks here, at stride 8, where
lift-splat has 16.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from occlift.errors import ConfigError
from occlift.geometry.cameras import CameraRig
from occlift.geometry.grids import BevGrid
from occlift.models.bev_encoder import squeeze


@dataclass(frozen=True, kw_only=True)
class LiftSplatConfig:
    """Shape of a `LiftSplat`; lift-splat's values.

    Attributes:
        context_channels: of what a pixel spreads.
        depth_bins: of the distribution, equally long.
        nearest_m: depth along the optical axis where the first bin begins.
        farthest_m: where the last one ends.
        lower_m: height below which points are left out, ego frame.
        upper_m: height above which they are.
    """

    context_channels: int = 64
    depth_bins: int = 41
    nearest_m: float = 4.0
    farthest_m: float = 45.0
    lower_m: float = -10.0
    upper_m: float = 10.0

    def __post_init__(self) -> None:
        if min(self.context_channels, self.depth_bins) < 1:
            raise ConfigError(f"expected at least one context channel and one depth bin: {self}")
        if not 0 <= self.nearest_m < self.farthest_m or self.lower_m >= self.upper_m:
            raise ConfigError(f"expected 0 ≤ nearest_m < farthest_m and lower_m < upper_m: {self}")


class LiftSplat(nn.Module):
    """Feature maps of the cameras → a map on a grid of the ego frame.

    Args:
        grid: of the map.
        inputs: channels of the feature maps.
        channels: of the map.
    """

    depths_m: Tensor

    def __init__(self, config: LiftSplatConfig, *, grid: BevGrid, inputs: int, channels: int) -> None:
        super().__init__()
        self.config = config
        self.grid = grid
        self.depth_and_context = nn.Conv2d(inputs, config.depth_bins + config.context_channels, 1)
        step_m = (config.farthest_m - config.nearest_m) / config.depth_bins
        depths_m = config.nearest_m + step_m * (torch.arange(config.depth_bins) + 0.5)
        self.register_buffer("depths_m", depths_m, persistent=False)
        self.squeeze = squeeze(config.context_channels, channels)

    def forward(
        self, features: Float[Tensor, "batch cameras inputs height width"], rig: CameraRig
    ) -> Float[Tensor, "batch channels x y"]:
        """The map; `rig` is that of the images, batched."""
        batch, cameras, _, height, width = features.shape
        both = self.depth_and_context(features.flatten(0, 1)).movedim(1, -1)
        both = both.view(batch, cameras, height, width, -1)
        depth_logits, context = both.split((self.config.depth_bins, self.config.context_channels), dim=-1)
        depth = depth_logits.softmax(-1, dtype=torch.promote_types(depth_logits.dtype, torch.float32))
        return self.squeeze(self.splat(context, depth, rig).movedim(-1, 1))

    def splat(
        self,
        context: Float[Tensor, "batch cameras height width context"],
        depth: Float[Tensor, "batch cameras height width bins"],
        rig: CameraRig,
    ) -> Float[Tensor, "batch x y context"]:
        """Sums of what falls into the cells, in the precision of `depth`.

        Args:
            depth: of every pixel, how much of its context goes to which depth bin; float32 under autocast too, because
                many are summed.
        """
        cells = context.shape[0] * self.grid.shape[0] * self.grid.shape[1]
        cell = self.cells(rig, *context.shape[2:4]).flatten()
        entry = (cell >= 0).nonzero()[:, 0]
        # By cell, and within a cell as they come, so that sums have one order.
        entry = entry[cell[entry].int().sort(stable=True).indices]
        bounds = F.pad(cell[entry].bincount(minlength=cells).cumsum(0), (1, 0))
        table = context.flatten(0, 3).to(depth.dtype)
        sums = F.embedding_bag(
            entry // self.config.depth_bins,
            table,
            bounds,
            mode="sum",
            per_sample_weights=depth.flatten()[entry],
            include_last_offset=True,
        )
        return sums.view(context.shape[0], *self.grid.shape, -1)

    @torch.no_grad()
    def cells(self, rig: CameraRig, height: int, width: int) -> Int[Tensor, "batch cameras {height} {width} bins"]:
        """Which cell a point of a pixel's ray falls into, of the flattened [batch, x, y]; −1: none.

        Args:
            rig: batched, [batch, cameras, ...].
            height: rows of feature pixels; they cover the whole image.
            width: columns.
        """
        origins, directions = rig.rays(height, width)
        depths_m = self.depths_m.to(directions.dtype)
        points_ego = origins[:, :, None, None, None] + depths_m[:, None] * directions[..., None, :]
        lower_m, size_m = (directions.new_tensor(values) for values in (self.grid.lower_m, self.grid.cell_size_m))
        index = ((points_ego[..., :2] - lower_m) / size_m).floor().long()
        count_x, count_y = self.grid.shape
        x, y = index.unbind(-1)
        height_m = points_ego[..., 2]
        inside_grid = (x >= 0) & (x < count_x) & (y >= 0) & (y < count_y)
        inside_grid &= (height_m >= self.config.lower_m) & (height_m < self.config.upper_m)
        frame = torch.arange(len(index), device=index.device).view(-1, 1, 1, 1, 1)
        return torch.where(inside_grid, (frame * count_x + x) * count_y + y, -1)
