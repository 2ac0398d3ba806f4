"""Key frames with what OccFeat is to predict of them: occupancy, features of seen voxels, classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float16, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from occlift.geometry.grids import VoxelGrid
from occlift.label_space import OCC3D, LabelSpace
from occlift.labels.files import label_path, read_label
from occlift.scenes.dataset import DrivingDataset
from occlift.scenes.frames import KeyFrame
from occlift.teachers.feature_cache import FeatureCache
from occlift.teachers.teacher import FeatureTeacher
from occlift.training.frames import FrameBatch, OccupancyFrames, collate_frames
from occlift.training.volume_targets import OCCUPIED, Untouched, feature_targets, lidar_occupancy, pooled_label


@dataclass(frozen=True, kw_only=True, eq=False)
class OccFeatBatch:
    """Key frames and their targets on a voxel grid of the ego frame at the lidar's time.

    Attributes:
        frame: images and cameras; no labels.
        occupancy: 0 open, 1 occupied, 255 unknown.
        semantics: classes of the same voxels, `Taxonomy.free` is free, 255 unknown; None where occupancy comes from
            the lidar.
        voxel: (batch, x, y, z) of the voxels that have a feature target.
        features: these targets; no channels if none were asked for.
    """

    frame: FrameBatch
    occupancy: UInt8[Tensor, "batch x y z"]
    semantics: UInt8[Tensor, "batch x y z"] | None
    voxel: Int64[Tensor, "voxels 4"]
    features: Float16[Tensor, "voxels channels"]

    @property
    def tokens(self) -> tuple[str, ...]:
        """Of the samples."""
        return self.frame.tokens

    def to(self, device: torch.device | str) -> OccFeatBatch:
        return OccFeatBatch(
            frame=self.frame.to(device),
            occupancy=self.occupancy.to(device),
            semantics=None if self.semantics is None else self.semantics.to(device),
            voxel=self.voxel.to(device),
            features=self.features.to(device),
        )

    def frames(self) -> list[OccFeatBatch]:
        """The key frames one by one, as batches of one: `collate_occfeat` undone."""
        parts = []
        for i, frame in enumerate(self.frame.frames()):
            mine = self.voxel[:, 0] == i
            voxel = self.voxel[mine].clone()
            voxel[:, 0] = 0
            parts.append(
                OccFeatBatch(
                    frame=frame,
                    occupancy=self.occupancy[i : i + 1],
                    semantics=None if self.semantics is None else self.semantics[i : i + 1],
                    voxel=voxel,
                    features=self.features[mine],
                )
            )
        return parts

    def mirrored(self, axis: Literal["x", "y"] = "y") -> OccFeatBatch:
        """The same in a reflected world, as `FrameBatch.mirrored`."""
        number = "xy".index(axis)
        voxel = self.voxel.clone()
        voxel[:, 1 + number] = self.occupancy.shape[1 + number] - 1 - voxel[:, 1 + number]
        return replace(
            self,
            frame=self.frame.mirrored(axis),
            occupancy=self.occupancy.flip(1 + number),
            semantics=None if self.semantics is None else self.semantics.flip(1 + number),
            voxel=voxel,
        )


def collate_occfeat(samples: Sequence[OccFeatBatch]) -> OccFeatBatch:
    """Several batches of one as one; all have classes or none has."""
    classes = [sample.semantics for sample in samples if sample.semantics is not None]
    assert len(classes) in (0, len(samples)), (len(classes), len(samples))
    voxels = []
    for i, sample in enumerate(samples):
        assert sample.occupancy.shape[0] == 1, sample.occupancy.shape
        voxel = sample.voxel.clone()
        voxel[:, 0] = i
        voxels.append(voxel)
    return OccFeatBatch(
        frame=collate_frames([sample.frame for sample in samples]),
        occupancy=torch.cat([sample.occupancy for sample in samples]),
        semantics=torch.cat(classes) if classes else None,
        voxel=torch.cat(voxels),
        features=torch.cat([sample.features for sample in samples]),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Targets:
    occupancy: UInt8[Tensor, "x y z"]
    semantics: UInt8[Tensor, "x y z"] | None
    voxel: Int64[Tensor, "voxels 3"]
    features: Float16[Tensor, "voxels channels"]

    @property
    def num_bytes(self) -> int:
        tensors = (self.occupancy, self.semantics, self.voxel, self.features)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


class OccFeatFrames(Dataset[OccFeatBatch]):
    """Key frames with pretraining targets; every item is a batch of one.

    Args:
        data: the data set.
        frames: the key frames' images, without labels.
        grid: of the targets, ego frame at the lidar's time.
        labels: a folder in Occ3D's layout that occupancy and classes are read from; None: the lidar's occupancy.
        space: grid and classes of the labels.
        features: says what features the images have; None: none are wanted.
        sweeps: of the lidar: the key frame's own and those of the key frames before it.
        untouched: what voxels without a lidar point are (`lidar_occupancy`).
        cache_bytes: targets are kept in memory until they take this much (per process).

    Raises:
        DataError: (from an item) an image, a sweep, a label or what the teacher needs is missing or damaged.
    """

    def __init__(
        self,
        data: DrivingDataset,
        frames: OccupancyFrames,
        *,
        grid: VoxelGrid,
        labels: Path | None = None,
        space: LabelSpace = OCC3D,
        features: FeatureTeacher | None = None,
        sweeps: int = 1,
        untouched: Untouched = "empty",
        cache_bytes: int = 0,
    ) -> None:
        assert sweeps >= 1, sweeps
        self._data, self._frames, self._grid = data, frames, grid
        self._labels, self._space, self._teacher = labels, space, features
        self._sweeps, self._untouched = sweeps, untouched
        self._cache: dict[int, _Targets] = {}
        self._cache_bytes_left = cache_bytes

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def feature_channels(self) -> int:
        """Of the teacher's features, as the first image shows; 0 without a teacher."""
        if self._teacher is None:
            return 0
        # Not from targets: a process whose compiled kernels ran on several threads cannot be forked into workers that
        # run them too (GNU OpenMP ends these).
        frame = self._data.key_frame(self._frames.tokens[0])
        (found,) = self._teacher.features(replace(frame, cameras=frame.cameras[:1]))
        return found.features.shape[0]

    def fill_cache(self, index: int) -> None:
        """Lets the teacher look at the images of a key frame whose features a `FeatureCache` lacks.

        Nothing happens without a teacher, or if its features are not kept.

        Raises:
            DataError: an image, or what the teacher needs, is missing or damaged.
            OSError: a file cannot be written.
        """
        if isinstance(self._teacher, FeatureCache):
            self._teacher.fill(self._data.key_frame(self._frames.tokens[index]))

    def __getitem__(self, index: int) -> OccFeatBatch:
        targets = self._targets(index)
        return OccFeatBatch(
            frame=self._frames[index],
            occupancy=targets.occupancy[None],
            semantics=None if targets.semantics is None else targets.semantics[None],
            voxel=torch.nn.functional.pad(targets.voxel, (1, 0)),
            features=targets.features,
        )

    def _targets(self, index: int) -> _Targets:
        if index in self._cache:
            return self._cache[index]
        targets = self._made(self._data.key_frame(self._frames.tokens[index]))
        if targets.num_bytes <= self._cache_bytes_left:
            self._cache[index] = targets
            self._cache_bytes_left -= targets.num_bytes
        return targets

    def _made(self, frame: KeyFrame) -> _Targets:
        semantics = None
        if self._labels is None:
            occupancy = lidar_occupancy(frame, self._grid, others=self._before(frame), untouched=self._untouched)
        else:
            path = label_path(self._labels, frame.scene, frame.token)
            label = read_label(path, allow_unknown=True, space=self._space)
            occupancy, classes = pooled_label(label.semantics, self._grid, self._space)
            semantics = torch.from_numpy(classes)
        voxel, features = torch.zeros(0, 3, dtype=torch.long), torch.zeros(0, 0, dtype=torch.float16)
        if self._teacher is not None:
            maps = dict(zip((camera.camera for camera in frame.cameras), self._teacher.features(frame), strict=True))
            index, values = feature_targets(occupancy == OCCUPIED, self._grid, frame, maps)
            voxel, features = torch.from_numpy(index), torch.from_numpy(values).half()
        return _Targets(
            occupancy=torch.from_numpy(occupancy), semantics=semantics, voxel=voxel.long(), features=features
        )

    def _before(self, frame: KeyFrame) -> list[KeyFrame]:
        tokens = self._data.key_frame_tokens(frame.scene)
        return [self._data.key_frame(token) for token in tokens[max(0, frame.index - self._sweeps + 1) : frame.index]]
