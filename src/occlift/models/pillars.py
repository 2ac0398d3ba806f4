"""Points above the cells of a grid on the ground: where SimpleBEV and BEVFormer look into the images.

The volume of SimpleBEV's public code reaches from 5 m above to 5 m below a point one metre under the reference camera.
Cameras are mounted about 1.5 m above the ground, so in the ego frame, whose origin is on the ground, that is −4.5
to 5.5 m: the default here. What lies below is not wasted: 50 m ahead, a road that falls by 9 % is there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from occlift.errors import ConfigError
from occlift.geometry.grids import BevGrid, VoxelGrid


@dataclass(frozen=True, kw_only=True)
class Pillars:
    """How high points reach above every cell.

    Attributes:
        heights: points per cell, in the middle of slices of equal height.
        lower_m: where the lowest slice begins, metres, ego frame.
        upper_m: where the highest ends.
    """

    heights: int = 8
    lower_m: float = -4.5
    upper_m: float = 5.5

    def __post_init__(self) -> None:
        if self.heights < 1 or self.upper_m <= self.lower_m:
            raise ConfigError(
                f"expected at least one height and a top above the bottom, got {self.heights} heights from "
                f"{self.lower_m} to {self.upper_m} m"
            )

    def points_ego(self, grid: BevGrid) -> Float[Tensor, "points 3"]:
        """The points, metres, ordered as [x, y, z]; `grid` is in the ego frame at the lidar's time."""
        volume = VoxelGrid(
            lower_m=(*grid.lower_m, self.lower_m),
            voxel_size_m=(*grid.cell_size_m, (self.upper_m - self.lower_m) / self.heights),
            shape=(*grid.shape, self.heights),
        )
        return torch.from_numpy(volume.centers()).float().reshape(-1, 3)
