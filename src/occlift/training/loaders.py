"""Loaders of a training whose order continues where the trainer stands, shared among its processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from typing import Any

import lightning
from torch.utils.data import DataLoader, Dataset

from occlift.training.frames import TrainingOrder
from occlift.training.loop import LoopSettings


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
        self._train, self._collate, self._settings = train, collate, settings
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
            self._train, batch_sampler=order, collate_fn=self._collate, num_workers=self._settings.workers
        )


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
        return DataLoader(self._validation, sampler=share, collate_fn=self._collate, num_workers=self._settings.workers)


def _length(frames: Dataset[Any]) -> int:
    assert isinstance(frames, Sized), type(frames)
    return len(frames)
