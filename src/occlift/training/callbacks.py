"""What a training leaves behind while it runs: a log of every scalar, and progress."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from occlift.errors import DataError
from occlift.runtime.extras import needs_extra
from occlift.runtime.files import disk_full_said, replacing
from occlift.runtime.progress import note, remark, track
from occlift.runtime.words import duration

with needs_extra("train", "training"):
    import lightning

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_COLUMNS: Final = ("step", "name", "value")

_TIMED_STEPS: Final = 2
_LONG_S: Final = 12 * 3600.0
"""A training on a CPU that takes longer is warned of."""


class ScalarLog(lightning.Callback):
    """Appends every logged scalar to a CSV file with the columns step, name, value.

    `step_seconds` is among them: from a batch in memory to updated weights. One row per value, because losses come at
    every step and scores rarely. `step` counts optimisation steps: the row of the first step says 1. A resumed run
    drops the rows behind the step at which it resumes and goes on.

    Args:
        tensorboard: folder that gets the same as events for TensorBoard; None: none.
    """

    def __init__(self, path: Path, *, tensorboard: Path | None = None) -> None:
        self._path, self._tensorboard = path, tensorboard
        self._step_began = 0.0
        self._writer: SummaryWriter | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        text = self._path.read_bytes().decode() if self._path.exists() else ""
        # A run that was killed while it wrote left a line without its end; that step comes again.
        whole_lines = text[: text.rfind("\n") + 1]
        kept = [row for row in _rows(self._path, whole_lines) if row[0] <= trainer.global_step]
        with replacing(self._path) as file:
            file.write(_csv([_COLUMNS, *((step, name, repr(value)) for step, name, value in kept)]).encode())
        if self._tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._tensorboard), purge_step=trainer.global_step + 1)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._writer:
            self._writer.close()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any, **__: Any
    ) -> None:
        self._step_began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any, **__: Any
    ) -> None:
        # Reading the losses waits for an accelerator, so the clock is asked afterwards.
        scalars = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("val_")}
        self._append(trainer, {**scalars, "step_seconds": time.perf_counter() - self._step_began})

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._append(trainer, {k: v for k, v in trainer.callback_metrics.items() if k.startswith("val_")})

    def _append(self, trainer: lightning.Trainer, metrics: dict[str, Any]) -> None:
        if trainer.is_global_zero:
            rows = [(trainer.global_step, name, repr(float(value))) for name, value in metrics.items()]
            with disk_full_said(self._path), self._path.open("ab") as file:
                file.write(_csv(rows).encode())
            if self._writer:
                for name, value in metrics.items():
                    self._writer.add_scalar(name, float(value), trainer.global_step)


def read_scalars(path: Path) -> list[tuple[int, str, float]]:
    """The rows of a `ScalarLog`.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a log with the columns {', '.join(_COLUMNS)} ({error})") from error
    return _rows(path, text)


def _rows(path: Path, text: str) -> list[tuple[int, str, float]]:
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""))
        return [(int(row["step"]), row["name"], float(row["value"])) for row in reader]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a log with the columns {', '.join(_COLUMNS)} ({error})") from error


def _csv(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


class ShownProgress(lightning.Callback):
    """Reports every step, with its loss, to `occlift.runtime.progress`; on a CPU, says soon if it will take days."""

    def __init__(self, description: str, *, last_step: int) -> None:
        self._description, self._last_step = description, last_step
        self._steps: Iterator[int] = iter(())
        self._first_ended = 0.0
        self._done = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.is_global_zero:
            self._steps = track(range(trainer.global_step, self._last_step), self._description)
            next(self._steps, None)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any, **__: Any
    ) -> None:
        if not trainer.is_global_zero:
            return
        if (loss := trainer.callback_metrics.get("loss")) is not None:
            remark(f"loss {float(loss):.3f}")
        self._done += 1
        if self._done == 1:
            # The first step allocates and compiles.
            self._first_ended = time.monotonic()
        elif self._done == 1 + _TIMED_STEPS and trainer.strategy.root_device.type == "cpu":
            self._warn_if_long((time.monotonic() - self._first_ended) / _TIMED_STEPS, trainer.global_step)
        next(self._steps, None)

    def _warn_if_long(self, step_s: float, step: int) -> None:
        left_s = step_s * (self._last_step - step)
        if left_s > _LONG_S:
            note(
                f"! a step takes {step_s:.1f} s on this CPU, the {self._last_step - step} steps that are left about "
                f"{duration(left_s)}: train on a GPU, with fewer steps, or a smaller network"
            )
