"""What every bird's-eye-view network here does with its map: a small residual encoder, and heads.

The shape is that of lift-splat (Philion & Fidler, arXiv 2008.05711) and SimpleBEV (Harley et al., arXiv 2206.07959):
the first stages of a ResNet-18 go down to an eighth of the map's resolution, and every level that comes back up is
added to the one that went down there. Maps are [batch, channels, x, y].
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from occlift.errors import ConfigError
from occlift.models.instance_norm import InstanceNorm2d
from occlift.models.recompute import recomputed


@dataclass(frozen=True, kw_only=True)
class BevEncoderConfig:
    """Shape of a `BevEncoder`.

    Attributes:
        widths: channels at every coarser level, finest first; each level has half the resolution of the one before.
        blocks: residual blocks per level.
    """

    widths: tuple[int, ...] = (64, 128, 256)
    blocks: int = 2

    def __post_init__(self) -> None:
        if not self.widths or min(*self.widths, self.blocks) < 1:
            raise ConfigError(f"a BEV encoder needs at least one level and one block per level: {self}")

    @property
    def total_stride(self) -> int:
        """By how much the map's shape must be divisible."""
        return 1 << len(self.widths)


class BevBlock(nn.Module):
    """Two 3×3 convolutions and a sum (He et al., 2016); where shapes change, the sum's other part is a 1×1 one."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, bev: Float[Tensor, "batch inputs x y"]) -> Float[Tensor, "batch outputs sx sy"]:
        return F.relu(self.shortcut(bev) + self.second(self.first(bev)))


class BevEncoder(nn.Module):
    """A map → a map of the same shape that has looked around.

    Attributes:
        recompute: computes the activations inside each level again in the backward pass, instead of keeping them.
    """

    def __init__(self, channels: int, config: BevEncoderConfig) -> None:
        super().__init__()
        finest, *coarser = config.widths
        more = config.blocks - 1
        stem = nn.Sequential(
            nn.Conv2d(channels, finest, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(finest),
            nn.ReLU(inplace=True),
        )
        self.recompute = False
        self.down = nn.ModuleList([nn.Sequential(stem, *(BevBlock(finest, finest) for _ in range(config.blocks)))])
        for inputs, outputs in pairwise((finest, *coarser)):
            rest = (BevBlock(outputs, outputs) for _ in range(more))
            self.down.append(nn.Sequential(BevBlock(inputs, outputs, stride=2), *rest))
        # A 1×1 convolution and an interpolation may change places: before it there are four times fewer cells.
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False),
                InstanceNorm2d(outputs),
            )
            for outputs, inputs in pairwise((channels, *config.widths))
        )

    def forward(self, bev: Float[Tensor, "batch channels x y"]) -> Float[Tensor, "batch channels x y"]:
        run = recomputed if self.recompute else nn.Module.__call__
        levels = [bev]
        for down in self.down:
            levels.append(run(down, levels[-1]))
        result = levels.pop()
        for up in reversed(self.up):
            result = levels.pop() + up(result)
        return result


class BevOutput(NamedTuple):
    """What the heads say about every cell of `BEV_GRID`, [x, y] of the ego frame at the lidar's time.

    Attributes:
        segmentation: logits, one per class; classes are not exclusive.
        centre: logits of being the centre of an object.
        offset_m: from the cell's centre to the centre of the object on it, along x and y, metres.
    """

    segmentation: Float[Tensor, "batch classes 200 200"]
    centre: Float[Tensor, "batch 1 200 200"]
    offset_m: Float[Tensor, "batch 2 200 200"]


class BevHeads(nn.Module):
    """From the map to a `BevOutput`: a 3×3 convolution, instance norm, ReLU and a 1×1 convolution each.

    Args:
        channels: of the map.
        hidden: channels between the two convolutions.
        classes: of the segmentation.
    """

    def __init__(self, channels: int, *, hidden: int, classes: int) -> None:
        super().__init__()
        self.segmentation = _head(channels, hidden, classes)
        self.centre = _head(channels, hidden, 1)
        self.offset = _head(channels, hidden, 2)

    def forward(self, bev: Float[Tensor, "batch channels x y"]) -> BevOutput:
        return BevOutput(self.segmentation(bev), self.centre(bev), self.offset(bev))


def squeeze(inputs: int, channels: int) -> nn.Sequential:
    """3×3 convolution, instance norm, GELU: SimpleBEV's step from a folded volume to the map."""
    return nn.Sequential(nn.Conv2d(inputs, channels, 3, padding=1, bias=False), InstanceNorm2d(channels), nn.GELU())


def _head(channels: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 3, padding=1, bias=False),
        InstanceNorm2d(hidden),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, outputs, 1),
    )
