"""Options that every training command has, and how each of them trains and says what became of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar, cast

from tyro.conf import arg

if TYPE_CHECKING:
    from occlift.training.loop import LoopSettings
    from occlift.training.run import TrainingSpec

    Settings = TypeVar("Settings", bound=LoopSettings)


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """Schedule, hardware and files of a training."""

    out: Annotated[Path | None, arg(help="folder of the run", help_behavior_hint="(default: runs/RECIPE)")] = None
    steps: Annotated[
        int | None, arg(help="number of steps of the schedule", help_behavior_hint="(default: from the recipe)")
    ] = None
    max_steps: Annotated[
        int | None, arg(help="step of the schedule to stop after", help_behavior_hint="(default: the last)")
    ] = None
    batch_size: Annotated[
        int | None,
        arg(help="number of key frames per process and step", help_behavior_hint="(default: from the recipe)"),
    ] = None
    learning_rate: Annotated[
        float | None, arg(help="peak learning rate", help_behavior_hint="(default: from the recipe)")
    ] = None
    seed: Annotated[int, arg(help="random seed of the training")] = 0
    checkpoint_every: Annotated[
        int | None, arg(help="number of steps between two checkpoints", help_behavior_hint="(default: from the recipe)")
    ] = None
    precision: Annotated[
        Literal["auto", "bf16", "fp32"], arg(help="arithmetic; auto is bf16 where the hardware computes in it")
    ] = "auto"
    devices: Annotated[
        int, arg(help="number of training processes; more than one train with DistributedDataParallel")
    ] = 1
    workers: Annotated[int, arg(help="number of reading processes per training process")] = 0
    pretrained: Annotated[
        str | None,
        arg(help="name or folder of backbone weights (transformers)", help_behavior_hint="(default: random weights)"),
    ] = None
    resume: Annotated[
        Path | None, arg(help="checkpoint to resume from", help_behavior_hint="(default: start anew)")
    ] = None

    def folder(self, recipe: str) -> Path:
        """Of the run."""
        return self.out or Path("runs") / recipe

    def applied(self, config: Settings) -> Settings:
        """A recipe's configuration with these options; the backbone's weights are the caller's to place."""
        optimizer = replace(config.optimizer, **_given(steps=self.steps, learning_rate=self.learning_rate))
        changed = replace(
            cast("Any", config), optimizer=optimizer, seed=self.seed, precision=self.precision, devices=self.devices,
            workers=self.workers, **_given(batch_size=self.batch_size, checkpoint_every=self.checkpoint_every),
        )  # fmt: skip
        return cast("Settings", changed)


def _given(**options: float | None) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


LOOP_DEFAULTS: Final = LoopOptions()


def train_as(spec: TrainingSpec[Any, Any], recipe: str, loop: LoopOptions) -> None:
    """Trains; prints where the checkpoint is, and what it took, once, however many processes trained."""
    from occlift.training.run import run_training
    from occlift.training.run_folder import peak_memory_bytes

    run = run_training(spec, loop.folder(recipe), resume=loop.resume, max_steps=loop.max_steps)
    if is_first_process():
        print(
            f"{run.checkpoint}: step {run.steps}, {run.train_frames} frames, {run.seconds:.0f} s, peak memory "
            f"{peak_memory_bytes() / 1e9:.1f} GB; see {run.losses}"
        )


def is_first_process() -> bool:
    """False in the processes that a training on several devices starts by this same command."""
    return os.environ.get("LOCAL_RANK", "0") == "0"
