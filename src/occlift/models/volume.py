"""3-D convolutional networks over voxel volumes: residual blocks and hourglasses.

The full-size shape follows what reference implementations of this family use (OccNeRF: two convolutions 64 → 32, a
residual pair, three hourglasses of PSMNet, Chang & Chen 2018, a head of four convolutions). The small shape keeps
few channels at the working grid and puts its depth at coarser ones. Tensors are [batch, channels, x, y, z]; memory
is laid out channels last, which the bf16 convolutions of CPUs and GPUs are several times faster with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from occlift.errors import ConfigError
from occlift.models.recompute import recomputed

Stride = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class VolumeConfig:
    """Shape of a `VolumeNetwork`.

    Attributes:
        channels: at the working grid.
        stem_blocks: convolutions at the working grid before the hourglasses.
        residual_pair: whether a residual block at the working grid follows them.
        hourglasses: how many follow one another.
        hourglass_channels: at each coarser grid, finest first.
        hourglass_strides: (x, y, z) from each grid to the next coarser one; as many as `hourglass_channels`.
        hourglass_blocks: residual blocks at every coarser grid, on the way down.
        head_blocks: convolutions at the working grid after the hourglasses.
    """

    channels: int
    stem_blocks: int
    residual_pair: bool
    hourglasses: int
    hourglass_channels: tuple[int, ...]
    hourglass_strides: tuple[Stride, ...]
    hourglass_blocks: int
    head_blocks: int

    def __post_init__(self) -> None:
        if len(self.hourglass_channels) != len(self.hourglass_strides):
            raise ConfigError(
                f"an hourglass needs one stride per coarser grid: {len(self.hourglass_channels)} channel counts, "
                f"{len(self.hourglass_strides)} strides"
            )
        if self.stem_blocks < 1:
            raise ConfigError("a volume network needs at least one stem convolution (it changes the channel count)")

    @property
    def total_stride(self) -> Stride:
        """By how much the grid's shape must be divisible."""
        x = y = z = 1
        for stride in self.hourglass_strides:
            x, y, z = x * stride[0], y * stride[1], z * stride[2]
        return x, y, z


def conv_block(inputs: int, outputs: int, *, stride: Stride = (1, 1, 1)) -> nn.Sequential:
    """3×3×3 convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm3d(outputs),
        nn.ReLU(inplace=True),
    )


class ResidualBlock(nn.Module):
    """Two convolutions and a sum (He et al., 2016), the same channel count throughout."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv_block(channels, channels)
        self.second = nn.Sequential(nn.Conv3d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm3d(channels))

    def forward(self, volume: Float[Tensor, "batch channels x y z"]) -> Float[Tensor, "batch channels x y z"]:
        return F.relu(volume + self.second(self.first(volume)))


class Hourglass(nn.Module):
    """Down through coarser grids and back up, each level's result added to what went down there."""

    def __init__(
        self, channels: int, coarse_channels: Sequence[int], strides: Sequence[Stride], *, blocks: int
    ) -> None:
        super().__init__()
        levels = [channels, *coarse_channels]
        self.down = nn.ModuleList(
            nn.Sequential(conv_block(finer, coarser, stride=stride), *(ResidualBlock(coarser) for _ in range(blocks)))
            for (finer, coarser), stride in zip(pairwise(levels), strides, strict=True)
        )
        # Kernel = stride: every fine voxel is written once, so there is no checkerboard and no wasted product.
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose3d(coarser, finer, stride, stride=stride, bias=False), nn.BatchNorm3d(finer))
            for (finer, coarser), stride in zip(pairwise(levels), strides, strict=True)
        )

    def forward(self, volume: Float[Tensor, "batch channels x y z"]) -> Float[Tensor, "batch channels x y z"]:
        skips = [volume]
        for down in self.down:
            skips.append(down(skips[-1]))
        result = skips.pop()
        for up in reversed(self.up):
            result = F.relu(skips.pop() + up(result))
        return result


class VolumeNetwork(nn.Module):
    """Lifted features → volume features of `config.channels` on the same grid.

    Attributes:
        recompute: computes the activations inside each block again in the backward pass, instead of keeping them.
    """

    def __init__(self, inputs: int, config: VolumeConfig) -> None:
        super().__init__()
        width = config.channels
        self.recompute = False
        self.layers = nn.Sequential(
            conv_block(inputs, width),
            *(conv_block(width, width) for _ in range(config.stem_blocks - 1)),
            *([ResidualBlock(width)] if config.residual_pair else []),
            *(
                Hourglass(width, config.hourglass_channels, config.hourglass_strides, blocks=config.hourglass_blocks)
                for _ in range(config.hourglasses)
            ),
            *(conv_block(width, width) for _ in range(config.head_blocks)),
        )

    def forward(self, volume: Float[Tensor, "batch inputs x y z"]) -> Float[Tensor, "batch channels x y z"]:
        run = recomputed if self.recompute else nn.Module.__call__
        for layer in self.layers:
            volume = run(layer, volume)
        return volume
