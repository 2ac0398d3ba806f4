"""From the classes that networks for images know to those of a label space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8

from occlift.errors import ConfigError
from occlift.label_space import OCC3D, UNKNOWN, Taxonomy, class_mapping
from occlift.label_space.space_file import Table

_TABLE: Final = Path(__file__).with_name("image_classes.toml")
_NO_CLASSES: Final = ("free", "unknown")


def image_class_mapping(
    names: Sequence[str], taxonomy: Taxonomy, given: Mapping[str, str] | None = None, *, file: str
) -> dict[str, str]:
    """For each class of a network for images the class of a taxonomy, or `free` or `unknown`, that it becomes.

    What is given comes first, then equal names, then what `image_classes.toml` says about the classes of Cityscapes,
    Mapillary Vistas and ADE20K.

    Args:
        names: what the network calls its classes.
        given: name → class, `free` or `unknown`.
        file: what errors call `given`.

    Raises:
        ConfigError: a class that is given does not exist, or one of the network has no counterpart.

    >>> image_class_mapping(["Car", "sky", "earth, ground"], OCC3D.taxonomy, file="mapping")
    {'Car': 'car', 'sky': 'free', 'earth, ground': 'terrain'}
    """
    # A network may have two classes of one name.
    source = Taxonomy(names=tuple(dict.fromkeys(names)))
    found = {name: becomes for name in source.names if (becomes := _becomes(name, taxonomy)) is not None}
    return class_mapping(source, taxonomy, {**found, **(given or {})}, file=file)


def image_class_table(
    names: Sequence[str], taxonomy: Taxonomy, mapping: Mapping[str, str]
) -> UInt8[np.ndarray, "classes"]:
    """Class id of every class of a network, by what `image_class_mapping` says."""
    return np.array(
        [UNKNOWN if mapping[name] == "unknown" else taxonomy.id_of(mapping[name]) for name in names], np.uint8
    )


def _becomes(name: str, taxonomy: Taxonomy) -> str | None:
    own = {_folded(one): one for one in taxonomy.names}
    if (same := own.get(_folded(name))) is not None:
        return same
    table = _groups()
    choices = table.get(_folded(name)) or table.get(_folded(name.partition(",")[0])) or ()
    for choice in choices:
        if choice in _NO_CLASSES:
            return choice
        if _folded(choice) in own:
            return own[_folded(choice)]
    return _from_occ3d(taxonomy).get(choices[-1]) if choices else None


def _from_occ3d(taxonomy: Taxonomy) -> Mapping[str, str]:
    """What Occ3D's classes become; empty where somebody's own taxonomy does not say so for all of them."""
    try:
        return class_mapping(OCC3D.taxonomy, taxonomy)
    except ConfigError:
        return {}


def _folded(name: str) -> str:
    return " ".join(name.lower().replace("-", " ").replace("_", " ").split())


@cache
def _groups() -> Mapping[str, tuple[str, ...]]:
    """Name of an image class → classes of label spaces, the best first."""
    table = Table.parsed(_TABLE.read_text(encoding="utf-8"), _TABLE.name)
    found: dict[str, tuple[str, ...]] = {}
    for group in table.take("group", "[[group]] tables"):
        one = Table(group, _TABLE.name, "group")
        becomes = one.texts("becomes")
        for name in one.texts("names"):
            assert _folded(name) not in found, name
            found[_folded(name)] = becomes
    return found
