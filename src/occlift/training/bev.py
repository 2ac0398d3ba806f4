"""Bird's-eye-view networks: trained on a share of the labels, from random or from pretrained weights.

The protocol of OccFeat (arXiv 2404.14027): the same network, the same labels, the same schedule; what differs is where
the first weights come from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from occlift.errors import ConfigError
from occlift.losses.bev import BevLossConfig
from occlift.models.bev_network import Architecture, BevNetworkConfig
from occlift.runtime.devices import Precision
from occlift.runtime.files import write_text
from occlift.runtime.progress import note
from occlift.scenes.dataset import evenly_spaced, split_tokens
from occlift.training.label_share import labelled_tokens
from occlift.training.loop import prepare_network
from occlift.training.optimizer import OptimizerConfig
from occlift.training.run import TrainingSpec
from occlift.training.run_folder import checkpoint_in, run_identity

if TYPE_CHECKING:
    from occlift.training.bev_frames import BevFrames
    from occlift.training.loaders import TrainingData
    from occlift.training.one_cycle import OneCycleTask

LABELLED_NAME: Final = "labelled.json"
"""In the run folder: the samples whose labels were used, and what of a pretrained network was loaded."""

_COUNTED_FRAMES: Final = 50


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """A training on a share of the labels. Together with the data set and the first weights it decides the result.

    Attributes:
        model: shape of the network.
        loss: weights of the segmentation, centre and offset losses.
        learned_balance: learning of the weights of the segmentation, centre and offset losses.
        labels: share of the split's labels that is used (`occlift.training.label_share`).
        label_seed: random seed for drawing the labelled subset.
        optimizer: schedule, and step sizes.
        split: split of the data set that is trained on.
        validation_split: split that is scored during the training; the scores are logged and decide nothing.
        validation_frames: largest number of its key frames that are scored, evenly spaced.
        validation_every: number of steps between two scores; None: no scores.
        checkpoint_every: number of steps between two checkpoints; there is always one at the end.
        batch_size: number of key frames per process and step.
        seed: random seed of the training.
        precision: arithmetic; auto is bf16 where the hardware computes in it.
        mirror: exchange of left and right in half of the key frames.
        blind: training on uniform grey images (no-image baseline).
        devices: number of training processes; more than one train with DistributedDataParallel.
        workers: number of reading processes per training process.
        cache_bytes: size of the decoded frames and their truth kept in memory.
    """

    model: BevNetworkConfig
    loss: BevLossConfig = field(default_factory=BevLossConfig)
    learned_balance: bool = False
    labels: float = 1.0
    label_seed: int = 0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    split: str = "train"
    validation_split: str = "val"
    validation_frames: int = 16
    validation_every: int | None = None
    checkpoint_every: int = 100
    batch_size: int = 1
    seed: int = 0
    precision: Precision = "auto"
    mirror: bool = True
    blind: bool = False
    devices: int = 1
    workers: int = 0
    cache_bytes: int = 1_000_000_000

    def __post_init__(self) -> None:
        if self.learned_balance and not (self.loss.centre and self.loss.offset):
            raise ConfigError("a learned balance is one of all three terms: none of their factors may be 0")

    @classmethod
    def demo(cls, architecture: Architecture = "simple_bev") -> FinetuneConfig:
        """Small enough for two CPU cores and minutes."""
        return cls(model=BevNetworkConfig.demo(architecture), optimizer=OptimizerConfig(steps=300, learning_rate=1e-3))

    @classmethod
    def full(cls, architecture: Architecture = "simple_bev") -> FinetuneConfig:
        """SimpleBEV's sizes (`BevNetworkConfig.full`) and its schedule, for 16 key frames a step.

        They are those of one process: with four, give each `batch_size=4`.
        """
        return cls(
            model=BevNetworkConfig.full(architecture),
            optimizer=OptimizerConfig(steps=25_000, learning_rate=3e-4),
            validation_every=5000,
            checkpoint_every=1000,
            batch_size=16,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "model": self.model.to_dict()}


@dataclass(frozen=True, kw_only=True)
class BevFinetuning(TrainingSpec["BevFrames", list[float]]):
    """A bird's-eye-view network trained on a share of the labels; the run folder has a `labelled.json`, too.

    Attributes:
        pretrained: a checkpoint of `OccFeatPretraining` (or of this) whose weights are loaded by name; None: random
            weights, or those of the backbone.
    """

    config: FinetuneConfig
    pretrained: Path | None = None

    @property
    def description(self) -> str:
        return "fine-tune"

    def check(self) -> None:
        from occlift.training.checkpoint import TRAINED_BY, checkpoint_parts, task_of

        if self.pretrained is None:
            return
        parts = checkpoint_parts(self.pretrained)
        # Networks of other tasks have weights of the same names, for the encoder at least.
        if (task := task_of(parts, self.pretrained)) not in ("pretraining", "bev"):
            raise ConfigError(
                f"{self.pretrained}: a checkpoint of `{TRAINED_BY[task]}`; bird's-eye-view networks start from one of "
                f"`{TRAINED_BY['pretraining']}` or `{TRAINED_BY['bev']}`"
            )
        there, here = parts["hyper_parameters"]["model"]["architecture"], self.config.model.architecture
        if there != here:
            raise ConfigError(
                f"{self.pretrained}: a network of the architecture {there}, and this one is {here}; fine-tune the "
                f"architecture that was pretrained (--network {there})"
            )

    def frames(self) -> BevFrames:
        config = self.config
        return self._frames(labelled_tokens(self.data, config.split, config.labels, config.label_seed))

    def identity(self) -> dict[str, Any]:
        source = (
            None if self.pretrained is None else hashlib.sha256(checkpoint_in(self.pretrained).read_bytes()).hexdigest()
        )
        return run_identity({**self.config.to_dict(), "pretrained_sha256": source}, None, self.data.cameras)

    def counts(self, frames: BevFrames) -> list[float]:
        """The share of the cells that each class covers."""
        counted = evenly_spaced(range(len(frames)), _COUNTED_FRAMES)
        return np.mean([frames[i].truth[0].float().mean((1, 2)).numpy() for i in counted], axis=0).tolist()

    def build(self, frames: BevFrames, counts: list[float], out: Path) -> tuple[OneCycleTask, TrainingData]:
        from occlift.training.bev_frames import collate_bev
        from occlift.training.bev_task import BevTask
        from occlift.training.loaders import TrainingData, ValidatedTrainingData
        from occlift.training.pretrained import load_by_name

        config = self.config
        task = BevTask(
            model=config.model.to_dict(),
            loss=asdict(config.loss),
            learned_balance=config.learned_balance,
            optimizer=asdict(config.optimizer),
            prior=counts,
            seed=config.seed,
            mirror=config.mirror,
            blind=config.blind,
            cameras=list(self.data.cameras),
        )
        loaded = None if self.pretrained is None else load_by_name(task.model, self.pretrained)
        if loaded is not None:
            # Before the first step: what did not fit may be a reason not to train.
            note(loaded.summary())
        account = {
            "share": config.labels,
            "seed": config.label_seed,
            "tokens": list(frames.tokens),
            "loaded": None if loaded is None else asdict(loaded),
        }
        write_text(out / LABELLED_NAME, json.dumps(account, indent=1))
        prepare_network(task.model, devices=config.devices)
        if config.validation_every is None:
            return task, TrainingData(frames, collate_bev, config)
        tokens = evenly_spaced(split_tokens(self.data, config.validation_split), config.validation_frames)
        return task, ValidatedTrainingData(
            frames, collate_bev, config, validation=self._frames(tokens), every=config.validation_every
        )

    def _frames(self, tokens: Sequence[str]) -> BevFrames:
        from occlift.training.bev_frames import BevFrames

        config = self.config
        return BevFrames(
            self.data, tokens, height=config.model.image_height, width=config.model.image_width,
            classes=config.model.classes, blind=config.blind, cache_bytes=config.cache_bytes,
        )  # fmt: skip
