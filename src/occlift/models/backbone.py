"""Image encoders: a ResNet and a feature pyramid fused at one stride.

The ResNet is `transformers.ResNetBackbone` built from a configuration, so nothing is downloaded unless a name is
given. The pyramid is that of Lin et al., *Feature Pyramid Networks*, 2017 (lateral 1×1 convolutions, top-down sum),
of which only the finest level is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from occlift.errors import ConfigError
from occlift.models.recompute import recomputed

BackboneName = Literal["resnet18", "resnet50", "resnet101"]


@dataclass(frozen=True, kw_only=True)
class _ResNetShape:
    depths: tuple[int, int, int, int]
    block: Literal["basic", "bottleneck"]
    widths: tuple[int, int, int, int]


_RESNETS: Final[dict[str, _ResNetShape]] = {
    "resnet18": _ResNetShape(depths=(2, 2, 2, 2), block="basic", widths=(64, 128, 256, 512)),
    "resnet50": _ResNetShape(depths=(3, 4, 6, 3), block="bottleneck", widths=(256, 512, 1024, 2048)),
    "resnet101": _ResNetShape(depths=(3, 4, 23, 3), block="bottleneck", widths=(256, 512, 1024, 2048)),
}

_COARSEST_STRIDE: Final = 32


class ImageEncoder(nn.Module):
    """Images → one feature map per image.

    Args:
        name: the ResNet.
        channels: of the feature map.
        stride: of the feature map, 4 or 8 image pixels.
        pretrained: a name or a folder for `ResNetBackbone.from_pretrained`; without it the weights are random.

    Attributes:
        recompute: computes the activations inside the residual blocks again in the backward pass, instead of keeping
            them.

    Raises:
        ConfigError: an unknown backbone or stride, or pretrained weights of another ResNet.
    """

    def __init__(self, *, name: BackboneName, channels: int, stride: int, pretrained: str | None = None) -> None:
        super().__init__()
        if name not in _RESNETS:
            raise ConfigError(f"backbone {name!r} is not one of {', '.join(_RESNETS)}")
        if stride not in (4, 8):
            raise ConfigError(f"feature stride must be 4 or 8 image pixels, got {stride}")
        # Imported here: the first model class of transformers costs seconds that a metric or a loss need not pay.
        from transformers import ResNetBackbone, ResNetConfig

        shape = _RESNETS[name]
        # Stage i works at stride 2^(i+1): 4, 8, 16, 32.
        stages = [1, 2, 3, 4] if stride == 4 else [2, 3, 4]
        out_features = [f"stage{stage}" for stage in stages]
        if pretrained is None:
            self.resnet = ResNetBackbone(
                ResNetConfig(  # type: ignore[call-arg]  # out_features reaches the backbone mix-in
                    depths=list(shape.depths),
                    layer_type=shape.block,
                    hidden_sizes=list(shape.widths),
                    out_features=out_features,
                )
            )
        else:
            self.resnet = ResNetBackbone.from_pretrained(pretrained, out_features=out_features)
            if list(self.resnet.config.hidden_sizes or ()) != list(shape.widths):
                raise ConfigError(
                    f"pretrained weights {pretrained!r} have widths {self.resnet.config.hidden_sizes}, "
                    f"{name} has {list(shape.widths)}: give the backbone that belongs to them"
                )
        self.stride = stride
        self.recompute = False
        self._stages = stages
        self.lateral = nn.ModuleList(nn.Conv2d(shape.widths[stage - 1], channels, 1) for stage in stages)
        self.fuse = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )
        # torch's signature of `to` knows no lone memory format, though it takes one.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n channels fh fw"]:
        """Feature maps of `h // stride` × `w // stride`; `h` and `w` must be multiples of the stride.

        Images are padded below and at the right to multiples of 32, and the map is cut back, because a pyramid level
        of rounded-up size would be stretched against the finer ones when it is up-sampled.
        """
        height, width = images.shape[-2:]
        assert height % self.stride == 0, (height, self.stride)
        assert width % self.stride == 0, (width, self.stride)
        padded = F.pad(images, (0, -width % _COARSEST_STRIDE, 0, -height % _COARSEST_STRIDE))
        levels = self._levels(padded.contiguous(memory_format=torch.channels_last))
        fused = self.lateral[-1](levels[-1])
        for lateral, level in zip(reversed(self.lateral[:-1]), reversed(levels[:-1]), strict=True):
            fused = lateral(level) + F.interpolate(fused, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.fuse(fused)[..., : height // self.stride, : width // self.stride]

    def _levels(self, images: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n c sh sw"]]:
        """The feature maps of the stages in use, finest first: what `ResNetBackbone.forward` gives, block by block."""
        run = recomputed if self.recompute else nn.Module.__call__
        hidden = self.resnet.embedder(images)
        levels = []
        stages: Any = self.resnet.encoder.stages
        for number, stage in enumerate(stages, start=1):
            for block in stage.layers:
                hidden = run(block, hidden)
            if number in self._stages:
                levels.append(hidden)
        return levels
