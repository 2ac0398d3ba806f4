"""The rendering baseline trained from images and class maps, with or without the pseudo-loss of labels.

What EasyOcc (arXiv 2509.26087) compares with: the same network, supervised in 2-D. `occlift.training.predict` reads the
checkpoints of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from occlift.errors import ConfigError
from occlift.labels.files import label_paths
from occlift.labels.folder import count_classes
from occlift.labels.manifest import check_label_space
from occlift.losses.occupancy import OccupancyLossConfig
from occlift.models.rendering import RenderingConfig
from occlift.runtime.devices import Precision
from occlift.scenes.dataset import HasSweeps, evenly_spaced, split_tokens
from occlift.teachers.files import warn_of_strange_maps
from occlift.teachers.registry import check_workers, depth_teacher, semantics_teacher
from occlift.training.augment import mirrored_where_possible
from occlift.training.loop import prepare_network
from occlift.training.optimizer import OptimizerConfig
from occlift.training.rendering_task import RenderingLossConfig
from occlift.training.run import TrainingSpec
from occlift.training.run_folder import run_identity

if TYPE_CHECKING:
    from occlift.teachers.teacher import DepthTeacher, SemanticsTeacher
    from occlift.training.loaders import TrainingData
    from occlift.training.one_cycle import OneCycleTask
    from occlift.training.rendering_frames import Neighbours, RenderingFrames

_COUNTED_FRAMES: Final = 400


@dataclass(frozen=True, kw_only=True)
class RenderingTrainConfig:
    """A training run. Together with the data set, the teachers' maps and the labels it decides the result.

    Attributes:
        model: shape of the network.
        loss: terms of the loss in 2-D, and their weights.
        pseudo: loss in 3-D, against labels; None: none are read.
        confidence: weight of each voxel in the pseudo-loss's cross-entropy by the confidence of its label (`occlift
            label --confidence`).
        semantics: teacher of class maps; files:FOLDER reads kept ones.
        semantics_options: options of this teacher, as name=value.
        depth: teacher of depth maps, asked only where the loss compares depths (`--maps-only`).
        depth_options: options of this teacher, as name=value.
        teacher_seed: random seed of the oracle's errors.
        neighbours: images that the photometric loss compares with; sweeps are those of the same camera just before and
            after, key_frames those of the key frames before and after; auto is sweeps where the data set has any.
        optimizer: schedule, and step sizes.
        split: split of the data set that is trained on.
        checkpoint_every: number of steps between two checkpoints; there is always one at the end.
        batch_size: number of key frames per process and step.
        seed: random seed of the training.
        precision: arithmetic; auto is bf16 where the hardware computes in it.
        mirror: exchange of left and right in half of the steps; off on a grid that is not its own mirror image.
        devices: number of training processes; more than one train with DistributedDataParallel.
        workers: number of reading processes per training process.
        cache_bytes: size of the decoded frames and maps kept in memory.
    """

    model: RenderingConfig = field(default_factory=RenderingConfig.demo)
    loss: RenderingLossConfig = field(default_factory=RenderingLossConfig)
    pseudo: OccupancyLossConfig | None = None
    confidence: bool = False
    semantics: str = "oracle:foundation"
    semantics_options: Mapping[str, str] = field(default_factory=dict)
    depth: str = "oracle:foundation"
    depth_options: Mapping[str, str] = field(default_factory=dict)
    teacher_seed: int = 0
    neighbours: Literal["auto", "sweeps", "key_frames"] = "auto"
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

    @classmethod
    def demo(cls) -> RenderingTrainConfig:
        """Small enough to be trained from scratch on two CPU cores in minutes."""
        return cls(optimizer=OptimizerConfig(steps=600))

    @classmethod
    def full(cls) -> RenderingTrainConfig:
        """`RenderingConfig.full`; the schedule is that of `occlift.training.occupancy.TrainConfig.full`."""
        return cls(
            model=RenderingConfig.full(),
            optimizer=OptimizerConfig(steps=84_000, learning_rate=2e-4),
            checkpoint_every=1000,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        plain = {**asdict(self), "model": self.model.to_dict()}
        if not self.confidence:
            del plain["confidence"]  # runs from before there was this choice stay the same runs, and can be resumed
        return plain


@dataclass(frozen=True, kw_only=True)
class RenderingTraining(TrainingSpec["RenderingFrames", tuple[list[int], "list[int] | None"]]):
    """A rendering model trained on images and maps.

    Attributes:
        labels: folder of the labels of the training split, for the pseudo-loss.
        map_cache: folder where the teachers' class and depth maps are kept and looked up; with workers, those that are
            missing are made before the first step. None: the teachers are asked anew whenever the memory does not hold
            their maps.
    """

    config: RenderingTrainConfig
    labels: Path | None = None
    map_cache: Path | None = None

    @property
    def description(self) -> str:
        return "train rendering"

    def check(self) -> None:
        if (self.labels is None) != (self.config.pseudo is None):
            raise ConfigError(
                "the pseudo-loss needs labels, and labels are read for nothing else: give both or neither"
            )
        if self.config.confidence and self.labels is None:
            raise ConfigError("confidence is that of labels, and none are given: give labels, or leave confidence out")
        if self.labels is not None:
            check_label_space(self.labels, self.config.model.space)

    def frames(self) -> RenderingFrames:
        from occlift.teachers.map_cache import DepthCache, SemanticsCache
        from occlift.training.frames import OccupancyFrames
        from occlift.training.rendering_frames import RenderingFrames

        data, config, seed = self.data, self.config, self.config.teacher_seed
        semantics: SemanticsTeacher
        depth: DepthTeacher | None = None
        taxonomy = config.model.space.taxonomy
        if config.loss.depth:
            depth = depth_teacher(config.depth, data, seed=seed, options=config.depth_options)
        images = OccupancyFrames(
            data, split_tokens(data, config.split), height=config.model.image_height, width=config.model.image_width,
            labels=self.labels, space=config.model.space, confidence=config.confidence, cache_bytes=config.cache_bytes,
        )  # fmt: skip
        semantics = semantics_teacher(
            config.semantics, data, seed=seed, options=config.semantics_options, taxonomy=taxonomy
        )
        warn_of_strange_maps(semantics, data, taxonomy)
        if self.map_cache is not None:
            semantics = SemanticsCache(self.map_cache, semantics, taxonomy)
            depth = None if depth is None else DepthCache(self.map_cache, depth)
        else:
            check_workers(semantics, config.semantics, config.workers)
            if depth is not None:
                check_workers(depth, config.depth, config.workers)
        return RenderingFrames(
            data,
            images,
            semantics=semantics,
            depth=depth,
            ray_height=config.model.ray_height,
            ray_width=config.model.ray_width,
            neighbours=self._neighbours(),
            taxonomy=taxonomy,
            cache_bytes=config.cache_bytes // 4,
        )

    def _neighbours(self) -> Neighbours | None:
        """What neighbours are, where the loss compares images."""
        if not self.config.loss.photometric:
            return None
        if self.config.neighbours == "auto":
            return "sweeps" if isinstance(self.data, HasSweeps) else "key_frames"
        return self.config.neighbours

    def resolved(self, frames: RenderingFrames) -> RenderingTraining:
        """Without mirroring where the grid is not its own mirror image, and with the neighbours that there are."""
        config = mirrored_where_possible(self.config, self.config.model.space.grid)
        return replace(self, config=replace(config, neighbours=self._neighbours() or "auto"))

    def identity(self) -> dict[str, Any]:
        return run_identity(self.config.to_dict(), self.labels, self.data.cameras)

    def remarks(self, frames: RenderingFrames) -> dict[str, str]:
        found = frames.describe_neighbours()
        return {} if found is None else {"neighbours": found}

    def counts(self, frames: RenderingFrames) -> tuple[list[int], list[int] | None]:
        """Rays per class in the class maps, and voxels per class in the labels."""
        labels, pseudo = None, self.config.pseudo
        if self.labels is not None and pseudo is not None:
            paths = label_paths(self.labels, self.data, split_tokens(self.data, self.config.split))
            labels = count_classes(paths, unknown=pseudo.unknown, space=self.config.model.space).tolist()
        return frames.class_counts(evenly_spaced(range(len(frames)), _COUNTED_FRAMES)).tolist(), labels

    def build(
        self, frames: RenderingFrames, counts: tuple[list[int], list[int] | None], out: Path
    ) -> tuple[OneCycleTask, TrainingData]:
        from occlift.training.loaders import CachedTrainingData, TrainingData
        from occlift.training.rendering_frames import collate_rendering
        from occlift.training.rendering_task import RenderingTask

        config = self.config
        ray_counts, label_counts = counts
        task = RenderingTask(
            model=config.model.to_dict(),
            loss=asdict(config.loss),
            pseudo=None if config.pseudo is None else asdict(config.pseudo),
            optimizer=asdict(config.optimizer),
            ray_counts=ray_counts,
            label_counts=label_counts,
            seed=config.seed,
            mirror=config.mirror,
            cameras=list(self.data.cameras),
        )
        prepare_network(task.model.network, devices=config.devices)
        loaders = TrainingData if self.map_cache is None else CachedTrainingData
        return task, loaders(frames, collate_rendering, config)
