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
    """How long, how fast, where, and on what."""

    out: Annotated[Path | None, arg(help="run folder; by default runs/RECIPE")] = None
    steps: Annotated[int | None, arg(help="length of the schedule; by default the recipe's")] = None
    max_steps: Annotated[int | None, arg(help="stop after this step of the schedule")] = None
    batch_size: Annotated[int | None, arg(help="key frames per process and step; by default the recipe's")] = None
    learning_rate: Annotated[float | None, arg(help="the highest; by default the recipe's")] = None
    seed: int = 0
    checkpoint_every: Annotated[int | None, arg(help="steps between two checkpoints")] = None
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    devices: Annotated[int, arg(help="processes; more than one trains with DistributedDataParallel")] = 1
    workers: Annotated[int, arg(help="reading processes per training process")] = 0
    pretrained: Annotated[str | None, arg(help="name or folder of backbone weights (transformers)")] = None
    resume: Annotated[Path | None, arg(help="a checkpoint to go on from")] = None

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
