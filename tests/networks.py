"""Networks small enough for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from occlift.models.easyocc import EasyOccConfig
from occlift.models.volume import Stride, VolumeConfig


def tiny_easyocc(
    *,
    image: tuple[int, int] = (32, 64),
    channels: int = 8,
    residual_pair: bool = False,
    hourglass_stride: Stride = (2, 2, 2),
    hourglass_blocks: int = 0,
    **changes: Any,
) -> EasyOccConfig:
    """A network that answers in milliseconds: a ResNet-18 and one hourglass on voxels of 1.6 m.

    Args:
        image: height and width of the images, pixels.
        changes: any field of the configuration.
    """
    height, width = image
    config = EasyOccConfig(
        backbone="resnet18",
        image_height=height,
        image_width=width,
        feature_stride=8,
        feature_channels=channels,
        horizontal_stride=4,
        volume=VolumeConfig(
            channels=channels,
            stem_blocks=1,
            residual_pair=residual_pair,
            hourglasses=1,
            hourglass_channels=(channels,),
            hourglass_strides=(hourglass_stride,),
            hourglass_blocks=hourglass_blocks,
            head_blocks=0,
        ),
    )
    return replace(config, **changes)
