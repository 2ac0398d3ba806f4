"""The loop that every training here runs in: what is written while it runs, and how it is resumed."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Union

from occlift.errors import ConfigError
from occlift.runtime.allocator import keep_freed_memory
from occlift.runtime.devices import Precision, default_device, lightning_precision
from occlift.runtime.differences import differences
from occlift.runtime.extras import needs_extra
from occlift.runtime.launchers import cluster_environment
from occlift.runtime.threads import launch_kernel_threads
from occlift.training.optimizer import OptimizerConfig
from occlift.training.run_folder import LAST_CHECKPOINT

if TYPE_CHECKING:
    import lightning

    from occlift.models.bev_network import BevNetwork
    from occlift.models.easyocc import EasyOcc
    from occlift.training.loaders import TrainingData
    from occlift.training.one_cycle import OneCycleTask


Trainable = Union["EasyOcc", "BevNetwork"]


def interrupted(checkpoint: Path, when: str = "") -> str:
    """What the user of an interrupted training is told.

    Args:
        checkpoint: that goes on, if it was due already.
        when: goes on after "interrupted".
    """
    if checkpoint.exists():
        return f"interrupted{when}; go on with --resume {checkpoint}"
    return f"interrupted{when}; no checkpoint was due yet: run the same command again"


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C ended a training; the text says how it goes on."""

    def __init__(self, step: int, checkpoint: Path) -> None:
        super().__init__(interrupted(checkpoint, f" after step {step}"))


class LoopSettings(Protocol):
    """What the configuration of every training says about the loop that it runs in."""

    @property
    def optimizer(self) -> OptimizerConfig: ...

    @property
    def checkpoint_every(self) -> int: ...

    @property
    def precision(self) -> Precision: ...

    @property
    def devices(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def workers(self) -> int: ...

    @property
    def seed(self) -> int: ...

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class TrainRun:
    """A training run that ended.

    Attributes:
        checkpoint: with the state of the optimiser; it can be resumed from.
        steps: done since the beginning, those of a resumed run included.
        seconds: of this call.
        losses: CSV with the columns step, name, value (`occlift.training.callbacks.read_scalars`).
        train_frames: how many.
        remarks: what readers should know of its data (`TrainingSpec.remarks`).
    """

    checkpoint: Path
    steps: int
    seconds: float
    losses: Path
    train_frames: int
    remarks: Mapping[str, str] = field(default_factory=dict)


def check_start(settings: LoopSettings, resume: Path | None, max_steps: int | None) -> None:
    """What can be refused before anything is read or written.

    Raises:
        ConfigError: a number is out of range.
        DataError: the checkpoint to resume from is missing or damaged.
    """
    from occlift.training.checkpoint import checkpoint_parts

    for name, least in (("devices", 1), ("batch_size", 1), ("checkpoint_every", 1), ("workers", 0), ("seed", 0)):
        if (value := getattr(settings, name)) < least:
            raise ConfigError(f"{name} must be at least {least}, got {value}")
    if max_steps is not None and max_steps < 1:
        raise ConfigError(f"max_steps must be at least 1, got {max_steps}")
    if resume is not None:
        checkpoint_parts(resume)


def fit(
    task: OneCycleTask,
    data: TrainingData,
    out: Path,
    settings: LoopSettings,
    *,
    description: str,
    started: float,
    resume: Path | None,
    max_steps: int | None,
    ema_decay: float | None = None,
    tensorboard: bool = False,
) -> TrainRun:
    """Trains in this process, from the beginning or from a checkpoint, and leaves `last.ckpt` in the run folder.

    Args:
        description: of the progress.
        started: the reading of the monotonic clock from which seconds are counted.
        resume: a checkpoint of the same run.
        max_steps: stops after this step of the schedule; None: at its end.
        ema_decay: of averaged weights; None: none are kept.
        tensorboard: writes events for TensorBoard too, into the run folder.

    Raises:
        ConfigError: the checkpoint is of a run with another configuration; there are fewer key frames to validate with
            than processes.
        TrainingDiverged: a term of the loss is not finite, or the gradient; the text names step and term.
        TrainingInterrupted: by Ctrl-C.
    """
    from occlift.training.loaders import worker_errors_said

    if resume is not None:
        _check_same_training(resume, task)
    if data.validation_every is not None and data.validation_frames < settings.devices:
        raise ConfigError(
            f"{data.validation_frames} key frames to validate with are too few for {settings.devices} processes, of "
            "which each takes a share: validate with more, or train on fewer devices"
        )
    if settings.workers == 0:
        # Key frames are read in this process, some of them by compiled kernels. Forked workers run those on one thread.
        launch_kernel_threads()
    keep_freed_memory()
    steps = settings.optimizer.steps
    checkpoint = out / LAST_CHECKPOINT
    with quiet_lightning():
        trainer = make_trainer(
            out,
            description,
            last_step=min(steps, max_steps or steps),
            checkpoint_every=settings.checkpoint_every,
            validation_every=None if data.validation_every is None else min(data.validation_every, steps),
            precision=settings.precision,
            devices=settings.devices,
            ema_decay=ema_decay,
            tensorboard=tensorboard,
        )
        try:
            with worker_errors_said():
                trainer.fit(task, data, ckpt_path=resume, weights_only=True if resume else None)
        except SystemExit as end:
            # Lightning's answer to Ctrl-C, which it keeps to itself.
            raise TrainingInterrupted(trainer.global_step, checkpoint) from end
        trainer.save_checkpoint(checkpoint)
    return TrainRun(
        checkpoint=checkpoint,
        steps=trainer.global_step,
        seconds=time.monotonic() - started,
        losses=out / "losses.csv",
        train_frames=data.train_frames,
    )


def _check_same_training(resume: Path, task: OneCycleTask) -> None:
    from occlift.training.checkpoint import checkpoint_parts

    # The optimiser's state and the schedule come from the file: other settings would be recorded and not followed.
    # Those from before cameras were recorded say nothing about them.
    there = {"cameras": task.hparams["cameras"], **checkpoint_parts(resume)["hyper_parameters"]}
    if unlike := differences(there, task.hparams):
        raise ConfigError(
            f"{resume}: a checkpoint of a training with other settings ({unlike}); resume it with those that are "
            "there, or start a training of its own"
        )


def make_trainer(
    out: Path,
    description: str,
    *,
    last_step: int,
    checkpoint_every: int,
    validation_every: int | None,
    precision: Precision,
    devices: int,
    ema_decay: float | None = None,
    tensorboard: bool = False,
) -> lightning.Trainer:
    """A trainer that logs every scalar and keeps one checkpoint, both in the run folder `out`.

    Args:
        description: of the progress.
        last_step: after which the training stops.
        checkpoint_every: steps between two checkpoints.
        validation_every: steps between two validations; None: none.
        devices: processes; more than one trains with DistributedDataParallel, and each must be running already
            (`occlift.runtime.processes`).
        ema_decay: of averaged weights; None: none are kept.
        tensorboard: writes events for TensorBoard too, into `out`.

    Raises:
        ConfigError: unknown precision, or a decay outside (0, 1).
    """
    with needs_extra("train", "training"):
        import lightning
        from lightning.pytorch.callbacks import ModelCheckpoint

    from occlift.training.averaging import WeightAverage
    from occlift.training.callbacks import ScalarLog, ShownProgress
    from occlift.training.checkpoint_file import WholeCheckpoints

    return lightning.Trainer(
        accelerator=default_device(),
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision=lightning_precision(precision, default_device()),
        max_steps=last_step,
        val_check_interval=validation_every,
        check_val_every_n_epoch=1 if validation_every is None else None,
        limit_val_batches=0 if validation_every is None else None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=False,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[WholeCheckpoints(), cluster_environment()],
        callbacks=[
            *([] if ema_decay is None else [WeightAverage(ema_decay)]),
            ScalarLog(out / "losses.csv", tensorboard=out / "tensorboard" if tensorboard else None),
            ShownProgress(description, last_step=last_step),
            # One file, rewritten: the state to resume from.
            ModelCheckpoint(
                dirpath=out,
                filename=Path(LAST_CHECKPOINT).stem,
                every_n_train_steps=checkpoint_every,
                save_on_train_epoch_end=False,
                enable_version_counter=False,
            ),
        ],
        default_root_dir=out,
    )


def prepare_network(
    network: Trainable, *, devices: int, gradient_checkpointing: bool = False, compiled: bool = False
) -> None:
    """Makes a network ready for how it will be trained; what it computes stays the same.

    Args:
        devices: processes; with more than one, batch norms take their statistics over all of them.
        gradient_checkpointing: activations are computed again instead of kept.
        compiled: encoder and 3-D CNN go through `torch.compile`.

    Raises:
        ConfigError: no compiler was found, or both ways of planning memory were asked for.
    """
    from occlift.models.synchronised_norm import synchronise_batch_norms

    if devices > 1:
        synchronise_batch_norms(network, device_type=default_device())
    if gradient_checkpointing and compiled:
        raise ConfigError(
            "gradient_checkpointing and compile exclude each other: the compiler plans itself what it keeps"
        )
    if gradient_checkpointing:
        network.recompute_activations()
    if compiled:
        _check_compiler(default_device())
        network.compile_networks()


def _check_compiler(device_type: str) -> None:
    if device_type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise ConfigError("compile needs the package triton on a GPU: install it, or train without compile")
    elif not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")):
        raise ConfigError(
            "compile needs a C++ compiler, and neither g++ nor clang++ was found (nor what CXX names): install one "
            "(Debian: apt-get install g++), or train without compile"
        )


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keeps back what Lightning says about choices that were made here on purpose."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in (
            # A resumed run lives in the folder that it began in.
            ".*Checkpoint directory .* exists and is not empty",
            # Whether there is something to validate with is the caller's choice.
            ".*You defined a `validation_step` but have no `val_dataloader`",
            # The order of the frames follows from the step (`TrainingOrder`).
            ".*your dataloader is not resumable",
            # Decoded frames are cached in the training process.
            ".*does not have many workers",
            # Scores are of all processes before they are logged.
            ".*It is recommended to use `self.log\\(.*sync_dist=True",
            # Inside Lightning.
            ".*isinstance\\(treespec, LeafSpec\\)",
        ):
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
