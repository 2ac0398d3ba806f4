"""Training a bird's-eye-view network on the truth of cells: what a pretraining is for, and what it is measured by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from occlift.losses.bev import BevLossConfig, LearnedBalance, bev_loss
from occlift.metrics.streaming import BevScore
from occlift.models.bev_network import BevNetworkConfig, bev_network
from occlift.training.bev_frames import BevBatch, collate_bev
from occlift.training.bev_truth import OBJECT_CLASSES
from occlift.training.draws import frame_generator
from occlift.training.mean_loss import logged_mean
from occlift.training.one_cycle import OneCycleTask
from occlift.training.optimizer import OptimizerConfig


class BevTask(OneCycleTask):
    """The network, its loss, its optimiser, and the validation score.

    Args:
        model: `BevNetworkConfig.to_dict()`.
        loss: the fields of a `BevLossConfig`.
        learned_balance: how much each term counts is learned (`LearnedBalance`).
        optimizer: the fields of an `OptimizerConfig`.
        prior: share of the cells that each class covers, for the first answer of an untrained network.
        seed: of the mirroring.
        mirror: half of the key frames are seen with left and right exchanged.
        blind: recorded for those who load the checkpoint: the network was trained on grey images.
        cameras: recorded for those who load the checkpoint: their names, in order.
    """

    def __init__(
        self,
        *,
        model: dict[str, Any],
        loss: dict[str, Any],
        learned_balance: bool,
        optimizer: dict[str, Any],
        prior: list[float],
        seed: int,
        mirror: bool,
        blind: bool = False,
        cameras: Sequence[str] = (),
    ) -> None:
        super().__init__(OptimizerConfig(**optimizer))
        self.save_hyperparameters()
        self.model = bev_network(BevNetworkConfig.from_dict(model))
        self._loss = BevLossConfig(**loss)
        self.balance = LearnedBalance() if learned_balance else None
        self._seed, self._mirror = seed, mirror
        # What a constant prediction would converge to under the weighted cross-entropy.
        covered = torch.tensor(prior).clamp(1e-4, 1 - 1e-4) * self._loss.positive_weight
        self.model.start_from_prior(covered / (covered + 1 - torch.tensor(prior).clamp(1e-4, 1 - 1e-4)))
        self.scores: Final = BevScores(self.model.config.classes)

    def training_step(self, batch: BevBatch, batch_idx: int) -> Float[Tensor, ""]:
        """The mean over the key frames of each one's loss, so that it does not matter which process takes which."""
        count = len(batch.frame.tokens)
        generators = [frame_generator(self._seed, self.global_step, self.global_rank * count + i) for i in range(count)]
        frames = [
            frame.mirrored() if self._mirror and bool(torch.rand((), generator=generator) < 0.5) else frame
            for frame, generator in zip(batch.frames(), generators, strict=True)
        ]
        batch = collate_bev(frames)
        output = self.model(batch.frame.images, batch.frame.rig)
        terms = []
        for i, frame in enumerate(frames):
            losses = bev_loss(
                output.segmentation[i : i + 1],
                output.centre[i : i + 1],
                output.offset_m[i : i + 1],
                truth=frame.truth,
                ignored=frame.ignored,
                true_centre=frame.centre,
                true_offset_m=frame.offset_m,
                inside_object=frame.inside_object,
                config=self._loss,
            )
            terms.append(losses if self.balance is None else self.balance(losses))
        return logged_mean(self, terms, batch.frame.tokens)

    def on_validation_epoch_start(self) -> None:
        self.scores.reset()

    def validation_step(self, batch: BevBatch, batch_idx: int) -> None:
        self.scores.update(self.model(batch.frame.images, batch.frame.rig).segmentation.float().sigmoid(), batch)

    def on_validation_epoch_end(self) -> None:
        for score in self.scores:
            for name, iou in score.compute().items():
                self.log(f"val_{name}", iou, rank_zero_only=True)


class BevScores(nn.Module):
    """The scores of key frames: of the object classes, and of the map classes if there are any.

    Only objects can be hardly visible, so only they have a filtered score.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__()
        objects = [name for name in classes if name in OBJECT_CLASSES]
        ground = [name for name in classes if name not in OBJECT_CLASSES]
        self._scores = nn.ModuleList(
            BevScore(names, visibility_filter=names is objects) for names in (objects, ground) if names
        )

    def __iter__(self) -> Iterator[BevScore]:
        return (cast("BevScore", score) for score in self._scores)

    def reset(self) -> None:
        """Forgets what was counted."""
        for score in self:
            score.reset()

    def update(self, probability: Float[Tensor, "batch classes x y"], batch: BevBatch) -> None:
        """Counts a batch of key frames."""
        for score in self:
            rows = [batch.classes.index(name) for name in score.classes]
            ignored = batch.ignored[:, rows] if "filtered" in score.visibilities else None
            score.update(truth=batch.truth[:, rows], prediction=probability[:, rows], ignored=ignored)
