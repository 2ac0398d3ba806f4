"""Camera networks for bird's-eye-view segmentation: images → features → a map of the ground → heads.

Three networks that differ in how features of the images reach the ground, and in nothing else: `simple_bev` pulls them
to voxels, `lift_splat` pushes them along rays, in `bevformer` the cells ask for them. Image encoder, BEV encoder and
heads are the same, so what a comparison of the three compares is that step.

Maps are on `BEV_GRID` ([x, y], ego frame at the lidar's time). A map may be worked out on a coarser grid, from whose
cells a transposed convolution predicts the finer ones separately.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from occlift.errors import ConfigError
from occlift.geometry.cameras import CameraRig
from occlift.geometry.grids import BEV_GRID, BevGrid
from occlift.models.backbone import BackboneName, ImageEncoder
from occlift.models.bev_encoder import BevEncoder, BevEncoderConfig, BevHeads
from occlift.models.bev_encoder import BevOutput as BevOutput
from occlift.models.bevformer import BevFormer, BevFormerConfig
from occlift.models.lift_splat import LiftSplat, LiftSplatConfig
from occlift.models.simple_bev import SimpleBevConfig, SimpleBevLift

Architecture = Literal["simple_bev", "lift_splat", "bevformer"]
ViewConfig = SimpleBevConfig | LiftSplatConfig | BevFormerConfig

_VIEWS: Final[dict[str, type[ViewConfig]]] = {
    "simple_bev": SimpleBevConfig,
    "lift_splat": LiftSplatConfig,
    "bevformer": BevFormerConfig,
}

_COARSEST_STRIDE: Final = 16
"""Of the image features: 1/8 and 1/16 are fused, as in SimpleBEV."""


@dataclass(frozen=True, kw_only=True)
class BevNetworkConfig:
    """What a `BevNetwork` looks like.

    Attributes:
        architecture: method that lifts image features to the ground.
        backbone: trunk of the image encoder.
        pretrained: name or folder of the backbone's weights (transformers); None: random weights.
        image_height: height of the images given to the network, pixels.
        image_width: width of the images given to the network, pixels.
        classes: classes to segment, not exclusive: vehicle, pedestrian, drivable_area, crossing, lane_divider.
        feature_stride: image pixels per feature pixel, 4 or 8.
        feature_channels: of the image features.
        cell_stride: cells of `BEV_GRID` per working cell along x and along y: 1 (0.5 m), 2 (1 m) or 4 (2 m).
        bev_channels: of the map, that of `BevNetwork.bev_features` too.
        head_channels: hidden channels of each head.
        view: the step from the images to the ground, of the kind that the architecture names.
        encoder: what works on the map.
    """

    architecture: Architecture
    backbone: BackboneName
    pretrained: str | None = None
    image_height: int
    image_width: int
    classes: tuple[str, ...]
    feature_stride: int = 8
    feature_channels: int
    cell_stride: int = 1
    bev_channels: int
    head_channels: int
    view: ViewConfig
    encoder: BevEncoderConfig = field(default_factory=BevEncoderConfig)

    def __post_init__(self) -> None:
        expected = _view_class(self.architecture)
        if type(self.view) is not expected:
            raise ConfigError(
                f"architecture {self.architecture!r} needs a {expected.__name__}, got a {type(self.view).__name__}"
            )
        if self.image_height % self.feature_stride or self.image_width % self.feature_stride:
            raise ConfigError(
                f"images of {self.image_height}×{self.image_width} do not divide into features of stride "
                f"{self.feature_stride}: choose a multiple"
            )
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ConfigError(f"expected at least one class, none twice, got {list(self.classes)}")
        if min(self.feature_channels, self.bev_channels, self.head_channels) < 1:
            raise ConfigError(f"expected at least one channel everywhere: {self}")
        shape = self.working_grid.shape
        if any(count % self.encoder.total_stride for count in shape):
            raise ConfigError(
                f"{len(self.encoder.widths)} levels of the BEV encoder halve a working grid of {shape} unevenly: use "
                "fewer levels or another cell stride"
            )

    @property
    def working_grid(self) -> BevGrid:
        """The grid on which the map is worked out: the extent of `BEV_GRID`, ego frame at the lidar's time."""
        (count_x, count_y), (size_x, size_y), stride = BEV_GRID.shape, BEV_GRID.cell_size_m, self.cell_stride
        if stride < 1 or count_x % stride or count_y % stride:
            raise ConfigError(f"cell stride {stride} does not divide the map of {BEV_GRID.shape} cells")
        return BevGrid(
            lower_m=BEV_GRID.lower_m,
            cell_size_m=(size_x * stride, size_y * stride),
            shape=(count_x // stride, count_y // stride),
        )

    @classmethod
    def demo(cls, architecture: Architecture, classes: tuple[str, ...] = ("vehicle",)) -> BevNetworkConfig:
        """Small enough to be trained from scratch on two CPU cores in minutes."""
        views: dict[str, ViewConfig] = {
            "simple_bev": SimpleBevConfig(heights=4, lower_m=-1.0, upper_m=3.0),
            "lift_splat": LiftSplatConfig(context_channels=32, depth_bins=32, nearest_m=2.0, farthest_m=50.0),
            "bevformer": BevFormerConfig(
                heights=4, lower_m=-1.0, upper_m=3.0, layers=2, heads=4, points=4, feed_forward=128
            ),
        }
        queries = _view_class(architecture) is BevFormerConfig
        return cls(
            architecture=architecture,
            backbone="resnet18",
            image_height=96,
            image_width=176,
            classes=classes,
            # Cars are few pixels wide; pushing features along rays is too dear at so many places.
            feature_stride=8 if architecture == "lift_splat" else 4,
            feature_channels=64 if queries else 32,
            cell_stride=4 if queries else 2,
            bev_channels=64 if queries else 32,
            head_channels=16,
            view=views[architecture],
            encoder=BevEncoderConfig(widths=(64,) if queries else (48, 64), blocks=1),
        )

    @classmethod
    def full(
        cls,
        architecture: Architecture,
        backbone: BackboneName = "efficientnet-b0",
        *,
        image_height: int = 224,
        image_width: int = 400,
        classes: tuple[str, ...] = ("vehicle",),
        pretrained: str | None = None,
    ) -> BevNetworkConfig:
        """SimpleBEV's sizes (arXiv 2206.07959) with OccFeat's smallest backbone.

        SimpleBEV's tables have images of 448×800; the smaller ones here are ours, of OccFeat's no size is published.
        """
        return cls(
            architecture=architecture,
            backbone=backbone,
            pretrained=pretrained,
            image_height=image_height,
            image_width=image_width,
            classes=classes,
            feature_channels=128,
            bev_channels=128,
            head_channels=128,
            view=_view_class(architecture)(),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers: what a checkpoint or a JSON file may hold."""
        plain = asdict(self)
        plain["classes"] = list(self.classes)
        plain["encoder"]["widths"] = list(self.encoder.widths)
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> BevNetworkConfig:
        """The inverse of `to_dict`.

        Raises:
            ConfigError: a field is missing or unknown, or the fields do not fit one another.
        """
        try:
            encoder = {**plain["encoder"], "widths": tuple(plain["encoder"]["widths"])}
            parts = {
                "classes": tuple(plain["classes"]),
                "view": _view_class(plain["architecture"])(**plain["view"]),
                "encoder": BevEncoderConfig(**encoder),
            }
            return cls(**{**plain, **parts})
        except (KeyError, TypeError) as error:
            raise ConfigError(f"not the configuration of a BEV network: {error}") from error


class BevNetwork(nn.Module):
    """Surround images and their cameras → segmentation, centres and offsets on `BEV_GRID`.

    Weights below `heads` neither depend on the classes nor are named after the architecture's configuration, so a
    network loads those of another one by name, pretrained without heads or with others.
    """

    def __init__(self, config: BevNetworkConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.bev_channels
        self.encoder = ImageEncoder(
            name=config.backbone,
            channels=config.feature_channels,
            stride=config.feature_stride,
            coarsest_stride=_COARSEST_STRIDE,
            pretrained=config.pretrained,
        )
        self.view = _view(config)
        self.bev_encoder = BevEncoder(channels, config.encoder)
        stride = config.cell_stride
        # Kernel = stride: every fine cell is written once.
        self.refine = nn.ConvTranspose2d(channels, channels, stride, stride=stride) if stride > 1 else nn.Identity()
        self.heads = BevHeads(channels, hidden=config.head_channels, classes=len(config.classes))

    def forward(self, images: Float[Tensor, "batch cameras 3 height width"], rig: CameraRig) -> BevOutput:
        """What the heads say about every cell.

        Args:
            images: normalised as `occlift.training.frames` does it (ImageNet mean and deviation); any number of cameras
                in any order.
            rig: of these images, batched [batch, cameras, ...]; `height` and `width` are those of the images.
        """
        return self.heads(self.bev_features(images, rig))

    def bev_features(
        self, images: Float[Tensor, "batch cameras 3 height width"], rig: CameraRig
    ) -> Float[Tensor, "batch bev_channels 200 200"]:
        """The map that the heads see, [x, y] of `BEV_GRID` behind the channels: what pretraining reads.

        Arguments as for `forward`.
        """
        return self.refine(self.bev_encoder(self.view(self.features(images, rig), rig)))

    def features(
        self, images: Float[Tensor, "batch cameras 3 height width"], rig: CameraRig
    ) -> Float[Tensor, "batch cameras channels feature_height feature_width"]:
        """The feature maps of the images; arguments as for `forward`."""
        rig.check_image_size(images.shape[-2], images.shape[-1])
        features = self.encoder(images.flatten(0, 1))
        return features.view(*images.shape[:2], *features.shape[1:])

    def start_from_prior(self, prior: Float[Tensor, "classes"]) -> None:
        """Sets the segmentation's bias so that an untrained network answers with about `prior`, each in (0, 1).

        Without it the first hundreds of steps are spent on learning that most cells are empty.
        """
        assert prior.shape == (len(self.config.classes),), (prior.shape, self.config.classes)
        assert bool(((prior > 0) & (prior < 1)).all()), prior
        last = self.heads.segmentation[-1]
        assert isinstance(last, nn.Conv2d), last
        assert last.bias is not None, last
        with torch.no_grad():
            last.bias.copy_(prior.logit())

    def recompute_activations(self) -> None:
        """From now on training keeps only the inputs of the blocks: the same numbers, less memory, more time."""
        self.encoder.recompute = self.bev_encoder.recompute = True
        if isinstance(self.view, BevFormer):
            self.view.recompute = True

    def compile_networks(self) -> None:
        """From now on both encoders run as `torch.compile` makes them; weights keep their names.

        The step to the ground stays as it is: how many points a camera sees changes with every key frame.
        """
        self.encoder.compile(dynamic=False)
        self.bev_encoder.compile(dynamic=False)


def bev_network(config: BevNetworkConfig) -> BevNetwork:
    """The network that a configuration describes."""
    return BevNetwork(config)


def _view_class(architecture: str) -> type[ViewConfig]:
    if architecture not in _VIEWS:
        raise ConfigError(f"architecture {architecture!r} is not one of {', '.join(_VIEWS)}")
    return _VIEWS[architecture]


def _view(config: BevNetworkConfig) -> SimpleBevLift | LiftSplat | BevFormer:
    grid, inputs, channels = config.working_grid, config.feature_channels, config.bev_channels
    if isinstance(config.view, SimpleBevConfig):
        return SimpleBevLift(config.view, grid=grid, inputs=inputs, channels=channels)
    if isinstance(config.view, LiftSplatConfig):
        return LiftSplat(config.view, grid=grid, inputs=inputs, channels=channels)
    return BevFormer(config.view, grid=grid, inputs=inputs, channels=channels)
