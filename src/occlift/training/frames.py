"""Key frames → tensors for training and prediction.

Images are cut and resized to one size together with their intrinsics, in one call, so the two cannot disagree. The
window keeps the width and the bottom of the image: where something must go, it is the sky.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from occlift.errors import ConfigError, DataError
from occlift.geometry.cameras import CameraRig
from occlift.label_space import OCC3D, LabelSpace
from occlift.labels.files import label_path, read_confidence, read_label
from occlift.runtime.npz import MissingArray
from occlift.scenes.dataset import DrivingDataset
from occlift.scenes.frames import CameraImage, KeyFrame
from occlift.training.corrupt import Corruption, corrupt_images

IMAGE_MEAN: Final = (0.485, 0.456, 0.406)
IMAGE_DEVIATION: Final = (0.229, 0.224, 0.225)
"""Of RGB values in [0, 1]: those of ImageNet, which published weights expect."""

_LABEL_FIELDS: Final = ("semantics", "mask_camera", "confidence")


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameBatch:
    """Key frames as tensors.

    Attributes:
        tokens: of the samples.
        images: normalised RGB, cameras in the order of the data set.
        rig: of these images, [batch, cameras, ...]; ego frame of the key frame.
        semantics: the label, 255 unknown; None without labels.
        mask_camera: of the label.
        confidence: how sure the label is, 0..255 for 0..1; None unless it was asked for.
    """

    tokens: tuple[str, ...]
    images: Float[Tensor, "batch cameras 3 height width"]
    rig: CameraRig
    semantics: UInt8[Tensor, "batch x y z"] | None
    mask_camera: Bool[Tensor, "batch x y z"] | None
    confidence: UInt8[Tensor, "batch x y z"] | None = None

    def to(self, device: torch.device | str) -> FrameBatch:
        return replace(
            self,
            images=self.images.to(device),
            rig=self.rig.to(device),
            **self._labels(lambda label: label.to(device)),
        )

    def frames(self) -> list[FrameBatch]:
        """The key frames one by one, as batches of one that share this batch's memory: `collate_frames` undone."""
        return [self._frame(slice(i, i + 1)) for i in range(len(self.tokens))]

    def _frame(self, part: slice) -> FrameBatch:
        rig = replace(
            self.rig,
            intrinsics_px=self.rig.intrinsics_px[part],
            ego_from_camera=self.rig.ego_from_camera[part],
        )
        return replace(
            self,
            tokens=self.tokens[part],
            images=self.images[part],
            rig=rig,
            **self._labels(lambda label: label[part]),
        )

    def mirrored(self, axis: Literal["x", "y"] = "y") -> FrameBatch:
        """The same frames in a world reflected at a plane through the ego frame's origin.

        The label's grid must be its own mirror image (`VoxelGrid.is_symmetric`).

        The images are flipped, and a camera's frame is reflected on both sides, so it stays right-handed. Cameras keep
        their place in the arrays: what was CAM_FRONT_LEFT looks to the right when left and right are exchanged.

        Args:
            axis: of the ego frame, the one that changes its sign: `y` exchanges left and right, `x` front and back.
        """
        number = "xy".index(axis)
        reflect_ego = self.rig.ego_from_camera.new_ones(4)
        reflect_ego[number] = -1.0
        # Signs of rows and columns instead of matrix products, which autocast would round.
        reflect_x = self.rig.ego_from_camera.new_tensor([-1.0, 1.0, 1.0, 1.0])
        intrinsics_px = self.rig.intrinsics_px.clone()
        intrinsics_px[..., 0, 1] *= -1
        intrinsics_px[..., 1, 0] *= -1
        intrinsics_px[..., 0, 2] = self.rig.width - intrinsics_px[..., 0, 2]
        rig = replace(
            self.rig,
            intrinsics_px=intrinsics_px,
            ego_from_camera=reflect_ego[:, None] * self.rig.ego_from_camera * reflect_x,
        )
        return replace(self, images=self.images.flip(-1), rig=rig, **self._labels(lambda label: label.flip(1 + number)))

    def _labels(self, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """What comes from the label, each changed the same way."""
        fields = {name: getattr(self, name) for name in _LABEL_FIELDS}
        return {name: None if label is None else change(label) for name, label in fields.items()}


def collate_frames(samples: Sequence[FrameBatch]) -> FrameBatch:
    """Several batches as one; all have labels or none has."""
    first = samples[0]
    rig = replace(
        first.rig,
        intrinsics_px=torch.cat([sample.rig.intrinsics_px for sample in samples]),
        ego_from_camera=torch.cat([sample.rig.ego_from_camera for sample in samples]),
    )
    labels: dict[str, Any] = {}
    for name in _LABEL_FIELDS:
        present = [label for sample in samples if (label := getattr(sample, name)) is not None]
        assert len(present) in (0, len(samples)), (name, len(present), len(samples))
        labels[name] = torch.cat(present) if present else None
    return FrameBatch(
        tokens=tuple(token for sample in samples for token in sample.tokens),
        images=torch.cat([sample.images for sample in samples]),
        rig=rig,
        **labels,
    )


def fit_image(
    image: UInt8[np.ndarray, "h w 3"], camera: CameraRig, *, height: int, width: int
) -> tuple[UInt8[np.ndarray, "height width 3"], CameraRig]:
    """Cuts an image to the aspect ratio of `height` × `width` and resizes it; the camera follows.

    Rows go at the top (sky); columns, where the target is narrower than the image, equally at both sides.

    Args:
        camera: of this image, any leading shape.
    """
    from PIL import Image

    full_height, full_width = image.shape[:2]
    camera.check_image_size(full_height, full_width)
    cut_height = min(full_height, max(1, round(full_width * height / width)))
    cut_width = min(full_width, max(1, round(full_height * width / height)))
    top, left = full_height - cut_height, (full_width - cut_width) // 2
    window = Image.fromarray(image[top:, left : left + cut_width])
    resized = np.asarray(window.resize((width, height), Image.Resampling.BILINEAR))
    camera = camera.cropped(top=top, left=left, height=cut_height, width=cut_width)
    return resized, camera.resized(height, width)


def normalised(images: UInt8[Tensor, "*batch 3 height width"]) -> Float[Tensor, "*batch 3 height width"]:
    """RGB bytes → float32 with ImageNet's mean and deviation taken out."""
    scale = torch.tensor(IMAGE_DEVIATION).mul(255.0).reciprocal()[:, None, None]
    shift = torch.tensor(IMAGE_MEAN).div(torch.tensor(IMAGE_DEVIATION))[:, None, None]
    return images * scale - shift


@dataclass(frozen=True, kw_only=True, eq=False)
class _Stored:
    """A frame as it is kept in memory: bytes, not floats."""

    images: UInt8[Tensor, "cameras 3 height width"]
    rig: CameraRig
    semantics: UInt8[Tensor, "x y z"] | None
    mask_camera: Bool[Tensor, "x y z"] | None
    confidence: UInt8[Tensor, "x y z"] | None

    @property
    def num_bytes(self) -> int:
        tensors = (self.images, self.semantics, self.mask_camera, self.confidence)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


class OccupancyFrames(Dataset[FrameBatch]):
    """Key frames of a data set with their labels; every item is a batch of one.

    Args:
        data: the data set.
        tokens: of the samples, in the order of the items.
        height: of the images that come out, pixels.
        width: the same.
        labels: a folder in Occ3D's layout, pseudo-labels or truth; None: items without labels.
        space: grid and classes of the labels.
        confidence: reads how sure the labels are, too.
        blind: replaces every image by a uniform grey one; nothing is decoded. The baseline that shows how much a
            network knows without looking.
        corruption: what is done to the images as they are on disk, before they are cut and resized; None: nothing.
        cache_bytes: decoded frames are kept in memory until they take this much (per process).

    Raises:
        ConfigError: `blind` and `corruption` are asked for together.
        DataError: (from an item) an image or a label is missing or damaged, the label does not say how sure it is
            though that was asked for, or the key frame lacks a camera.
    """

    def __init__(
        self,
        data: DrivingDataset,
        tokens: Sequence[str],
        *,
        height: int,
        width: int,
        labels: Path | None = None,
        space: LabelSpace = OCC3D,
        confidence: bool = False,
        blind: bool = False,
        corruption: Corruption | None = None,
        cache_bytes: int = 0,
    ) -> None:
        if blind and corruption is not None:
            raise ConfigError(
                f"blind, and corrupted by {corruption.name}: a blind network is shown grey images, which cannot be "
                "corrupted; choose one"
            )
        self._data = data
        self.tokens = tuple(tokens)
        self._height, self._width = height, width
        self._labels, self._space = labels, space
        self._confidence = confidence
        self._blind = blind
        self._corruption = corruption
        self._cache: dict[int, _Stored] = {}
        self._cache_bytes_left = cache_bytes

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> FrameBatch:
        stored = self._cache.get(index)
        if stored is None:
            stored = self._read(self.tokens[index])
            if stored.num_bytes <= self._cache_bytes_left:
                self._cache[index] = stored
                self._cache_bytes_left -= stored.num_bytes
        return FrameBatch(
            tokens=(self.tokens[index],),
            images=normalised(stored.images)[None],
            rig=stored.rig,
            semantics=None if stored.semantics is None else stored.semantics[None],
            mask_camera=None if stored.mask_camera is None else stored.mask_camera[None],
            confidence=None if stored.confidence is None else stored.confidence[None],
        )

    def images_of(self, key_frame: KeyFrame) -> FrameBatch:
        """The images of a key frame as an item without labels; nothing is kept in memory.

        Args:
            key_frame: one of the data set, or one with images of another moment in the place of its own: the rig leads
                from each camera at its time to the ego frame of the key frame all the same.
        """
        images, rig = self._images(key_frame)
        return FrameBatch(
            tokens=(key_frame.token,), images=normalised(images)[None], rig=rig, semantics=None, mask_camera=None
        )

    def _read(self, token: str) -> _Stored:
        key_frame = self._data.key_frame(token)
        images, rig = self._images(key_frame)
        if self._labels is None:
            return _Stored(images=images, rig=rig, semantics=None, mask_camera=None, confidence=None)
        path = label_path(self._labels, key_frame.scene, token)
        label = read_label(path, allow_unknown=True, space=self._space)
        return _Stored(
            images=images,
            rig=rig,
            semantics=torch.from_numpy(label.semantics),
            mask_camera=torch.from_numpy(label.mask_camera),
            confidence=torch.from_numpy(_label_confidence(path, self._space)) if self._confidence else None,
        )

    def _images(self, key_frame: KeyFrame) -> tuple[UInt8[Tensor, "cameras 3 height width"], CameraRig]:
        cameras = tuple(camera.camera for camera in key_frame.cameras)
        if cameras != self._data.cameras:
            missing = [camera for camera in self._data.cameras if camera not in cameras]
            unlisted = [camera for camera in cameras if camera not in self._data.cameras]
            if missing:
                what = f"has no {', '.join(missing)}"
            elif unlisted:
                what = f"has {', '.join(unlisted)}, which the data set does not list"
            else:
                what = f"has its cameras in another order ({', '.join(cameras)})"
            raise DataError(
                f"key frame {key_frame.token} ({key_frame.scene}) {what}; a surround network needs the cameras "
                f"{', '.join(self._data.cameras)}, in this order: leave this key frame out, or correct the data set"
            )
        on_disk = [self._image(camera) for camera in key_frame.cameras]
        if self._corruption is not None:
            on_disk = corrupt_images(on_disk, self._corruption, key_frame.token)
        images, intrinsics_px, ego_from_camera = [], [], []
        for camera, image in zip(key_frame.cameras, on_disk, strict=True):
            rig = CameraRig(
                intrinsics_px=torch.from_numpy(camera.pinhole_intrinsics_px)[None],
                ego_from_camera=torch.from_numpy(key_frame.ego_from_camera(camera))[None],
                height=camera.height,
                width=camera.width,
            )
            image, rig = fit_image(image, rig, height=self._height, width=self._width)
            images.append(torch.from_numpy(image.transpose(2, 0, 1).copy()))
            intrinsics_px.append(rig.intrinsics_px.float())
            ego_from_camera.append(rig.ego_from_camera.float())
        return torch.stack(images), CameraRig(
            intrinsics_px=torch.cat(intrinsics_px)[None],
            ego_from_camera=torch.cat(ego_from_camera)[None],
            height=self._height,
            width=self._width,
        )

    def _image(self, camera: CameraImage) -> UInt8[np.ndarray, "height width 3"]:
        if self._blind:
            return np.full((camera.height, camera.width, 3), 127, np.uint8)
        return camera.read()


def _label_confidence(path: Path, space: LabelSpace) -> UInt8[np.ndarray, "x y z"]:
    try:
        return read_confidence(path, space=space)
    except MissingArray as error:
        raise DataError(
            f"{error}; a loss that is weighted by confidence needs labels made with `occlift label --confidence`"
        ) from error


class TrainingOrder(Sampler[list[int]]):
    """Which frames every step of a run takes, as a function of the seed and the step alone.

    All frames are shuffled, taken in turn, and shuffled anew; with several processes each takes its share of every
    step. A run that is resumed at `first_step` therefore sees what an uninterrupted one would have seen. The length
    counts the steps of the whole run, as a training loop that resumes in the middle of it expects.
    """

    def __init__(
        self,
        *,
        num_frames: int,
        batch_size: int,
        steps: int,
        seed: int,
        first_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        assert num_frames > 0, num_frames
        assert batch_size > 0, batch_size
        assert 0 <= rank < world_size, (rank, world_size)
        self._num_frames, self._batch_size = num_frames, batch_size
        self._steps, self._first_step, self._seed = steps, first_step, seed
        self._rank, self._world_size = rank, world_size

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[list[int]]:
        return map(self.indices, range(self._first_step, self._steps))

    def indices(self, step: int) -> list[int]:
        """The frames of one step of this process."""
        first = (step * self._world_size + self._rank) * self._batch_size
        positions = range(first, first + self._batch_size)
        return [int(self._shuffled(p // self._num_frames)[p % self._num_frames]) for p in positions]

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self._seed, epoch)).permutation(self._num_frames)
