"""A user's own teacher by `module:factory`: an object with a method and `settings`, made by a function of its module.

# my_teachers.py
class Nearest:
    settings = {"teacher": "nearest", "version": 1}

    def depth(self, frame):
        return [DepthMap(depth_m=..., confidence=...) for camera in frame.cameras]


def nearest(scale="1"):                 # options arrive as texts: --depth my_teachers:nearest --depth-option scale=2
    return Nearest()

A factory with a parameter `data` is given the data set, one with `taxonomy` the classes that are asked for, one with
`seed` the seed of the run.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from occlift.errors import ConfigError, DataError, OccliftError
from occlift.scenes.frames import KeyFrame

_FACTORY: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_FIELDS: Final[Mapping[str, Mapping[str, str]]] = {
    "semantics": {"class_id": "uint8", "score": "float32"},
    "depth": {"depth_m": "float32", "confidence": "float32"},
    "features": {"features": "float"},
}
_AXES: Final = {"semantics": 2, "depth": 2, "features": 3}


def names_factory(name: str) -> bool:
    """Whether a name has the form `module:factory`."""
    return _FACTORY.fullmatch(name) is not None


class OwnTeacher:
    """A user's own teacher of some kind, whose answers are checked.

    Args:
        name: `module:factory`.
        method: `semantics`, `depth` or `features`: what it is asked for.
        options: keyword arguments of the factory.
        context: more of them, for parameters of these names.

    Raises:
        ConfigError: there is no such factory, it refuses its arguments, or what it makes is no such teacher.
    """

    def __init__(self, name: str, method: str, options: Mapping[str, str], context: Mapping[str, object]) -> None:
        self._name, self._method = name, method
        self._teacher = _made(name, options, context)
        if not callable(getattr(self._teacher, method, None)):
            raise ConfigError(
                f"{name}: made a {type(self._teacher).__name__}, which has no method {method}(frame); expected an "
                "object with this method and the attribute settings (occlift.teachers.teacher)"
            )
        self._settings = self._read_settings()

    @property
    def settings(self) -> Mapping[str, object]:
        return {"teacher": self._name, "settings": self._settings}

    def semantics(self, frame: KeyFrame) -> list[Any]:
        return self._asked(frame)

    def depth(self, frame: KeyFrame) -> list[Any]:
        return self._asked(frame)

    def features(self, frame: KeyFrame) -> list[Any]:
        return self._asked(frame)

    def _asked(self, frame: KeyFrame) -> list[Any]:
        maps = getattr(self._teacher, self._method)(frame)
        if not isinstance(maps, Sequence) or len(maps) != len(frame.cameras):
            found = f"{len(maps)} maps" if isinstance(maps, Sequence) else f"a {type(maps).__name__}"
            raise DataError(
                f"{self._name}: returned {found} for key frame {frame.token}; expected a list of "
                f"{len(frame.cameras)}, one for each camera, in their order"
            )
        for camera, one in zip(frame.cameras, maps, strict=True):
            for field, kind in _FIELDS[self._method].items():
                value, axes = getattr(one, field, None), _AXES[self._method]
                if not isinstance(value, np.ndarray) or not value.dtype.name.startswith(kind) or value.ndim != axes:
                    found = (
                        f"{value.dtype.name} of shape {list(value.shape)}"
                        if isinstance(value, np.ndarray)
                        else type(value).__name__
                    )
                    raise DataError(
                        f"{self._name}: {field} of {camera.camera} in key frame {frame.token} is {found}; expected an "
                        f"array of {kind} with {axes} axes"
                    )
        return list(maps)

    def _read_settings(self) -> Any:
        settings = getattr(self._teacher, "settings", None)
        try:
            return json.loads(json.dumps(settings if isinstance(settings, dict) else dict(settings or {"": object()})))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{self._name}: its settings are {settings!r} ({error}); expected a mapping of JSON values with "
                "everything that its maps depend on: it decides whether labels are made again"
            ) from error


def _made(name: str, options: Mapping[str, str], context: Mapping[str, object]) -> Any:
    module, _, factory = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), factory)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{name}: {error}; expected module:factory that can be imported (PYTHONPATH says where from), or a teacher "
            "that `occlift teachers` lists"
        ) from error
    try:
        signature = inspect.signature(make)
        given = {key: value for key, value in context.items() if key in signature.parameters and key not in options}
        signature.bind(**options, **given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}: {error}; check its options, which are keyword arguments of the factory") from error
    try:
        return make(**options, **given)
    except OccliftError:
        raise
    # Whatever somebody else's code raises about its options is for its author or its user.
    except Exception as error:
        raise ConfigError(f"{name}: the factory failed: {type(error).__name__}: {error}") from error
