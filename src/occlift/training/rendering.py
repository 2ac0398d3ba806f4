"""The rendering baseline trained from images and class maps, with or without the pseudo-loss of labels.

What EasyOcc (arXiv 2509.26087) compares with: the same network, supervised in 2-D. `occlift.training.occupancy.predict`
reads the checkpoints of both.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from occlift.errors import ConfigError
from occlift.losses.occupancy import OccupancyLossConfig
from occlift.models.rendering import RenderingConfig
from occlift.runtime.devices import Precision
from occlift.runtime.processes import run_in_processes, started_by_others
from occlift.scenes.dataset import DrivingDataset, open_dataset, split_tokens
from occlift.teachers.registry import depth_teacher, semantics_teacher
from occlift.training.loop import TrainRun, check_start, fit, prepare_network
from occlift.training.occupancy import class_counts
from occlift.training.optimizer import OptimizerConfig
from occlift.training.rendering_task import RenderingLossConfig
from occlift.training.run_folder import claim_run_folder

if TYPE_CHECKING:
    from occlift.training.rendering_frames import RenderingFrames

_COUNTED_FRAMES: Final = 400


@dataclass(frozen=True, kw_only=True)
class RenderingTrainConfig:
    """A training run. Together with the data set, the teachers' maps and the labels it decides the result.

    Attributes:
        loss: in 2-D.
        pseudo: in 3-D, against labels; None: none are read.
        confidence: voxels count in the pseudo-loss's cross-entropy as much as their labels are sure (`occlift label
            --confidence`).
        semantics: the teacher of the class maps.
        semantics_options: its settings.
        depth: the teacher of depth maps, asked only where `loss.depth` is positive.
        depth_options: its settings.
        teacher_seed: of the oracle's errors.
        split: of the data set, trained on.
        checkpoint_every: steps between two checkpoints; there is always one at the end.
        batch_size: key frames per process and step.
        mirror: half of the steps see the world mirrored.
        devices: processes; more than one trains with DistributedDataParallel.
        workers: processes that read ahead, per training process.
        cache_bytes: decoded frames and maps kept in memory.
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
        """The paper's network; the schedule is that of `occlift.training.occupancy.TrainConfig.full`."""
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


def train_rendering(
    root: Path,
    out: Path,
    config: RenderingTrainConfig,
    *,
    labels: Path | None = None,
    resume: Path | None = None,
    max_steps: int | None = None,
) -> TrainRun:
    """Trains a rendering model and leaves a run folder, as `occlift.training.occupancy.train` does.

    Args:
        root: the folder of a data set.
        labels: of the training split, for the pseudo-loss.
        out: the run folder: `run.json`, `losses.csv`, `last.ckpt`.
        resume: a checkpoint of a run with the same configuration.
        max_steps: stops after this step of the schedule; None: at its end.

    Raises:
        ConfigError: labels without a pseudo-loss or the other way round; their confidence without them; `out` holds
            another run.
        DataError: data, maps or labels are missing or damaged, or labels do not say how sure they are though that was
            asked for.
        TrainingDiverged: a term of the loss is not finite; the text names step and term.
    """
    started = time.monotonic()
    if (labels is None) != (config.pseudo is None):
        raise ConfigError("the pseudo-loss needs labels, and labels are read for nothing else: give both or neither")
    if config.confidence and labels is None:
        raise ConfigError("confidence is that of labels, and none are given: give labels, or leave confidence out")
    check_start(config, resume, max_steps)
    data = open_dataset(root)
    tokens = split_tokens(data, config.split)
    label_counts = None
    if labels is not None and config.pseudo is not None:
        label_counts = class_counts(data, labels, tokens, unknown=config.pseudo.unknown).tolist()
    claim_run_folder(out, config.to_dict(), labels, resume=resume)
    frames = _frames(data, config, labels)
    counted = np.unique(np.linspace(0, len(tokens) - 1, min(_COUNTED_FRAMES, len(tokens))).round().astype(int))
    arguments: dict[str, Any] = {
        "root": root, "labels": labels, "out": out, "config": config, "resume": resume, "max_steps": max_steps,
        "ray_counts": frames.class_counts(counted.tolist()).tolist(), "label_counts": label_counts,
        "started": started,
    }  # fmt: skip
    if config.devices > 1 and not started_by_others():
        return run_in_processes(_train_here, arguments, config.devices)
    return _train_here(**arguments, frames=frames)


def _frames(data: DrivingDataset, config: RenderingTrainConfig, labels: Path | None) -> RenderingFrames:
    from occlift.training.frames import OccupancyFrames
    from occlift.training.rendering_frames import RenderingFrames

    seed, depth = config.teacher_seed, None
    if config.loss.depth:
        depth = depth_teacher(config.depth, data, seed=seed, options=config.depth_options)
    return RenderingFrames(
        data,
        OccupancyFrames(
            data, split_tokens(data, config.split), height=config.model.image_height, width=config.model.image_width,
            labels=labels, confidence=config.confidence, cache_bytes=config.cache_bytes,
        ),
        semantics=semantics_teacher(config.semantics, data, seed=seed, options=config.semantics_options),
        depth=depth,
        ray_height=config.model.ray_height,
        ray_width=config.model.ray_width,
        neighbours=config.loss.photometric > 0,
        cache_bytes=config.cache_bytes // 4,
    )  # fmt: skip


def _train_here(
    root: Path,
    labels: Path | None,
    out: Path,
    config: RenderingTrainConfig,
    *,
    resume: Path | None,
    max_steps: int | None,
    ray_counts: Sequence[int],
    label_counts: Sequence[int] | None,
    started: float,
    frames: RenderingFrames | None = None,
) -> TrainRun:
    """`train_rendering` in one of its processes; `frames` spares a process that has them to read their maps again."""
    import lightning

    from occlift.training.loaders import TrainingData
    from occlift.training.rendering_frames import collate_rendering
    from occlift.training.rendering_task import RenderingTask

    frames = frames or _frames(open_dataset(root), config, labels)
    # The network's first weights are the only draw from the global generator.
    lightning.seed_everything(config.seed, verbose=False)
    task = RenderingTask(
        model=config.model.to_dict(),
        loss=asdict(config.loss),
        pseudo=None if config.pseudo is None else asdict(config.pseudo),
        optimizer=asdict(config.optimizer),
        ray_counts=ray_counts,
        label_counts=label_counts,
        seed=config.seed,
        mirror=config.mirror,
    )
    prepare_network(task.model.network, devices=config.devices)
    loaders = TrainingData(
        train=frames, collate=collate_rendering, batch_size=config.batch_size, steps=config.optimizer.steps,
        seed=config.seed, workers=config.workers,
    )  # fmt: skip
    return fit(
        task, loaders, out, config, description="train rendering", train_frames=len(frames), started=started,
        resume=resume, max_steps=max_steps,
    )  # fmt: skip
