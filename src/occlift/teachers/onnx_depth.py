"""Depth by any network in an ONNX file, of which a small TOML file says what it wants and says (`onnx_spec`).

What the focal length does differs from network to network, and a label is wrong by that factor where it is forgotten:
Metric3Dv2 (Hu et al., arXiv 2404.15506) sees all images as if one camera of focal length 1000 pixels had taken them,
Depth Anything 3 (Lin et al., arXiv 2511.10647) as if of 300; both are metric only after their output is multiplied by
(focal length of the *resized* image) / 1000 or / 300. UniDepthV2 (Piccinelli et al., arXiv 2502.20110) is told the
rays. MoGe-2 (Wang et al., arXiv 2507.02546) gives points that lack a shift along the axis, which the known focal length
determines. Here the focal length always comes from the intrinsics of the image and the resize that was really done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Float32, Shaped

from occlift.errors import ConfigError
from occlift.scenes.frames import CameraImage, KeyFrame
from occlift.teachers.images import Placement, Upsampling
from occlift.teachers.network import check_depth_range, clamped, settings_of
from occlift.teachers.onnx_network import Device, ModelFile, OnnxNetwork
from occlift.teachers.onnx_spec import read_depth_spec, spec_settings
from occlift.teachers.teacher import DepthMap


@dataclass(frozen=True, kw_only=True)
class OnnxDepthConfig:
    """How a network of depth in an ONNX file is run.

    Attributes:
        model: an `.onnx` file; or a repository name or a local folder that holds `file`.
        spec: what the network wants and says: a name that comes with the library or a TOML file; by default the TOML
            file beside the model that has its name.
        file: within the repository or folder.
        revision: of the repository; by default what the cache holds for `main`.
        device: `auto` takes CUDA where onnxruntime has it.
        batch: images per call, for exports that allow more than one.
        upsampling: `nearest` invents no depth; `bilinear` keeps planes, and leaves edges open by `edge_ratio`.
        edge_ratio: depths that differ by more than this factor are on two sides of an edge; only for `bilinear`.
        min_depth_m: smallest depth; smaller ones are set to it. A depth of 0 or less is unknown.
        max_depth_m: largest depth; larger ones are set to it. 300 m is the bound used with Metric3D on driving data
            elsewhere.
    """

    model: str
    spec: str = ""
    file: str = "onnx/model.onnx"
    revision: str | None = None
    device: Device = "auto"
    batch: int = 1
    upsampling: Upsampling = "nearest"
    edge_ratio: float = 1.1
    min_depth_m: float = 0.0
    max_depth_m: float = 300.0


class OnnxDepth:
    """A `DepthTeacher`. The network is loaded when the first depth is asked for.

    Raises:
        ConfigError: onnxruntime, the file or its spec is missing, or an option is out of range.
    """

    def __init__(self, config: OnnxDepthConfig) -> None:
        if config.batch < 1:
            raise ConfigError(f"onnx-depth: batch is {config.batch}; expected 1 or more images")
        check_depth_range("onnx-depth", config.min_depth_m, config.max_depth_m, config.edge_ratio)
        if (missing := missing_onnx_depth(config)) is not None:
            raise ConfigError(missing)
        self._config = config
        self._file = _model_file(config)
        self._spec = read_depth_spec(config.spec, self._file.path())

    @cached_property
    def settings(self) -> Mapping[str, object]:
        # Where a file lies is no setting; its content is.
        options = {**settings_of(self._config), "spec": spec_settings(self._spec)}
        return {"teacher": "onnx-depth", **options, **self._file.settings()}

    def depth(self, frame: KeyFrame) -> list[DepthMap]:
        """The depth of every pixel, at the size of the images.

        Raises:
            ConfigError: the file has not the inputs and outputs that its spec names, or CUDA was asked for and is not
                there.
            DataError: an image is missing, damaged or of the wrong size.
        """
        return [
            self._on_image(camera, placement, outputs)
            for camera, placement, outputs in self._network.answers(frame.cameras)
        ]

    @cached_property
    def _network(self) -> OnnxNetwork:
        spec = self._spec
        wanted = [spec.output, *((name,) for name in (spec.scale, spec.unknown and spec.unknown.output) if name)]
        return OnnxNetwork(
            self._file.path(), spec.input, wanted=wanted, optional=[spec.confidence] if spec.confidence else [],
            device=self._config.device, batch=self._config.batch, teacher="onnx-depth",
        )  # fmt: skip

    def _on_image(
        self, camera: CameraImage, placement: Placement, outputs: Mapping[str, Shaped[np.ndarray, "..."]]
    ) -> DepthMap:
        config = self._config
        metres = self._metres(placement, placement.intrinsics_px(camera.pinhole_intrinsics_px), outputs)
        depth_m = placement.depth_onto_image(metres, config.upsampling, edge_ratio=config.edge_ratio)
        name = self._spec.confidence[0] if self._spec.confidence else ""
        sure = placement.onto_image(self._map(name, outputs)) if name in outputs else np.ones_like(depth_m)
        return DepthMap(
            depth_m=clamped(depth_m, config.min_depth_m, config.max_depth_m), confidence=np.clip(sure, 0, 1)
        )

    def _metres(
        self,
        placement: Placement,
        intrinsics_px: Float[np.ndarray, "3 3"],
        outputs: Mapping[str, Shaped[np.ndarray, "..."]],
    ) -> Float32[np.ndarray, "rows columns"]:
        """Depth along the optical axis, over the whole input; NaN where it means nothing."""
        spec = self._spec
        focals_px = intrinsics_px[0, 0], intrinsics_px[1, 1]
        # In an image with padding they are equal, but for the rounding of its sides to whole pixels.
        focal_px = float(focals_px[0] if spec.input.fit == "pad" else sum(focals_px) / 2)
        factor = spec.unit_m * (1 if spec.focal_px is None else focal_px / spec.focal_px)
        if spec.scale:
            if (scale := outputs[spec.scale]).size != 1:
                raise self._network.misfit(spec.scale, scale, "one number")
            factor *= float(scale.item())
        unknown = self._unknown(outputs)
        if spec.quantity == "points":
            points = self._points(outputs)
            depth = points[..., 2]
            if spec.shift:
                input_size = placement.input_height, placement.input_width
                depth = depth + np.float32(shift_of(points, ~unknown, focal_px, input_size))
        else:
            depth = self._map(spec.output[0], outputs)
        with np.errstate(divide="ignore", invalid="ignore"):
            metres = (1 / depth if spec.quantity == "inverse depth" else depth) * np.float32(factor)
        if unknown.shape not in ((1, 1), metres.shape):
            raise self._network.misfit(spec.output[0], metres, f"the same rows and columns as unknown, {unknown.shape}")
        return np.where(unknown, np.float32(np.nan), metres)

    def _unknown(self, outputs: Mapping[str, Shaped[np.ndarray, "..."]]) -> Bool[np.ndarray, "rows columns"]:
        unknown = self._spec.unknown
        if unknown is None:
            return np.zeros((1, 1), bool)
        values = outputs[unknown.output]
        if values.dtype == np.bool_:
            values = values.astype(np.float32)
        values = self._map(unknown.output, {unknown.output: values})
        return values > unknown.above if unknown.above is not None else values < unknown.below

    def _map(self, name: str, outputs: Mapping[str, Shaped[np.ndarray, "..."]]) -> Float32[np.ndarray, "rows columns"]:
        """One number per cell."""
        value = outputs[name]
        if value.ndim < 2 or value.size != value.shape[-1] * value.shape[-2]:
            # [rows, columns, 1]
            if value.ndim < 3 or value.shape[-1] != 1 or value.size != value.shape[-2] * value.shape[-3]:
                raise self._network.misfit(name, value, "one number for each of rows × columns cells")
            value = value[..., 0]
        return value.reshape(value.shape[-2:]).astype(np.float32)

    def _points(self, outputs: Mapping[str, Shaped[np.ndarray, "..."]]) -> Float32[np.ndarray, "rows columns 3"]:
        name = self._spec.output[0]
        value = outputs[name]
        value = (
            value.reshape(value.shape[-3:]) if value.ndim >= 3 and value.size == np.prod(value.shape[-3:]) else value
        )
        if value.ndim != 3 or 3 not in (value.shape[0], value.shape[2]):
            raise self._network.misfit(name, value, "[rows, columns, 3] or [3, rows, columns]")
        return (value if value.shape[2] == 3 else np.moveaxis(value, 0, 2)).astype(np.float32)


def missing_onnx_depth(config: OnnxDepthConfig) -> str | None:
    """What is missing to run the network and how to get it; None if nothing is. Loads nothing."""
    return _model_file(config).missing()


def shift_of(
    points: Float32[np.ndarray, "rows columns 3"],
    known: Bool[np.ndarray, "..."],
    focal_px: float,
    input_size: tuple[int, int],
) -> float:
    """How far points must be moved along the axis so that they lie behind their own pixels.

    The shift t for which Σ |focal · (x, y) / (z + t) − (u, v)|² is smallest, over some 64 × 64 cells, as MoGe's authors
    determine it (arXiv 2410.19115, section 3.1); pixels are counted from the centre of the input, as the network does.

    Args:
        known: cells whose points count.
        focal_px: in pixels of the input.
        input_size: (height, width) of the input that the points cover.
    """
    from scipy.optimize import least_squares

    chosen = [np.unique(np.linspace(0, count - 1, 64).round().astype(np.intp)) for count in points.shape[:2]]
    cells = np.ix_(*chosen)
    v, u = np.meshgrid(
        *(
            (index + 0.5) / count * size - size / 2
            for index, count, size in zip(chosen, points.shape, input_size, strict=False)
        ),
        indexing="ij",
    )
    kept = np.broadcast_to(known, points.shape[:2])[cells] & np.isfinite(points[cells]).all(-1)
    if kept.sum() < 2:
        return 0.0
    at, uv = points[cells][kept].astype(np.float64), np.stack((u, v), -1)[kept]

    def off(shift: Float[np.ndarray, "1"]) -> Float[np.ndarray, "numbers"]:
        return (at[:, :2] * (focal_px / (at[:, 2:] + shift)) - uv).ravel() / focal_px

    # Multiplied by z + t the same equations are linear in t; from there no point lies on the other side of the camera.
    start = (uv * (at[:, :2] * focal_px - uv * at[:, 2:])).sum() / np.square(uv).sum()
    return float(least_squares(off, x0=np.array([start]), method="lm").x[0])


def _model_file(config: OnnxDepthConfig) -> ModelFile:
    return ModelFile(teacher="onnx-depth", model=config.model, file=config.file, revision=config.revision)
