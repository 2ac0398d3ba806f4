"""SimpleBEV (Harley et al., arXiv 2206.07959): features pulled to the voxels above every cell, height folded away.

The features of the images are sampled bilinearly at the voxel centres and averaged over the cameras that see the voxel,
without weights and without depth; a 3×3 convolution turns the voxels above a cell into one vector.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from occlift.geometry.cameras import CameraRig
from occlift.geometry.grids import BevGrid
from occlift.models.bev_encoder import squeeze
from occlift.models.lift import lift, visible_pairs
from occlift.models.pillars import Pillars


@dataclass(frozen=True, kw_only=True)
class SimpleBevConfig(Pillars):
    """The volume of a `SimpleBevLift`."""


class SimpleBevLift(nn.Module):
    """Feature maps of the cameras → a map on a grid of the ego frame.

    Args:
        grid: of the map.
        inputs: channels of the feature maps.
        channels: of the map.
    """

    points_ego: Tensor

    def __init__(self, config: SimpleBevConfig, *, grid: BevGrid, inputs: int, channels: int) -> None:
        super().__init__()
        self.shape = (*grid.shape, config.heights)
        self.register_buffer("points_ego", config.points_ego(grid), persistent=False)
        self.squeeze = squeeze(config.heights * inputs, channels)

    def forward(
        self, features: Float[Tensor, "batch cameras inputs height width"], rig: CameraRig
    ) -> Float[Tensor, "batch channels x y"]:
        """The map; `rig` is that of the images, batched."""
        volume = self.volume(features, rig)
        # Channels last in memory: folding the height away moves nothing.
        return self.squeeze(volume.flatten(3).movedim(-1, 1))

    def volume(
        self, features: Float[Tensor, "batch cameras inputs height width"], rig: CameraRig
    ) -> Float[Tensor, "batch x y z inputs"]:
        """The mean of the features over the cameras that see a voxel; zero where none does."""
        lifted = lift(features, visible_pairs(rig, self.points_ego))
        return lifted.view(features.shape[0], *self.shape, -1)
