"""Options of a teacher as a user writes them, `name=value`, into the frozen dataclass that configures it."""

from __future__ import annotations

import difflib
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from occlift.errors import ConfigError

_Config = TypeVar("_Config")

_TRUTHS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def configured(
    config: type[_Config], preset: Mapping[str, object], options: Mapping[str, str], *, teacher: str
) -> _Config:
    """A configuration from the options that a user wrote, over the values of a preset, over the defaults of the class.

    Values are read as the type of their field says: int, float, bool (true or false), str, Path, one of a Literal, a
    tuple of these (separated by commas), or `none` where None is allowed.

    Args:
        teacher: its name, for errors.

    Raises:
        ConfigError: an option does not exist, has no value of its type, or one that has no default is missing.
    """
    types_of = get_type_hints(config)
    names = [field.name for field in fields(config)]  # type: ignore[arg-type]
    for name in options:
        if name not in names:
            raise ConfigError(
                f"{teacher} has no option {name!r}{did_you_mean(name, names)}; it has {', '.join(names) or 'none'}"
            )
    values = dict(preset)
    for name, text in options.items():
        try:
            values[name] = _parsed(text, types_of[name])
        except ValueError as error:
            raise ConfigError(f"{teacher}: option {name} is {text!r}; expected {error}") from None
    for field in fields(config):  # type: ignore[arg-type]
        if field.default is MISSING and field.default_factory is MISSING and field.name not in values:
            raise ConfigError(
                f"{teacher} needs the option {field.name}; write {field.name}=VALUE, or {teacher}:VALUE for short"
            )
    return config(**values)


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """A question about the name that is nearest to a misspelt one; empty where none is near."""
    close = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _parsed(text: str, kind: Any) -> Any:
    """A value of a type; ValueError says what was expected."""
    if get_origin(kind) in (Union, types.UnionType):
        if text.lower() == "none":
            return None
        (kind,) = (argument for argument in get_args(kind) if argument is not types.NoneType)
        return _parsed(text, kind)
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise ValueError(f"one of {', '.join(get_args(kind))}")
        return text
    if get_origin(kind) is tuple:
        item, *others = get_args(kind)
        parts = [part.strip() for part in text.split(",")] if text.strip() else []
        count = None if others == [...] else 1 + len(others)
        if count is not None and len(parts) != count:
            raise ValueError(f"{count} values, separated by commas")
        return tuple(_parsed(part, item) for part in parts)
    read, expected = _READERS[kind]
    try:
        return read(text)
    except (ValueError, KeyError):
        raise ValueError(expected) from None


_READERS: Final[Mapping[type, tuple[Callable[[str], Any], str]]] = {
    int: (int, "a whole number"),
    float: (float, "a number"),
    bool: (lambda text: _TRUTHS[text.lower()], "true or false"),
    str: (str, "a text"),
    Path: (Path, "a path"),
}
