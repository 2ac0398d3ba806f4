"""A network in an ONNX file, run by onnxruntime: images in, the outputs that were asked for out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from jaxtyping import Float, Float32, Shaped

from occlift.errors import ConfigError
from occlift.runtime.extras import missing_extra
from occlift.scenes.frames import CameraImage
from occlift.teachers.images import Placement, inscribed, stretched, within
from occlift.teachers.onnx_spec import InputSpec
from occlift.teachers.weights import find_weights, missing_weights, weights_digest, weights_settings

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Device = Literal["auto", "cpu", "cuda"]

_FLOATS: Final = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
_CONSTANTS: Final = {**_FLOATS, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
_IMAGE_AXES: Final = (4, 5)
"""[images, 3, height, width], or [images, views, 3, height, width]."""


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """Where a network lies: an `.onnx` file, or `file` in a repository of the Hugging Face Hub or a local folder.

    Attributes:
        teacher: whose network it is, for errors.
    """

    teacher: str
    model: str
    file: str
    revision: str | None

    def missing(self) -> str | None:
        """What is missing and how to get it; None if nothing is. Loads nothing."""
        if missing := missing_extra("teachers", self.teacher, "onnxruntime"):
            return f"{missing} (onnxruntime-gpu for CUDA)"
        if (missing := missing_weights(self.model, self.revision)) is not None:
            return missing
        if not (path := self.path()).is_file():
            return (
                f"{self.teacher}: {path}: no such file in the copy of {self.model} here; fetch it with "
                f"`hf download {self.model} --include '{self.file}*'`, or name another with file=..."
            )
        return None

    def path(self) -> Path:
        """The `.onnx` file; ConfigError if its folder is missing."""
        found = find_weights(self.model, self.revision)
        return found if found.is_file() else found / self.file

    def settings(self) -> dict[str, object]:
        """Name and digest of the weights, for the settings of a teacher."""
        weights = find_weights(self.model, self.revision)
        # Weights of more than 2 GB lie in a file of their own beside the graph.
        data = [path for end in ("_data", ".data") if (path := self._beside(end)).is_file()]
        return {
            "weights": weights_settings(self.model, weights),
            "weights_data": weights_digest(data[0]) if weights.is_file() and data else None,
        }

    def _beside(self, end: str) -> Path:
        path = self.path()
        return path.with_name(path.name + end)


class OnnxNetwork:
    """A session, and what its inputs and outputs are called.

    Args:
        wanted: outputs that are asked for; of names that stand together the first that there is.
        optional: the same, of which none may be there.

    Raises:
        ConfigError: the file cannot be loaded or has other inputs and outputs, or CUDA was asked for and is not there.
    """

    def __init__(
        self,
        path: Path,
        spec: InputSpec,
        *,
        wanted: Sequence[Sequence[str]],
        optional: Sequence[Sequence[str]] = (),
        device: Device,
        batch: int,
        teacher: str,
    ) -> None:
        self._path, self._spec, self._teacher = path, spec, teacher
        self._session = _session(path, device, teacher)
        self._inputs = {node.name: node for node in self._session.get_inputs()}
        self._image = self._inputs[self._image_name()]
        there = [node.name for node in self._session.get_outputs()]
        self._outputs: dict[str, str] = {}
        for names in (*wanted, *optional):
            if found := [name for name in names if name in there]:
                self._outputs[names[0]] = found[0]
            elif names in wanted:
                raise self._misfit(f"an output called {' or '.join(names)}")
        extra = {spec.intrinsics, spec.rays, *spec.constants} - {None}
        if missing := extra - set(self._inputs):
            raise self._misfit(f"an input called {sorted(map(str, missing))[0]}")
        if unfed := set(self._inputs) - extra - {self._image.name}:
            raise self._misfit(
                f"a spec that says what the input {sorted(unfed)[0]} is, under [constants] or as intrinsics or rays"
            )
        # Names or None stand where an export leaves a dimension open.
        sizes = [size if isinstance(size, int) else None for size in self._image.shape]
        if (
            sizes[-3] not in (3, None)
            or (sizes[0] not in (1, None))
            or (len(sizes) == 5 and not self._views_fit(sizes[1]))
        ):
            raise self._misfit("an image [1 or any, 3, height, width], or [1, cameras, 3, height, width] with views")
        self.batch = 1 if sizes[0] == 1 or spec.views else batch
        self._fixed = sizes[-2], sizes[-1]

    def place(self, camera: CameraImage) -> Placement:
        """Where an image lies in the input."""
        height, width = self._fixed[0] or self._spec.height, self._fixed[1] or self._spec.width
        if self._spec.fit == "pad":
            return inscribed(camera, height, width)
        if self._spec.fit == "stretch" or all(self._fixed):
            return stretched(camera, height, width)
        return within(camera, height, width, multiple=self._spec.multiple)

    def answers(
        self, cameras: Sequence[CameraImage]
    ) -> Iterator[tuple[CameraImage, Placement, dict[str, Shaped[np.ndarray, "..."]]]]:
        """Every image, its place in the input, and the outputs for it, under the first names that they were asked by.

        Raises:
            ConfigError: an output is not one for each image.
            DataError: an image is missing, damaged or of the wrong size.
        """
        placed = [(camera, self.place(camera)) for camera in cameras]
        while placed:
            size = placed[0][1].input_height, placed[0][1].input_width
            most = len(placed) if self._spec.views else self.batch
            same = [one for one in placed[:most] if (one[1].input_height, one[1].input_width) == size]
            # Only those in front: the order stays.
            together = placed[: next((i for i, one in enumerate(placed[:most]) if one not in same), len(same))]
            outputs = self._run(together)
            for index, (camera, placement) in enumerate(together):
                yield camera, placement, {name: value[index] for name, value in outputs.items()}
            placed = placed[len(together) :]

    def misfit(self, name: str, value: Shaped[np.ndarray, "..."], expected: str) -> ConfigError:
        """The error for an output that is not as it should be."""
        return ConfigError(
            f"{self._teacher}: {self._path}: output {self._outputs[name]} has shape {list(value.shape)} per image; "
            f"expected {expected}; is the spec that of this export?"
        )

    def _run(self, placed: Sequence[tuple[CameraImage, Placement]]) -> dict[str, Shaped[np.ndarray, "..."]]:
        spec = self._spec
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (spec.mean, spec.std))
        images = np.stack(
            [
                (placement.into_input(camera.read(), spec.fill, antialias=spec.antialias) - mean) / std
                for camera, placement in placed
            ]
        )
        matrices = np.stack([placement.intrinsics_px(camera.pinhole_intrinsics_px) for camera, placement in placed])
        feed = {self._image.name: self._shaped(images, self._image)}
        if spec.intrinsics:
            feed[spec.intrinsics] = self._shaped(matrices, self._inputs[spec.intrinsics])
        if spec.rays:
            rays = np.stack([_rays(matrix, *images.shape[2:]) for matrix in matrices])
            feed[spec.rays] = self._shaped(rays, self._inputs[spec.rays])
        for name, value in spec.constants.items():
            node = self._inputs[name]
            feed[name] = np.full([1] * len(node.shape), value, _CONSTANTS.get(node.type, np.float32))
        outputs = self._session.run(list(self._outputs.values()), feed)
        found = {}
        for name, value in zip(self._outputs, outputs, strict=True):
            # A scene of several views is one entry of a batch.
            apart = value[0] if spec.views and value.ndim > 1 and len(value) == 1 else value
            if apart.ndim < 1 or len(apart) != len(placed):
                raise self.misfit(name, value, f"one entry for each of {len(placed)} images")
            found[name] = apart
        return found

    def _shaped(self, values: Float[np.ndarray, "images ..."], node: Any) -> Shaped[np.ndarray, "..."]:
        """Values of each image as an input wants them: with an axis of views, and of its type."""
        if self._spec.views:
            values = values[None]
        elif len(self._image.shape) == 5 and len(node.shape) == values.ndim + 1:
            values = values[:, None]
        return np.ascontiguousarray(values.astype(_FLOATS[node.type]))

    def _image_name(self) -> str:
        if self._spec.name is not None and self._spec.name not in self._inputs:
            raise self._misfit(f"an input called {self._spec.name}")
        images = [
            name
            for name, node in self._inputs.items()
            if len(node.shape) in _IMAGE_AXES and node.type in _FLOATS and name != self._spec.rays
        ]
        names = [self._spec.name] if self._spec.name is not None else images
        if len(names) != 1 or names[0] not in images:
            raise self._misfit("one image of floating point numbers; say which by the name of [input]")
        return names[0]

    def _views_fit(self, views: int | None) -> bool:
        return views is None or self._spec.views or views == 1

    def _misfit(self, expected: str) -> ConfigError:
        inputs = [(node.name, node.type, node.shape) for node in self._inputs.values()]
        outputs = [node.name for node in self._session.get_outputs()]
        return ConfigError(
            f"{self._teacher}: {self._path}: has inputs {inputs} and outputs {outputs}; expected {expected}; is the "
            "spec that of this export?"
        )


def _rays(intrinsics_px: Float[np.ndarray, "3 3"], height: int, width: int) -> Float32[np.ndarray, "3 height width"]:
    """Directions of length 1 from the camera through the centres of the pixels."""
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.linalg.inv(intrinsics_px) @ np.stack((u.ravel(), v.ravel(), np.ones(u.size)))
    return (rays / np.linalg.norm(rays, axis=0)).reshape(3, height, width).astype(np.float32)


def _session(path: Path, device: Device, teacher: str) -> InferenceSession:
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf

    available = onnxruntime.get_available_providers()
    if device == "cuda" and "CUDAExecutionProvider" not in available:
        raise ConfigError(
            f"{teacher}: onnxruntime here runs on {', '.join(available)} only; for CUDA install onnxruntime-gpu in its "
            "place, or use device=cpu"
        )
    wanted = ["CPUExecutionProvider"] if device == "cpu" else ["CUDAExecutionProvider", "CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(str(path), providers=[name for name in wanted if name in available])
    except (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf) as error:
        raise ConfigError(
            f"{teacher}: {path}: onnxruntime cannot load it ({str(error).splitlines()[0]}); the file is damaged, or "
            "its weights (.onnx_data) do not lie beside it"
        ) from error
    if device == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        raise ConfigError(
            f"{teacher}: onnxruntime could not start CUDA and would run on the CPU; its log above says which library "
            "is missing; or use device=cpu"
        )
    return session
