"""A trained EasyOcc as an ONNX file, checked against the network that it came from.

Calibration is an input: one file serves every vehicle whose images have the network's size. What the inputs and the
output mean (shape, units, frames) is written into the file, as its documentation and as metadata.
"""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from occlift.errors import ConfigError, OccliftError
from occlift.runtime.extras import missing_extra
from occlift.runtime.files import replacing

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor

    from occlift.geometry.cameras import CameraRig
    from occlift.models.easyocc import EasyOcc, EasyOccConfig

MAX_DIFFERENCE: Final = 1e-3
"""Between the logits of onnxruntime and of torch; more is not rounding."""


class ExportDiffers(OccliftError):
    """An exported network does not answer as the one that it came from."""


@dataclass(frozen=True, kw_only=True)
class ExportRun:
    """An export that was written and checked.

    Attributes:
        num_bytes: of the file.
        max_difference: the largest one between a logit of onnxruntime and of torch.
        checked_frames: key frames, each with a calibration of its own, over which it was taken.
    """

    onnx: Path
    opset: int
    num_bytes: int
    max_difference: float
    checked_frames: int


def export(checkpoint: Path, onnx: Path, *, opset: int = 20, cameras: int | None = None) -> ExportRun:
    """Writes the network of a checkpoint as ONNX, after comparing it with torch in onnxruntime.

    Inputs, float32: `images` [batch, cameras, 3, height, width], `intrinsics_px` [batch, cameras, 3, 3] and
    `ego_from_camera` [batch, cameras, 4, 4]; output `logits` [batch, classes, x, y, z]. The batch is dynamic. Metadata
    hold the label space and the names of the cameras.

    Args:
        checkpoint: of an `OccupancyTraining`, or of a `RenderingTraining` without contraction.
        onnx: the file, there whole or not at all.
        opset: of ONNX, 20 or later.
        cameras: images per key frame; None: as many as in the training (6 where the checkpoint does not say).

    Raises:
        ConfigError: a package is missing, the opset is too old, or the volume is contracted.
        DataError: the checkpoint is missing or damaged.
        ExportDiffers: the logits differ by more than `MAX_DIFFERENCE`; nothing was written.
    """
    from occlift.models.rendering import RenderingModel
    from occlift.training.checkpoint import load_easyocc, trained_cameras

    if missing := missing_extra("export", "export", "onnx", "onnxscript", "onnxruntime"):
        raise ConfigError(missing)
    if opset < 20:
        raise ConfigError(f"opset {opset} cannot say bilinear sampling as torch means it: use 20 or later")
    if cameras is not None and cameras < 1:
        raise ConfigError(f"a key frame needs at least one camera, got {cameras}")
    model, names = load_easyocc(checkpoint), trained_cameras(checkpoint)
    if isinstance(model, RenderingModel):
        try:
            model = model.predicting_network()
        except ConfigError as error:
            raise ConfigError(f"{checkpoint}: {error}; train it without --contracted") from error
    cameras = cameras or len(names) or 6
    serialized = to_onnx(model, opset=opset, cameras=cameras, names=names)
    batches = (1, 2)
    max_difference = max(
        _difference(model, serialized, random_inputs(model.config, batch=batch, cameras=cameras, seed=batch))
        for batch in batches
    )
    # Written this way round, a difference that is no number is refused too.
    if not max_difference <= MAX_DIFFERENCE:
        raise ExportDiffers(
            f"{checkpoint}: the logits of onnxruntime differ from torch's by up to {max_difference:.1e}, more than "
            f"{MAX_DIFFERENCE:.0e}; {onnx} was not written. Try another opset or another release of onnxruntime"
        )
    with replacing(onnx) as file:
        file.write(serialized)
    return ExportRun(
        onnx=onnx,
        opset=opset,
        num_bytes=len(serialized),
        max_difference=max_difference,
        checked_frames=sum(batches),
    )


def to_onnx(model: EasyOcc, *, opset: int, cameras: int, names: Sequence[str] = ()) -> bytes:
    """The serialised ONNX model of a network in evaluation mode, weights inside.

    Args:
        cameras: images per key frame.
        names: of the cameras in the training, as far as they are known.

    Raises:
        ConfigError: the exporter does not know the opset.
    """
    import torch

    from occlift.models.export import ExportableEasyOcc

    images, rig = random_inputs(model.config, batch=2, cameras=cameras, seed=0)
    batch = torch.export.Dim("batch")
    # torch reports every step of the conversion on stdout, and warns about its own internals.
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            ExportableEasyOcc(model).eval(),
            (images, rig.intrinsics_px, rig.ego_from_camera),
            input_names=list(_MEANINGS)[:3],
            output_names=list(_MEANINGS)[3:],
            opset_version=opset,
            dynamo=True,
            dynamic_shapes=({0: batch}, {0: batch}, {0: batch}),
            external_data=False,
            verbose=False,
        )
    assert program is not None, "the dynamo exporter returns a program"
    proto = program.model_proto
    (written,) = [entry.version for entry in proto.opset_import if not entry.domain]
    if written != opset:
        raise ConfigError(
            f"the exporter answered with opset {written} instead of {opset}; ask for an opset that it knows"
        )
    _describe(proto, model.config, names)
    return proto.SerializeToString()


_MEANINGS: Final = {
    "images": "RGB / 255 with the mean taken out and divided by the deviation (metadata rgb_mean, rgb_deviation); cut "
    "and resized to the network's size together with their intrinsics; any order of cameras (metadata cameras: that of "
    "the training)",
    "intrinsics_px": "pinhole intrinsics of these images, pixels; the centre of pixel (row j, column i) is at "
    "(i + 0.5, j + 0.5)",
    "ego_from_camera": "rigid transforms from the camera frame (x right, y down, z forward) at the camera's time to "
    "the ego frame (x forward, y left, z up) at the lidar's time, metres",
    "logits": "per class (metadata classes, the last is free) and voxel [x, y, z] of the grid in the ego frame at the "
    "lidar's time (metadata grid_lower_m, voxel_size_m)",
}


def _describe(proto: Any, config: EasyOccConfig, cameras: Sequence[str]) -> None:
    """Writes what inputs and output mean into the model."""
    from occlift.training.frames import IMAGE_DEVIATION, IMAGE_MEAN

    proto.doc_string = "EasyOcc (arXiv 2509.26087): surround images and their calibration to occupancy logits."
    for value in (*proto.graph.input, *proto.graph.output):
        value.doc_string = _MEANINGS[value.name]
    space = config.space
    metadata = {
        "classes": space.taxonomy.all_names,
        "space": space.to_dict(),
        "cameras": list(cameras),
        "rgb_mean": IMAGE_MEAN,
        "rgb_deviation": IMAGE_DEVIATION,
        "image_height_px": config.image_height,
        "image_width_px": config.image_width,
        "grid_lower_m": space.grid.lower_m,
        "voxel_size_m": space.grid.voxel_size_m,
    }
    for key, content in metadata.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, json.dumps(content)


def random_inputs(
    config: EasyOccConfig, *, batch: int, cameras: int, seed: int
) -> tuple[Float[Tensor, "batch cameras 3 height width"], CameraRig]:
    """Noise for images, and cameras that look around from a vehicle, no two with one calibration."""
    import torch

    from occlift.geometry.cameras import CameraRig

    generator = torch.Generator().manual_seed(seed)
    height, width = config.image_height, config.image_width
    images = torch.randn(batch, cameras, 3, height, width, generator=generator)

    def varied(amount: float) -> torch.Tensor:
        return (2 * torch.rand(batch, cameras, generator=generator) - 1) * amount

    yaw_rad = torch.arange(cameras) * (2 * math.pi / cameras) + varied(0.1)
    pitch_rad = varied(0.05)
    zero, one = torch.zeros(batch, cameras), torch.ones(batch, cameras)
    forward = torch.stack((yaw_rad.cos() * pitch_rad.cos(), yaw_rad.sin() * pitch_rad.cos(), pitch_rad.sin()), -1)
    right = torch.stack((yaw_rad.sin(), -yaw_rad.cos(), zero), -1)
    ego_from_camera = torch.eye(4).repeat(batch, cameras, 1, 1)
    ego_from_camera[..., :3, :3] = torch.stack((right, forward.cross(right, dim=-1), forward), -1)
    ego_from_camera[..., :3, 3] = forward + torch.stack((varied(0.2), varied(0.2), 1.5 + varied(0.1)), -1)
    focal_px = width * (0.8 + varied(0.1))
    rows = (
        torch.stack((focal_px, zero, width / 2 + varied(3)), -1),
        torch.stack((zero, focal_px, height / 2 + varied(3)), -1),
        torch.stack((zero, zero, one), -1),
    )
    rig = CameraRig(
        intrinsics_px=torch.stack(rows, -2), ego_from_camera=ego_from_camera, height=height, width=width
    )  # fmt: skip
    return images, rig


def _difference(model: EasyOcc, serialized: bytes, inputs: tuple[torch.Tensor, CameraRig]) -> float:
    import onnxruntime
    import torch

    images, rig = inputs
    session = onnxruntime.InferenceSession(serialized, providers=["CPUExecutionProvider"])
    feeds = (images, rig.intrinsics_px, rig.ego_from_camera)
    (found,) = session.run(
        None, {name: feed.numpy() for name, feed in zip(list(_MEANINGS)[:3], feeds, strict=True)}
    )  # fmt: skip
    with torch.no_grad():
        expected = model(images, rig)
    return float((torch.from_numpy(found) - expected).abs().max())
