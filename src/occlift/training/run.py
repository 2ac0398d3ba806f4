"""One way to train: a specification goes in, a run folder comes out.

There is a specification per kind of training: `OccupancyTraining`, `RenderingTraining`, `OccFeatPretraining` and
`BevFinetuning`, in the modules of their names. Files are the interface to what follows: `occlift.training.predict` and
`occlift.evaluation` read the checkpoint that a run leaves.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from occlift.errors import ConfigError
from occlift.runtime.extras import missing_extra
from occlift.runtime.folder_lock import sole_writer
from occlift.runtime.interrupts import going_on
from occlift.runtime.launchers import check_world
from occlift.runtime.processes import run_in_processes
from occlift.scenes.dataset import DrivingDataset
from occlift.training.loop import LoopSettings, TrainRun, check_start, fit, interrupted
from occlift.training.run_folder import LAST_CHECKPOINT, check_run_folder, checkpoint_in, claim_run_folder

if TYPE_CHECKING:
    from occlift.training.loaders import TrainingData
    from occlift.training.one_cycle import OneCycleTask

Frames = TypeVar("Frames")
Counts = TypeVar("Counts")


@dataclass(frozen=True, kw_only=True)
class TrainingSpec(ABC, Generic[Frames, Counts]):
    """What is trained, on what, and how. Other processes get it pickled and build the same from it.

    Attributes:
        data: data set.
        config: what decides the result together with the data set, the labels and the first weights.
    """

    data: DrivingDataset
    config: LoopSettings

    @property
    @abstractmethod
    def description(self) -> str:
        """Of the progress."""

    @property
    def ema_decay(self) -> float | None:
        """Of averaged weights; None: none are kept."""
        return None

    @abstractmethod
    def check(self) -> None:
        """Refuses what does not go together or is not there, before anything is read at length or written.

        Raises:
            ConfigError: choices exclude each other.
            DataError: an input is missing.
        """

    @abstractmethod
    def frames(self) -> Frames:
        """Key frames to train on, as tensors."""

    def resolved(self, frames: Frames) -> TrainingSpec[Frames, Counts]:
        """The same with what follows from data and inputs written into the configuration."""
        return self

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What makes a run the one that it is, as `run_identity` puts it together."""

    def remarks(self, frames: Frames) -> dict[str, str]:
        """What readers of the run should know of its data, by what it is about; stands in `run.json` and is printed."""
        return {}

    @abstractmethod
    def counts(self, frames: Frames) -> Counts:
        """What the task must know of all labels; counted once, for all processes."""

    @abstractmethod
    def build(self, frames: Frames, counts: Counts, out: Path) -> tuple[OneCycleTask, TrainingData]:
        """The task and its loaders, in the process that trains.

        Args:
            out: the run folder.
        """


def run_training(
    spec: TrainingSpec[Any, Any],
    out: Path,
    *,
    resume: Path | None = None,
    max_steps: int | None = None,
    tensorboard: bool = False,
) -> TrainRun:
    """Trains and leaves a run folder: `run.json` (configuration, versions, seed), `losses.csv`, `last.ckpt`.

    Args:
        out: the run folder.
        resume: a checkpoint of a run of the same specification, or the run's folder; its next step is the one that
            would have followed.
        max_steps: stops after this step of the schedule; None: at its end.
        tensorboard: writes what stands in `losses.csv` as events for TensorBoard too, into `out/tensorboard`.

    Raises:
        ConfigError: choices exclude each other; `out` holds another run, or a run and nothing says to resume it; or a
            package of the extra train is missing.
        DataError: data, labels or a checkpoint are missing or damaged.
        TrainingDiverged: a term of the loss is not finite; the text names step and term.
        AnotherRun: another run is writing into `out`.
        DiskFull: the disk is full.
    """
    started = time.monotonic()
    if missing := missing_extra("train", "training", "lightning", "transformers"):
        raise ConfigError(missing)
    if tensorboard and (missing := missing_extra("tensorboard", "--tensorboard", "tensorboard")):
        raise ConfigError(missing)
    resume = None if resume is None else checkpoint_in(resume)
    check_start(spec.config, resume, max_steps)
    world = check_world(spec.config.devices)
    spec.check()
    with going_on(lambda: interrupted(out / LAST_CHECKPOINT)):
        frames = spec.frames()
        spec = spec.resolved(frames)
        check_run_folder(out, spec.identity(), resume=resume)
        # Processes that were started together are one run.
        with sole_writer(out) if world is None or world.rank == 0 else nullcontext():
            remarks = spec.remarks(frames)
            claim_run_folder(out, spec.identity(), resume=resume, remarks=remarks)
            train = partial(
                _train, spec, spec.counts(frames), out, started=started, resume=resume, max_steps=max_steps,
                tensorboard=tensorboard,
            )  # fmt: skip
            if spec.config.devices > 1 and world is None:
                return replace(run_in_processes(train, spec.config.devices), remarks=remarks)
            return replace(train(frames=frames), remarks=remarks)


def _train(
    spec: TrainingSpec[Any, Any],
    counts: Any,
    out: Path,
    *,
    started: float,
    resume: Path | None,
    max_steps: int | None,
    tensorboard: bool,
    frames: Any = None,
) -> TrainRun:
    """Trains in one of the processes; `frames` spares a process that has them to read them again."""
    import lightning

    if frames is None:
        frames = spec.frames()
    # The network's first weights are the only draw from the global generator.
    lightning.seed_everything(spec.config.seed, verbose=False)
    task, loaders = spec.build(frames, counts, out)
    return fit(
        task, loaders, out, spec.config, description=spec.description, started=started, resume=resume,
        max_steps=max_steps, ema_decay=spec.ema_decay, tensorboard=tensorboard,
    )  # fmt: skip
