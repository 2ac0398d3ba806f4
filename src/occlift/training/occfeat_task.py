"""Pretraining a bird's-eye-view network by what fills the volume around the vehicle (OccFeat, arXiv 2404.14027)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from occlift.losses.occfeat import OccFeatLossConfig, class_term, feature_term, occupancy_term
from occlift.models.bev_network import BevNetworkConfig, bev_network
from occlift.models.occfeat import OccFeatHead, OccFeatHeadConfig
from occlift.training.draws import frame_generator
from occlift.training.frames import collate_frames
from occlift.training.mean_loss import logged_mean
from occlift.training.occfeat_frames import OccFeatBatch
from occlift.training.one_cycle import OneCycleTask
from occlift.training.optimizer import OptimizerConfig


class OccFeatTask(OneCycleTask):
    """The network, the head that is thrown away afterwards, their loss and optimiser.

    Args:
        model: `BevNetworkConfig.to_dict()`; what `model.` holds in a checkpoint is what fine-tuning loads.
        head: `OccFeatHeadConfig.to_dict()`.
        loss: the fields of an `OccFeatLossConfig`.
        optimizer: the fields of an `OptimizerConfig`.
        seed: of the mirroring.
        mirror: half of the key frames are seen with left and right exchanged.
        cameras: recorded for those who load the checkpoint: their names, in order.
    """

    def __init__(
        self,
        *,
        model: dict[str, Any],
        head: dict[str, Any],
        loss: dict[str, Any],
        optimizer: dict[str, Any],
        seed: int,
        mirror: bool,
        cameras: Sequence[str] = (),
    ) -> None:
        super().__init__(OptimizerConfig(**optimizer))
        self.save_hyperparameters()
        config = BevNetworkConfig.from_dict(model)
        self.model = bev_network(config)
        # Only the network's map is asked for; heads that never learned anything must not go on to the fine-tuning.
        del self.model.heads
        self._loss = OccFeatLossConfig(**loss)
        self.head = OccFeatHead(
            OccFeatHeadConfig(**head), bev_channels=config.bev_channels, occupancy=self._loss.occupancy > 0
        )
        self._seed, self._mirror = seed, mirror

    def training_step(self, batch: OccFeatBatch, batch_idx: int) -> Float[Tensor, ""]:
        """The mean over the key frames of each one's loss, so that it does not matter which process takes which."""
        count = len(batch.tokens)
        generators = [frame_generator(self._seed, self.global_step, self.global_rank * count + i) for i in range(count)]
        frames = [
            frame.mirrored() if self._mirror and bool(torch.rand((), generator=generator) < 0.5) else frame
            for frame, generator in zip(batch.frames(), generators, strict=True)
        ]
        # The targets stay apart: under autocast the CPU joins no half precision.
        seen = collate_frames([frame.frame for frame in frames])
        vectors = self.head(self.model.bev_features(seen.images, seen.rig))
        terms = [self.losses(vectors[i : i + 1], frame) for i, frame in enumerate(frames)]
        return logged_mean(self, terms, batch.tokens)

    def losses(self, vectors: Float[Tensor, "1 x y z channels"], frame: OccFeatBatch) -> dict[str, Float[Tensor, ""]]:
        """The terms of one key frame's loss by name, each with its factor applied.

        Args:
            vectors: as `OccFeatHead.forward` returns them.
        """
        factors = self._loss
        terms: dict[str, Tensor] = {}
        if factors.occupancy:
            logits = self.head.occupancy_logits(vectors)
            terms["occupancy"] = factors.occupancy * occupancy_term(
                logits, frame.occupancy, positive_weight=factors.positive_weight
            )
        if factors.features:
            predicted = self.head.features_at(vectors, frame.voxel)
            terms["features"] = factors.features * feature_term(predicted, frame.features)
        if factors.classes:
            assert frame.semantics is not None, "the lidar knows no classes"
            voxel = (frame.semantics < self.head.config.num_classes).nonzero()
            logits = self.head.class_logits_at(vectors, voxel)
            terms["classes"] = factors.classes * class_term(logits, frame.semantics[tuple(voxel.T)])
        return terms
