"""Loaders of a training whose order continues where the trainer stands, shared among its processes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from occlift.errors import ConfigError, OccliftError
from occlift.runtime.extras import needs_extra
from occlift.runtime.processes import ProcessFailed
from occlift.runtime.progress import track
from occlift.training.frames import TrainingOrder
from occlift.training.loop import LoopSettings

with needs_extra("train", "training"):
    import lightning


class TrainingData(lightning.LightningDataModule):
    """Key frames to train on, in the order of `TrainingOrder`.

    Args:
        train: items are batches of one key frame.
        collate: several items as one batch.
        settings: batch size, length and seed of the run, and the processes that read ahead: without any, the training
            process reads and keeps one cache of decoded frames.

    Attributes:
        train_frames: how many key frames there are to train on.
        validation_frames: how many to validate with, those of all processes together.
        validation_every: steps between two validations, at most the schedule; None: none.
    """

    validation_frames = 0
    validation_every: int | None = None

    def __init__(self, train: Dataset[Any], collate: Callable[[Sequence[Any]], Any], settings: LoopSettings) -> None:
        super().__init__()
        self._train, self._settings = train, settings
        self._collate = partial(_share, collate)
        self.train_frames = _length(train)

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        order = TrainingOrder(
            num_frames=self.train_frames,
            batch_size=self._settings.batch_size,
            steps=self._settings.optimizer.steps,
            seed=self._settings.seed,
            first_step=self.trainer.global_step,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        return DataLoader(
            self._train,
            batch_sampler=order,
            collate_fn=partial(_share, self._collate),
            num_workers=self._settings.workers,
        )


@runtime_checkable
class FillsCache(Protocol):
    """Key frames of which teachers say something that is kept on the disk."""

    def __len__(self) -> int: ...

    def fill_cache(self, index: int) -> None:
        """Makes what is missing of a key frame, and reads nothing."""


class CachedTrainingData(TrainingData):
    """The same where teachers say something of the key frames: it is made before any worker starts, workers only read.

    A worker is often a fork of its training process, and what was forked cannot use the accelerator. Without workers,
    teachers are asked when an item is, as ever.

    Args:
        train: items are batches of one key frame; a `FillsCache`.
    """

    def setup(self, stage: str) -> None:
        # Called in every process, with its device chosen, and none goes on before all are done.
        assert self.trainer is not None
        assert isinstance(self._train, FillsCache), type(self._train)
        if self._settings.workers:
            fill_caches(self._train, rank=self.trainer.global_rank, world_size=self.trainer.world_size)


def fill_caches(frames: FillsCache, *, rank: int, world_size: int) -> None:
    """Makes what is missing of all key frames.

    Args:
        rank: of this process among those that fill the same caches.
        world_size: how many they are.

    Raises:
        DataError: an image, or what a teacher needs, is missing or damaged.
        OSError: a file cannot be written.
    """
    # First this process's share; then, from the other end, what others have not come to: none waits long for another,
    # and where every machine has a folder of its own, each fills its own.
    own = range(rank, len(frames), world_size)
    others = [index for index in reversed(range(len(frames))) if index % world_size != rank]
    for index in track([*own, *others], "teachers"):
        frames.fill_cache(index)


class ValidatedTrainingData(TrainingData):
    """The same with key frames to validate with; Lightning asks for them only if they are there.

    Args:
        validation: items are batches of one key frame.
        every: steps between two validations.
    """

    def __init__(
        self,
        train: Dataset[Any],
        collate: Callable[[Sequence[Any]], Any],
        settings: LoopSettings,
        *,
        validation: Dataset[Any],
        every: int,
    ) -> None:
        super().__init__(train, collate, settings)
        self._validation = validation
        self.validation_frames, self.validation_every = _length(validation), every

    def val_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        share = range(self.trainer.global_rank, self.validation_frames, self.trainer.world_size)
        return DataLoader(
            self._validation,
            sampler=share,
            collate_fn=partial(_share, self._collate),
            num_workers=self._settings.workers,
        )


@contextmanager
def worker_errors_said() -> Iterator[None]:
    """Errors from the processes that read ahead as they would be without such processes.

    Raises:
        OccliftError: what a worker raised, without the stack trace that torch puts into its text.
        ProcessFailed: a worker died.
    """
    try:
        yield
    except (OccliftError, RuntimeError) as error:
        text = str(error)
        if text.startswith("Caught ") and (parts := re.split(r"\nocclift\.[\w.]+: ", text))[1:]:
            said = type(error) if isinstance(error, OccliftError) else OccliftError
            raise said(parts[-1].strip()) from error
        if re.match(r"DataLoader worker \(pid", text):
            raise ProcessFailed(
                f"a process that reads ahead ended: {text.strip()} If memory ran out, use fewer --workers; resume from "
                "the last checkpoint"
            ) from error
        raise


def _share(collate: Callable[[Sequence[Any]], Any], samples: Sequence[Any]) -> Any:
    """A batch; of a worker, in memory that the training process shares.

    It would be put there later, too, by a thread of the worker whose errors nobody hears: the training would wait.
    """
    batch = collate(samples)
    if get_worker_info() is not None:
        try:
            for tensor in _tensors(batch):
                tensor.share_memory_()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if "shared memory" not in str(error):
                raise
            raise ConfigError(_no_room()) from error
    return batch


def _no_room() -> str:
    shared = Path("/dev/shm")
    room = ""
    if shared.is_dir():
        usage = shutil.disk_usage(shared)
        room = f" ({shared}: {usage.free / 1e6:.0f} of {usage.total / 1e6:.0f} MB are free)"
    return (
        f"there is no shared memory left{room} for the key frames that workers read ahead: use fewer --workers, with 0 "
        "none is needed; or give the container more, such as docker run --shm-size=8g"
    )


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _length(frames: Dataset[Any]) -> int:
    assert isinstance(frames, Sized), type(frames)
    return len(frames)
