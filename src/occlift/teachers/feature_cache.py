"""Features of a teacher, kept on the disk in half precision (`occlift.teachers.cache` says how).

A file holds an image's map: `features` (float16), `stride_px` and `offset_px`.

What that takes: channels × cells × 2 bytes an image. DINOv2-small (384 channels) on 224 × 392 pixels makes 0.34 MB an
image, 58 GB for 28,130 key frames of six images; on 448 × 784 pixels 1.4 MB or 232 GB; on 896 × 1596
pixels, for images of 900 × 1600, 5.6 MB or 946 GB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from occlift.errors import DataError
from occlift.scenes.frames import CameraImage, KeyFrame
from occlift.teachers.cache import Arrays, TeacherCache
from occlift.teachers.teacher import FeatureMap, FeatureTeacher


class FeatureCache(TeacherCache[FeatureMap]):
    """A `FeatureTeacher` that asks another one only about images whose features it does not have.

    What it returns is float16 whether it was read or just made, so a run does not depend on what the cache held before.

    Args:
        folder: of all caches; those of other teachers may lie there too.
        teacher: that is asked; loads nothing as long as nothing is missing, if it is one of ours.

    Raises:
        DataError: a folder of that name holds something else.
    """

    what = "features"
    names = ("features", "stride_px", "offset_px")
    # Mantissas of half floats are noise: compressing takes longer than it saves.
    level = 0
    asks_again = False

    def __init__(self, folder: Path, teacher: FeatureTeacher) -> None:
        self._teacher = teacher
        super().__init__(folder, {"teacher": dict(teacher.settings)})

    @property
    def settings(self) -> Mapping[str, object]:
        """Those of the teacher, and that its features were rounded."""
        return {**self._teacher.settings, "kept_as": "float16"}

    def features(self, frame: KeyFrame) -> list[FeatureMap]:
        """The features of every image, a map per camera; those that were missing are written.

        Raises:
            DataError: an image is missing, features are damaged or of another image, some are too large for half
                precision, or what the teacher says.
            OSError: a file cannot be written.
        """
        return self.answers(frame)

    def _ask(self, frame: KeyFrame) -> Sequence[FeatureMap]:
        return self._teacher.features(frame)

    def _as_kept(self, said: FeatureMap, camera: CameraImage) -> FeatureMap:
        with np.errstate(over="ignore"):
            half = said.features.astype(np.float16)
        if not np.isfinite(half).all():
            raise DataError(
                f"{camera.source.name}: features reach {np.abs(said.features).max():g}, which half precision cannot "
                "hold (65504 at most); use this teacher without a cache"
            )
        return replace(said, features=half)

    def _packed(self, said: FeatureMap) -> Arrays:
        return {
            "features": said.features,
            "stride_px": np.array(said.stride_px, np.float64),
            "offset_px": np.array(said.offset_px, np.float64),
        }

    def _unpacked(self, arrays: Arrays) -> FeatureMap | None:
        features, stride_px, offset_px = (arrays[name] for name in self.names)
        if (features.dtype.name, features.ndim) != ("float16", 3) or not features.size:
            return None
        if any((array.dtype.name, array.shape) != ("float64", (2,)) for array in (stride_px, offset_px)):
            return None
        (stride_x, stride_y), (offset_x, offset_y) = stride_px.tolist(), offset_px.tolist()
        return FeatureMap(features=features, stride_px=(stride_x, stride_y), offset_px=(offset_x, offset_y))
