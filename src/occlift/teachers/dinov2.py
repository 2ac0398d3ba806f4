"""Features of small patches by DINOv2 (Oquab et al., arXiv 2304.07193) or DINOv3 (Siméoni et al., arXiv 2508.10104).

Both are vision transformers: the image is cut into patches (14 and 16 pixels wide as published), and what the last
layer says about each patch, after its layer norm, is its feature. The tokens that stand for no patch (class, registers)
are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from jaxtyping import Float

from occlift.errors import ConfigError
from occlift.runtime.devices import AutoPrecision, autocast, resolve_precision, torch_device
from occlift.scenes.frames import CameraImage, KeyFrame
from occlift.teachers.images import Placement, inscribed, stretched
from occlift.teachers.network import settings_of
from occlift.teachers.preprocessing import Preprocessing, read_preprocessing
from occlift.teachers.pretrained import load_network
from occlift.teachers.teacher import FeatureMap
from occlift.teachers.weights import find_weights, weights_settings

if TYPE_CHECKING:
    import torch

_CLASSES: Final = {
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
}
_BICUBIC: Final = 3
"""PIL's number of the filter that DINOv2's images are resized with; DINOv3's files name another."""


@dataclass(frozen=True, kw_only=True)
class DinoConfig:
    """How DINOv2 or DINOv3 is run.

    Attributes:
        model: a repository name or a local folder.
        revision: of the repository; by default what the cache holds for `main`.
        device: `auto`, or what torch calls it.
        precision: of the network's multiplications; see `occlift.runtime.devices`.
        fit: `stretch` resizes images to the input whatever their proportions; `pad` keeps the proportions and fills
            what remains on all sides with the mean colour.
        input_height, input_width: of the network's input, pixels, multiples of its patch; 0: the multiple that is
            nearest to the image's own size.
        batch: images per call, all fitted into an input of the size of the first.
        half: features are float16, which is half as large to keep, instead of float32.
    """

    model: str = "facebook/dinov2-small"
    revision: str | None = None
    device: str = "auto"
    precision: AutoPrecision = "auto"
    fit: Literal["stretch", "pad"] = "stretch"
    input_height: int = 0
    input_width: int = 0
    batch: int = 1
    half: bool = False


@dataclass(frozen=True, kw_only=True)
class Dinov3Config(DinoConfig):
    """The same for DINOv3; its weights are handed out after a licence was accepted on the Hub."""

    model: str = "facebook/dinov3-vits16-pretrain-lvd1689m"


class Dino:
    """A `FeatureTeacher`. The network is loaded when the first features are asked for.

    Raises:
        ConfigError: the weights are missing, or an option is out of range.
    """

    def __init__(self, config: DinoConfig) -> None:
        if config.batch < 1 or min(config.input_height, config.input_width) < 0:
            raise ConfigError(
                f"dino: batch, input_height and input_width are {config.batch}, {config.input_height} and "
                f"{config.input_width}; expected 1 or more images and 0 or more pixels"
            )
        self._config = config
        self._folder = find_weights(config.model, config.revision)

    @cached_property
    def settings(self) -> Mapping[str, object]:
        weights = weights_settings(self._config.model, self._folder)
        precision = resolve_precision(self._config.precision, torch_device(self._config.device))
        return {"teacher": "dino", **settings_of(self._config), "precision": precision, "weights": weights}

    @property
    def on_accelerator(self) -> bool:
        """Whether the network runs elsewhere than on the CPU, where no process that was forked can follow."""
        return torch_device(self._config.device).type != "cpu"

    def __getstate__(self) -> dict[str, Any]:
        # A process that is handed this teacher loads the network itself, if ever it has to.
        return {name: value for name, value in vars(self).items() if name != "_loaded"}

    def features(self, frame: KeyFrame) -> list[FeatureMap]:
        """The features of every image, a map per camera.

        Raises:
            ConfigError: the weights are damaged or those of another network, or the input is no multiple of the patch.
            DataError: an image is missing, damaged or of the wrong size.
        """
        maps = []
        for start in range(0, len(frame.cameras), self._config.batch):
            cameras = frame.cameras[start : start + self._config.batch]
            placements = [self._placement(camera, *self._input_size(cameras[0])) for camera in cameras]
            for placement, features in zip(placements, self._predict(cameras, placements), strict=True):
                maps.append(feature_map(features, placement, self._patch))
        return maps

    @cached_property
    def _loaded(self) -> tuple[Any, Preprocessing, torch.device]:
        network, device = load_network(self._folder, _CLASSES, device=self._config.device)
        return network, read_preprocessing(self._folder, Preprocessing(resample=_BICUBIC)), device

    @property
    def _patch(self) -> int:
        return int(self._loaded[0].config.patch_size)

    def _input_size(self, camera: CameraImage) -> tuple[int, int]:
        patch, config = self._patch, self._config
        if config.input_height % patch or config.input_width % patch:
            raise ConfigError(
                f"dino: an input of {config.input_height} × {config.input_width} pixels is no whole number of patches; "
                f"{config.model} has patches of {patch} pixels, so choose multiples of {patch}"
            )
        height = config.input_height or max(1, round(camera.height / patch)) * patch
        return height, config.input_width or max(1, round(camera.width / patch)) * patch

    def _placement(self, camera: CameraImage, height: int, width: int) -> Placement:
        return (stretched if self._config.fit == "stretch" else inscribed)(camera, height, width)

    def _predict(
        self, cameras: Sequence[CameraImage], placements: Sequence[Placement]
    ) -> list[Float[np.ndarray, "channels rows columns"]]:
        import torch
        from torch.nn import functional as F

        network, preprocessing, device = self._loaded
        inputs = []
        for camera, place in zip(cameras, placements, strict=True):
            pixels = preprocessing([camera.read()], place.height, place.width, device)
            right, bottom = place.input_width - place.left - place.width, place.input_height - place.top - place.height
            # The mean colour is 0 after normalisation.
            inputs.append(F.pad(pixels, (place.left, right, place.top, bottom)))
        with torch.inference_mode(), autocast(resolve_precision(self._config.precision, device), device):
            tokens = network(pixel_values=torch.cat(inputs)).last_hidden_state
        rows, columns = (size // self._patch for size in inputs[0].shape[2:])
        # First the class token, then the registers, where there are any.
        patches = tokens[:, 1 + getattr(network.config, "num_register_tokens", 0) :]
        assert patches.shape[1] == rows * columns, (tokens.shape, rows, columns, network.config)
        grid = patches.unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
        return list(grid.to(torch.float16 if self._config.half else torch.float32).cpu().contiguous().numpy())


def feature_map(features: Float[np.ndarray, "channels rows columns"], placement: Placement, patch: int) -> FeatureMap:
    """Features of the patches of a network's input, with where they lie in the image.

    Args:
        patch: width and height of a patch, pixels of the input.
    """
    return FeatureMap(
        features=features,
        stride_px=(patch / placement.scale_x, patch / placement.scale_y),
        offset_px=(
            (patch / 2 - placement.left) / placement.scale_x,
            (patch / 2 - placement.top) / placement.scale_y,
        ),
    )
