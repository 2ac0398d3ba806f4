"""Image encoders: a ResNet or an EfficientNet, and a feature pyramid fused at one stride.

The pyramid is that of Lin et al., *Feature Pyramid Networks*, 2017 (lateral 1×1 convolutions, top-down sum), of which
only the finest level is kept. EasyOcc fuses all strides down to 32; SimpleBEV and its kin fuse 8 and 16.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from occlift.errors import ConfigError
from occlift.models.recompute import recomputed
from occlift.models.trunk import EFFICIENTNET, build_trunk, cut_behind, last_blocks, stem_and_blocks
from occlift.models.trunk import BackboneName as BackboneName

_FINEST_STRIDES: Final = (4, 8)
_COARSEST_STRIDES: Final = (16, 32)


class ImageEncoder(nn.Module):
    """Images → one feature map per image.

    Args:
        name: the trunk.
        channels: of the feature map.
        stride: of the feature map, 4 or 8 image pixels.
        coarsest_stride: of the coarsest map of the trunk that goes into it, 16 or 32; what the trunk would do behind
            that is not built.
        pretrained: a name or a folder for transformers' `from_pretrained`; without it the weights are random.

    Attributes:
        recompute: computes the activations inside the blocks of the trunk again in the backward pass, instead of
            keeping them.

    Raises:
        ConfigError: an unknown backbone or stride; weights that cannot be read, or that belong to another network.
    """

    def __init__(
        self,
        *,
        name: BackboneName,
        channels: int,
        stride: int,
        coarsest_stride: int = 32,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        if stride not in _FINEST_STRIDES:
            raise ConfigError(f"feature stride must be 4 or 8 image pixels, got {stride}")
        if coarsest_stride not in _COARSEST_STRIDES:
            raise ConfigError(f"the coarsest stride must be 16 or 32 image pixels, got {coarsest_stride}")
        trunk = build_trunk(name, pretrained)
        strides = [stride << level for level in range((coarsest_stride // stride).bit_length())]
        self._last_blocks, widths = last_blocks(trunk, strides)
        cut_behind(trunk, self._last_blocks[-1])
        # The kind of trunk is part of the names of its weights.
        self._trunk_name = "efficientnet" if name == EFFICIENTNET else "resnet"
        self.add_module(self._trunk_name, trunk)
        self.stride = stride
        self.coarsest_stride = coarsest_stride
        self.recompute = False
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths)
        self.fuse = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )
        # torch's signature of `to` knows no lone memory format, though it takes one.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n channels fh fw"]:
        """Feature maps of `h // stride` × `w // stride`; `h` and `w` must be multiples of the stride.

        Images are padded below and at the right to multiples of the coarsest stride, and the map is cut back, because
        a pyramid level of rounded-up size would be stretched against the finer ones when it is up-sampled.
        """
        height, width = images.shape[-2:]
        assert height % self.stride == 0, (height, self.stride)
        assert width % self.stride == 0, (width, self.stride)
        padded = F.pad(images, (0, -width % self.coarsest_stride, 0, -height % self.coarsest_stride))
        levels = self._levels(padded.contiguous(memory_format=torch.channels_last))
        fused = self.lateral[-1](levels[-1])
        for lateral, level in zip(reversed(self.lateral[:-1]), reversed(levels[:-1]), strict=True):
            fused = lateral(level) + F.interpolate(fused, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.fuse(fused)[..., : height // self.stride, : width // self.stride]

    def _levels(self, images: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n c sh sw"]]:
        """The maps of the trunk that are fused, finest first."""
        run = recomputed if self.recompute else nn.Module.__call__
        stem, blocks = stem_and_blocks(getattr(self, self._trunk_name))
        hidden = stem(images)
        levels = []
        for number, block in enumerate(blocks):
            hidden = run(block, hidden)
            if number in self._last_blocks:
                levels.append(hidden)
        return levels
