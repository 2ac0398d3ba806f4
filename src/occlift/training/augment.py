"""Images changed at random, and the rig with them, in one call: what projects onto a pixel still does.

Resizing, shifting, rotating and flipping an image are one affine map A of homogeneous pixel coordinates, so the new
intrinsics are A · K and the new image at p is the old one at A⁻¹ p (bilinear). Every camera draws its own. Colours
change in RGB before the network's normalisation. These are the usual augmentations of camera BEV networks (Huang et
al., *BEVDet*, 2021, section 3.2), with the label left as it is: the world does not move.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from occlift.errors import ConfigError
from occlift.geometry.cameras import CameraRig
from occlift.geometry.grids import VoxelGrid
from occlift.runtime.progress import note
from occlift.training.frames import IMAGE_DEVIATION, IMAGE_MEAN

Config = TypeVar("Config")

_MIRRORED_AXIS: Final[dict[str, Literal["x", "y"]]] = {"mirror": "y", "mirror_front_back": "x"}


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How much images change; 0 leaves an operation out.

    Attributes:
        resize: images grow or shrink about their centre by a factor in [1 − resize, 1 + resize].
        shift: they move by up to this part of their width and of their height.
        rotation_rad: they turn about their centre by up to this angle.
        flip: the part of the images that is flipped left to right.
        brightness: RGB times a factor in [1 − brightness, 1 + brightness].
        contrast: the difference to the image's mean grey times such a factor.
        saturation: the difference of each pixel to its own grey times such a factor.
    """

    resize: float = 0.0
    shift: float = 0.0
    rotation_rad: float = 0.0
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= getattr(self, field.name) <= 1:
                raise ConfigError(f"augmentation {field.name} must lie in [0, 1], got {getattr(self, field.name)}")
        if self.resize == 1:
            raise ConfigError("augmentation resize must be below 1: images would shrink to nothing")

    @classmethod
    def usual(cls) -> AugmentConfig:
        """About what BEVDet uses, with colours."""
        return cls(
            resize=0.1, shift=0.05, rotation_rad=0.09, flip=0.5, brightness=0.2, contrast=0.2, saturation=0.2
        )  # fmt: skip

    @property
    def moves(self) -> bool:
        """Whether anything changes where pixels lie."""
        return any((self.resize, self.shift, self.rotation_rad, self.flip))

    @property
    def colours(self) -> bool:
        """Whether anything changes what they show."""
        return any((self.brightness, self.contrast, self.saturation))


def mirrored_where_possible(config: Config, grid: VoxelGrid) -> Config:
    """A configuration of a training with `mirror` and `mirror_front_back` off where a mirrored label fits no grid.

    Says so: both are on or off by default, whatever the grid.
    """
    lost = [
        name for name, axis in _MIRRORED_AXIS.items() if getattr(config, name, False) and not grid.is_symmetric(axis)
    ]
    for name in lost:
        number = "xy".index(_MIRRORED_AXIS[name])
        note(
            f"{name} is off: along {_MIRRORED_AXIS[name]} the grid reaches from {grid.lower_m[number]:g} m to "
            f"{grid.upper_m[number]:g} m, so a mirrored label would not lie on it"
        )
    return cast("Config", replace(cast("Any", config), **dict.fromkeys(lost, False)))


def augment(
    images: Float[Tensor, "batch cameras 3 height width"],
    rig: CameraRig,
    config: AugmentConfig,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "batch cameras 3 height width"], CameraRig]:
    """Images and rig after random changes; both as they came where `config` leaves everything out.

    What an image does not show is filled with the mean colour (0 after normalisation).

    Args:
        images: normalised as `occlift.training.frames` does it.
        rig: of these images, [batch, cameras, ...].
        generator: on the CPU. The draws do not depend on which operations are on, so each can be switched off alone.
    """
    if not (config.moves or config.colours):
        return images, rig
    # Training augments under autocast, and a map of pixels in bf16 is off by a pixel.
    with torch.autocast(images.device.type, enabled=False):
        # In [0, 1), eight per image, in this order.
        scale, shift_u, shift_v, angle, flip, *tones = torch.rand(*images.shape[:2], 8, generator=generator).unbind(-1)
        if config.colours:
            brightness, contrast, saturation = (
                (1 + strength * (2 * draw - 1)).to(images.device)
                for strength, draw in zip((config.brightness, config.contrast, config.saturation), tones, strict=True)
            )
            images = jitter_colours(images, brightness=brightness, contrast=contrast, saturation=saturation)
        if config.moves:
            new_from_old_px = image_map(
                height=rig.height,
                width=rig.width,
                scale=1 + config.resize * (2 * scale - 1),
                shift=torch.stack((shift_u, shift_v), -1).mul(2).sub(1).mul(config.shift),
                rotation_rad=config.rotation_rad * (2 * angle - 1),
                flip=flip < config.flip,
            ).to(images.device)
            images = warp(images, new_from_old_px)
            rig = replace(rig, intrinsics_px=new_from_old_px.to(rig.intrinsics_px.dtype) @ rig.intrinsics_px)
    return images, rig


def image_map(
    *,
    height: int,
    width: int,
    scale: Float[Tensor, "*n"],
    shift: Float[Tensor, "*n 2"],
    rotation_rad: Float[Tensor, "*n"],
    flip: Tensor,
) -> Float[Tensor, "*n 3 3"]:
    """The affine maps A of homogeneous pixels (u, v, 1): flip, resize, turn about the centre, then shift.

    Args:
        shift: to the right and down, parts of the width and of the height.
        rotation_rad: positive turns the picture's right side down.
        flip: bool; left to right.
    """
    centre_px = scale.new_tensor([width / 2, height / 2])
    cosine, sine = scale * rotation_rad.cos(), scale * rotation_rad.sin()
    mirror = torch.where(flip, -1.0, 1.0).to(scale.dtype)
    linear = torch.stack((mirror * cosine, -sine, mirror * sine, cosine), -1).view(*scale.shape, 2, 2)
    moved_px = centre_px + shift * scale.new_tensor([width, height])
    offset = moved_px - (linear @ centre_px[:, None])[..., 0]
    bottom = scale.new_tensor([0.0, 0.0, 1.0]).expand(*scale.shape, 1, 3)
    return torch.cat((torch.cat((linear, offset[..., None]), -1), bottom), -2)


def warp(
    images: Float[Tensor, "batch cameras c height width"], new_from_old_px: Float[Tensor, "batch cameras 3 3"]
) -> Float[Tensor, "batch cameras c height width"]:
    """Images of the same size in which what lay at pixel p lies at A p; 0 where the old image shows nothing."""
    height, width = images.shape[-2:]
    # From and to coordinates in which the image spans [−1, 1], which is what affine_grid speaks.
    pixel_from_unit = images.new_tensor([[width / 2, 0, width / 2], [0, height / 2, height / 2], [0, 0, 1]])
    old_from_new = torch.linalg.inv(pixel_from_unit) @ torch.linalg.inv(new_from_old_px.float()) @ pixel_from_unit
    where = F.affine_grid(old_from_new.flatten(0, 1)[:, :2], [*images.flatten(0, 1).shape], align_corners=False)
    return F.grid_sample(images.flatten(0, 1), where, padding_mode="zeros", align_corners=False).view_as(images)


def jitter_colours(
    images: Float[Tensor, "batch cameras 3 height width"],
    *,
    brightness: Float[Tensor, "batch cameras"],
    contrast: Float[Tensor, "batch cameras"],
    saturation: Float[Tensor, "batch cameras"],
) -> Float[Tensor, "batch cameras 3 height width"]:
    """Normalised images with their colours changed by factors, in that order; RGB stays within [0, 1].

    Grey is the luma of ITU-R BT.601.
    """
    mean, deviation = images.new_tensor(IMAGE_MEAN)[:, None, None], images.new_tensor(IMAGE_DEVIATION)[:, None, None]
    luma = images.new_tensor([0.299, 0.587, 0.114])[:, None, None]
    rgb = (images * deviation + mean) * brightness[..., None, None, None]
    mean_grey = (rgb * luma).sum(-3, keepdim=True).mean((-2, -1), keepdim=True)
    rgb = mean_grey + contrast[..., None, None, None] * (rgb - mean_grey)
    grey = (rgb * luma).sum(-3, keepdim=True)
    rgb = grey + saturation[..., None, None, None] * (rgb - grey)
    return (rgb.clamp(0, 1) - mean) / deviation
