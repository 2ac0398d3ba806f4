"""Teachers by name, as the command line and label configurations call them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from occlift.errors import ConfigError
from occlift.teachers.corruption import DepthCorruption, SemanticsCorruption
from occlift.teachers.oracle import FOUNDATION_DEPTH, FOUNDATION_SEMANTICS, OracleDepth, OracleSemantics
from occlift.teachers.teacher import DepthTeacher, SemanticsTeacher

SEMANTICS_TEACHERS: Final[Mapping[str, Callable[[int], SemanticsTeacher]]] = {
    "oracle:perfect": lambda seed: OracleSemantics(corruption=SemanticsCorruption(), seed=seed),
    "oracle:foundation": lambda seed: OracleSemantics(corruption=FOUNDATION_SEMANTICS, seed=seed),
}
"""From a name to what makes the teacher from a seed."""

DEPTH_TEACHERS: Final[Mapping[str, Callable[[int], DepthTeacher]]] = {
    "oracle:perfect": lambda seed: OracleDepth(corruption=DepthCorruption(), seed=seed),
    "oracle:foundation": lambda seed: OracleDepth(corruption=FOUNDATION_DEPTH, seed=seed),
}
"""From a name to what makes the teacher from a seed."""

_Made = TypeVar("_Made")


def semantics_teacher(name: str, *, seed: int = 0) -> SemanticsTeacher:
    """The teacher of classes called `name`.

    Raises:
        ConfigError: there is none of this name.
    """
    return _make(SEMANTICS_TEACHERS, name, seed, "classes")


def depth_teacher(name: str, *, seed: int = 0) -> DepthTeacher:
    """The teacher of depth called `name`.

    Raises:
        ConfigError: there is none of this name.
    """
    return _make(DEPTH_TEACHERS, name, seed, "depth")


def _make(teachers: Mapping[str, Callable[[int], _Made]], name: str, seed: int, what: str) -> _Made:
    if name not in teachers:
        raise ConfigError(f"there is no teacher of {what} called {name!r}; choose one of {', '.join(teachers)}")
    return teachers[name](seed)
