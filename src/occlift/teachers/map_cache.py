"""Class and depth maps of a teacher, kept on the disk (`occlift.teachers.cache` says how) as they are: nothing is
rounded.

A file holds an image's map, `semantics` or `depth_m`. Scores and confidences are not kept: what has a class or a depth
counts as sure. A class map of 900×1600 pixels takes about 30 kB, a depth map of a network some 3 MB: for 28,130 key
frames of six images 5 GB and 500 GB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from occlift.label_space import UNKNOWN, Taxonomy
from occlift.scenes.frames import CameraImage, KeyFrame
from occlift.teachers.cache import Arrays, TeacherCache
from occlift.teachers.teacher import DepthMap, DepthTeacher, SemanticMap, SemanticsTeacher


class SemanticsCache(TeacherCache[SemanticMap]):
    """A `SemanticsTeacher` that asks another one only about key frames whose class maps it does not have.

    Args:
        folder: of all caches; those of other teachers may lie there too.
        teacher: that is asked; loads nothing as long as nothing is missing, if it is one of ours.
        taxonomy: classes of the maps.

    Raises:
        DataError: a folder of that name holds something else.
    """

    what = "class maps"
    names = ("semantics",)
    level = 1
    asks_again = True

    def __init__(self, folder: Path, teacher: SemanticsTeacher, taxonomy: Taxonomy) -> None:
        self._teacher = teacher
        classes = list(taxonomy.all_names)
        super().__init__(folder, {"teacher": dict(teacher.settings), "maps": "semantics", "classes": classes})

    @property
    def settings(self) -> Mapping[str, object]:
        """Those of the teacher."""
        return self._teacher.settings

    def semantics(self, frame: KeyFrame) -> list[SemanticMap]:
        """The class maps of a key frame; those that were missing are written. Errors as those of `answers`."""
        return self.answers(frame)

    def _ask(self, frame: KeyFrame) -> Sequence[SemanticMap]:
        return self._teacher.semantics(frame)

    def _as_kept(self, said: SemanticMap, camera: CameraImage) -> SemanticMap:
        return SemanticMap(class_id=said.class_id, score=(said.class_id != UNKNOWN).astype(np.float32))

    def _packed(self, said: SemanticMap) -> Arrays:
        return {"semantics": said.class_id}

    def _unpacked(self, arrays: Arrays) -> SemanticMap | None:
        class_id = arrays["semantics"]
        if (class_id.dtype.name, class_id.ndim) != ("uint8", 2) or not class_id.size:
            return None
        return SemanticMap(class_id=class_id, score=(class_id != UNKNOWN).astype(np.float32))


class DepthCache(TeacherCache[DepthMap]):
    """A `DepthTeacher` that asks another one only about key frames whose depth maps it does not have.

    Args:
        folder: of all caches; those of other teachers may lie there too.
        teacher: that is asked; loads nothing as long as nothing is missing, if it is one of ours.

    Raises:
        DataError: a folder of that name holds something else.
    """

    what = "depth maps"
    names = ("depth_m",)
    level = 1
    asks_again = True

    def __init__(self, folder: Path, teacher: DepthTeacher) -> None:
        self._teacher = teacher
        super().__init__(folder, {"teacher": dict(teacher.settings), "maps": "depth"})

    @property
    def settings(self) -> Mapping[str, object]:
        """Those of the teacher."""
        return self._teacher.settings

    def depth(self, frame: KeyFrame) -> list[DepthMap]:
        """The depth maps of a key frame; those that were missing are written. Errors as those of `answers`."""
        return self.answers(frame)

    def _ask(self, frame: KeyFrame) -> Sequence[DepthMap]:
        return self._teacher.depth(frame)

    def _as_kept(self, said: DepthMap, camera: CameraImage) -> DepthMap:
        known = np.isfinite(said.depth_m) & (said.depth_m > 0)
        return DepthMap(depth_m=said.depth_m, confidence=known.astype(np.float32))

    def _packed(self, said: DepthMap) -> Arrays:
        return {"depth_m": said.depth_m}

    def _unpacked(self, arrays: Arrays) -> DepthMap | None:
        depth_m = arrays["depth_m"]
        if (depth_m.dtype.name, depth_m.ndim) != ("float32", 2) or not depth_m.size:
            return None
        known = np.isfinite(depth_m) & (depth_m > 0)
        return DepthMap(depth_m=depth_m, confidence=known.astype(np.float32))
