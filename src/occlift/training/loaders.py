"""Loaders of a training whose order continues where the trainer stands, shared among its processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from typing import Any

import lightning
from torch.utils.data import DataLoader, Dataset

from occlift.training.frames import TrainingOrder


class TrainingData(lightning.LightningDataModule):
    """Key frames to train on, in the order of `TrainingOrder`.

    Args:
        train: items are batches of one key frame.
        collate: several items as one batch.
        batch_size: key frames per process and step.
        steps: of the whole run.
        seed: of the order.
        workers: processes that read ahead; 0 reads in the training process, which keeps one cache of decoded frames.
    """

    def __init__(
        self,
        *,
        train: Dataset[Any],
        collate: Callable[[Sequence[Any]], Any],
        batch_size: int,
        steps: int,
        seed: int,
        workers: int,
    ) -> None:
        super().__init__()
        self._train, self._collate = train, collate
        self._batch_size, self._steps, self._seed, self._workers = batch_size, steps, seed, workers

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        order = TrainingOrder(
            num_frames=_length(self._train),
            batch_size=self._batch_size,
            steps=self._steps,
            seed=self._seed,
            first_step=self.trainer.global_step,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        return DataLoader(self._train, batch_sampler=order, collate_fn=self._collate, num_workers=self._workers)


class ValidatedTrainingData(TrainingData):
    """The same with key frames to validate with; Lightning asks for them only if they are there.

    Args:
        validation: items are batches of one key frame.
        rest: as for `TrainingData`.
    """

    def __init__(self, *, validation: Dataset[Any], **rest: Any) -> None:
        super().__init__(**rest)
        self._validation = validation

    @property
    def validation_frames(self) -> int:
        """How many key frames there are to validate with, those of all processes together."""
        return _length(self._validation)

    def val_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        share = range(self.trainer.global_rank, _length(self._validation), self.trainer.world_size)
        return DataLoader(self._validation, sampler=share, collate_fn=self._collate, num_workers=self._workers)


def _length(frames: Dataset[Any]) -> int:
    assert isinstance(frames, Sized), type(frames)
    return len(frames)
