"""How well a rendering model knows depth, beside two guesses that need no network.

Truth is the lidar of the key frame, projected through the ego poses of both time stamps (`data.lidar_depth`); what is
counted, and how, `metrics.depth` says.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from occlift.data.key_frame import KeyFrame
from occlift.data.lidar_depth import lidar_depth_map
from occlift.data.nuscenes import NuScenes
from occlift.data.rigs import rig_of
from occlift.data.sensors import read_lidar
from occlift.errors import ConfigError
from occlift.geometry.cameras import CameraRig
from occlift.metrics.depth import MAX_DEPTH_M, MIN_DEPTH_M, DepthSums, depth_sums
from occlift.progress import track
from occlift.recipes.training import default_device
from occlift.tasks.precision import Precision, lightning_precision

if TYPE_CHECKING:
    pass

_GUESSING_FRAMES: Final = 50


@dataclass(frozen=True, kw_only=True)
class DepthEvaluation:
    """Errors over the same pixels.

    Attributes:
        frames: how many key frames.
        model: of the rendered depth.
        constant: of one depth for all pixels.
        constant_m: that depth: the median of the lidar in the training split.
        ground: of the flat ground of the ego frame, as far as 80 m.
    """

    frames: int
    model: DepthSums
    constant: DepthSums
    constant_m: float
    ground: DepthSums

    def to_json(self) -> str:
        rows = {"model": self.model, "constant": self.constant, "ground": self.ground}
        measures: dict[str, Any] = {name: sums.named() for name, sums in rows.items()}
        return json.dumps({"frames": self.frames, "constant_m": self.constant_m, **measures}, indent=1)


def evaluate_depth(
    root: Path,
    checkpoint: Path,
    *,
    split: str = "val",
    train_split: str = "train",
    tokens: Sequence[str] | None = None,
    precision: Precision = "auto",
    device: str | None = None,
) -> DepthEvaluation:
    """Renders the depth of key frames and compares it with their lidar.

    Pixels that the network's window of the image leaves out (sky, cut away at the top) are not evaluated.

    Args:
        checkpoint: of `occlift.recipes.rendering.train_rendering`.
        split: of the data set; unless `tokens` lists the samples.
        train_split: whose lidar the constant guess is the median of; for nothing else.

    Raises:
        ConfigError: the checkpoint holds a network that renders nothing.
        DataError: checkpoint or data are missing or damaged.
    """
    from occlift.data.batches import OccupancyFrames
    from occlift.models.rendering import RenderingModel
    from occlift.tasks.checkpoint import load_model

    model = load_model(checkpoint)
    if not isinstance(model, RenderingModel):
        raise ConfigError(f"{checkpoint}: expected a rendering model, this is an EasyOcc; only volumes that were "
                          "trained to be rendered have a depth")  # fmt: skip
    data = NuScenes.open(root)
    chosen = data.split_tokens(split) if tokens is None else tuple(tokens)
    constant_m = _median_depth_m(data, data.split_tokens(train_split))
    frames = OccupancyFrames(data, chosen, height=model.config.image_height, width=model.config.image_width)
    target = torch.device(device or default_device())
    model.to(target)
    bf16 = lightning_precision(precision, target.type) == "bf16-mixed"
    sums: list[tuple[DepthSums, DepthSums, DepthSums]] = []
    for index in track(range(len(frames)), "depth"):
        frame = frames[index].to(target)
        with torch.inference_mode():
            with torch.autocast(target.type, dtype=torch.bfloat16, enabled=bf16):
                volume = model.volume(frame.images, frame.rig)
            depth_m = model.render(volume, frame.rig).depth_m[0].cpu()
        key_frame = data.key_frame(chosen[index])
        sums.append(_frame_sums(key_frame, depth_m, frame.rig.to("cpu"), constant_m))
    by_guess = [list(column) for column in zip(*sums, strict=True)]
    total = [sum(column[1:], column[0]) for column in by_guess]
    return DepthEvaluation(
        frames=len(chosen), model=total[0], constant=total[1], constant_m=constant_m, ground=total[2]
    )


def _frame_sums(
    key_frame: KeyFrame, depth_m: Float[Tensor, "cameras rows columns"], rig: CameraRig, constant_m: float
) -> tuple[DepthSums, DepthSums, DepthSums]:
    points_lidar = read_lidar(key_frame.lidar.path)[:, :3]
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
        depth_sums(rendered_m, truth_m),
        depth_sums(np.full_like(truth_m, constant_m), truth_m),
        depth_sums(_ground_depth_m(full), truth_m),
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


def _median_depth_m(data: NuScenes, tokens: Sequence[str]) -> float:
    found = []
    for index in np.unique(np.linspace(0, len(tokens) - 1, min(_GUESSING_FRAMES, len(tokens))).round().astype(int)):
        key_frame = data.key_frame(tokens[index])
        points_lidar = read_lidar(key_frame.lidar.path)[:, :3]
        for camera in key_frame.cameras:
            depth_m = lidar_depth_map(key_frame, camera, points_lidar)
            found.append(depth_m[(depth_m > MIN_DEPTH_M) & (depth_m < MAX_DEPTH_M)])
    return float(np.median(np.concatenate(found)))
