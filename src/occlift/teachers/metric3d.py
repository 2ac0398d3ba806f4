"""Metric3Dv2 through onnxruntime (Hu et al., arXiv 2404.15506): the teacher of depth of EasyOcc.

The network sees all images as if one camera of focal length 1000 pixels had taken them. So its output is metric only
after it is multiplied by (focal length *of the resized image*) / 1000. Here that focal length comes from the intrinsics
of the image and the resize that was really done.

Two exports are in use, and both are read; what they are called stands in the file:

- huggingface.co/onnx-community/metric3d-vit-{small,large,giant2}, `onnx/model.onnx`: `pixel_values` of any size →
  `predicted_depth`, `predicted_normal`, `normal_confidence`;
- the export script of the authors' repository (github.com/YvanYin/Metric3D, `onnx/`): `image` [1, 3, 616, 1064] →
  `pred_depth`.

Both take RGB values 0..255 and normalise them inside. Neither says how sure it is of its *depth* (`normal_confidence`
is about normals); an export with an output `confidence` is asked for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from jaxtyping import Float32

from occlift.errors import ConfigError
from occlift.runtime.extras import missing_extra
from occlift.scenes.frames import CameraImage, KeyFrame
from occlift.teachers.images import Upsampling, inscribed
from occlift.teachers.network import check_depth_range, clamped, settings_of
from occlift.teachers.teacher import DepthMap
from occlift.teachers.weights import find_weights, missing_weights, weights_digest, weights_settings

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

CANONICAL_FOCAL_PX: Final = 1000.0
MEAN_COLOR: Final = (123.675, 116.28, 103.53)
"""RGB of the padding: ImageNet's mean, which the network's normalisation turns into zero."""

_ONNX_TYPES: Final = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_INPUT_NAMES: Final = ("pixel_values", "image")
_DEPTH_NAMES: Final = ("predicted_depth", "pred_depth", "depth")
_CONFIDENCE_NAMES: Final = ("confidence", "depth_confidence")


@dataclass(frozen=True, kw_only=True)
class Metric3DConfig:
    """How Metric3D is run.

    Attributes:
        model: an `.onnx` file; or a repository name or a local folder that holds `file`.
        file: within the repository or folder.
        revision: of the repository; by default what the cache holds for `main`.
        device: `auto` takes CUDA where onnxruntime has it.
        input_height, input_width: of the network's input, pixels, multiples of 28 for the transformers; images are
            fitted into it whole. An export of fixed size overrides both.
        batch: images per call, for exports that allow more than one.
        upsampling: `nearest`, or `bilinear` with `edge_ratio`; see `Placement.depth_onto_image`.
        edge_ratio: depths that differ by more than this factor are on two sides of an edge; only for `bilinear`.
        min_depth_m, max_depth_m: depths are clamped to this range, and depths of 0 are unknown. 300 m is the bound
            used with this network on driving data elsewhere.
    """

    model: str = "onnx-community/metric3d-vit-giant2"
    file: str = "onnx/model.onnx"
    revision: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    input_height: int = 616
    input_width: int = 1064
    batch: int = 1
    upsampling: Upsampling = "nearest"
    edge_ratio: float = 1.1
    min_depth_m: float = 0.0
    max_depth_m: float = 300.0


class Metric3D:
    """A `DepthTeacher`. The network is loaded when the first depth is asked for.

    Raises:
        ConfigError: onnxruntime or the file is missing, or an option is out of range.
    """

    def __init__(self, config: Metric3DConfig) -> None:
        if min(config.input_height, config.input_width, config.batch) < 1:
            raise ConfigError(
                f"metric3d: input_height, input_width and batch are {config.input_height}, {config.input_width} and "
                f"{config.batch}; expected 1 or more"
            )
        check_depth_range("metric3d", config.min_depth_m, config.max_depth_m, config.edge_ratio)
        if (missing := missing_metric3d(config)) is not None:
            raise ConfigError(missing)
        self._config = config
        self._path = _model_path(config)

    @cached_property
    def settings(self) -> Mapping[str, object]:
        weights = find_weights(self._config.model, self._config.revision)
        # Weights of more than 2 GB lie in a file of their own beside the graph.
        data = self._path.with_name(f"{self._path.name}_data")
        return {
            "teacher": "metric3d",
            **settings_of(self._config),
            "weights": weights_settings(self._config.model, weights),
            "weights_data": weights_digest(data) if weights.is_file() and data.is_file() else None,
        }

    def depth(self, frame: KeyFrame) -> list[DepthMap]:
        """The depth of every pixel, at the size of the images.

        Raises:
            ConfigError: the file is no Metric3D export, or CUDA was asked for and is not there.
            DataError: an image is missing, damaged or of the wrong size.
        """
        network = self._network
        batch = min(self._config.batch, network.max_batch)
        maps: list[DepthMap] = []
        for start in range(0, len(frame.cameras), batch):
            maps += self._depth_of(frame.cameras[start : start + batch])
        return maps

    @cached_property
    def _network(self) -> _Network:
        return _Network(self._path, self._config)

    def _depth_of(self, cameras: tuple[CameraImage, ...]) -> list[DepthMap]:
        config, network = self._config, self._network
        placements = [inscribed(camera, network.height, network.width) for camera in cameras]
        images = [
            placement.into_input(camera.read(), MEAN_COLOR)
            for placement, camera in zip(placements, cameras, strict=True)
        ]
        canonical, confidence = network(np.stack(images))
        maps = []
        for index, (camera, placement) in enumerate(zip(cameras, placements, strict=True)):
            focal_px = float(placement.intrinsics_px(camera.pinhole_intrinsics_px)[0, 0])
            depth_m = placement.depth_onto_image(
                canonical[index] * np.float32(focal_px / CANONICAL_FOCAL_PX),
                config.upsampling,
                edge_ratio=config.edge_ratio,
            )
            sure = np.ones_like(depth_m) if confidence is None else placement.onto_image(confidence[index])
            maps.append(
                DepthMap(
                    depth_m=clamped(depth_m, config.min_depth_m, config.max_depth_m),
                    confidence=np.clip(sure, 0, 1),
                )
            )
        return maps


def missing_metric3d(config: Metric3DConfig) -> str | None:
    """What is missing to run Metric3D and how to get it; None if nothing is. Loads nothing."""
    if missing := missing_extra("teachers", "metric3d", "onnxruntime"):
        return f"{missing} (onnxruntime-gpu for CUDA)"
    if (missing := missing_weights(config.model, config.revision)) is not None:
        return missing
    if not (path := _model_path(config)).is_file():
        return (
            f"metric3d: {path}: no such file in the copy of {config.model} here; "
            f"fetch it with `hf download {config.model} --include '{config.file}*'`, or name another with file=..."
        )
    return None


def _model_path(config: Metric3DConfig) -> Path:
    found = find_weights(config.model, config.revision)
    return found if found.is_file() else found / config.file


class _Network:
    """The ONNX session, and what its inputs and outputs are called."""

    def __init__(self, path: Path, config: Metric3DConfig) -> None:
        self._path = path
        self._session = _session(path, config.device)
        inputs = {node.name: node for node in self._session.get_inputs()}
        outputs = [node.name for node in self._session.get_outputs()]
        known = [name for name in _INPUT_NAMES if name in inputs] or (list(inputs) if len(inputs) == 1 else [])
        depths = [name for name in _DEPTH_NAMES if name in outputs]
        fits = bool(known and depths) and inputs[known[0]].type in _ONNX_TYPES and len(inputs[known[0]].shape) == 4
        # A fixed number of images other than one would have to be filled up.
        if not fits or (isinstance(inputs[known[0]].shape[0], int) and inputs[known[0]].shape[0] != 1):
            raise ConfigError(
                f"metric3d: {path}: has inputs {[(node.name, node.type, node.shape) for node in inputs.values()]} and "
                f"outputs {outputs}; expected an image [1 or any, 3, height, width] called {' or '.join(_INPUT_NAMES)} "
                f"and an output called {' or '.join(_DEPTH_NAMES)}: is this a Metric3D export?"
            )
        self._input = inputs[known[0]]
        # Names or None stand where an export leaves a dimension open.
        batch, _, height, width = (size if isinstance(size, int) else None for size in self._input.shape)
        self.max_batch = batch or config.batch
        self.height, self.width = height or config.input_height, width or config.input_width
        self._outputs = depths[:1] + [name for name in _CONFIDENCE_NAMES if name in outputs][:1]

    def __call__(
        self, images: Float32[np.ndarray, "batch 3 height width"]
    ) -> tuple[Float32[np.ndarray, "batch rows columns"], Float32[np.ndarray, "batch rows columns"] | None]:
        """Depth for the canonical camera, and confidence where the export has one; both cover the whole input."""
        values = self._session.run(self._outputs, {self._input.name: images.astype(_ONNX_TYPES[self._input.type])})
        maps = []
        for name, value in zip(self._outputs, values, strict=True):
            # [batch, 1, rows, columns] or [batch, rows, columns].
            squeezed = value[:, 0] if value.ndim == 4 and value.shape[1] == 1 else value
            if squeezed.ndim != 3 or len(squeezed) != len(images):
                raise ConfigError(
                    f"metric3d: {self._path}: output {name} has shape {list(value.shape)} for {len(images)} images; "
                    "expected one map per image: is this a Metric3D export?"
                )
            maps.append(squeezed.astype(np.float32))
        return maps[0], maps[1] if len(maps) > 1 else None


def _session(path: Path, device: Literal["auto", "cpu", "cuda"]) -> InferenceSession:
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf

    available = onnxruntime.get_available_providers()
    if device == "cuda" and "CUDAExecutionProvider" not in available:
        raise ConfigError(
            f"metric3d: onnxruntime here runs on {', '.join(available)} only; for CUDA install onnxruntime-gpu in its "
            "place, or use device=cpu"
        )
    wanted = ["CPUExecutionProvider"] if device == "cpu" else ["CUDAExecutionProvider", "CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(str(path), providers=[name for name in wanted if name in available])
    except (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf) as error:
        raise ConfigError(
            f"metric3d: {path}: onnxruntime cannot load it ({str(error).splitlines()[0]}); the file is damaged, or its "
            f"weights (.onnx_data) do not lie beside it"
        ) from error
    if device == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        raise ConfigError(
            "metric3d: onnxruntime could not start CUDA and would run on the CPU; its log above says which library is "
            "missing; or use device=cpu"
        )
    return session
