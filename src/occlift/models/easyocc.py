"""EasyOcc (arXiv 2509.26087): images → features → voxel centres → 3-D CNN → class logits per voxel.

Six images pass an image encoder; its features are sampled bilinearly at the voxel centres and averaged over the
cameras that see the voxel; a 3-D CNN turns the volume into 18 logits per voxel of the Occ3D grid. No rendering.

Ours, beyond EasyOcc: learned tables of the position on the ground, the height, and the number of cameras that
see the voxel are added to the lifted features (a sum of image features alone does not say where the voxel lies, and
convolutions cannot find out); and the volume may work on a horizontally coarser grid, from whose voxels the head
predicts every Occ3D voxel separately. The full height resolution is always kept: roads are one voxel thick.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from occlift.errors import ConfigError
from occlift.geometry.cameras import CameraRig
from occlift.geometry.grids import VoxelGrid
from occlift.label_space import OCC3D, LabelSpace
from occlift.models.backbone import BackboneName, ImageEncoder
from occlift.models.lift import lift, visible_pairs
from occlift.models.rows import linear_of_rows
from occlift.models.volume import VolumeConfig, VolumeNetwork


@dataclass(frozen=True, kw_only=True)
class EasyOccConfig:
    """What an `EasyOcc` network looks like.

    Attributes:
        backbone: of the image encoder, by name.
        pretrained: name or folder of the backbone's weights (transformers); None: random weights.
        image_height: of the images given to the network, pixels.
        image_width: the same.
        feature_stride: image pixels per feature pixel, 4 or 8.
        feature_channels: of the lifted features.
        horizontal_stride: output voxels per working voxel along x and along y: 1 (0.4 m) or 2 (0.8 m).
        volume: the 3-D CNN.
        grid_shape: output voxels over the extent of the space's grid; None: its shape. Another shape is for models
            that stretch the grid
            beyond that extent (`EasyOcc(centers_ego=...)`) and resample it.
        space: grid and classes of the logits.
    """

    backbone: BackboneName
    pretrained: str | None = None
    image_height: int
    image_width: int
    feature_stride: int
    feature_channels: int
    horizontal_stride: int
    volume: VolumeConfig
    grid_shape: tuple[int, int, int] | None = None
    space: LabelSpace = OCC3D

    def __post_init__(self) -> None:
        if self.image_height % self.feature_stride or self.image_width % self.feature_stride:
            raise ConfigError(
                f"images of {self.image_height}×{self.image_width} do not divide into features of stride "
                f"{self.feature_stride}: choose a multiple"
            )
        grid = self.working_grid
        if any(count % stride for count, stride in zip(grid.shape, self.volume.total_stride, strict=True)):
            raise ConfigError(
                f"the hourglass strides multiply to {self.volume.total_stride}, which does not divide the working "
                f"grid {grid.shape}"
            )

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """Number of output voxels along x, y, z."""
        return self.grid_shape or self.space.grid.shape

    @property
    def working_grid(self) -> VoxelGrid:
        """The grid on which features are lifted and convolved: Occ3D's extent, the output's resolution in height."""
        stride = self.horizontal_stride
        x, y, z = self.output_shape
        if stride < 1 or x % stride or y % stride:
            raise ConfigError(f"horizontal stride {stride} does not divide the output grid {self.output_shape}")
        # Occ3D's own voxel sizes where the shape is Occ3D's: a quotient of rounded numbers would miss the last bit.
        shrink_x, shrink_y, shrink_z = (n / m for n, m in zip(self.space.grid.shape, self.output_shape, strict=True))
        size_x, size_y, size_z = self.space.grid.voxel_size_m
        return VoxelGrid(
            lower_m=self.space.grid.lower_m,
            voxel_size_m=(size_x * shrink_x * stride, size_y * shrink_y * stride, size_z * shrink_z),
            shape=(x // stride, y // stride, z),
        )

    @classmethod
    def demo(cls) -> EasyOccConfig:
        """Small enough to be trained from scratch on two CPU cores in minutes."""
        return cls(
            backbone="resnet18",
            image_height=96,
            image_width=176,
            feature_stride=4,
            feature_channels=32,
            horizontal_stride=2,
            volume=VolumeConfig(
                channels=32,
                stem_blocks=1,
                residual_pair=False,
                hourglasses=1,
                hourglass_channels=(64, 96),
                hourglass_strides=((2, 2, 1), (2, 2, 2)),
                hourglass_blocks=1,
                head_blocks=1,
            ),
        )

    @classmethod
    def full(cls, *, pretrained: str | None = None) -> EasyOccConfig:
        """EasyOcc's ResNet-101 and Occ3D's 200×200×16 voxels; images of 336×672 and the 3-D CNN are OccNeRF's."""
        return cls(
            backbone="resnet101",
            pretrained=pretrained,
            image_height=336,
            image_width=672,
            feature_stride=4,
            feature_channels=64,
            horizontal_stride=1,
            volume=VolumeConfig(
                channels=32,
                stem_blocks=2,
                residual_pair=True,
                hourglasses=3,
                hourglass_channels=(64, 64),
                hourglass_strides=((2, 2, 2), (2, 2, 2)),
                hourglass_blocks=0,
                head_blocks=4,
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers: what a checkpoint or a JSON file may hold."""
        plain = asdict(self)
        plain["grid_shape"] = list(self.output_shape)
        plain["space"] = self.space.to_dict()
        plain["volume"]["hourglass_channels"] = list(self.volume.hourglass_channels)
        plain["volume"]["hourglass_strides"] = [list(stride) for stride in self.volume.hourglass_strides]
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> EasyOccConfig:
        """The inverse of `to_dict`.

        Raises:
            ConfigError: a field is missing or unknown.
        """
        try:
            volume = dict(plain["volume"])
            volume["hourglass_channels"] = tuple(volume["hourglass_channels"])
            volume["hourglass_strides"] = tuple(tuple(stride) for stride in volume["hourglass_strides"])
            space = LabelSpace.from_dict(plain["space"]) if "space" in plain else OCC3D
            shape = tuple(plain.get("grid_shape") or space.grid.shape)
            parts = {"space": space, "grid_shape": None if shape == space.grid.shape else shape}
            return cls(**{**plain, "volume": VolumeConfig(**volume), **parts})
        except (KeyError, TypeError) as error:
            raise ConfigError(f"not the configuration of an EasyOcc network: {error}") from error


class EasyOcc(nn.Module):
    """Surround images and their cameras → class logits on the Occ3D grid.

    Args:
        centers_ego: where the working voxels lie, metres, in the order of `config.working_grid`; None: where that grid
            says. A model that stretches its grid beyond Occ3D's range gives its own; its logits are then on that grid.
    """

    voxel_centers_ego: Tensor
    place_in_head: Tensor

    def __init__(self, config: EasyOccConfig, *, centers_ego: Float[Tensor, "voxels 3"] | None = None) -> None:
        super().__init__()
        self.config = config
        grid = config.working_grid
        channels = config.feature_channels
        self.encoder = ImageEncoder(
            name=config.backbone,
            channels=channels,
            stride=config.feature_stride,
            pretrained=config.pretrained,
        )
        if centers_ego is None:
            centers_ego = torch.from_numpy(grid.centers()).float().reshape(-1, 3)
        assert centers_ego.shape == (grid.num_voxels, 3), (centers_ego.shape, grid.num_voxels)
        self.register_buffer("voxel_centers_ego", centers_ego, persistent=False)
        # Of every output voxel, where its logits stand among those of the head.
        stride = config.horizontal_stride
        places = torch.arange(grid.num_voxels * stride**2, dtype=torch.int32).view(1, *grid.shape, stride**2)
        self.register_buffer("place_in_head", fine_voxels(places, stride).flatten(), persistent=False)
        # Zero at the start: the network begins without tables and takes from the tables what helps.
        self.ground_embedding = nn.Parameter(torch.zeros(grid.shape[0], grid.shape[1], 1, channels))
        self.height_embedding = nn.Parameter(torch.zeros(grid.shape[2], channels))
        self.views_embedding = nn.Parameter(torch.zeros(3, channels))
        self.volume = VolumeNetwork(channels, config.volume)
        # A 1×1×1 convolution, as the product that it is: in this memory layout it needs no rearrangement.
        self.head = nn.Linear(config.volume.channels, config.space.taxonomy.num_classes * config.horizontal_stride**2)

    def start_from_prior(self, prior: Float[Tensor, "classes"]) -> None:
        """Sets the head's bias so that an untrained network answers with about `prior` (positive, any sum).

        Without it the first hundreds of steps are spent on learning that nearly everything is free.
        """
        assert prior.shape == (self.config.space.taxonomy.num_classes,), prior.shape
        assert bool((prior > 0).all()), prior
        log_prior = (prior / prior.sum()).log()
        with torch.no_grad():
            self.head.bias.copy_(log_prior.repeat(self.config.horizontal_stride**2))

    def forward(
        self, images: Float[Tensor, "batch cameras 3 height width"], rig: CameraRig
    ) -> Float[Tensor, "batch classes x y z"]:
        """Logits per voxel [x, y, z] of the Occ3D grid (ego frame at the lidar's time).

        Args:
            images: normalised as `occlift.training.frames` does it (ImageNet mean and deviation); any number of cameras
                in any order.
            rig: of these images, batched [batch, cameras, ...]; `height` and `width` are those of the images.

        Returns:
            Logits; their memory is laid out with the classes last, so `logits.movedim(1, -1)` is contiguous.
        """
        pairs = visible_pairs(rig, self.voxel_centers_ego)
        return self.logits(lift(self.features(images, rig), pairs), pairs.views)

    def volume_features(
        self, images: Float[Tensor, "batch cameras 3 height width"], rig: CameraRig
    ) -> Float[Tensor, "batch x y z channels"]:
        """What the head sees of every working voxel; arguments as for `forward`."""
        pairs = visible_pairs(rig, self.voxel_centers_ego)
        return self._convolved(lift(self.features(images, rig), pairs), pairs.views)

    def logits_at(
        self, features: Float[Tensor, "x y z channels"], index: Int[Tensor, "n"]
    ) -> Float[Tensor, "n classes"]:
        """The logits of some voxels of one key frame: the rows of what `forward` gives, to float rounding.

        A loss that draws some of the voxels needs neither the logits of the others nor their gradients.

        Args:
            features: `volume_features` of the key frame.
            index: into the flattened [x, y, z] of the output grid; no voxel twice.
        """
        parts = self.config.horizontal_stride**2
        place = self.place_in_head.index_select(0, index).long()
        working = place // parts
        # The head is asked once per working voxel, of whose voxels perhaps several were drawn.
        asked = torch.zeros(len(self.voxel_centers_ego), dtype=torch.bool, device=index.device)
        asked.index_fill_(0, working, True)
        logits = linear_of_rows(self.head, features.flatten(0, 2).index_select(0, asked.nonzero()[:, 0]))
        row = asked.cumsum(0).index_select(0, working) - 1
        return logits.view(-1, self.config.space.taxonomy.num_classes).index_select(0, place + parts * (row - working))

    def features(
        self, images: Float[Tensor, "batch cameras 3 height width"], rig: CameraRig
    ) -> Float[Tensor, "batch cameras channels feature_height feature_width"]:
        """The feature maps that are lifted; arguments as for `forward`."""
        rig.check_image_size(images.shape[-2], images.shape[-1])
        features = self.encoder(images.flatten(0, 1))
        return features.view(*images.shape[:2], *features.shape[1:])

    def logits(
        self, lifted: Float[Tensor, "batch voxels channels"], views: Int[Tensor, "batch voxels"]
    ) -> Float[Tensor, "batch classes x y z"]:
        """From features at the working voxels to logits, laid out as those of `forward`.

        Args:
            lifted: the mean over the cameras that see a voxel; zero where none does.
            views: how many cameras see it.
        """
        logits = self.head(self._convolved(lifted, views))
        return fine_voxels(logits, self.config.horizontal_stride).movedim(-1, 1)

    def _convolved(
        self, lifted: Float[Tensor, "batch voxels channels"], views: Int[Tensor, "batch voxels"]
    ) -> Float[Tensor, "batch x y z channels"]:
        batch, grid_shape = lifted.shape[0], self.config.working_grid.shape
        volume = lifted.view(batch, *grid_shape, -1) + (self.ground_embedding + self.height_embedding)
        # A product instead of a look-up: the backward pass of a look-up into three rows is a serial sum.
        table_rows = nn.functional.one_hot(views.clamp(max=2), 3).to(lifted.dtype)
        volume = volume + (table_rows @ self.views_embedding).view(batch, *grid_shape, -1)
        convolved: Tensor = self.volume(volume.movedim(-1, 1))
        return convolved.movedim(1, -1)

    def recompute_activations(self) -> None:
        """From now on training keeps only the inputs of the blocks: the same numbers, less memory, more time."""
        self.encoder.recompute = self.volume.recompute = True

    def compile_networks(self) -> None:
        """From now on the image encoder and the 3-D CNN run as `torch.compile` makes them; weights keep their names.

        Lifting stays as it is: how many pairs see each other changes with every key frame.
        """
        self.encoder.compile(dynamic=False)
        self.volume.compile(dynamic=False)


def fine_voxels(
    values: Shaped[Tensor, "batch x y z heads"], stride: int
) -> Shaped[Tensor, "batch {stride}*x {stride}*y z heads//{stride}**2"]:
    """Spreads what was predicted at a working voxel over the `stride`² voxels that it covers, x before y."""
    batch, x, y, z, heads = values.shape
    parts = values.view(batch, x, y, z, stride, stride, heads // stride**2)
    return parts.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, x * stride, y * stride, z, heads // stride**2)
