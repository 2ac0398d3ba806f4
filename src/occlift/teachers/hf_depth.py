"""Metric depth through transformers: Depth Pro and Depth Anything V2, which need no second runtime.

Depth Pro (Bochkovskii et al., arXiv 2410.02073) predicts inverse depth C for a camera whose focal length is one image
width: 1 / depth = C · width / f_x. It can guess f_x; here it is never asked, the intrinsics are known. Depth Anything
V2's metric models (Yang et al., arXiv 2406.09414) predict metres and never learn the focal length: they are right for
cameras like those they were trained on, and off by the ratio of the focal lengths (in image widths) for others.

Neither says how sure it is. Only the encoder runs in half precision; what makes depths of its features does not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from jaxtyping import Float32

from occlift.errors import ConfigError
from occlift.runtime.devices import AutoPrecision, autocast, resolve_precision, torch_device
from occlift.scenes.frames import CameraImage, KeyFrame
from occlift.teachers.images import Upsampling, stretched
from occlift.teachers.network import check_depth_range, clamped, settings_of
from occlift.teachers.preprocessing import Preprocessing, read_preprocessing
from occlift.teachers.pretrained import keep_float32, load_network
from occlift.teachers.teacher import DepthMap
from occlift.teachers.weights import find_weights, weights_settings

if TYPE_CHECKING:
    import torch

_BICUBIC: Final = 3
"""PIL's number of the filter that Depth Anything's images are resized with."""


@dataclass(frozen=True, kw_only=True)
class DepthProConfig:
    """How Depth Pro is run.

    Attributes:
        model: a repository name or a local folder.
        revision: of the repository; by default what the cache holds for `main`.
        device: `auto`, or what torch calls it.
        precision: of the encoder's multiplications; `auto` is half precision on an accelerator, float32 on a CPU.
        batch: images per call.
        upsampling: `nearest` invents no depth; `bilinear` keeps planes, and leaves edges open by `edge_ratio`.
        edge_ratio: depths that differ by more than this factor are on two sides of an edge; only for `bilinear`.
        min_depth_m: smallest depth; smaller ones are set to it. A depth of 0 or less is unknown.
        max_depth_m: largest depth; larger ones are set to it.
    """

    model: str = "apple/DepthPro-hf"
    revision: str | None = None
    device: str = "auto"
    precision: AutoPrecision = "auto"
    batch: int = 1
    upsampling: Upsampling = "nearest"
    edge_ratio: float = 1.1
    min_depth_m: float = 0.0
    max_depth_m: float = 300.0


@dataclass(frozen=True, kw_only=True)
class DepthAnythingConfig:
    """How Depth Anything V2 is run.

    Attributes:
        model: a repository name or a local folder of a *metric* model.
        input_height: of the network's input, pixels; the width follows the image. Both are rounded to patches.
        batch: images per call, all stretched like the first of them.
        revision: of the repository; by default what the cache holds for `main`.
        device: `auto`, or what torch calls it.
        precision: of the encoder's multiplications; `auto` is half precision on an accelerator, float32 on a CPU.
        upsampling: `nearest` invents no depth; `bilinear` keeps planes, and leaves edges open by `edge_ratio`.
        edge_ratio: depths that differ by more than this factor are on two sides of an edge; only for `bilinear`.
        min_depth_m: smallest depth; smaller ones are set to it. A depth of 0 or less is unknown.
        max_depth_m: largest depth; larger ones are set to it.
    """

    model: str = "depth-anything/Depth-Anything-V2-Metric-Outdoor-Large-hf"
    revision: str | None = None
    device: str = "auto"
    precision: AutoPrecision = "auto"
    input_height: int = 518
    batch: int = 1
    upsampling: Upsampling = "nearest"
    edge_ratio: float = 1.1
    min_depth_m: float = 0.0
    max_depth_m: float = 300.0


class _NetworkDepth(ABC):
    """What the two teachers share: images in, stretched and normalised; maps out, at the size of the images.

    The network is loaded when the first depth is asked for.
    """

    name: ClassVar[str]
    preprocessing: ClassVar[Preprocessing]

    def __init__(self, config: DepthProConfig | DepthAnythingConfig) -> None:
        if config.batch < 1:
            raise ConfigError(f"{self.name}: batch is {config.batch}; expected 1 or more images")
        check_depth_range(self.name, config.min_depth_m, config.max_depth_m, config.edge_ratio)
        self._config = config
        self._folder = find_weights(config.model, config.revision)

    @cached_property
    def settings(self) -> Mapping[str, object]:
        weights = weights_settings(self._config.model, self._folder)
        precision = resolve_precision(self._config.precision, torch_device(self._config.device))
        return {"teacher": self.name, **settings_of(self._config), "precision": precision, "weights": weights}

    def depth(self, frame: KeyFrame) -> list[DepthMap]:
        """The depth of every pixel, at the size of the images.

        Raises:
            ConfigError: the weights are damaged, or those of another network.
            DataError: an image is missing, damaged or of the wrong size.
        """
        config = self._config
        maps = []
        for start in range(0, len(frame.cameras), config.batch):
            cameras = frame.cameras[start : start + config.batch]
            for camera, predicted in zip(cameras, self._predict(cameras), strict=True):
                on_image_m = stretched(camera, *predicted.shape).depth_onto_image(
                    self._metres(predicted, camera), config.upsampling, edge_ratio=config.edge_ratio
                )
                depth_m = clamped(on_image_m, config.min_depth_m, config.max_depth_m)
                maps.append(DepthMap(depth_m=depth_m, confidence=np.ones_like(depth_m)))
        return maps

    @cached_property
    def _loaded(self) -> tuple[Any, Preprocessing, torch.device]:
        network, device = self._load()
        return network, read_preprocessing(self._folder, self.preprocessing), device

    def _predict(self, cameras: Sequence[CameraImage]) -> Float32[np.ndarray, "batch rows columns"]:
        import torch

        network, preprocessing, device = self._loaded
        height, width = self._input_size(network.config, cameras[0])
        pixels = preprocessing([camera.read() for camera in cameras], height, width, device)
        with torch.inference_mode(), autocast(resolve_precision(self._config.precision, device), device):
            return network(pixel_values=pixels).predicted_depth.float().cpu().numpy()

    @abstractmethod
    def _load(self) -> tuple[Any, torch.device]:
        """The network and the device it is on."""

    @abstractmethod
    def _input_size(self, network: Any, camera: CameraImage) -> tuple[int, int]:
        """(height, width) of the input, from the network's configuration and the first camera of a batch."""

    @abstractmethod
    def _metres(self, predicted: Float32[np.ndarray, "h w"], camera: CameraImage) -> Float32[np.ndarray, "h w"]:
        """Depth along the optical axis from what the network says."""


class DepthPro(_NetworkDepth):
    """A `DepthTeacher`: Depth Pro with the intrinsics that are known.

    Raises:
        ConfigError: the weights are missing, or an option is out of range.
    """

    name = "depth-pro"
    preprocessing = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def __init__(self, config: DepthProConfig) -> None:
        super().__init__(config)

    def _load(self) -> tuple[Any, torch.device]:
        classes = {"depth_pro": "DepthProForDepthEstimation"}
        network, device = load_network(self._folder, classes, device=self._config.device)
        keep_float32([network.fusion_stage, network.head], device)
        # The part that guesses the focal length is not needed.
        network.use_fov_model, network.fov_model = False, None
        return network, device

    def _input_size(self, network: Any, camera: CameraImage) -> tuple[int, int]:
        # The coarsest of the copies that the network makes of its input is one patch; 1536 pixels as published.
        side = round(network.patch_size / min(network.scaled_images_ratios))
        return side, side

    def _metres(self, predicted: Float32[np.ndarray, "h w"], camera: CameraImage) -> Float32[np.ndarray, "h w"]:
        # The image's own: its field of view does not change when it is stretched to a square.
        focal_widths = np.float32(camera.pinhole_intrinsics_px[0, 0] / camera.width)
        with np.errstate(divide="ignore"):
            return focal_widths / predicted


class DepthAnything(_NetworkDepth):
    """A `DepthTeacher`: a metric model of Depth Anything V2.

    Raises:
        ConfigError: the weights are missing, or an option is out of range.
    """

    name = "depth-anything"
    preprocessing = Preprocessing(resample=_BICUBIC)

    def __init__(self, config: DepthAnythingConfig) -> None:
        super().__init__(config)
        if config.input_height < 1:
            raise ConfigError(f"{self.name}: input_height is {config.input_height}; expected 1 or more pixels")
        self._input_height = config.input_height

    def _load(self) -> tuple[Any, torch.device]:
        classes = {"depth_anything": "DepthAnythingForDepthEstimation"}
        network, device = load_network(self._folder, classes, device=self._config.device)
        if network.config.depth_estimation_type != "metric":
            raise ConfigError(
                f"{self.name}: {self._config.model} says only what is nearer than what, not how far it is "
                f"(depth_estimation_type {network.config.depth_estimation_type!r}); use a metric model, such as "
                f"{DepthAnythingConfig.model}"
            )
        keep_float32([network.neck, network.head], device)
        return network, device

    def _input_size(self, network: Any, camera: CameraImage) -> tuple[int, int]:
        patch = network.patch_size
        rows = max(1, round(self._input_height / patch))
        columns = max(1, round(self._input_height * camera.width / camera.height / patch))
        return rows * patch, columns * patch

    def _metres(self, predicted: Float32[np.ndarray, "h w"], camera: CameraImage) -> Float32[np.ndarray, "h w"]:
        return predicted
