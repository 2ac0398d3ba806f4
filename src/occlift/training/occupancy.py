"""EasyOcc trained on labels, and its predictions.

Both functions take paths and a configuration and return a frozen result; files are the interface between them. Scores
and the baselines beside which they must be read: `occlift.evaluation.baselines`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from occlift.errors import ConfigError, DataError
from occlift.label_space import FREE, NUM_CLASSES, UNKNOWN
from occlift.labels.files import label_paths, prediction_path, read_label, write_prediction
from occlift.losses.occupancy import OccupancyLossConfig, UnknownVoxels
from occlift.models.easyocc import EasyOcc, EasyOccConfig
from occlift.runtime.devices import Precision, default_device, lightning_precision, torch_device
from occlift.runtime.processes import run_in_processes, started_by_others
from occlift.runtime.progress import track
from occlift.scenes.dataset import DrivingDataset, open_dataset, split_tokens
from occlift.training.augment import AugmentConfig
from occlift.training.loop import TrainRun, check_start, fit, prepare_network
from occlift.training.optimizer import OptimizerConfig
from occlift.training.run_folder import claim_run_folder, peak_memory_bytes


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run. Together with the data set and the labels it decides the result.

    Attributes:
        split: of the data set, trained on.
        validation_split: scored during the training where validation labels are given.
        validation_frames: at most so many of them, evenly spaced.
        validation_every: steps between two scores.
        checkpoint_every: steps between two checkpoints; there is always one at the end.
        batch_size: key frames per process and step.
        mirror: half of the key frames are seen with left and right exchanged.
        mirror_front_back: half of them, drawn separately, with front and back exchanged.
        augment: random changes of the images, the cameras with them.
        confidence: voxels count in the cross-entropy as much as their labels are sure (`occlift label --confidence`).
        ema_decay: of averaged weights, with which is validated and predicted; None: none are kept.
        gradient_checkpointing: computes activations again instead of keeping them: less memory, more time.
        compile: encoder and 3-D CNN go through `torch.compile`.
        blind: trains on grey images: the baseline that never sees.
        devices: processes; more than one trains with DistributedDataParallel.
        workers: processes that read ahead, per training process.
        cache_bytes: decoded frames kept in memory.
    """

    model: EasyOccConfig = field(default_factory=EasyOccConfig.demo)
    # 1/log f: with 1/√f the free class counts so little that rays are filled from front to back (docs/results.md).
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
        """The paper's network on all known voxels; the schedule is the paper's 12 epochs at four frames a step."""
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


def train(
    root: Path,
    labels: Path,
    out: Path,
    config: TrainConfig,
    *,
    validation_labels: Path | None = None,
    resume: Path | None = None,
    max_steps: int | None = None,
) -> TrainRun:
    """Trains an EasyOcc on labels in Occ3D's layout and leaves a run folder.

    Args:
        root: the folder of a data set.
        labels: of the training split.
        out: the run folder: `run.json` (config, versions, seed, label manifest), `losses.csv`, `last.ckpt`.
        validation_labels: a folder to score against while training; the scores are logged and decide nothing.
        resume: a checkpoint of a run with the same configuration; its next step is the one that would have followed.
        max_steps: stops after this step of the schedule; None: at its end.

    Raises:
        ConfigError: `out` holds a run of another configuration, or a run and nothing says to resume it.
        DataError: data or labels are missing or damaged.
        TrainingDiverged: a term of the loss is not finite; the text names step and term.
    """
    started = time.monotonic()
    check_start(config, resume, max_steps)
    data = open_dataset(root)
    if validation_labels is not None:
        _check_all_there(validation_labels, data, _validation_tokens(data, config))
    counts = class_counts(data, labels, split_tokens(data, config.split), unknown=config.loss.unknown)
    claim_run_folder(out, config.to_dict(), labels, resume=resume)
    arguments: dict[str, Any] = {
        "root": root, "labels": labels, "out": out, "config": config, "validation_labels": validation_labels,
        "resume": resume, "max_steps": max_steps, "counts": counts.tolist(), "started": started,
    }  # fmt: skip
    if config.devices > 1 and not started_by_others():
        return run_in_processes(_train_here, arguments, config.devices)
    return _train_here(**arguments)


def _train_here(
    root: Path,
    labels: Path,
    out: Path,
    config: TrainConfig,
    *,
    validation_labels: Path | None,
    resume: Path | None,
    max_steps: int | None,
    counts: Sequence[int],
    started: float,
) -> TrainRun:
    """`train` in one of its processes; `counts` are voxels per class, `started` is a reading of the monotonic clock."""
    import lightning

    from occlift.training.frames import OccupancyFrames, collate_frames
    from occlift.training.loaders import TrainingData, ValidatedTrainingData
    from occlift.training.occupancy_task import OccupancyTask, as_hyper_parameters

    data = open_dataset(root)
    tokens = split_tokens(data, config.split)
    size: dict[str, Any] = {"height": config.model.image_height, "width": config.model.image_width}
    frames = OccupancyFrames(
        data, tokens, **size, labels=labels, confidence=config.confidence, blind=config.blind,
        cache_bytes=config.cache_bytes,
    )  # fmt: skip
    validation = None
    if validation_labels is not None:
        validation = OccupancyFrames(
            data,
            _validation_tokens(data, config),
            **size,
            labels=validation_labels,
            blind=config.blind,
            cache_bytes=config.cache_bytes // 4,
        )

    # The network's first weights are the only draw from the global generator.
    lightning.seed_everything(config.seed, verbose=False)
    task = OccupancyTask(
        **as_hyper_parameters(config.model, config.loss, config.optimizer),
        class_counts=counts,
        seed=config.seed,
        mirror=config.mirror,
        mirror_front_back=config.mirror_front_back,
        augment=asdict(config.augment),
        blind=config.blind,
    )
    prepare_network(
        task.model, devices=config.devices, gradient_checkpointing=config.gradient_checkpointing,
        compiled=config.compile,
    )  # fmt: skip
    order: dict[str, Any] = {
        "train": frames, "collate": collate_frames, "batch_size": config.batch_size, "steps": config.optimizer.steps,
        "seed": config.seed, "workers": config.workers,
    }  # fmt: skip
    loaders = TrainingData(**order) if validation is None else ValidatedTrainingData(validation=validation, **order)
    return fit(
        task,
        loaders,
        out,
        config,
        description="train blind" if config.blind else "train",
        train_frames=len(tokens),
        started=started,
        resume=resume,
        max_steps=max_steps,
        validation_every=None if validation is None else config.validation_every,
        ema_decay=config.ema_decay,
    )


def _validation_tokens(data: DrivingDataset, config: TrainConfig) -> list[str]:
    """Evenly spaced over the split."""
    every = split_tokens(data, config.validation_split)
    chosen = np.linspace(0, len(every) - 1, min(config.validation_frames, len(every))).round().astype(int)
    return [every[i] for i in chosen]


def _check_all_there(labels: Path, data: DrivingDataset, tokens: Sequence[str]) -> None:
    """The first validation may be hours away: what it lacks is said before."""
    missing = [path for path in label_paths(labels, data, tokens) if not path.exists()]
    if missing:
        raise DataError(
            f"{missing[0]}: no such file ({len(missing)} of {len(tokens)} labels to validate with are missing); give "
            "the folder with the labels of the validation split, gts/<scene>/<token>/labels.npz"
        )


@dataclass(frozen=True, kw_only=True)
class PredictRun:
    """Predictions that were written.

    Attributes:
        frames: how many.
        seconds: of this call, reading and writing included.
        model_seconds: inside the network.
        peak_memory_bytes: the largest resident size that the process ever had.
        random_weights: no checkpoint was given.
    """

    out: Path
    frames: int
    seconds: float
    model_seconds: float
    peak_memory_bytes: int
    random_weights: bool


def predict(
    root: Path,
    out: Path,
    *,
    checkpoint: Path | None = None,
    model: EasyOccConfig | None = None,
    split: str = "val",
    tokens: Sequence[str] | None = None,
    precision: Precision = "auto",
    device: str | None = None,
) -> PredictRun:
    """Writes a prediction per key frame in the layout of Occ3D submissions.

    Args:
        checkpoint: of `train` or of `occlift.training.rendering.train_rendering`; a network that was trained blind is
            shown grey images again.
        model: without a checkpoint: a network with random weights of this shape, to measure time and memory.
        split: of the data set; unless `tokens` lists the samples.
        device: as torch names it; None: an accelerator where there is one, else the CPU.

    Raises:
        ConfigError: both or neither of `checkpoint` and `model` are given.
        DataError: checkpoint or data are missing or damaged.
    """
    import torch

    from occlift.training.checkpoint import load_easyocc, trained_blind
    from occlift.training.frames import OccupancyFrames

    started = time.monotonic()
    if (checkpoint is None) == (model is None):
        raise ConfigError("give either a checkpoint, or the configuration of a network with random weights")
    if checkpoint is not None:
        network, blind = load_easyocc(checkpoint), trained_blind(checkpoint)
    else:
        assert model is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network, blind = EasyOcc(model).eval(), False
    data = open_dataset(root)
    frames = OccupancyFrames(
        data,
        split_tokens(data, split) if tokens is None else tokens,
        height=network.config.image_height,
        width=network.config.image_width,
        blind=blind,
    )
    target = torch_device(device or default_device())
    network.to(target)
    bf16 = lightning_precision(precision, target.type) == "bf16-mixed"
    model_seconds = 0.0
    out.mkdir(parents=True, exist_ok=True)
    for index in track(range(len(frames)), "predict"):
        frame = frames[index].to(target)
        before = time.monotonic()
        with torch.inference_mode(), torch.autocast(target.type, dtype=torch.bfloat16, enabled=bf16):
            semantics = network(frame.images, frame.rig)[0].argmax(0).to(torch.uint8).cpu().numpy()
        model_seconds += time.monotonic() - before
        write_prediction(prediction_path(out, frame.tokens[0]), semantics)
    return PredictRun(
        out=out,
        frames=len(frames),
        seconds=time.monotonic() - started,
        model_seconds=model_seconds,
        peak_memory_bytes=peak_memory_bytes(),
        random_weights=checkpoint is None,
    )


def class_counts(
    data: DrivingDataset, labels: Path, tokens: Sequence[str], *, unknown: UnknownVoxels = "ignore"
) -> np.ndarray:
    """Voxels per class over the labels of some frames, int64 [18].

    Args:
        unknown: whether unknown voxels are left out or count as free, as in the loss.

    Raises:
        DataError: a label is missing or damaged, or every voxel of all of them is unknown.
    """
    counts = np.zeros(UNKNOWN + 1, np.int64)
    for path in track(label_paths(labels, data, tokens), "count classes"):
        counts += np.bincount(read_label(path, allow_unknown=True).semantics.ravel(), minlength=UNKNOWN + 1)
    if not counts[:NUM_CLASSES].any():
        raise DataError(f"{labels}: every voxel of all {len(tokens)} labels is unknown; nothing can be learned")
    if unknown == "free":
        counts[FREE] += counts[UNKNOWN]
    return counts[:NUM_CLASSES]
