"""Bird's-eye-view networks: trained on a share of the labels, from random or from pretrained weights, and scored.

The protocol of OccFeat (arXiv 2404.14027): the same network, the same labels, the same schedule; what differs is where
the first weights come from.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from occlift.errors import ConfigError
from occlift.losses.bev import BevLossConfig
from occlift.metrics.bev import BevCounts
from occlift.models.bev_network import Architecture, BevNetworkConfig
from occlift.runtime.devices import Precision, default_device, lightning_precision, torch_device
from occlift.runtime.processes import run_in_processes, started_by_others
from occlift.runtime.progress import note, track
from occlift.scenes.dataset import open_dataset, split_tokens
from occlift.training.corrupt import Corruption
from occlift.training.label_share import labelled_tokens
from occlift.training.loop import TrainRun, check_start, fit, prepare_network
from occlift.training.optimizer import OptimizerConfig
from occlift.training.run_folder import claim_run_folder

if TYPE_CHECKING:
    from occlift.training.bev_frames import BevFrames
    from occlift.training.pretrained import LoadReport

LABELLED_NAME: Final = "labelled.json"
"""In the run folder: the samples whose labels were used, and what of a pretrained network was loaded."""

_COUNTED_FRAMES: Final = 50


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """A training on a share of the labels. Together with the data set and the first weights it decides the result.

    Attributes:
        learned_balance: how much each term of the loss counts is learned.
        labels: the share of the split's labels that is used (`occlift.training.label_share`).
        label_seed: of the choice.
        split: of the data set, trained on.
        validation_split: scored during the training; the scores are logged and decide nothing.
        validation_frames: at most so many of them, evenly spaced.
        validation_every: steps between two scores; None: none.
        checkpoint_every: steps between two checkpoints; there is always one at the end.
        batch_size: key frames per process and step.
        mirror: half of the key frames are seen with left and right exchanged.
        blind: trains on grey images: the baseline that never sees.
        devices: processes; more than one trains with DistributedDataParallel.
        workers: processes that read ahead, per training process.
        cache_bytes: decoded frames and their truth kept in memory.
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
    def paper(cls, architecture: Architecture = "simple_bev") -> FinetuneConfig:
        """EfficientNet-B0 on images of 224×400; the schedule is SimpleBEV's, for 16 key frames a step.

        They are those of one process: with four, give each `batch_size=4`.
        """
        return cls(
            model=BevNetworkConfig.paper(architecture),
            optimizer=OptimizerConfig(steps=25_000, learning_rate=3e-4),
            validation_every=5000,
            checkpoint_every=1000,
            batch_size=16,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "model": self.model.to_dict()}


@dataclass(frozen=True, kw_only=True)
class FinetuneRun:
    """A fine-tuning that ended.

    Attributes:
        run: the training.
        loaded: what of the pretrained network was loaded; None: it began with random weights.
    """

    run: TrainRun
    loaded: LoadReport | None


def finetune(
    root: Path,
    out: Path,
    config: FinetuneConfig,
    *,
    pretrained: Path | None = None,
    resume: Path | None = None,
    max_steps: int | None = None,
) -> FinetuneRun:
    """Trains on the share of the labels and leaves a run folder, as `occlift.training.occupancy.train` does.

    Args:
        root: the folder of a data set.
        out: the run folder: `run.json`, `labelled.json`, `losses.csv`, `last.ckpt`.
        pretrained: a checkpoint whose weights are loaded by name; None: random weights, or those of the backbone.
        resume: a checkpoint of a run with the same configuration.
        max_steps: stops after this step of the schedule; None: at its end.

    Raises:
        ConfigError: nothing of the pretrained network fits, or `out` holds another run.
        DataError: data, maps or the checkpoint are missing or damaged.
        TrainingDiverged: a term of the loss is not finite; the text names step and term.
    """
    from occlift.training.checkpoint import checkpoint_parts

    started = time.monotonic()
    check_start(config, resume, max_steps)
    if pretrained is not None:
        # Read here only to be refused before anything is written, with a sentence.
        checkpoint_parts(pretrained)
    tokens = labelled_tokens(open_dataset(root), config.split, config.labels, config.label_seed)
    source = None if pretrained is None else hashlib.sha256(pretrained.read_bytes()).hexdigest()
    claim_run_folder(out, {**config.to_dict(), "pretrained_sha256": source}, None, resume=resume)
    frames = _frames(root, tokens, config)
    counted = np.unique(np.linspace(0, len(tokens) - 1, min(_COUNTED_FRAMES, len(tokens))).round().astype(int))
    prior = np.mean([frames[i].truth[0].float().mean((1, 2)).numpy() for i in counted.tolist()], axis=0)
    arguments: dict[str, Any] = {
        "root": root, "out": out, "config": config, "tokens": tokens, "pretrained": pretrained, "resume": resume,
        "max_steps": max_steps, "prior": prior.tolist(), "started": started,
    }  # fmt: skip
    if config.devices > 1 and not started_by_others():
        return run_in_processes(_finetune_here, arguments, config.devices)
    return _finetune_here(**arguments, frames=frames)


def _frames(root: Path, tokens: Sequence[str], config: FinetuneConfig) -> BevFrames:
    from occlift.training.bev_frames import BevFrames

    return BevFrames(
        open_dataset(root), tokens, height=config.model.image_height, width=config.model.image_width,
        classes=config.model.classes, blind=config.blind, cache_bytes=config.cache_bytes,
    )  # fmt: skip


def _finetune_here(
    root: Path,
    out: Path,
    config: FinetuneConfig,
    *,
    tokens: Sequence[str],
    pretrained: Path | None,
    resume: Path | None,
    max_steps: int | None,
    prior: Sequence[float],
    started: float,
    frames: BevFrames | None = None,
) -> FinetuneRun:
    """`finetune` in one of its processes; `frames` spares a process that has them to read them again."""
    import lightning

    from occlift.training.bev_frames import collate_bev
    from occlift.training.bev_task import BevTask
    from occlift.training.loaders import TrainingData, ValidatedTrainingData
    from occlift.training.pretrained import load_by_name

    frames = frames or _frames(root, tokens, config)
    # The network's first weights are the only draw from the global generator.
    lightning.seed_everything(config.seed, verbose=False)
    task = BevTask(
        model=config.model.to_dict(),
        loss=asdict(config.loss),
        learned_balance=config.learned_balance,
        optimizer=asdict(config.optimizer),
        prior=list(prior),
        seed=config.seed,
        mirror=config.mirror,
        blind=config.blind,
    )
    loaded = None if pretrained is None else load_by_name(task.model, pretrained)
    if loaded is not None:
        # Before the first step: what did not fit may be a reason not to train.
        note(loaded.summary())
    prepare_network(task.model, devices=config.devices)
    _write_account(out, config, tokens, loaded)
    order: dict[str, Any] = {
        "train": frames, "collate": collate_bev, "batch_size": config.batch_size, "steps": config.optimizer.steps,
        "seed": config.seed, "workers": config.workers,
    }  # fmt: skip
    loaders = TrainingData(**order)
    if config.validation_every is not None:
        every = split_tokens(open_dataset(root), config.validation_split)
        chosen = np.linspace(0, len(every) - 1, min(config.validation_frames, len(every))).round().astype(int)
        loaders = ValidatedTrainingData(validation=_frames(root, [every[i] for i in chosen], config), **order)
    run = fit(
        task, loaders, out, config, description="fine-tune", train_frames=len(tokens), started=started, resume=resume,
        max_steps=max_steps, validation_every=config.validation_every,
    )  # fmt: skip
    return FinetuneRun(run=run, loaded=loaded)


def _write_account(out: Path, config: FinetuneConfig, tokens: Sequence[str], loaded: LoadReport | None) -> None:
    account = {
        "share": config.labels,
        "seed": config.label_seed,
        "tokens": list(tokens),
        "loaded": None if loaded is None else asdict(loaded),
    }
    (out / LABELLED_NAME).write_text(json.dumps(account, indent=1), encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class BevEvaluation:
    """Scores of a network on a split.

    Attributes:
        checkpoint: what was scored.
        frames: how many key frames.
        corruption: what was done to the images; None: nothing.
        counts: of the object classes, and of the map classes if the network knows any.
    """

    checkpoint: Path
    frames: int
    corruption: Corruption | None
    counts: tuple[BevCounts, ...]

    def named(self) -> dict[str, float]:
        """Every IoU by its full name, per cent (`occlift.metrics.bev`)."""
        return {name: iou for counts in self.counts for name, iou in counts.named().items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; IoUs that have no cells are None."""
        named: Mapping[str, float] = self.named()
        return {
            "checkpoint": str(self.checkpoint),
            "frames": self.frames,
            "corruption": None if self.corruption is None else asdict(self.corruption),
            "scores": {name: None if np.isnan(iou) else iou for name, iou in named.items()},
        }


def evaluate_bev(
    checkpoint: Path,
    root: Path,
    *,
    split: str = "val",
    corruptions: Sequence[Corruption | None] = (None,),
    precision: Precision = "auto",
    device: str | None = None,
) -> list[BevEvaluation]:
    """Scores a network on a split, once for every way in which its images are corrupted.

    Args:
        checkpoint: of `finetune`; a network that was trained blind is given grey images.
        corruptions: None among them: the images as they are.
        device: as torch names it; None: an accelerator where there is one, else the CPU.

    Raises:
        ConfigError: the network is blind: there is nothing to corrupt.
        DataError: checkpoint, data or maps are missing or damaged.
    """
    import torch

    from occlift.training.bev_frames import BevFrames
    from occlift.training.bev_task import counts_of
    from occlift.training.checkpoint import load_bev_network, trained_blind

    network, blind = load_bev_network(checkpoint), trained_blind(checkpoint)
    config = network.config
    data = open_dataset(root)
    tokens = split_tokens(data, split)
    target = torch_device(device or default_device())
    network.to(target)
    bf16 = lightning_precision(precision, target.type) == "bf16-mixed"
    found = []
    for corruption in corruptions:
        frames = BevFrames(
            data, tokens, height=config.image_height, width=config.image_width, classes=config.classes,
            blind=blind, corruption=corruption,
        )  # fmt: skip
        total: list[BevCounts] = []
        what = "evaluate" if corruption is None else f"{corruption.name} {corruption.strength}"
        for index in track(range(len(frames)), what):
            batch = frames[index].to(target)
            with torch.inference_mode(), torch.autocast(target.type, dtype=torch.bfloat16, enabled=bf16):
                probability = network(batch.frame.images, batch.frame.rig).segmentation.float().sigmoid()
            counts = counts_of(probability, batch)
            total = counts if not total else [a + b for a, b in zip(total, counts, strict=True)]
        found.append(
            BevEvaluation(checkpoint=checkpoint, frames=len(frames), corruption=corruption, counts=tuple(total))
        )
    return found
