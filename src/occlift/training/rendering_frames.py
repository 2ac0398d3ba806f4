"""Key frames as a rendering model needs them: images, their neighbours in time, and maps at the rays.

A photometric loss wants neighbours that show nearly the same. Where a data set has images between its key frames
(`HasSweeps`), the neighbours of an image are those of its camera just before and just after it; otherwise they are the
key frames before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from occlift.geometry.cameras import CameraRig
from occlift.geometry.transforms import inverse
from occlift.label_space import OCC3D, UNKNOWN, Taxonomy
from occlift.scenes.dataset import DrivingDataset, HasSweeps, evenly_spaced, require
from occlift.scenes.frames import CameraImage
from occlift.teachers.cache import TeacherCache
from occlift.teachers.teacher import DepthTeacher, SemanticsTeacher
from occlift.training.frames import FrameBatch, OccupancyFrames, collate_frames


@dataclass(frozen=True, kw_only=True, eq=False)
class RenderingBatch:
    """Key frames, what surrounds them in time, and what teachers see in them.

    Attributes:
        frame: images, rig and, where asked for, labels.
        neighbours: what the cameras saw before and after, without labels; empty where it was not asked for. Where there
            is nothing, as where a scene begins or ends, the image itself stands in.
        neighbour_ego_from_ego: from the ego frame of the key frame to that in which each neighbour's rig is given.
        exists: which images of the neighbours are real.
        class_id: what the rays show: a class, `Taxonomy.free` for the sky, 255 unknown.
        depth_m: how far it is, along the optical axis; NaN unknown, +inf nothing; None where it was not asked for.
    """

    frame: FrameBatch
    neighbours: tuple[FrameBatch, ...]
    neighbour_ego_from_ego: Float[Tensor, "batch neighbours 4 4"]
    exists: Bool[Tensor, "batch neighbours cameras"]
    class_id: UInt8[Tensor, "batch cameras rows columns"]
    depth_m: Float[Tensor, "batch cameras rows columns"] | None

    @property
    def tokens(self) -> tuple[str, ...]:
        return self.frame.tokens

    def to(self, device: torch.device | str) -> RenderingBatch:
        return RenderingBatch(
            frame=self.frame.to(device),
            neighbours=tuple(neighbour.to(device) for neighbour in self.neighbours),
            neighbour_ego_from_ego=self.neighbour_ego_from_ego.to(device),
            exists=self.exists.to(device),
            class_id=self.class_id.to(device),
            depth_m=None if self.depth_m is None else self.depth_m.to(device),
        )

    def frames(self) -> list[RenderingBatch]:
        """The key frames one by one, the inverse of `collate_rendering`."""
        neighbours = [neighbour.frames() for neighbour in self.neighbours]
        return [
            RenderingBatch(
                frame=frame,
                neighbours=tuple(of_frames[i] for of_frames in neighbours),
                neighbour_ego_from_ego=self.neighbour_ego_from_ego[i : i + 1],
                exists=self.exists[i : i + 1],
                class_id=self.class_id[i : i + 1],
                depth_m=None if self.depth_m is None else self.depth_m[i : i + 1],
            )
            for i, frame in enumerate(self.frame.frames())
        ]

    def mirrored(self) -> RenderingBatch:
        """The same in a world reflected at the vehicle's x–z plane, as `FrameBatch.mirrored`."""
        reflect_y = self.neighbour_ego_from_ego.new_tensor([1.0, -1.0, 1.0, 1.0])
        return replace(
            self,
            frame=self.frame.mirrored(),
            neighbours=tuple(neighbour.mirrored() for neighbour in self.neighbours),
            neighbour_ego_from_ego=reflect_y[:, None] * self.neighbour_ego_from_ego * reflect_y,
            class_id=self.class_id.flip(-1),
            depth_m=None if self.depth_m is None else self.depth_m.flip(-1),
        )

    def neighbour_from_camera(self) -> Float[Tensor, "batch neighbours cameras 4 4"]:
        """From each camera of the key frame to the same camera of each neighbour."""
        ego_from_camera = self.frame.rig.ego_from_camera
        return torch.stack(
            [
                neighbour.rig.camera_from_ego() @ self.neighbour_ego_from_ego[:, k, None] @ ego_from_camera
                for k, neighbour in enumerate(self.neighbours)
            ],
            1,
        )


def collate_rendering(samples: Sequence[RenderingBatch]) -> RenderingBatch:
    """Several batches as one; all were asked for the same."""
    depths = [sample.depth_m for sample in samples if sample.depth_m is not None]
    assert len(depths) in (0, len(samples)), (len(depths), len(samples))
    return RenderingBatch(
        frame=collate_frames([sample.frame for sample in samples]),
        neighbours=tuple(map(collate_frames, zip(*(sample.neighbours for sample in samples), strict=True))),
        neighbour_ego_from_ego=torch.cat([sample.neighbour_ego_from_ego for sample in samples]),
        exists=torch.cat([sample.exists for sample in samples]),
        class_id=torch.cat([sample.class_id for sample in samples]),
        depth_m=torch.cat(depths) if depths else None,
    )


Neighbours = Literal["sweeps", "key_frames"]

_Neighbourhood = tuple[
    tuple[FrameBatch, ...], Float[Tensor, "1 neighbours 4 4"], Bool[Tensor, "1 neighbours cameras"]
]  # fmt: skip

_DESCRIBED_FRAMES: Final = 100


class RenderingFrames(Dataset[RenderingBatch]):
    """Key frames with neighbours and maps; every item is a batch of one.

    Args:
        data: the data set.
        frames: the same key frames as images (and labels).
        semantics: says what the rays show.
        depth: says how far it is; None: not asked for.
        ray_height: rows of rays.
        ray_width: columns of rays.
        neighbours: what comes along: the images just before and just after, those of the key frames before and after,
            or nothing.
        taxonomy: classes of what the rays show.
        cache_bytes: maps are kept in memory until they take this much (per process).

    Raises:
        ConfigError: neighbours are sweeps, and the data set has none.
        DataError: (from an item) what a teacher or the frames need is missing or damaged.
    """

    def __init__(
        self,
        data: DrivingDataset,
        frames: OccupancyFrames,
        *,
        semantics: SemanticsTeacher,
        depth: DepthTeacher | None,
        ray_height: int,
        ray_width: int,
        neighbours: Neighbours | None,
        taxonomy: Taxonomy = OCC3D.taxonomy,
        cache_bytes: int = 0,
    ) -> None:
        self._data, self._frames = data, frames
        self._semantics, self._depth = semantics, depth
        self._ray_height, self._ray_width = ray_height, ray_width
        self._neighbours, self._taxonomy = neighbours, taxonomy
        self._sweeps = require(data, HasSweeps, "neighbours in time") if neighbours == "sweeps" else None
        self._index = {token: index for index, token in enumerate(frames.tokens)}
        self._maps: dict[int, tuple[UInt8[Tensor, "cameras h w"], Float32[Tensor, "cameras h w"] | None]] = {}
        self._cache_bytes_left = cache_bytes

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> RenderingBatch:
        frame = self._frames[index]
        class_id, depth_m = self.maps(index, frame.rig)
        cameras = frame.rig.num_cameras
        if self._sweeps is not None:
            neighbours, transforms, exists = self._adjacent_images(index, self._sweeps)
        elif self._neighbours == "key_frames":
            neighbours, transforms, exists = self._adjacent_key_frames(index, cameras)
        else:
            neighbours, transforms, exists = (), torch.zeros(1, 0, 4, 4), torch.zeros(1, 0, cameras, dtype=torch.bool)
        return RenderingBatch(
            frame=frame, neighbours=neighbours, neighbour_ego_from_ego=transforms, exists=exists,
            class_id=class_id[None], depth_m=None if depth_m is None else depth_m[None],
        )  # fmt: skip

    def _adjacent_images(self, index: int, sweeps: HasSweeps) -> _Neighbourhood:
        token = self._frames.tokens[index]
        key_frame = self._data.key_frame(token)
        neighbours, exists = [], []
        for images in sweeps.adjacent_images(token):
            there = zip(images, key_frame.cameras, strict=True)
            # Poses of single images need no ego frame of their own: all lead into that of the key frame.
            shown = replace(key_frame, cameras=tuple(own if image is None else image for image, own in there))
            neighbours.append(self._frames.images_of(shown))
            exists.append([image is not None for image in images])
        return tuple(neighbours), torch.eye(4).expand(1, len(neighbours), 4, 4), torch.tensor([exists])

    def _adjacent_key_frames(self, index: int, cameras: int) -> _Neighbourhood:
        found = self._neighbour_indices(index)
        neighbours = tuple(replace(self._frames[i], semantics=None, mask_camera=None, confidence=None) for i in found)
        global_from_ego = self._global_from_ego(index)
        # In double precision: global coordinates are kilometres, their difference is metres.
        moved = np.stack([inverse(self._global_from_ego(i)) @ global_from_ego for i in found])
        exists = torch.tensor([[[i != index] * cameras for i in found]])
        return neighbours, torch.from_numpy(moved).float()[None], exists

    def describe_neighbours(self) -> str | None:
        """What the neighbours of an image are, how long before or after it and how far away; None without any."""
        if self._neighbours is None:
            return None
        apart_s, apart_m = [], []
        for index in evenly_spaced(range(len(self)), _DESCRIBED_FRAMES):
            token = self._frames.tokens[index]
            own = {image.camera: image for image in self._data.key_frame(token).cameras}
            if self._sweeps is not None:
                beside = [image for images in self._sweeps.adjacent_images(token) for image in images if image]
            else:
                found = [self._frames.tokens[i] for i in self._neighbour_indices(index) if i != index]
                beside = [image for other in found for image in self._data.key_frame(other).cameras]
            for image in beside:
                if (here := own.get(image.camera)) is not None:
                    apart_s.append(abs(image.timestamp_us - here.timestamp_us) / 1e6)
                    moved_m = image.global_from_camera[:3, 3] - here.global_from_camera[:3, 3]
                    apart_m.append(float(np.linalg.norm(moved_m)))
        what = "adjacent images of the same camera" if self._sweeps is not None else "the key frames before and after"
        if not apart_s:
            return f"{what}, of which there are none"
        return f"{what}, {np.median(apart_s):.3f} s and {np.median(apart_m):.2f} m away (medians)"

    def fill_cache(self, index: int) -> None:
        """Lets the teachers look at a key frame whose maps their caches lack; nothing happens where none are kept.

        Raises:
            DataError: an image, or what a teacher needs, is missing or damaged.
            OSError: a file cannot be written.
        """
        for teacher in (self._semantics, self._depth):
            if isinstance(teacher, TeacherCache):
                teacher.fill(self._data.key_frame(self._frames.tokens[index]))

    def maps(
        self, index: int, rig: CameraRig
    ) -> tuple[UInt8[Tensor, "cameras h w"], Float32[Tensor, "cameras h w"] | None]:
        """Class and depth at the rays of a frame whose images have this rig; unknown where a pixel is not valid."""
        if index in self._maps:
            return self._maps[index]
        key_frame = self._data.key_frame(self._frames.tokens[index])
        cells = rig.resized(self._ray_height, self._ray_width)
        intrinsics_px = cells.intrinsics_px[0].double().numpy()
        shape = (self._ray_height, self._ray_width)
        views = list(zip(key_frame.cameras, intrinsics_px, strict=True))
        classes = [
            at_rays(seen.class_id, camera, cells_px, *shape)
            for seen, (camera, cells_px) in zip(self._semantics.semantics(key_frame), views, strict=True)
        ]
        depths = None
        if self._depth is not None:
            depths = [
                at_rays(seen.depth_m, camera, cells_px, *shape)
                for seen, (camera, cells_px) in zip(self._depth.depth(key_frame), views, strict=True)
            ]
        for number, (camera, cells_px) in enumerate(views):
            if (valid := camera.valid()) is not None:
                invalid = ~at_rays(valid, camera, cells_px, *shape)
                classes[number][invalid] = UNKNOWN
                if depths is not None:
                    depths[number][invalid] = np.nan
        maps = (
            torch.from_numpy(np.stack(classes)),
            None if depths is None else torch.from_numpy(np.stack(depths).astype(np.float32)),
        )
        size = sum(tensor.nbytes for tensor in maps if tensor is not None)
        if size <= self._cache_bytes_left:
            self._maps[index] = maps
            self._cache_bytes_left -= size
        return maps

    def class_counts(self, indices: Sequence[int]) -> Int[Tensor, "classes"]:
        """Rays per class over some frames, the sky last."""
        counts = torch.zeros(self._taxonomy.num_classes, dtype=torch.long)
        for index in indices:
            class_id, _ = self.maps(index, self._frames[index].rig)
            counts += class_id.flatten().long().bincount(minlength=UNKNOWN + 1)[: len(counts)]
        return counts

    def _neighbour_indices(self, index: int) -> tuple[int, int]:
        """The frames before and after; the frame itself where its scene (or the chosen frames) has none."""
        token = self._frames.tokens[index]
        key_frame = self._data.key_frame(token)
        tokens = self._data.key_frame_tokens(key_frame.scene)
        before, after = (
            self._index.get(tokens[i], index) if 0 <= i < len(tokens) else index
            for i in (key_frame.index - 1, key_frame.index + 1)
        )
        return before, after

    def _global_from_ego(self, index: int) -> Float[np.ndarray, "4 4"]:
        return self._data.key_frame(self._frames.tokens[index]).global_from_ego


def at_rays(
    values: np.ndarray, camera: CameraImage, cells_px: Float[np.ndarray, "3 3"], rows: int, columns: int
) -> np.ndarray:
    """The values of a map [height, width] of a whole image at rays; the nearest pixel counts.

    Args:
        values: the map; it may have another size than its image.
        camera: the image.
        cells_px: intrinsics of the same camera for an image of `rows` × `columns` pixels, whatever was cut away.
    """
    height, width = values.shape
    map_px = camera.pinhole_intrinsics_px * np.array([[width / camera.width], [height / camera.height], [1.0]])
    # Two images of one camera differ by an affine map of their pixels.
    map_from_cells = map_px @ np.linalg.inv(cells_px)
    centers = np.stack(np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5), -1)
    u, v = np.moveaxis(centers @ map_from_cells[:2, :2].T + map_from_cells[:2, 2], -1, 0)
    # A ray exactly on the border between two pixels must not flip with the last bit.
    column, row = (np.floor(axis + 1e-6).astype(np.int64) for axis in (u, v))
    return values[row.clip(0, height - 1), column.clip(0, width - 1)]
