"""EasyOcc trained on labels. Scores, and the baselines beside which they must be read: `occlift.evaluation`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from occlift.errors import DataError
from occlift.labels.files import label_paths
from occlift.labels.folder import count_classes
from occlift.labels.manifest import check_label_space
from occlift.losses.occupancy import OccupancyLossConfig
from occlift.models.easyocc import EasyOccConfig
from occlift.runtime.devices import Precision
from occlift.scenes.dataset import evenly_spaced, split_tokens
from occlift.training.augment import AugmentConfig, mirrored_where_possible
from occlift.training.loop import prepare_network
from occlift.training.optimizer import OptimizerConfig
from occlift.training.run import TrainingSpec
from occlift.training.run_folder import run_identity

if TYPE_CHECKING:
    from occlift.training.frames import OccupancyFrames
    from occlift.training.loaders import TrainingData
    from occlift.training.one_cycle import OneCycleTask


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run. Together with the data set and the labels it decides the result.

    Attributes:
        model: shape of the network.
        loss: terms of the loss, and their weights.
        optimizer: schedule, and step sizes.
        split: split of the data set that is trained on.
        validation_split: split that is scored during the training where validation labels are given.
        validation_frames: largest number of its key frames that are scored, evenly spaced.
        validation_every: number of steps between two scores.
        checkpoint_every: number of steps between two checkpoints; there is always one at the end.
        batch_size: number of key frames per process and step.
        seed: random seed of the training.
        precision: arithmetic; auto is bf16 where the hardware computes in it.
        mirror: exchange of left and right in half of the key frames; off on a grid that is not its own mirror image.
        mirror_front_back: exchange of front and back in half of the key frames, drawn apart from those of `mirror`.
        augment: random changes of the images, the cameras with them.
        confidence: weight of each voxel in the cross-entropy by the confidence of its label (`occlift label
            --confidence`).
        ema_decay: decay of averaged weights, with which is validated and predicted, such as 0.999; None: no averaging.
        gradient_checkpointing: activations computed again in the backward pass: less memory, more time.
        compile: encoder and 3-D CNN compiled with `torch.compile`.
        blind: training on uniform grey images (no-image baseline).
        devices: number of training processes; more than one train with DistributedDataParallel.
        workers: number of reading processes per training process.
        cache_bytes: size of the decoded frames kept in memory.
    """

    model: EasyOccConfig = field(default_factory=EasyOccConfig.demo)
    # 1/log f: with 1/√f the free class counts so little that rays are filled from front to back (docs/results/demo.md).
    loss: OccupancyLossConfig = field(
        default_factory=lambda: OccupancyLossConfig(
            class_weighting="inverse_log", max_voxels=100_000, max_lovasz_voxels=30_000
        )
    )
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    split: str = "train"
    validation_split: str = "val"
    validation_frames: int = 16
    validation_every: int = 100
    checkpoint_every: int = 100
    batch_size: int = 1
    seed: int = 0
    precision: Precision = "auto"
    mirror: bool = True
    mirror_front_back: bool = False
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    confidence: bool = False
    ema_decay: float | None = None
    gradient_checkpointing: bool = False
    compile: bool = False
    blind: bool = False
    devices: int = 1
    workers: int = 0
    cache_bytes: int = 1_000_000_000

    @classmethod
    def full(cls) -> TrainConfig:
        """`EasyOccConfig.full` on all known voxels; the 12 epochs are OccNeRF's, key frames a step and rate ours."""
        return cls(
            model=EasyOccConfig.full(),
            loss=OccupancyLossConfig(class_weighting="inverse_log", max_voxels=None, max_lovasz_voxels=None),
            optimizer=OptimizerConfig(steps=84_000, learning_rate=2e-4),
            validation_every=5000,
            checkpoint_every=1000,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "model": self.model.to_dict()}


@dataclass(frozen=True, kw_only=True)
class OccupancyTraining(TrainingSpec["OccupancyFrames", list[int]]):
    """An EasyOcc trained on labels in Occ3D's layout.

    Attributes:
        labels: folder of the labels of the training split.
        validation_labels: a folder to score against while training; the scores are logged and decide nothing.
    """

    labels: Path
    config: TrainConfig
    validation_labels: Path | None = None

    @property
    def description(self) -> str:
        return "train blind" if self.config.blind else "train"

    @property
    def ema_decay(self) -> float | None:
        return self.config.ema_decay

    def check(self) -> None:
        for folder in filter(None, (self.labels, self.validation_labels)):
            check_label_space(folder, self.config.model.space)
        if self.validation_labels is None:
            return
        # The first validation may be hours away: what it lacks is said before.
        tokens = self._validation_tokens()
        missing = [path for path in label_paths(self.validation_labels, self.data, tokens) if not path.exists()]
        if missing:
            raise DataError(
                f"{missing[0]}: no such file ({len(missing)} of {len(tokens)} labels to validate with are missing); "
                "give the folder with the labels of the validation split, gts/<scene>/<token>/labels.npz"
            )

    def frames(self) -> OccupancyFrames:
        config = self.config
        return self._frames(
            split_tokens(self.data, config.split), self.labels, confidence=config.confidence,
            cache_bytes=config.cache_bytes,
        )  # fmt: skip

    def resolved(self, frames: OccupancyFrames) -> OccupancyTraining:
        """Without mirroring where the grid is not its own mirror image."""
        return replace(self, config=mirrored_where_possible(self.config, self.config.model.space.grid))

    def identity(self) -> dict[str, Any]:
        return run_identity(self.config.to_dict(), self.labels, self.data.cameras)

    def counts(self, frames: OccupancyFrames) -> list[int]:
        """Voxels per class in the labels."""
        paths = label_paths(self.labels, self.data, frames.tokens)
        return count_classes(paths, unknown=self.config.loss.unknown, space=self.config.model.space).tolist()

    def build(self, frames: OccupancyFrames, counts: list[int], out: Path) -> tuple[OneCycleTask, TrainingData]:
        from occlift.training.frames import collate_frames
        from occlift.training.loaders import TrainingData, ValidatedTrainingData
        from occlift.training.occupancy_task import OccupancyTask, as_hyper_parameters

        config = self.config
        task = OccupancyTask(
            **as_hyper_parameters(config.model, config.loss, config.optimizer),
            class_counts=counts,
            seed=config.seed,
            mirror=config.mirror,
            mirror_front_back=config.mirror_front_back,
            augment=asdict(config.augment),
            blind=config.blind,
            cameras=list(self.data.cameras),
        )
        prepare_network(
            task.model, devices=config.devices, gradient_checkpointing=config.gradient_checkpointing,
            compiled=config.compile,
        )  # fmt: skip
        if self.validation_labels is None:
            return task, TrainingData(frames, collate_frames, config)
        validation = self._frames(
            self._validation_tokens(), self.validation_labels, cache_bytes=config.cache_bytes // 4
        )
        return task, ValidatedTrainingData(
            frames, collate_frames, config, validation=validation, every=config.validation_every
        )

    def _frames(self, tokens: Sequence[str], labels: Path, **options: Any) -> OccupancyFrames:
        from occlift.training.frames import OccupancyFrames

        model = self.config.model
        return OccupancyFrames(
            self.data, tokens, height=model.image_height, width=model.image_width, labels=labels,
            space=model.space, blind=self.config.blind, **options,
        )  # fmt: skip

    def _validation_tokens(self) -> list[str]:
        return evenly_spaced(split_tokens(self.data, self.config.validation_split), self.config.validation_frames)
