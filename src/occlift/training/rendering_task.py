"""Training a `RenderingModel` from images and class maps, with or without the pseudo-loss of labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from occlift.errors import ConfigError
from occlift.geometry.reproject import warp_to_target
from occlift.losses.occupancy import OccupancyLossConfig, class_weights, occupancy_loss
from occlift.losses.rendering import (
    distortion_loss,
    last_alpha_entropy,
    photometric_loss,
    rendered_class_loss,
    rendered_depth_loss,
    smoothness_loss,
)
from occlift.models.rendering import Rendering, RenderingConfig, RenderingModel
from occlift.training.draws import frame_generator
from occlift.training.frames import IMAGE_DEVIATION, IMAGE_MEAN, FrameBatch
from occlift.training.mean_loss import logged_mean, of_all_processes
from occlift.training.one_cycle import OneCycleTask
from occlift.training.optimizer import OptimizerConfig
from occlift.training.rendering_frames import RenderingBatch, collate_rendering


@dataclass(frozen=True, kw_only=True)
class RenderingLossConfig:
    """Factors of the terms, those of OccNeRF but for the distortion; 0 leaves a term out.

    Attributes:
        photometric: neighbours in time, warped by the rendered depth, look like the image.
        smoothness: of the inverse depth, where the image is smooth.
        semantic: the rendered classes are those of the class maps.
        depth: the rendered depth is that of depth maps; OccNeRF has no such term.
        entropy: rays end, or they do not.
        distortion: a ray ends in one place; distances in units of `RenderingConfig.far_m`. OccNeRF has 0.01 per metre,
            here 0.8: seen to draw every ray to its camera when training from random weights on a small town.
    """

    photometric: float = 1.0
    smoothness: float = 0.001
    semantic: float = 0.05
    depth: float = 0.0
    entropy: float = 0.01
    distortion: float = 0.1

    def __post_init__(self) -> None:
        factors = (
            self.photometric, self.smoothness, self.semantic, self.depth, self.entropy, self.distortion,
        )  # fmt: skip
        if not all(0 <= factor < math.inf for factor in factors) or not any(factors):
            raise ConfigError(f"loss factors must be finite and not negative, and one must be positive: {self}")

    @classmethod
    def of_maps(cls) -> RenderingLossConfig:
        """The teachers' class and depth maps, in 2-D: what labels say in 3-D, without fusing them."""
        return cls(photometric=0.0, semantic=1.0, depth=1.0)


class RenderingTask(OneCycleTask):
    """The network, its losses, its optimiser.

    Args:
        model: `RenderingConfig.to_dict()`.
        loss: the fields of a `RenderingLossConfig`.
        pseudo: the fields of an `OccupancyLossConfig` if the batches bring labels, else None.
        optimizer: the fields of an `OptimizerConfig`.
        ray_counts: rays per class in the class maps, the sky last.
        label_counts: voxels per class in the labels; None without.
        seed: of the samples along the rays, the voxels drawn for the loss, and the mirroring.
        mirror: half of the steps see the world mirrored.
        cameras: recorded for those who load the checkpoint: their names, in order.
    """

    ray_weight: Tensor
    label_weight: Tensor

    def __init__(
        self,
        *,
        model: dict[str, Any],
        loss: dict[str, Any],
        pseudo: dict[str, Any] | None,
        optimizer: dict[str, Any],
        ray_counts: Sequence[int],
        label_counts: Sequence[int] | None,
        seed: int,
        mirror: bool,
        cameras: Sequence[str] = (),
    ) -> None:
        super().__init__(OptimizerConfig(**optimizer))
        self.save_hyperparameters()
        self.model = RenderingModel(RenderingConfig.from_dict(model))
        self._loss = RenderingLossConfig(**loss)
        self._pseudo = None if pseudo is None else OccupancyLossConfig(**pseudo)
        self._seed, self._mirror = seed, mirror
        assert self.model.config.space.grid.is_symmetric("y") or not mirror, self.model.config.space.grid
        self.register_buffer("ray_weight", class_weights(torch.as_tensor(ray_counts), "inverse_sqrt"), persistent=False)
        if self._pseudo is not None:
            assert label_counts is not None, "the pseudo-loss needs class counts of the labels"
            weights = class_weights(torch.as_tensor(label_counts), self._pseudo.class_weighting)
            self.register_buffer("label_weight", weights, persistent=False)

    def training_step(self, batch: RenderingBatch, batch_idx: int) -> Float[Tensor, ""]:
        """The mean over the key frames of each one's loss, so that it does not matter which process takes which."""
        count = len(batch.tokens)
        generators = [frame_generator(self._seed, self.global_step, self.global_rank * count + i) for i in range(count)]
        frames = [
            frame.mirrored() if self._mirror and bool(torch.rand((), generator=generator) < 0.5) else frame
            for frame, generator in zip(batch.frames(), generators, strict=True)
        ]
        batch = collate_rendering(frames)
        volumes = self.model.volume(batch.frame.images, batch.frame.rig)
        terms, margins = [], []
        for i, (frame, generator) in enumerate(zip(frames, generators, strict=True)):
            volume = volumes[i : i + 1]
            rendering = self.rendered(volume, frame, generator)
            terms.append(self.losses(volume, frame, generator, rendering))
            margins.append(self.model.ending_margin(volume, frame.frame.rig, rendering))
        if self._pseudo is None and self.training:
            self.model.decide_by(of_all_processes(torch.stack(margins)).flatten())
        return logged_mean(self, terms, batch.tokens)

    def rendered(
        self, volume: Float[Tensor, "1 classes x y z"], batch: RenderingBatch, generator: torch.Generator
    ) -> Rendering:
        """A key frame's volume as its cameras see it.

        Args:
            generator: on the CPU; moves the samples along the rays.
        """
        config = self.model.config
        with torch.autocast(volume.device.type, enabled=False):
            rays = (1, batch.frame.rig.num_cameras, config.ray_height, config.ray_width)
            jitter = torch.rand(rays, generator=generator).to(volume.device) - 0.5
            return self.model.render(volume, batch.frame.rig, jitter=jitter)

    def losses(
        self,
        volume: Float[Tensor, "1 classes x y z"],
        batch: RenderingBatch,
        generator: torch.Generator,
        rendering: Rendering,
    ) -> dict[str, Float[Tensor, ""]]:
        """The terms of one key frame's loss by name, each with its factor applied.

        Args:
            volume: as `RenderingModel.volume` returns it.
            generator: on the CPU; draws voxels for the pseudo-loss, after it was used to render.
            rendering: of the volume, as `rendered` returns it.
        """
        factors, frame, config = self._loss, batch.frame, self.model.config
        terms: dict[str, Tensor] = {}
        with torch.autocast(volume.device.type, enabled=False):
            if factors.photometric or factors.smoothness:
                terms |= self._image_terms(batch, rendering)
            if factors.semantic:
                terms["semantic"] = factors.semantic * rendered_class_loss(
                    rendering.class_logits.flatten(0, 3),
                    rendering.opacity.flatten(),
                    batch.class_id.flatten().long(),
                    self.ray_weight,
                )
            if factors.depth:
                assert batch.depth_m is not None, "a loss of depth needs depth maps"
                terms["depth"] = factors.depth * rendered_depth_loss(
                    rendering.depth_m, rendering.opacity, batch.depth_m,
                    self.model.ends_inside(batch.depth_m, frame.rig),
                )  # fmt: skip
            if factors.entropy:
                terms["entropy"] = factors.entropy * last_alpha_entropy(rendering.opacity)
            if factors.distortion:
                weights, z_m, spacing_m = rendering.with_what_lies_behind()
                terms["distortion"] = factors.distortion * distortion_loss(
                    weights, z_m / config.far_m, spacing_m / config.far_m
                )
            if self._pseudo is not None:
                assert frame.semantics is not None, "the pseudo-loss needs labels"
                pseudo = occupancy_loss(
                    self.model.occ3d_logits(volume), frame.semantics, weights=self.label_weight,
                    config=self._pseudo, confidence=frame.confidence, generator=generator,
                )  # fmt: skip
                terms |= {f"pseudo_{name}": term for name, term in pseudo.items()}
        return terms

    def _image_terms(self, batch: RenderingBatch, rendering: Rendering) -> dict[str, Float[Tensor, ""]]:
        factors, images = self._loss, _colours(batch.frame)
        depth_m = F.interpolate(
            rendering.depth_m.flatten(0, 1)[:, None], size=images.shape[-2:], mode="bilinear", align_corners=False
        )[:, 0]
        terms: dict[str, Tensor] = {}
        if factors.photometric:
            assert batch.neighbours, "a photometric loss needs neighbours in time"
            neighbours = torch.stack([_colours(neighbour) for neighbour in batch.neighbours], 1)
            warped, visible = _warped(neighbours, depth_m, batch)
            exists = batch.exists.transpose(1, 2).flatten(0, 1)
            terms["photometric"] = factors.photometric * photometric_loss(images, warped, visible, neighbours, exists)
        if factors.smoothness:
            terms["smoothness"] = factors.smoothness * smoothness_loss(depth_m, images)
        return terms


def _colours(frame: FrameBatch) -> Float[Tensor, "images 3 height width"]:
    """Images of all frames and cameras with colours in [0, 1]."""
    images = frame.images.flatten(0, 1)
    deviation, mean = images.new_tensor(IMAGE_DEVIATION), images.new_tensor(IMAGE_MEAN)
    return images * deviation[:, None, None] + mean[:, None, None]


def _warped(
    neighbours: Float[Tensor, "images k 3 height width"],
    depth_m: Float[Tensor, "images height width"],
    batch: RenderingBatch,
) -> tuple[Tensor, Tensor]:
    """Every neighbour of every image, warped into it; and where that shows something."""
    k = neighbours.shape[1]
    # [batch, k, cameras] → [batch, cameras, k], as the images and their neighbours are ordered.
    neighbour_from_camera = batch.neighbour_from_camera().transpose(1, 2).flatten(0, 2)
    source_px = torch.stack([neighbour.rig.intrinsics_px for neighbour in batch.neighbours], 2).flatten(0, 2)
    target_px = batch.frame.rig.intrinsics_px.flatten(0, 1).repeat_interleave(k, 0)
    warped, visible = warp_to_target(
        neighbours.flatten(0, 1), depth_m.repeat_interleave(k, 0), target_px, source_px, neighbour_from_camera
    )
    return warped.view(-1, k, *warped.shape[1:]), visible.view(-1, k, *visible.shape[1:])
