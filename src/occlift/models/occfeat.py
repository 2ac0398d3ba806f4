"""OccFeat's pretraining head (arXiv 2404.14027): a bird's-eye-view feature map → what fills the volume above it.

The *unsplatting decoder* undoes what the network did when it folded the volume into the plane: a convolution gives
every cell of the map one vector per height, and 3-D convolutions let neighbouring voxels agree. From a voxel's vector
follow its occupancy and the feature that the teacher has for it. The head is thrown away after pretraining.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from occlift.errors import ConfigError
from occlift.geometry.grids import BEV_GRID, VoxelGrid
from occlift.label_space import FREE
from occlift.models.rows import linear_of_rows
from occlift.models.volume import conv_block


@dataclass(frozen=True, kw_only=True)
class OccFeatHeadConfig:
    """What an `OccFeatHead` looks like.

    Attributes:
        channels: of a voxel's vector.
        blocks: 3-D convolutions; OccFeat's figure shows one.
        horizontal_stride: cells of the map per voxel along x and along y.
        heights: voxels above each other.
        lower_m: where the lowest begins, metres, ego frame.
        upper_m: where the highest ends. As in Occ3D by default, so that labels fill the volume.
        feature_channels: of the teacher; 0: no features are predicted.
        classes: predicts the Occ3D class of occupied voxels, too (ours; labels know them, lidar does not).
        num_classes: number of semantic classes, free not among them.
    """

    channels: int = 32
    blocks: int = 2
    horizontal_stride: int = 1
    heights: int = 8
    lower_m: float = -1.0
    upper_m: float = 5.4
    feature_channels: int = 384
    classes: bool = False
    num_classes: int = FREE

    def __post_init__(self) -> None:
        if self.horizontal_stride < 1 or any(count % self.horizontal_stride for count in BEV_GRID.shape):
            raise ConfigError(f"horizontal stride {self.horizontal_stride} does not divide the map {BEV_GRID.shape}")
        if self.heights < 1 or self.upper_m <= self.lower_m or min(self.channels, self.blocks) < 1:
            raise ConfigError(f"expected voxels, channels and blocks, and a top above the bottom: {self}")

    @property
    def grid(self) -> VoxelGrid:
        """The volume, ego frame at the lidar's time."""
        (size_x, size_y), (x, y), stride = BEV_GRID.cell_size_m, BEV_GRID.shape, self.horizontal_stride
        return VoxelGrid(
            lower_m=(*BEV_GRID.lower_m, self.lower_m),
            voxel_size_m=(size_x * stride, size_y * stride, (self.upper_m - self.lower_m) / self.heights),
            shape=(x // stride, y // stride, self.heights),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers: what a checkpoint or a JSON file may hold."""
        return asdict(self)


class OccFeatHead(nn.Module):
    """From the map of a bird's-eye-view network to occupancy and features of voxels.

    Args:
        bev_channels: of the map.
        occupancy: predicts it; False where only features or classes are asked for: with several processes, weights that
            no term uses stop the training.
    """

    def __init__(self, config: OccFeatHeadConfig, *, bev_channels: int, occupancy: bool = True) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.unsplat = nn.Conv2d(bev_channels, channels * config.heights, 1)
        self.volume = nn.Sequential(*(conv_block(channels, channels) for _ in range(config.blocks)))
        # Made in any case, so that the first weights of what follows do not depend on it.
        drawn = nn.Linear(channels, 1)
        self.occupancy = drawn if occupancy else None
        self.features = nn.Linear(channels, config.feature_channels) if config.feature_channels else None
        self.classes = nn.Linear(channels, config.num_classes) if config.classes else None

    def forward(self, bev: Float[Tensor, "batch bev_channels 200 200"]) -> Float[Tensor, "batch x y z channels"]:
        """A vector per voxel of `config.grid`.

        Args:
            bev: the map on `BEV_GRID`, [x, y] behind the channels.
        """
        stride = self.config.horizontal_stride
        bev = F.avg_pool2d(bev, stride) if stride > 1 else bev
        volume = self.unsplat(bev).unflatten(1, (self.config.channels, self.config.heights)).movedim(2, -1)
        convolved: Tensor = self.volume(volume.contiguous(memory_format=torch.channels_last_3d))
        return convolved.movedim(1, -1)

    def occupancy_logits(self, vectors: Float[Tensor, "batch x y z channels"]) -> Float[Tensor, "batch x y z"]:
        """Logits of being occupied."""
        assert self.occupancy is not None, "this head predicts no occupancy"
        logits: Tensor = self.occupancy(vectors)
        return logits[..., 0]

    def features_at(
        self, vectors: Float[Tensor, "batch x y z channels"], voxel: Int[Tensor, "n 4"]
    ) -> Float[Tensor, "n feature_channels"]:
        """The predicted features of some voxels; `voxel` has (batch, x, y, z). A whole volume of them fits nowhere."""
        assert self.features is not None, "this head predicts no features"
        return linear_of_rows(self.features, vectors[tuple(voxel.T)])

    def class_logits_at(
        self, vectors: Float[Tensor, "batch x y z channels"], voxel: Int[Tensor, "n 4"]
    ) -> Float[Tensor, "n classes"]:
        """Logits of the Occ3D classes but free of some voxels, given that they are occupied."""
        assert self.classes is not None, "this head predicts no classes"
        return linear_of_rows(self.classes, vectors[tuple(voxel.T)])
