"""Loaders of a pretraining: what its workers are to read is made before they start."""

from __future__ import annotations

from occlift.training.loaders import TrainingData
from occlift.training.loop import LoopSettings
from occlift.training.occfeat_frames import OccFeatFrames, collate_occfeat


class OccFeatTrainingData(TrainingData):
    """`TrainingData` of key frames whose features are made before any worker starts: workers only read.

    A worker is often a fork of its training process, and what was forked cannot use the accelerator. Without workers,
    features are made when they are asked for, as ever.

    Args:
        train: the key frames.
        settings: as for `TrainingData`.
    """

    def __init__(self, train: OccFeatFrames, settings: LoopSettings) -> None:
        super().__init__(train, collate_occfeat, settings)
        self._to_fill = train if settings.workers else None

    def setup(self, stage: str) -> None:
        # Called in every process, with its device chosen, and none goes on before all are done.
        assert self.trainer is not None
        if self._to_fill is not None:
            self._to_fill.fill_feature_cache(rank=self.trainer.global_rank, world_size=self.trainer.world_size)
