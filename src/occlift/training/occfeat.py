"""Pretraining of a bird's-eye-view network (OccFeat, arXiv 2404.14027), with lidar or without any.

What is learned is what fills the volume: occupancy, from the lidar or from labels that were made from images, and the
features of a foundation model. `occlift.training.bev` goes on from the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from occlift.errors import ConfigError
from occlift.label_space import OCC3D, LabelSpace
from occlift.labels.manifest import check_label_space
from occlift.losses.occfeat import OccFeatLossConfig
from occlift.models.bev_network import Architecture, BevNetworkConfig
from occlift.models.occfeat import OccFeatHeadConfig
from occlift.runtime.devices import Precision, default_device
from occlift.scenes.dataset import require_lidar, split_tokens
from occlift.teachers.registry import feature_teacher
from occlift.training.loop import prepare_network
from occlift.training.optimizer import OptimizerConfig
from occlift.training.run import TrainingSpec
from occlift.training.run_folder import run_identity
from occlift.training.volume_targets import Untouched, check_coarser

if TYPE_CHECKING:
    from occlift.training.loaders import TrainingData
    from occlift.training.occfeat_frames import OccFeatFrames
    from occlift.training.one_cycle import OneCycleTask

Occupancy = Literal["lidar", "labels"]


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A pretraining. Together with the data set, the teacher and the labels it decides the result.

    Attributes:
        model: shape of the network.
        head: shape of the head; its `feature_channels` follow from the teacher, its `num_classes` from `space`.
        loss: weights of the terms of the loss.
        occupancy: source of occupancy targets: lidar, or labels made from images.
        space: grid and classes of the labels.
        sweeps: number of lidar sweeps: the key frame's own and those of the key frames before it.
        untouched: state of voxels without a lidar point: `empty`, as in OccFeat, or unknown where no beam passed.
        teacher: teacher of features (`occlift teachers` lists them), asked only where their loss has a weight.
        teacher_options: options of this teacher, as name=value.
        optimizer: schedule, and step sizes.
        split: split of the data set that is trained on.
        checkpoint_every: number of steps between two checkpoints; there is always one at the end.
        batch_size: number of key frames per process and step.
        seed: random seed of the training.
        precision: arithmetic; auto is bf16 where the hardware computes in it.
        mirror: exchange of left and right in half of the key frames.
        devices: number of training processes; more than one train with DistributedDataParallel.
        workers: number of reading processes per training process.
        cache_bytes: size of the decoded frames and targets kept in memory.
    """

    model: BevNetworkConfig
    head: OccFeatHeadConfig = field(default_factory=OccFeatHeadConfig)
    loss: OccFeatLossConfig = field(default_factory=OccFeatLossConfig)
    occupancy: Occupancy = "lidar"
    space: LabelSpace = OCC3D
    sweeps: int = 1
    untouched: Untouched = "empty"
    teacher: str = "dinov2"
    teacher_options: Mapping[str, str] = field(default_factory=dict)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    split: str = "train"
    checkpoint_every: int = 100
    batch_size: int = 1
    seed: int = 0
    precision: Precision = "auto"
    mirror: bool = True
    devices: int = 1
    workers: int = 0
    cache_bytes: int = 1_000_000_000

    def __post_init__(self) -> None:
        if self.occupancy == "lidar" and self.loss.classes:
            raise ConfigError("the lidar knows no classes: targets with classes need occupancy from labels")
        if self.sweeps < 1:
            raise ConfigError(f"at least the key frame's own sweep is needed, got {self.sweeps} sweeps")

    @classmethod
    def demo(cls, architecture: Architecture = "simple_bev") -> PretrainConfig:
        """Small enough for two CPU cores and minutes; features are the oracle's, of a town.

        λ is larger than the usual hundredth: after 300 steps the features are 0.15 away (1 − cosine), with that 0.24.
        """
        return cls(
            model=BevNetworkConfig.demo(architecture),
            head=OccFeatHeadConfig(channels=16, blocks=1, horizontal_stride=2),
            loss=OccFeatLossConfig(features=1.0),
            teacher="oracle",
            optimizer=OptimizerConfig(steps=1500, learning_rate=1e-3),
        )

    @classmethod
    def full(cls, architecture: Architecture = "simple_bev") -> PretrainConfig:
        """OccFeat's network and teacher, EfficientNet-B0 and DINOv2, on SimpleBEV's schedule for 16 key frames a step.

        Voxels, λ, size of the images and the two 3-D convolutions of the head are ours: docs/departures.md.

        They are those of one process: with four, give each `batch_size=4`.
        """
        return cls(
            model=BevNetworkConfig.full(architecture),
            optimizer=OptimizerConfig(steps=25_000, learning_rate=3e-4),
            checkpoint_every=1000,
            batch_size=16,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        plain = {**asdict(self), "model": self.model.to_dict(), "space": self.space.to_dict()}
        if self.space == OCC3D:
            del plain["space"]  # runs from before there was this choice stay the same runs, and can be resumed
        return plain


@dataclass(frozen=True, kw_only=True)
class OccFeatPretraining(TrainingSpec["OccFeatFrames", None]):
    """A bird's-eye-view network pretrained by occupancy and features.

    Attributes:
        labels: folder of labels in Occ3D's layout, of the training split: where occupancy comes from labels.
        feature_cache: folder where the teacher's features are kept in half precision and looked up; with workers, those
            that are missing are made before the first step. None: the teacher is asked anew whenever the memory does
            not hold them.
    """

    config: PretrainConfig
    labels: Path | None = None
    feature_cache: Path | None = None

    @property
    def description(self) -> str:
        return "pretrain"

    def check(self) -> None:
        if (self.config.occupancy == "labels") != (self.labels is not None):
            raise ConfigError(
                "occupancy from labels needs labels, and labels are read for nothing else: give both or neither"
            )
        if self.labels is None:
            require_lidar(self.data, split_tokens(self.data, self.config.split), "occupancy from the lidar")
            return
        check_label_space(self.labels, self.config.space)
        check_coarser(self.config.head.grid, self.config.space)

    def frames(self) -> OccFeatFrames:
        from occlift.teachers.dinov2 import Dino
        from occlift.teachers.feature_cache import FeatureCache
        from occlift.training.frames import OccupancyFrames
        from occlift.training.occfeat_frames import OccFeatFrames

        data, config, teacher = self.data, self.config, None
        if config.loss.features:
            teacher = feature_teacher(config.teacher, data, options=config.teacher_options)
            if self.feature_cache is not None:
                teacher = FeatureCache(self.feature_cache, teacher)
            elif config.workers and isinstance(teacher, Dino) and teacher.on_accelerator:
                raise ConfigError(
                    f"{config.teacher}: runs on an accelerator, which the {config.workers} workers that read ahead "
                    "cannot use; give a folder where its features are made once (--feature-cache), or read without "
                    "workers (--workers 0)"
                )
        images = OccupancyFrames(
            data, split_tokens(data, config.split), height=config.model.image_height, width=config.model.image_width,
            cache_bytes=config.cache_bytes // 2,
        )  # fmt: skip
        return OccFeatFrames(
            data, images, grid=config.head.grid, labels=self.labels, space=config.space, features=teacher,
            sweeps=config.sweeps, untouched=config.untouched, cache_bytes=config.cache_bytes // 2,
        )  # fmt: skip

    def resolved(self, frames: OccFeatFrames) -> OccFeatPretraining:
        """With the size of the head's answers: what the teacher and the loss ask for."""
        config = self.config
        head = replace(
            config.head, classes=config.loss.classes > 0, feature_channels=frames.feature_channels,
            num_classes=config.space.taxonomy.free,
        )  # fmt: skip
        return replace(self, config=replace(config, head=head))

    def identity(self) -> dict[str, Any]:
        return run_identity(self.config.to_dict(), self.labels, self.data.cameras)

    def counts(self, frames: OccFeatFrames) -> None:
        """Nothing."""

    def build(self, frames: OccFeatFrames, counts: None, out: Path) -> tuple[OneCycleTask, TrainingData]:
        from occlift.models.synchronised_norm import synchronise_batch_norms
        from occlift.training.loaders import CachedTrainingData, TrainingData
        from occlift.training.occfeat_frames import collate_occfeat
        from occlift.training.occfeat_task import OccFeatTask

        config = self.config
        task = OccFeatTask(
            model=config.model.to_dict(),
            head=config.head.to_dict(),
            loss=asdict(config.loss),
            optimizer=asdict(config.optimizer),
            seed=config.seed,
            mirror=config.mirror,
            cameras=list(self.data.cameras),
        )
        prepare_network(task.model, devices=config.devices)
        if config.devices > 1:
            synchronise_batch_norms(task.head, device_type=default_device())
        loaders = TrainingData if self.feature_cache is None else CachedTrainingData
        return task, loaders(frames, collate_occfeat, config)
