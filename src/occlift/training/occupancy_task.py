"""Training an `EasyOcc` on occupancy labels.

Nothing here draws from a global random state: the order of the frames, what is mirrored and the voxels that enter the
loss follow from the seed, the step and the key frame's place in it, so a resumed run continues exactly as an
uninterrupted one, and several processes compute what one with a larger batch does. A checkpoint
holds tensors, numbers, strings, lists and dictionaries only: `torch.load(weights_only=True)` opens it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from occlift.label_space import UNKNOWN
from occlift.losses.occupancy import OccupancyLossConfig, class_weights, drawn_occupancy_loss
from occlift.metrics.occupancy import class_sets
from occlift.metrics.streaming import OccupancyScore
from occlift.models.easyocc import EasyOcc, EasyOccConfig
from occlift.runtime.threads import torch_threads_kept
from occlift.training.augment import AugmentConfig, augment
from occlift.training.draws import frame_generator
from occlift.training.frames import FrameBatch, collate_frames
from occlift.training.mean_loss import TrainingDiverged as TrainingDiverged
from occlift.training.mean_loss import logged_mean
from occlift.training.one_cycle import OneCycleTask
from occlift.training.optimizer import OptimizerConfig


class OccupancyTask(OneCycleTask):
    """The network, its loss, its optimiser, and the validation score.

    Args:
        model: `EasyOccConfig.to_dict()`.
        loss: the fields of an `OccupancyLossConfig`.
        optimizer: the fields of an `OptimizerConfig`.
        class_counts: voxels per class in the training labels.
        seed: of the voxels drawn for the loss and of the mirroring.
        mirror: half of the key frames are seen with left and right exchanged.
        mirror_front_back: half of them with front and back exchanged.
        augment: the fields of an `AugmentConfig`; None: images stay as they are.
        blind: recorded for those who load the checkpoint: the network was trained on grey images.
        cameras: recorded for those who load the checkpoint: their names, in order.
    """

    class_weight: Tensor

    def __init__(
        self,
        *,
        model: dict[str, Any],
        loss: dict[str, Any],
        optimizer: dict[str, Any],
        class_counts: Sequence[int],
        seed: int,
        mirror: bool,
        blind: bool,
        mirror_front_back: bool = False,
        augment: dict[str, float] | None = None,
        cameras: Sequence[str] = (),
    ) -> None:
        super().__init__(OptimizerConfig(**optimizer))
        self.save_hyperparameters()
        self.model = EasyOcc(EasyOccConfig.from_dict(model))
        self._loss = OccupancyLossConfig(**loss)
        self._seed, self._mirror, self._mirror_front_back = seed, mirror, mirror_front_back
        grid = self.model.config.space.grid
        assert grid.is_symmetric("y") or not mirror, grid
        assert grid.is_symmetric("x") or not mirror_front_back, grid
        self._augment = AugmentConfig(**augment or {})
        counts = torch.as_tensor(class_counts)
        weights = class_weights(counts, self._loss.class_weighting)
        self.register_buffer("class_weight", weights, persistent=False)
        # What a constant prediction would converge to under the weighted cross-entropy; one voxel for absent classes.
        self.model.start_from_prior((counts.float() * weights).clamp(min=float(weights[weights > 0].min())))
        self.score = OccupancyScore(taxonomy=self.model.config.space.taxonomy, masks=("camera",))

    def training_step(self, batch: FrameBatch, batch_idx: int) -> Float[Tensor, ""]:
        """The mean over the key frames of each one's loss, so that it does not matter which process takes which."""
        assert batch.semantics is not None, "training needs labels"
        first_slot = self.global_rank * len(batch.tokens)
        generators = [frame_generator(self._seed, self.global_step, first_slot + i) for i in range(len(batch.tokens))]
        frames = [self._varied(*pair) for pair in zip(batch.frames(), generators, strict=True)]
        batch = collate_frames(frames)
        volumes = self.model.volume_features(batch.images, batch.rig)
        terms = []
        for volume, frame, generator in zip(volumes, frames, generators, strict=True):
            assert frame.semantics is not None, "training needs labels"
            terms.append(
                drawn_occupancy_loss(
                    partial(self.model.logits_at, volume),
                    frame.semantics,
                    weights=self.class_weight,
                    config=self._loss,
                    confidence=frame.confidence,
                    generator=generator,
                )
            )
        return logged_mean(self, terms, batch.tokens)

    def _varied(self, frame: FrameBatch, generator: torch.Generator) -> FrameBatch:
        """The key frame mirrored and its images changed, as the generator decides."""
        if self._mirror and bool(torch.rand((), generator=generator) < 0.5):
            frame = frame.mirrored()
        if self._mirror_front_back and bool(torch.rand((), generator=generator) < 0.5):
            frame = frame.mirrored("x")
        images, rig = augment(frame.images, frame.rig, self._augment, generator)
        return replace(frame, images=images, rig=rig)

    def on_validation_epoch_start(self) -> None:
        self.score.reset()

    def validation_step(self, batch: FrameBatch, batch_idx: int) -> None:
        assert batch.semantics is not None, "validation needs labels"
        assert batch.mask_camera is not None, "validation needs labels"
        prediction = self.model(batch.images, batch.rig).argmax(1).to(torch.uint8)
        evaluated = batch.mask_camera & (batch.semantics != UNKNOWN)
        with torch_threads_kept():
            self.score.update(truth=batch.semantics, prediction=prediction, mask_camera=evaluated)

    def on_validation_epoch_end(self) -> None:
        with self.score.sync_context():
            counts = self.score.counts
        for classes in class_sets(counts.taxonomy):
            self.log(f"val_miou_{classes}_camera", counts.mean_iou("camera", classes=classes), rank_zero_only=True)
        self.log("val_iou_camera", counts.geometric_iou("camera"), rank_zero_only=True)


def as_hyper_parameters(
    model: EasyOccConfig, loss: OccupancyLossConfig, optimizer: OptimizerConfig
) -> dict[str, dict[str, Any]]:
    """The three configurations as `OccupancyTask` takes them."""
    return {"model": model.to_dict(), "loss": asdict(loss), "optimizer": asdict(optimizer)}
