"""Options that every training command has, and how each of them trains and says what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from occlift.cli.options import Given, options
from occlift.runtime.launchers import is_first_process
from occlift.runtime.words import counted

if TYPE_CHECKING:
    from occlift.training.run import TrainingSpec


@dataclass(frozen=True, kw_only=True)
class LoopOptions(Given):
    """Schedule, hardware and files of a training."""

    out: Annotated[Path | None, arg(help="folder of the run", help_behavior_hint="(default: runs/RECIPE)")] = None
    max_steps: Annotated[
        int | None, arg(help="step of the schedule to stop after", help_behavior_hint="(default: the last)")
    ] = None
    resume: Annotated[
        Path | None,
        arg(help="checkpoint to resume from, or the folder of its run", help_behavior_hint="(default: start anew)"),
    ] = None
    tensorboard: Annotated[bool, arg(help="write losses and scores for TensorBoard too: tensorboard --logdir runs")] = (
        False
    )


def loop_options(configs: Callable[[], Mapping[str, Any]], *, pretrained: str = "model.pretrained") -> object:
    """What makes tyro parse `LoopOptions` and the fields that every configuration of a training has."""
    return options(
        configs, "optimizer.steps", "batch_size", "optimizer.learning_rate", "seed", "checkpoint_every", "precision",
        "devices", "workers", pretrained, base=LoopOptions,
    )  # fmt: skip


def train_as(spec: TrainingSpec[Any, Any], recipe: str, loop: LoopOptions) -> None:
    """Trains; prints where the checkpoint is, and what it took, once, however many processes trained."""
    from occlift.training.run import run_training
    from occlift.training.run_folder import peak_memory_bytes

    run = run_training(
        spec, loop.out or Path("runs") / recipe, resume=loop.resume, max_steps=loop.max_steps,
        tensorboard=loop.tensorboard,
    )  # fmt: skip
    if is_first_process():
        for about, remark in run.remarks.items():
            print(f"{about}: {remark}")
        print(
            f"{run.checkpoint}: step {run.steps}, {counted(run.train_frames, 'frame')}, "
            f"{run.seconds:.0f} s, peak memory "
            f"{peak_memory_bytes() / 1e9:.1f} GB; see {run.losses}"
        )
