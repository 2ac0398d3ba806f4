"""From the classes of one taxonomy to those of another."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8

from occlift.errors import ConfigError
from occlift.label_space.space_file import Table, preset_names, read_space
from occlift.label_space.spaces import UNKNOWN, Taxonomy

_TABLES: Final = Path(__file__).with_name("mappings.toml")
_BRIDGE: Final = "occ3d"


def class_mapping(
    source: Taxonomy, target: Taxonomy, given: Mapping[str, str] | None = None, *, file: str = "mapping"
) -> dict[str, str]:
    """For each class of one taxonomy the class of another, or `free` or `unknown`, that it becomes.

    What is given comes first; then what `mappings.toml` says between two presets; then equal names (but for case, "-",
    "_" and spaces); then, between two presets, the way by Occ3D's classes.

    Args:
        given: source class → target class.
        file: what errors call `given`.

    Raises:
        ConfigError: a class that is given does not exist, or one of the source has no counterpart.

    >>> road = Taxonomy(names=("road", "Car"))
    >>> class_mapping(road, Taxonomy(names=("car", "ground")), {"road": "ground"})
    {'road': 'ground', 'Car': 'car'}
    """
    given = given or {}
    targets = (*target.all_names, "unknown")
    for name, becomes in given.items():
        if name not in source.names:
            raise ConfigError(f"{file}: {_no_class(name, source.names)}")
        if becomes not in targets:
            raise ConfigError(f"{file}: {name!r} becomes {_no_class(becomes, targets)}")
    found = {name: given.get(name) or _built_in(source, target, name) for name in source.names}
    if missing := [name for name, becomes in found.items() if becomes is None]:
        raise ConfigError(
            f"{file}: there is no class for {', '.join(map(repr, missing))} among {', '.join(target.names)}; say in a "
            f"mapping file what becomes of it, such as {missing[0]!r} = {target.names[0]!r} or = 'unknown'"
        )
    return {name: becomes for name, becomes in found.items() if becomes is not None}


def class_table(
    source: Taxonomy, target: Taxonomy, given: Mapping[str, str] | None = None, *, file: str = "mapping"
) -> UInt8[np.ndarray, "256"]:
    """`class_mapping` as the target id of every source id; free stays free, unknown (and what is no class) unknown."""
    table = np.full(256, UNKNOWN, np.uint8)
    for name, becomes in class_mapping(source, target, given, file=file).items():
        table[source.id_of(name)] = UNKNOWN if becomes == "unknown" else target.id_of(becomes)
    table[source.free] = target.free
    return table


def read_mapping(path: Path) -> dict[str, str]:
    """A mapping from a TOML file: one line per class, source class = "target class", "free" or "unknown".

    Raises:
        ConfigError: the file is missing or no TOML, or a value is no text.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}); expected a TOML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no text in UTF-8 ({error}); expected a TOML file") from error
    table = Table.parsed(content, str(path))
    return {name: table.text(name, "the class that it becomes, 'free' or 'unknown'") for name, _ in table.items()}


def _built_in(source: Taxonomy, target: Taxonomy, name: str) -> str | None:
    presets = _presets_of(source.names), _presets_of(target.names)
    for one in presets[0]:
        for other in presets[1]:
            if direct := _tables().get((one, other), {}).get(name):
                return direct
    for same in target.names:
        if _folded(same) == _folded(name):
            return same
    bridge = read_space(_BRIDGE).taxonomy
    if not all(presets) or bridge.names in (source.names, target.names):
        return None
    between = _built_in(source, bridge, name)
    return between if between in (None, "unknown") else _built_in(bridge, target, between)


def _folded(name: str) -> str:
    return name.lower().replace("-", " ").replace("_", " ")


@cache
def _tables() -> dict[tuple[str, str], dict[str, str]]:
    table = Table.parsed(_TABLES.read_text(encoding="utf-8"), _TABLES.name)
    return {(one, other): dict(classes) for one, targets in table.items() for other, classes in targets.items()}


@cache
def _presets_of(classes: tuple[str, ...]) -> tuple[str, ...]:
    """The presets with these classes, whatever their grid."""
    return tuple(name for name in preset_names() if read_space(name).taxonomy.names == classes)


def _no_class(name: str, names: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return (
        f"{name!r}, which is no class{f' (did you mean {near[0]!r}?)' if near else ''}; expected one of "
        f"{', '.join(names)}"
    )
