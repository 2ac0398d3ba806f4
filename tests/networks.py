"""Networks small enough for tests."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from occlift.geometry.cameras import CameraRig
from occlift.models.bev_encoder import BevEncoderConfig
from occlift.models.bev_network import Architecture, BevNetworkConfig
from occlift.models.bevformer import BevFormerConfig
from occlift.models.easyocc import EasyOccConfig
from occlift.models.lift_splat import LiftSplatConfig
from occlift.models.simple_bev import SimpleBevConfig
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


def tiny_bev(architecture: Architecture, **changes: Any) -> BevNetworkConfig:
    """A network that answers in milliseconds; `changes`: any field of the configuration."""
    heights = {"heights": 2, "lower_m": -1.0, "upper_m": 3.0}
    views = {
        "simple_bev": SimpleBevConfig(**heights),
        "lift_splat": LiftSplatConfig(context_channels=8, depth_bins=12, nearest_m=2.0, farthest_m=50.0),
        "bevformer": BevFormerConfig(**heights, layers=1, heads=2, points=2, feed_forward=16),
    }
    config = BevNetworkConfig(
        architecture=architecture,
        backbone="resnet18",
        image_height=32,
        image_width=64,
        classes=("vehicle", "pedestrian"),
        feature_channels=8,
        cell_stride=4,
        bev_channels=8,
        head_channels=8,
        view=views[architecture],
        encoder=BevEncoderConfig(widths=(8,), blocks=1),
    )
    return replace(config, **changes)


def surround_rig(*, batch: int = 1, height: int = 64, width: int = 96, dtype: torch.dtype = torch.float32) -> CameraRig:
    """Six cameras looking outwards; neighbours overlap, and no two key frames of the batch are alike."""
    intrinsics_px, ego_from_camera = [], []
    for index in range(6 * batch):
        yaw_rad = math.radians(60 * index + 3 * (index // 6))
        forward = (math.cos(yaw_rad), math.sin(yaw_rad))
        transform = torch.eye(4, dtype=dtype)
        transform[:3, :3] = torch.tensor([[forward[1], 0, forward[0]], [-forward[0], 0, forward[1]], [0, -1, 0]])
        transform[:3, 3] = torch.tensor([forward[0], 0.5 * forward[1], 1.5])
        ego_from_camera.append(transform)
        intrinsics_px.append(
            torch.tensor([[0.7 * width, 0, width / 2], [0, 0.7 * width, height / 2], [0, 0, 1]], dtype=dtype)
        )
    return CameraRig(
        intrinsics_px=torch.stack(intrinsics_px).view(batch, 6, 3, 3),
        ego_from_camera=torch.stack(ego_from_camera).view(batch, 6, 4, 4),
        height=height,
        width=width,
    )
