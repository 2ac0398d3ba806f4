"""Key frames with their truth in the bird's-eye view → tensors for training and scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.data import Dataset

from occlift.geometry.grids import BEV_GRID, BevGrid
from occlift.scenes.dataset import DrivingDataset
from occlift.training.bev_truth import BevTruth, bev_truth, check_bev_classes
from occlift.training.corrupt import Corruption
from occlift.training.frames import FrameBatch, OccupancyFrames, collate_frames

_TARGETS: Final = ("truth", "ignored", "centre", "offset_m", "inside_object")


@dataclass(frozen=True, kw_only=True, eq=False)
class BevBatch:
    """Key frames and their truth; what the targets mean says `training.bev_truth.BevTruth`.

    Attributes:
        frame: images and rig, without occupancy labels.
        classes: along the second axis of `truth` and `ignored`.
        truth: which cells a class covers.
        ignored: which of these the visibility filter leaves out.
        centre: heat map of the objects' centres, 0..1.
        offset_m: from a cell's centre to that of its object along x and y of the ego frame.
        inside_object: where the offset holds.
    """

    frame: FrameBatch
    classes: tuple[str, ...]
    truth: Bool[Tensor, "batch classes x y"]
    ignored: Bool[Tensor, "batch classes x y"]
    centre: Float[Tensor, "batch 1 x y"]
    offset_m: Float[Tensor, "batch 2 x y"]
    inside_object: Bool[Tensor, "batch 1 x y"]

    def to(self, device: torch.device | str) -> BevBatch:
        return replace(self, frame=self.frame.to(device), **self._targets(lambda target: target.to(device)))

    def frames(self) -> list[BevBatch]:
        """The key frames one by one, as batches of one that share this batch's memory: `collate_bev` undone."""
        return [
            replace(self, frame=frame, **self._targets(lambda target, i=i: target[i : i + 1]))  # type: ignore[misc]
            for i, frame in enumerate(self.frame.frames())
        ]

    def mirrored(self, axis: Literal["x", "y"] = "y") -> BevBatch:
        """The same frames in a world reflected at a plane through the ego frame's origin (`FrameBatch.mirrored`).

        The targets are reflected with the grid, which must lie evenly around the origin; offsets along `axis` change
        their sign.
        """
        number = "xy".index(axis)
        targets = self._targets(lambda target: target.flip(2 + number))
        # A new tensor, so it may be changed.
        targets["offset_m"][:, number] *= -1
        return replace(self, frame=self.frame.mirrored(axis), **targets)

    def _targets(self, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        return {name: change(getattr(self, name)) for name in _TARGETS}


def collate_bev(samples: Sequence[BevBatch]) -> BevBatch:
    """Several batches of the same classes as one."""
    classes = samples[0].classes
    assert all(sample.classes == classes for sample in samples), [sample.classes for sample in samples]
    targets: dict[str, Any] = {name: torch.cat([getattr(sample, name) for sample in samples]) for name in _TARGETS}
    return BevBatch(frame=collate_frames([sample.frame for sample in samples]), classes=classes, **targets)


class BevFrames(Dataset[BevBatch]):
    """Key frames of a data set with their truth in the bird's-eye view; every item is a batch of one.

    Args:
        data: the data set.
        tokens: of the samples, in the order of the items.
        height: of the images that come out, pixels.
        width: the same.
        classes: of `training.bev_truth.BEV_CLASSES`.
        grid: of the ego frame at the lidar's time.
        blind: replaces every image by a uniform grey one (`OccupancyFrames`).
        corruption: what is done to the images (`OccupancyFrames`).
        cache_bytes: decoded frames and their truth are kept in memory until they take this much (per process).

    Raises:
        ConfigError: there is no such class, one is named twice, or `blind` and `corruption` are asked for together.
        DataError: (from an item) an image is missing or damaged, the key frame lacks a camera, or a map class has no
            map.
    """

    def __init__(
        self,
        data: DrivingDataset,
        tokens: Sequence[str],
        *,
        height: int,
        width: int,
        classes: Sequence[str],
        grid: BevGrid = BEV_GRID,
        blind: bool = False,
        corruption: Corruption | None = None,
        cache_bytes: int = 0,
    ) -> None:
        self.classes = check_bev_classes(classes)
        self.tokens = tuple(tokens)
        self._data, self._grid = data, grid
        image_bytes = len(data.cameras) * 3 * height * width
        # Per cell two bools for each class, one more, and three float32.
        truth_bytes = grid.shape[0] * grid.shape[1] * (2 * len(self.classes) + 1 + 3 * 4)
        self._cached_frames = cache_bytes // (image_bytes + truth_bytes)
        self._frames = OccupancyFrames(
            data,
            tokens,
            height=height,
            width=width,
            blind=blind,
            corruption=corruption,
            cache_bytes=self._cached_frames * image_bytes,
        )
        self._cache: dict[int, BevTruth] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> BevBatch:
        truth = self._cache.get(index)
        if truth is None:
            truth = bev_truth(self._data, self.tokens[index], self.classes, grid=self._grid)
            if len(self._cache) < self._cached_frames:
                self._cache[index] = truth
        return BevBatch(
            frame=self._frames[index],
            classes=self.classes,
            truth=_one(truth.truth),
            ignored=_one(truth.ignored),
            centre=_one(truth.centre[None]),
            offset_m=_one(truth.offset_m),
            inside_object=_one(truth.inside_object[None]),
        )


def _one(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array)[None]
