"""Options made from the fields of configurations, which alone say their types, defaults and help."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass, replace
from difflib import get_close_matches
from functools import cache, reduce
from itertools import takewhile
from typing import Annotated, Any, Final, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import docstring_parser
from tyro.conf import arg

from occlift.errors import ConfigError

Config = TypeVar("Config")

_ONE_BY_ONE: Final = {"Positional", "UseAppendAction"}
"""Markers of tyro."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """Options as parsed; those that belong to a configuration know the path of their field."""

    def onto(self, config: Config, **changes: Any) -> Config:
        """The configuration with these options, and with other changes, which are named by their fields' paths."""
        for option in fields(self):
            value = getattr(self, option.name)
            # None: what the configuration says.
            if value is None or "path" not in option.metadata:
                continue
            if option.metadata["values"]:
                value = named_values(value)
            if option.metadata["values"] is int:
                flag = "--" + option.name.replace("_", "-")
                value = {name: whole_number(word, flag) for name, word in value.items()}
            changes[option.metadata["path"]] = value
        return _changed(config, changes)


def options(configs: Callable[[], Mapping[str, Any]], *paths: str, base: type[Given] = Given, **renamed: str) -> object:
    """What makes tyro parse an argument of a command from these fields.

    Args:
        configs: makes the configurations that the options change, by name of the recipe. A default on which they
            disagree is that of the recipe.
        paths: fields, as `loss.focal_gamma`; without any, all of the configuration, those of nested ones too.
        base: has further options.
        renamed: fields whose options are named otherwise.
    """

    @cache
    def made() -> type[Given]:
        by_recipe = configs()
        chosen = paths or _leaves(next(iter(by_recipe.values())))
        named = {_flag(path): path for path in chosen} | renamed
        return make_dataclass(
            base.__name__, [_option(flag, path, by_recipe) for flag, path in named.items()], bases=(base,),
            namespace={"__doc__": base.__doc__}, frozen=True, kw_only=True,
        )  # fmt: skip

    return arg(name="" if base is Given else None, constructor_factory=made)


def named_values(options: Sequence[str]) -> dict[str, str]:
    """name=value, several times."""
    if wrong := [option for option in options if "=" not in option]:
        raise ConfigError(f"{wrong[0]!r} is no setting; expected name=value")
    return {name: value for name, _, value in (option.partition("=") for option in options)}


def whole_number(text: str, option: str) -> int:
    """What a word of this option says."""
    if not text.isdecimal():
        raise ConfigError(f"{option}: {text!r} is no whole number")
    return int(text)


def greedy_options(command: object) -> set[str]:
    """Options of a command, or of a dataclass of options, that take every word up to the next option."""
    found = set()
    for name, kind in get_type_hints(command, include_extras=True).items():
        plain, *about = get_args(kind) if get_origin(kind) is Annotated else (kind,)
        if makes := next((made for one in about if (made := getattr(one, "constructor_factory", None))), None):
            found |= greedy_options(makes())
        # Words without an option, and options that are repeated for each value, take no others.
        elif any(get_origin(one) is tuple for one in (plain, *get_args(plain))) and not _ONE_BY_ONE & {
            str(one) for one in about
        }:
            renamed = next((given for one in about if (given := getattr(one, "name", None))), None)
            found.add("--" + (renamed or name).replace("_", "-"))
    return found


def choices(command: object) -> set[str]:
    """All words that a command, or a dataclass of options, lets its user choose from."""
    found: set[str] = set()
    for kind in get_type_hints(command, include_extras=True).values():
        plain, *about = get_args(kind) if get_origin(kind) is Annotated else (kind,)
        if makes := next((made for one in about if (made := getattr(one, "constructor_factory", None))), None):
            found |= choices(makes())
        for one in (plain, *get_args(plain)):
            if get_origin(one) is Literal:
                found |= {word for word in get_args(one) if isinstance(word, str)}
    return found


def near_choices(words: Sequence[str], known: Collection[str]) -> str:
    """Which of the known words may have been meant by others on a command line; empty where none is near."""
    near = {word: get_close_matches(word, known, n=2, cutoff=0.75) for word in words if word not in known}
    return " ".join(f"{word}: did you mean {' or '.join(found)}?" for word, found in near.items() if found)


def taken_words(words: Sequence[str], greedy: Collection[str]) -> str:
    """What options among the words of a command line took several of them, as sentences; empty where none did."""
    sentences = []
    for start, word in enumerate(words):
        if (option := word.replace("_", "-")) in greedy:
            taken = list(takewhile(lambda one: not one.startswith("--"), words[start + 1 :]))
            if len(taken) > 1:
                sentences.append(
                    f"{option} takes all words up to the next option, here {', '.join(taken)}; write words that "
                    "are not its values before it, or before another option."
                )
    return " ".join(sentences)


def _option(flag: str, path: str, configs: Mapping[str, Any]) -> tuple[str, Any, Any]:
    """Name, type and default, as `make_dataclass` wants them."""
    *outer, name = path.split(".")
    owners = {recipe: reduce(getattr, outer, config) for recipe, config in configs.items()}
    owner = type(next(iter(owners.values())))
    kind, help = get_type_hints(owner)[name], _help(owner, name)
    defaults = {recipe: getattr(one, name) for recipe, one in owners.items()}
    default = next(iter(defaults.values()))
    values, hint, metavar = None, None, None
    if get_origin(kind) is Mapping:
        kind, default, values, hint = tuple[str, ...], (), get_args(kind)[1], "(default: none)"
        metavar = "NAME=VALUE ..."
    elif any(other != default for other in defaults.values()):
        if get_origin(kind) is Literal:
            metavar = f"{{{','.join(get_args(kind))}}}"
        kind, default = kind | None, None
        hint = f"(default: {', '.join(f'{value} for {recipe}' for recipe, value in defaults.items())})"
    elif kind == tuple[str, ...]:
        metavar = "NAME ..."
    elif default is None:
        help, _, meaning = help.partition("; None: ")
        hint = f"(default: {meaning or 'none'})"
    metadata = {"path": path, "values": values}
    return (
        flag,
        Annotated[kind, arg(help=help, help_behavior_hint=hint, metavar=metavar)],
        field(default=default, metadata=metadata),
    )


def _flag(path: str) -> str:
    name = path.rpartition(".")[2]
    return name.removesuffix("s") if name.endswith("_options") else name


def _leaves(config: Any, above: str = "") -> list[str]:
    """Paths of all fields that are no configurations themselves."""
    found = []
    for one in fields(config):
        value = getattr(config, one.name)
        found += _leaves(value, f"{above}{one.name}.") if is_dataclass(value) else [above + one.name]
    return found


def _help(kind: type, name: str) -> str:
    parsed = docstring_parser.parse(kind.__doc__ or "")
    text = next((one.description for one in parsed.params if one.arg_name == name), None)
    assert text, f"{kind.__name__}.{name} is an option, and its docstring does not say what it is"
    return " ".join(text.split()).removesuffix(".")


def _changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """All at once, since configurations check themselves, and one change may need another."""
    own = {path: value for path, value in changes.items() if "." not in path}
    for name in {path.partition(".")[0] for path in changes if "." in path}:
        below = {path.removeprefix(f"{name}."): v for path, v in changes.items() if path.startswith(f"{name}.")}
        own[name] = _changed(own.get(name, getattr(config, name)), below)
    return cast("Config", replace(cast("Any", config), **own))
