"""Features of a teacher, kept on the disk in half precision.

Under `<folder>/<digest>/`, named by everything that the features depend on: `manifest.json` states it, and
`<channel>/<image token>.npz` holds an image's map: `features` (float16), `stride_px`, `offset_px`, and `image`, the
size of the image in pixels and of its file in bytes, by which features of another image of the same name are noticed.
Another teacher, or other settings, go to another folder beside it. Files are written atomically and have the same bytes
whenever the teacher says the same, so several processes may fill one cache.

What that takes: channels × cells × 2 bytes an image. DINOv2-small (384 channels) on 224 × 392 pixels makes 0.34 MB an
image, 58 GB for 28,130 key frames of six images; on 448 × 784 pixels 1.4 MB or 232 GB; on 896 × 1596
pixels, for images of 900 × 1600, 5.6 MB or 946 GB.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from occlift.errors import DataError
from occlift.runtime.files import replacing
from occlift.runtime.npz import read_npz, write_npz
from occlift.scenes.frames import CameraImage, KeyFrame
from occlift.teachers.teacher import FeatureMap, FeatureTeacher

MANIFEST_NAME: Final = "manifest.json"

_FORMAT: Final = 1
"""Part of the digest; goes up when the files change."""

_ARRAYS: Final = ("features", "stride_px", "offset_px", "image")


class FeatureCache:
    """A `FeatureTeacher` that asks another one only about images whose features it does not have.

    What it returns is float16 whether it was read or just made, so a run does not depend on what the cache held before.

    Args:
        folder: of all caches; those of other teachers may lie there too.
        teacher: that is asked; loads nothing as long as nothing is missing, if it is one of ours.

    Attributes:
        folder: of this teacher's features.

    Raises:
        DataError: a folder of that name holds something else.
    """

    def __init__(self, folder: Path, teacher: FeatureTeacher) -> None:
        self._teacher = teacher
        # As JSON gives them back: tuples are lists there.
        self._statement = json.loads(json.dumps({"format": _FORMAT, "teacher": dict(teacher.settings)}))
        text = json.dumps(self._statement, sort_keys=True)
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._stated = self._check_manifest()

    @property
    def settings(self) -> Mapping[str, object]:
        """Those of the teacher, and that its features were rounded."""
        return {**self._teacher.settings, "kept_as": "float16"}

    def path(self, image: CameraImage) -> Path:
        """Where the features of an image lie, or will."""
        return self.folder / image.camera / f"{image.key}.npz"

    def features(self, frame: KeyFrame) -> list[FeatureMap]:
        """The features of every image, a map per camera; those that were missing are written.

        Raises:
            DataError: an image is missing, features are damaged or of another image, some are too large for half
                precision, or what the teacher says.
            OSError: a file cannot be written.
        """
        made = self._make_missing(frame)
        return [made[c.camera] if c.camera in made else self._read(c) for c in frame.cameras]

    def fill(self, frame: KeyFrame) -> None:
        """Writes the features of images that have none yet, and reads none; errors as those of `features`."""
        self._make_missing(frame)

    def _make_missing(self, frame: KeyFrame) -> dict[str, FeatureMap]:
        """What was not there, by camera."""
        missing = [camera for camera in frame.cameras if not self.path(camera).exists()]
        if not missing:
            return {}
        maps = self._teacher.features(replace(frame, cameras=tuple(missing)))
        return {camera.camera: self._keep(camera, found) for camera, found in zip(missing, maps, strict=True)}

    def _keep(self, camera: CameraImage, found: FeatureMap) -> FeatureMap:
        with np.errstate(over="ignore"):
            half = found.features.astype(np.float16)
        if not np.isfinite(half).all():
            raise DataError(
                f"{camera.source.name}: features reach {np.abs(found.features).max():g}, which half precision cannot "
                "hold (65504 at most); use this teacher without a cache"
            )
        if not self._stated:
            self._write_manifest()
        arrays: dict[str, np.ndarray[Any, Any]] = {
            "features": half,
            "stride_px": np.array(found.stride_px, np.float64),
            "offset_px": np.array(found.offset_px, np.float64),
            "image": _size_of(camera),
        }
        # Mantissas of half floats are noise: compressing takes longer than it saves.
        write_npz(self.path(camera), arrays, level=0)
        return replace(found, features=half)

    def _read(self, camera: CameraImage) -> FeatureMap:
        path = self.path(camera)
        try:
            arrays = read_npz(path, _ARRAYS)
        except DataError as error:
            raise DataError(f"{error}; remove it, and its features are made again") from error
        shapes = [(array.dtype.name, array.ndim, array.size) for array in arrays.values()]
        features = arrays["features"]
        expected = [("float16", 3, features.size), ("float64", 1, 2), ("float64", 1, 2), ("int64", 1, 3)]
        if shapes != expected or not features.size:
            raise DataError(
                f"{path}: holds no features as this version writes them (types, dimensions and sizes {shapes}); remove "
                "it, and its features are made again"
            )
        if not np.array_equal(arrays["image"], _size_of(camera)):
            height, width, size = arrays["image"].tolist()
            raise DataError(
                f"{path}: features of an image of {height}×{width} pixels (fingerprint {size}), but "
                f"{camera.source.name} is another; give every data set a cache folder of its own, or remove this one"
            )
        (stride_x, stride_y), (offset_x, offset_y) = arrays["stride_px"].tolist(), arrays["offset_px"].tolist()
        return FeatureMap(features=features, stride_px=(stride_x, stride_y), offset_px=(offset_x, offset_y))

    def _check_manifest(self) -> bool:
        """Whether the folder says already whose features it holds."""
        path = self.folder / MANIFEST_NAME
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return False
        except ValueError as error:
            raise DataError(
                f"{path}: not a readable manifest ({error}); remove the folder, and its features are made again"
            ) from error
        if found != self._statement:
            raise DataError(
                f"{path}: a folder of this name should hold features by {self._statement}, but says {found}; was it "
                "renamed? Remove it, or choose another folder"
            )
        return True

    def _write_manifest(self) -> None:
        with replacing(self.folder / MANIFEST_NAME) as file:
            file.write(f"{json.dumps(self._statement, indent=1, sort_keys=True)}\n".encode())
        self._stated = True


def _size_of(camera: CameraImage) -> np.ndarray[Any, Any]:
    """Height, width and fingerprint of an image (the size of its file): enough to tell two data sets apart."""
    return np.array((camera.height, camera.width, camera.source.fingerprint()), np.int64)
