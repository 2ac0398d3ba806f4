"""Scores of a rendering model in its own images: depth and classes, beside guesses that need no network.

*Depth*: truth is the lidar of the key frame, projected through the ego poses of both time stamps
(`scenes.lidar_depth`); what is counted, and how, `metrics.depth` says. Guesses: one depth for all pixels, and a flat
ground.

*Classes*: the class of every ray against the class maps of a teacher (on a town `oracle:perfect`, the truth). A ray
whose opacity is below one half shows the sky. mIoU as in `metrics.occupancy`, with rays in the place of voxels. The
guess: the most frequent class of every ray in the class maps of the training split.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
from occlift.label_space import OCC3D, UNKNOWN, Taxonomy
from occlift.metrics.depth import MAX_DEPTH_M, MIN_DEPTH_M, DepthSums, depth_sums
from occlift.metrics.occupancy import histogram, mean_iou
from occlift.runtime.devices import Precision, default_device, lightning_precision, torch_device
from occlift.runtime.progress import track
from occlift.scenes.dataset import DrivingDataset, evenly_spaced, require_lidar, split_tokens
from occlift.scenes.frames import KeyFrame
from occlift.scenes.lidar_depth import lidar_depth_map
from occlift.scenes.rigs import single_rigs
from occlift.teachers.registry import semantics_teacher

if TYPE_CHECKING:
    from occlift.models.rendering import RenderingConfig
    from occlift.training.rendering_frames import RenderingFrames

_GUESSING_FRAMES: Final = 100


@dataclass(frozen=True, kw_only=True)
class RenderedEvaluation:
    """Errors over the same pixels and rays.

    Attributes:
        frames: number of key frames.
        depth: errors of the rendered depth.
        constant: errors of one depth for all pixels.
        constant_m: that depth: the median of the lidar in the training split.
        ground: errors of the flat ground of the ego frame, up to 80 m.
        classes: histogram [truth, prediction] of the rendered classes over rays.
        frequent: histogram of the class that a ray shows most often in the training split.
        taxonomy: classes of the histograms; free is the sky.
    """

    frames: int
    depth: DepthSums
    constant: DepthSums
    constant_m: float
    ground: DepthSums
    classes: Int[np.ndarray, "classes classes"]
    frequent: Int[np.ndarray, "classes classes"]
    taxonomy: Taxonomy = OCC3D.taxonomy

    def class_scores(self) -> dict[str, dict[str, float]]:
        """mIoU and the share of rays with the right class, per cent, of the model and of the guess."""
        return {
            name: {
                f"miou_{self.taxonomy.free}": mean_iou(counts, taxonomy=self.taxonomy),
                "right": 100 * float(np.trace(counts)) / float(counts.sum()),
            }
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
    data: DrivingDataset,
    checkpoint: Path,
    *,
    split: str = "val",
    train_split: str = "train",
    tokens: Sequence[str] | None = None,
    semantics: str = "oracle:perfect",
    train_semantics: str = "oracle:foundation",
    semantics_options: Mapping[str, str] | None = None,
    precision: Precision = "auto",
    device: str | None = None,
) -> RenderedEvaluation:
    """Renders key frames and compares their depth with lidar, their classes with class maps.

    Pixels that the network's window of the image leaves out (sky, cut away at the top) are not evaluated.

    Args:
        checkpoint: checkpoint of a rendering model.
        split: split of the data set to score; unless `tokens` lists the key frames.
        train_split: split that the guesses are made from.
        semantics: name of the teacher whose class maps are taken for true.
        train_semantics: name of the teacher whose class maps of the training split the guess is made from.
        semantics_options: options of both teachers; None: their defaults.

    Raises:
        ConfigError: the checkpoint holds a network that does not render, or that was trained on other cameras,
            or the data set has no lidar.
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
    check_cameras(checkpoint, data)
    taxonomy = model.config.space.taxonomy
    scored = split_tokens(data, split) if tokens is None else tokens
    training = evenly_spaced(split_tokens(data, train_split), _GUESSING_FRAMES)
    for needed in (scored, training):
        require_lidar(data, needed, "scores of rendered depth")
    # Teachers that cannot be had are refused before anything is read.
    guessing = _frames(data, training, model.config, train_semantics, semantics_options)
    frames = _frames(data, scored, model.config, semantics, semantics_options)
    constant_m, frequent = _median_depth_m(data, training), _most_frequent(guessing, taxonomy)
    target = torch_device(device or default_device())
    model.to(target)
    bf16 = lightning_precision(precision, target.type) == "bf16-mixed"
    depths: list[tuple[DepthSums, DepthSums, DepthSums]] = []
    classes, guessed = np.zeros((2, taxonomy.num_classes, taxonomy.num_classes), np.int64)
    for index in track(range(len(frames)), "render"):
        batch = frames[index]
        images, rig = batch.frame.images.to(target), batch.frame.rig.to(target)
        with torch.inference_mode():
            with torch.autocast(target.type, dtype=torch.bfloat16, enabled=bf16):
                volume = model.volume(images, rig)
            rendering = model.render(volume, rig)
        key_frame = data.key_frame(batch.tokens[0])
        depths.append(_depth_sums(key_frame, rendering.depth_m[0].cpu(), batch.frame.rig, constant_m))
        shown = torch.where(rendering.opacity < 0.5, taxonomy.free, rendering.class_logits.argmax(-1))[0]
        truth = batch.class_id[0].numpy()
        known = truth != UNKNOWN
        for total, prediction in ((classes, shown.to(torch.uint8).cpu().numpy()), (guessed, frequent)):
            total += histogram(truth=truth, prediction=prediction, evaluated=known, num_classes=taxonomy.num_classes)
    rendered, constant, ground = _add_up(depths)
    return RenderedEvaluation(
        frames=len(frames), depth=rendered, constant=constant, constant_m=constant_m, ground=ground, classes=classes,
        frequent=guessed, taxonomy=taxonomy,
    )  # fmt: skip


def _frames(
    data: DrivingDataset, tokens: Sequence[str], config: RenderingConfig, semantics: str,
    options: Mapping[str, str] | None,
) -> RenderingFrames:  # fmt: skip
    from occlift.training.frames import OccupancyFrames
    from occlift.training.rendering_frames import RenderingFrames

    return RenderingFrames(
        data,
        OccupancyFrames(data, tokens, height=config.image_height, width=config.image_width),
        semantics=semantics_teacher(semantics, data, options=options or {}, taxonomy=config.space.taxonomy),
        depth=None,
        ray_height=config.ray_height,
        ray_width=config.ray_width,
        neighbours=None,
    )


def _most_frequent(frames: RenderingFrames, taxonomy: Taxonomy) -> UInt8[np.ndarray, "cameras rows columns"]:
    """Per ray the class that it shows most often, the sky included; of equally frequent ones the smallest."""
    counts: np.ndarray | None = None
    for index in track(range(len(frames)), "most frequent class"):
        class_id = frames[index].class_id[0].numpy()
        if counts is None:
            counts = np.zeros((taxonomy.num_classes, *class_id.shape), np.int32)
        for number in range(taxonomy.num_classes):
            counts[number] += class_id == number
    assert counts is not None, "a split has key frames"
    return counts.argmax(0).astype(np.uint8)


def _depth_sums(
    key_frame: KeyFrame, depth_m: Float[Tensor, "cameras rows columns"], rig: CameraRig, constant_m: float
) -> tuple[DepthSums, DepthSums, DepthSums]:
    points_lidar = key_frame.lidar_sweep().source.read()[:, :3]
    cells_px = rig.resized(*depth_m.shape[1:]).intrinsics_px[0].double()
    sums: list[tuple[DepthSums, DepthSums, DepthSums]] = []
    for number, (camera, full) in enumerate(zip(key_frame.cameras, single_rigs(key_frame), strict=True)):
        cells_from_full = cells_px[number] @ full.intrinsics_px[0].inverse()
        found_m, inside = _sample_at_pixels(depth_m[number], cells_from_full, full.height, full.width)
        truth_m = lidar_depth_map(key_frame, camera, points_lidar)
        truth_m[~inside] = np.nan
        sums.append(
            (
                depth_sums(prediction_m=found_m.astype(truth_m.dtype), truth_m=truth_m),
                depth_sums(prediction_m=np.full_like(truth_m, constant_m), truth_m=truth_m),
                depth_sums(prediction_m=_ground_depth_m(full)[0], truth_m=truth_m),
            )
        )
    return _add_up(sums)


def _add_up(sums: Sequence[tuple[DepthSums, DepthSums, DepthSums]]) -> tuple[DepthSums, DepthSums, DepthSums]:
    rendered, constant, ground = (sum(column[1:], column[0]) for column in zip(*sums, strict=True))
    return rendered, constant, ground


def _sample_at_pixels(
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
