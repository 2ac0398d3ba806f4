"""Teachers with a watch: what they say is untouched, and how long they took is written down."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from occlift.scenes.frames import KeyFrame
from occlift.teachers.teacher import DepthMap, DepthTeacher, SemanticMap, SemanticsTeacher, Teacher

_Map = TypeVar("_Map", SemanticMap, DepthMap)


@dataclass(frozen=True, kw_only=True)
class TeacherTime:
    """How long a teacher takes.

    Attributes:
        first_s: seconds of its first call, in which networks are loaded and kernels compiled.
        per_image_s: seconds per image of the later calls; of the first where there was no other.
        images: number of images in the calls that `per_image_s` is from.
        only_first: whether there was no other.
    """

    first_s: float
    per_image_s: float
    images: int
    only_first: bool


class _Timed:
    """Times the calls of a teacher."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self._calls: list[tuple[int, float]] = []

    @property
    def settings(self) -> Mapping[str, object]:
        return self._teacher.settings

    @property
    def time(self) -> TeacherTime:
        """Of the calls so far, of which there must be one."""
        counted = self._calls[1:] or self._calls
        images = sum(number for number, _ in counted)
        return TeacherTime(
            first_s=self._calls[0][1],
            per_image_s=sum(seconds for _, seconds in counted) / max(1, images),
            images=images,
            only_first=len(self._calls) == 1,
        )

    def _call(self, ask: Callable[[KeyFrame], list[_Map]], frame: KeyFrame) -> list[_Map]:
        started = time.perf_counter()
        maps = ask(frame)
        self._calls.append((len(maps), time.perf_counter() - started))
        return maps


class TimedSemantics(_Timed):
    """A teacher of classes with a watch."""

    def __init__(self, teacher: SemanticsTeacher) -> None:
        super().__init__(teacher)
        self._ask = teacher.semantics

    def semantics(self, frame: KeyFrame) -> list[SemanticMap]:
        return self._call(self._ask, frame)


class TimedDepth(_Timed):
    """A teacher of depth with a watch."""

    def __init__(self, teacher: DepthTeacher) -> None:
        super().__init__(teacher)
        self._ask = teacher.depth

    def depth(self, frame: KeyFrame) -> list[DepthMap]:
        return self._call(self._ask, frame)
