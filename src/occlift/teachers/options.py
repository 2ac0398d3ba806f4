"""Options of a teacher as a user writes them, `name=value`, into the frozen dataclass that configures it."""

from __future__ import annotations

import difflib
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from occlift.errors import ConfigError

_Config = TypeVar("_Config")

_UNITS: Final = {
    "m": "metres", "px": "pixels", "rad": "radians", "us": "microseconds", "ratio": "factor", "share": "share",
    "height": "pixels", "width": "pixels", "batch": "images", "threshold": "score 0..1",
}  # fmt: skip
"""What the last word of a name says about its number."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option of a teacher, as a user reads about it.

    Attributes:
        values: what may be written.
        unit: of a number; may be empty.
        default: as it would be written; empty: there is none, it must be given.
        help: a sentence or two.
    """

    name: str
    values: str
    unit: str
    default: str
    help: str


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


def options_of(config: type, preset: Mapping[str, object]) -> tuple[Option, ...]:
    """All options that a configuration has, with the defaults that a preset gives them."""
    import docstring_parser

    kinds = get_type_hints(config)
    helps: dict[str, str] = {}
    for one in reversed(config.__mro__):
        for parameter in docstring_parser.parse(one.__doc__ or "").params:
            text = " ".join((parameter.description or "").split())
            helps.update({name.strip(): text for name in parameter.arg_name.split(",")})
    found = []
    for field in fields(config):
        value = field.default_factory() if field.default_factory is not MISSING else field.default
        value = preset.get(field.name, value)
        found.append(
            Option(
                name=field.name,
                values=_values(kinds[field.name]),
                unit=_UNITS.get(field.name.rpartition("_")[2], "") if "number" in _values(kinds[field.name]) else "",
                default="" if value is MISSING else _written(value),
                help=helps.get(field.name, ""),
            )
        )
    return tuple(found)


def _values(kind: Any) -> str:
    """What may be written for a value of a type."""
    if get_origin(kind) in (Union, types.UnionType):
        (one,) = (argument for argument in get_args(kind) if argument is not types.NoneType)
        return f"{_values(one)}, or none"
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"{_values(get_args(kind)[0])}, several with commas"
    return _READERS[kind][1]


def _written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(_written, value)) or "(nothing)"
    return "none" if value is None else (str(value) or "(nothing)")


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
