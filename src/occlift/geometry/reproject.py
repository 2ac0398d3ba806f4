"""One image seen from another camera's place: pixel → point at its depth → pixel of the other image."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from occlift.geometry.cameras import CameraRig


def warp_to_target(
    sources: Float[Tensor, "n channels height width"],
    depth_m: Float[Tensor, "n height width"],
    target_intrinsics_px: Float[Tensor, "n 3 3"],
    source_intrinsics_px: Float[Tensor, "n 3 3"],
    source_from_target: Float[Tensor, "n 4 4"],
) -> tuple[Float[Tensor, "n channels height width"], Bool[Tensor, "n height width"]]:
    """What the target camera would see if every pixel had the given depth and looked as it does in the source.

    Args:
        depth_m: of the target's pixels, along its optical axis.
        source_from_target: from the target's camera frame to the source's.

    Returns:
        The source, sampled bilinearly; and which pixels lie in front of the source camera and inside its image.
        Differentiable with respect to the depth.
    """
    height, width = depth_m.shape[1:]
    target = CameraRig(
        intrinsics_px=target_intrinsics_px, ego_from_camera=source_from_target, height=height, width=width
    )
    # With the source's camera frame in the place of the ego frame.
    origins, directions = target.rays(height, width)
    points_source = origins[:, None, None] + depth_m[..., None] * directions
    with torch.autocast(depth_m.device.type, enabled=False):
        homogeneous = source_intrinsics_px @ points_source.flatten(1, 2).transpose(1, 2)
    in_front = homogeneous[:, 2] > 0.1
    uv = homogeneous[:, :2] / homogeneous[:, 2:].clamp(min=0.1)
    size_px = uv.new_tensor([width, height])[:, None]
    inside_image = ((uv >= 0) & (uv < size_px)).all(1)
    # Far outside of the image a bilinear sample means nothing, and huge coordinates overflow an integer.
    grid = (2 * uv / size_px - 1).clamp(-2, 2).transpose(1, 2).reshape(-1, height, width, 2)
    warped = F.grid_sample(sources, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return warped, (in_front & inside_image).view(-1, height, width)
