"""How well a rendering model knows what its cameras see, beside guesses that need no network.

*Depth*: truth is the lidar of the key frame, projected through the ego poses of both time stamps
(`scenes.lidar_depth`); what is counted, and how, `metrics.depth` says. Guesses: one depth for all pixels, and a flat
ground.

*Classes*: of every ray, against the class maps of a teacher: on a town `oracle:perfect`, the truth. A ray whose opacity
is below one half shows the sky. mIoU over the 17 classes as in `metrics.occupancy`, with rays in the place of voxels.
The guess: the most frequent class of every ray in the class maps of the training split.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from occlift.errors import ConfigError
from occlift.geometry.cameras import CameraRig
from occlift.label_space import FREE, NUM_CLASSES, UNKNOWN
from occlift.metrics.depth import MAX_DEPTH_M, MIN_DEPTH_M, DepthSums, depth_sums
from occlift.metrics.occupancy import histogram, mean_iou
from occlift.runtime.precision import Precision, lightning_precision
from occlift.runtime.progress import track
from occlift.scenes.dataset import DrivingDataset, open_dataset, split_tokens
from occlift.scenes.frames import KeyFrame
from occlift.scenes.lidar_depth import lidar_depth_map
from occlift.scenes.rigs import rig_of
from occlift.teachers.registry import semantics_teacher
from occlift.teachers.torch_model import torch_device
from occlift.training.loop import default_device

if TYPE_CHECKING:
    from occlift.models.rendering import RenderingConfig
    from occlift.training.rendering_frames import RenderingFrames

_GUESSING_FRAMES: Final = 100


@dataclass(frozen=True, kw_only=True)
class RenderedEvaluation:
    """Errors over the same pixels and rays.

    Attributes:
        frames: how many key frames.
        depth: of the rendered depth.
        constant: of one depth for all pixels.
        constant_m: that depth: the median of the lidar in the training split.
        ground: of the flat ground of the ego frame, as far as 80 m.
        classes: histogram [truth, prediction] of the rendered classes over rays.
        frequent: the same of the class that the ray shows most often.
    """

    frames: int
    depth: DepthSums
    constant: DepthSums
    constant_m: float
    ground: DepthSums
    classes: Int[np.ndarray, "18 18"]
    frequent: Int[np.ndarray, "18 18"]

    def class_scores(self) -> dict[str, dict[str, float]]:
        """mIoU 17 and the share of rays with the right class, per cent, of the model and of the guess."""
        return {
            name: {"miou_17": mean_iou(counts), "right": 100 * float(np.trace(counts)) / float(counts.sum())}
            for name, counts in (("rendered", self.classes), ("frequent", self.frequent))
        }

    def to_json(self) -> str:
        rows = {"rendered": self.depth, "constant": self.constant, "ground": self.ground}
        depth: dict[str, Any] = {name: sums.named() for name, sums in rows.items()}
        return json.dumps(
            {"frames": self.frames, "constant_m": self.constant_m, "depth": depth, "classes": self.class_scores()},
            indent=1,
        )


def evaluate_rendering(
    root: Path,
    checkpoint: Path,
    *,
    split: str = "val",
    train_split: str = "train",
    tokens: Sequence[str] | None = None,
    semantics: str = "oracle:perfect",
    train_semantics: str = "oracle:foundation",
    precision: Precision = "auto",
    device: str | None = None,
) -> RenderedEvaluation:
    """Renders key frames and compares their depth with lidar, their classes with class maps.

    Pixels that the network's window of the image leaves out (sky, cut away at the top) are not evaluated.

    Args:
        checkpoint: of an `occlift.training.rendering.RenderingTraining`.
        split: of the data set; unless `tokens` lists the samples.
        train_split: what the guesses are made of.
        semantics: the teacher whose class maps are taken for true.
        train_semantics: the teacher whose class maps the guess may know.

    Raises:
        ConfigError: the checkpoint holds a network that renders nothing, or that was trained on other cameras.
        DataError: checkpoint or data are missing or damaged.
    """
    from occlift.models.rendering import RenderingModel
    from occlift.training.checkpoint import check_cameras, load_easyocc

    model = load_easyocc(checkpoint)
    if not isinstance(model, RenderingModel):
        raise ConfigError(
            f"{checkpoint}: expected a rendering model, this is an EasyOcc; only volumes that were trained to be "
            "rendered show anything"
        )
    data = open_dataset(root)
    check_cameras(checkpoint, data)
    training = _spread(split_tokens(data, train_split))
    constant_m = _median_depth_m(data, training)
    frequent = _most_frequent(_frames(data, training, model.config, train_semantics))
    frames = _frames(data, split_tokens(data, split) if tokens is None else tokens, model.config, semantics)
    target = torch_device(device or default_device())
    model.to(target)
    bf16 = lightning_precision(precision, target.type) == "bf16-mixed"
    depths: list[tuple[DepthSums, DepthSums, DepthSums]] = []
    classes, guessed = np.zeros((2, NUM_CLASSES, NUM_CLASSES), np.int64)
    for index in track(range(len(frames)), "render"):
        batch = frames[index]
        images, rig = batch.frame.images.to(target), batch.frame.rig.to(target)
        with torch.inference_mode():
            with torch.autocast(target.type, dtype=torch.bfloat16, enabled=bf16):
                volume = model.volume(images, rig)
            rendering = model.render(volume, rig)
        key_frame = data.key_frame(batch.tokens[0])
        depths.append(_depth_sums(key_frame, rendering.depth_m[0].cpu(), batch.frame.rig, constant_m))
        shown = torch.where(rendering.opacity < 0.5, FREE, rendering.class_logits.argmax(-1))[0]
        truth = batch.class_id[0].numpy()
        known = truth != UNKNOWN
        classes += histogram(truth=truth, prediction=shown.to(torch.uint8).cpu().numpy(), evaluated=known)
        guessed += histogram(truth=truth, prediction=frequent, evaluated=known)
    rendered, constant, ground = (sum(column[1:], column[0]) for column in zip(*depths, strict=True))
    return RenderedEvaluation(
        frames=len(frames), depth=rendered, constant=constant, constant_m=constant_m, ground=ground, classes=classes,
        frequent=guessed,
    )  # fmt: skip


def _frames(data: DrivingDataset, tokens: Sequence[str], config: RenderingConfig, semantics: str) -> RenderingFrames:
    from occlift.training.frames import OccupancyFrames
    from occlift.training.rendering_frames import RenderingFrames

    return RenderingFrames(
        data,
        OccupancyFrames(data, tokens, height=config.image_height, width=config.image_width),
        semantics=semantics_teacher(semantics, data),
        depth=None,
        ray_height=config.ray_height,
        ray_width=config.ray_width,
        neighbours=False,
    )


def _spread(tokens: Sequence[str]) -> list[str]:
    """So many evenly spaced ones as a guess is made of."""
    count = min(_GUESSING_FRAMES, len(tokens))
    return [tokens[i] for i in np.linspace(0, len(tokens) - 1, count).round().astype(int)]


def _most_frequent(frames: RenderingFrames) -> UInt8[np.ndarray, "cameras rows columns"]:
    """Per ray the class that it shows most often, the sky included; of equally frequent ones the smallest."""
    counts: np.ndarray | None = None
    for index in track(range(len(frames)), "most frequent class"):
        class_id = frames[index].class_id[0].numpy()
        if counts is None:
            counts = np.zeros((NUM_CLASSES, *class_id.shape), np.int32)
        for number in range(NUM_CLASSES):
            counts[number] += class_id == number
    assert counts is not None, "a split has key frames"
    return counts.argmax(0).astype(np.uint8)


def _depth_sums(
    key_frame: KeyFrame, depth_m: Float[Tensor, "cameras rows columns"], rig: CameraRig, constant_m: float
) -> tuple[DepthSums, DepthSums, DepthSums]:
    points_lidar = key_frame.lidar_sweep().source.read()[:, :3]
    full = rig_of(key_frame)
    cells_px = rig.resized(*depth_m.shape[1:]).intrinsics_px[0].double()
    cells_from_full = cells_px @ full.intrinsics_px.inverse()
    truth_m = np.stack([lidar_depth_map(key_frame, camera, points_lidar) for camera in key_frame.cameras])
    rendered_m = np.empty_like(truth_m)
    for number, affine in enumerate(cells_from_full):
        at_pixels, inside = _resampled(depth_m[number], affine, full.height, full.width)
        rendered_m[number] = at_pixels
        truth_m[number][~inside] = np.nan
    return (
        depth_sums(prediction_m=rendered_m, truth_m=truth_m),
        depth_sums(prediction_m=np.full_like(truth_m, constant_m), truth_m=truth_m),
        depth_sums(prediction_m=_ground_depth_m(full), truth_m=truth_m),
    )


def _resampled(
    depth_m: Float[Tensor, "rows columns"], cells_from_full: Float[Tensor, "3 3"], height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """A map of rays, bilinear at the pixels of the whole image; and which of those pixels it covers."""
    rows, columns = depth_m.shape
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack((u, v, torch.ones_like(u)), -1).double() @ cells_from_full.T
    grid = 2 * pixels[..., :2] / torch.tensor([columns, rows]) - 1
    inside = (grid.abs() <= 1).all(-1)
    sampled = F.grid_sample(
        depth_m.double()[None, None], grid[None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled[0, 0].numpy(), inside.numpy()


def _ground_depth_m(rig: CameraRig) -> Float[np.ndarray, "cameras height width"]:
    """Depth of the plane z = 0 of the ego frame, 80 m where a pixel does not see it nearer."""
    origins, directions = rig.rays(rig.height, rig.width)
    down = directions[..., 2].clamp(max=-1e-9)
    depth_m = -origins[..., None, None, 2] / down
    return torch.where(directions[..., 2] < 0, depth_m, MAX_DEPTH_M).clamp(MIN_DEPTH_M, MAX_DEPTH_M).numpy()


def _median_depth_m(data: DrivingDataset, tokens: Sequence[str]) -> float:
    found = []
    for token in tokens:
        key_frame = data.key_frame(token)
        points_lidar = key_frame.lidar_sweep().source.read()[:, :3]
        for camera in key_frame.cameras:
            depth_m = lidar_depth_map(key_frame, camera, points_lidar)
            found.append(depth_m[(depth_m > MIN_DEPTH_M) & (depth_m < MAX_DEPTH_M)])
    return float(np.median(np.concatenate(found)))
