"""Label spaces in TOML files, to be written by hand; those that were published lie beside this module, in `presets`.

source = "where grid and classes come from"       # may be missing

[grid]                                            # or: like = "occ3d", the grid of a preset
lower_m = [-40.0, -40.0, -1.0]                    # the corner with the smallest coordinates, ego frame
voxel_size_m = 0.4                                # or one number per axis
shape = [200, 200, 16]                            # voxels along x, y, z

[free]                                            # may be missing
prompts = ["sky"]                                 # what a text-prompted teacher is asked for the sky
color = "#ffffff"

[[class]]                                         # the order of the classes is their id, from 0
name = "car"
prompts = ["car", "sedan"]                        # without it the name; [] asks for nothing
color = "#0096f5"                                 # or [0, 150, 245]; all classes have one, or none has
moving = true                                     # its objects may move between two key frames
thin = true                                       # its objects fill a voxel or two
ground = true                                     # it lies flat on the ground
vague = true                                      # a catch-all, which a second mIoU leaves out
categories = ["vehicle.car"]                      # categories of the data set's boxes
"""

from __future__ import annotations

import difflib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from occlift.errors import ConfigError
from occlift.geometry.grids import VoxelGrid
from occlift.label_space.spaces import LabelSpace, Taxonomy

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PRESETS: Final = Path(__file__).with_name("presets")
_MAX_VOXELS: Final = 500_000_000
_FLAGS: Final = ("moving", "thin", "ground", "vague")
_WHITE: Final = (255, 255, 255)


@dataclass(frozen=True, kw_only=True)
class SpaceFile:
    """What a file says.

    Attributes:
        space: grid and classes.
        source: where they come from; may be empty.
    """

    space: LabelSpace
    source: str


@cache
def preset_names() -> tuple[str, ...]:
    """Names of the label spaces that were published, the default first."""
    return tuple(sorted((path.stem for path in _PRESETS.glob("*.toml")), key=lambda name: (name != "occ3d", name)))


def preset_text(name: str) -> str:
    """The file of a preset, with its comments: a start for a file of one's own."""
    return (_PRESETS / f"{name}.toml").read_text(encoding="utf-8")


def read_space(text: str | Path) -> LabelSpace:
    """The label space that a user names.

    Args:
        text: name of a preset, or path of a TOML file (the module's docstring shows one).

    Raises:
        ConfigError: there is no such preset or file, or something in the file is missing, unknown, given twice or of
            the wrong type; names file, field, what was found and what was expected.

    >>> space = read_space("semantickitti")
    >>> str(space), space.taxonomy.id_of("road")
    ('19 classes on 256×256×32 voxels of 0.2 m', 8)
    """
    return read_space_file(text).space


def read_space_file(text: str | Path) -> SpaceFile:
    """As `read_space`, with what the file says besides."""
    name, names = str(text), preset_names()
    if name in names:
        return _preset(name)
    path = Path(text)
    if path.suffix != ".toml" and not path.is_file():
        near = difflib.get_close_matches(name, names, n=1)
        raise ConfigError(
            f"there is no label space {name!r}{f' (did you mean {near[0]!r}?)' if near else ''}; choose one of "
            f"{', '.join(names)}, or name a .toml file (`occlift space occ3d > mine.toml` makes one to start from)"
        )
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `occlift space occ3d > {path}` makes one to start from") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no text in UTF-8 ({error}); expected a TOML file") from error
    return parse_space(content, str(path))


@cache
def _preset(name: str) -> SpaceFile:
    return parse_space(preset_text(name), f"preset {name}")


def parse_space(content: str, file: str) -> SpaceFile:
    """The label space that the text of a TOML file describes.

    Args:
        file: what errors call it.

    Raises:
        ConfigError: as `read_space`.
    """
    table = Table.parsed(content, file)
    source = table.text("source", "where grid and classes come from") if "source" in table else ""
    grid = _grid(table.table("grid"))
    free = table.table("free") if "free" in table else Table({}, file, "free")
    sky_prompts = free.texts("prompts") if "prompts" in free else ("sky",)
    free_color = _color(free) if "color" in free else _WHITE
    free.finish()
    if not isinstance(given := table.take("class", "[[class]] tables, one for each class"), list) or not given:
        raise table.wrong("class", given, "[[class]] tables, one for each class")
    table.finish()
    names: list[str] = []
    prompts: dict[str, tuple[str, ...]] = {}
    colors: dict[str, tuple[int, int, int]] = {}
    flags: dict[str, list[str]] = {flag: [] for flag in _FLAGS}
    categories: dict[str, str] = {}
    asked: dict[str, str] = dict.fromkeys(sky_prompts, "free")
    for number, values in enumerate(given, start=1):
        where = f"class number {number}"
        if not isinstance(values, dict):
            raise ConfigError(f"{file}: {where} is {_shown(values)}; expected a [[class]] table")
        name = Table(values, file, where).text("name", "the name of the class")
        one = Table(values, file, f"class {name!r}")
        one.take("name", "")
        if name in ("free", "unknown"):
            raise ConfigError(
                f"{file}: {where}: name is {name!r}; expected another: free space and what is unknown need no [[class]]"
            )
        if name in names:
            raise ConfigError(
                f"{file}: {where}: name is {name!r}, and so is that of class number "
                f"{names.index(name) + 1}; expected each name once"
            )
        names.append(name)
        phrases = one.texts("prompts") if "prompts" in one else (name.replace("_", " ").replace("-", " "),)
        for phrase in phrases:
            if phrase in asked:
                raise ConfigError(
                    f"{file}: class {name!r}: prompts holds {phrase!r}, and so do those of {asked[phrase]!r}; expected "
                    "each phrase once"
                )
            asked[phrase] = name
        if phrases:
            prompts[name] = phrases
        if "color" in one:
            colors[name] = _color(one)
        for flag in _FLAGS:
            if flag in one and one.truth(flag):
                flags[flag].append(name)
        for category in one.texts("categories") if "categories" in one else ():
            if category in categories:
                raise ConfigError(
                    f"{file}: class {name!r}: categories holds {category!r}, and so do those of "
                    f"{categories[category]!r}; expected each category once"
                )
            categories[category] = name
        one.finish()
    if colors and (without := [name for name in names if name not in colors]):
        raise ConfigError(
            f"{file}: class {without[0]!r}: color is missing, and {next(iter(colors))!r} has one; expected a colour "
            "for each class, or for none"
        )
    try:
        taxonomy = Taxonomy(
            names=tuple(names), prompts=prompts, sky_prompts=sky_prompts,
            colors=(*colors.values(), free_color) if colors else (), categories=dict(sorted(categories.items())),
            **{flag: tuple(named) for flag, named in flags.items()},
        )  # fmt: skip
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    return SpaceFile(space=LabelSpace(grid=grid, taxonomy=taxonomy), source=source)


def to_toml(space: LabelSpace, *, source: str = "") -> str:
    """A label space as the text of a TOML file; `read_space` of that file gives the same space.

    Args:
        source: where grid and classes come from.

    >>> print(to_toml(read_space("occ3d"))[:66])
    [grid]
    lower_m = [-40.0, -40.0, -1.0]
    voxel_size_m = [0.4, 0.4, 0.4]
    """
    taxonomy, grid = space.taxonomy, space.grid
    lines = [f"source = {_toml(source)}", ""] if source else []
    lines += [
        "[grid]", f"lower_m = {_toml(grid.lower_m)}", f"voxel_size_m = {_toml(grid.voxel_size_m)}",
        f"shape = {_toml(grid.shape)}", "", "[free]", f"prompts = {_toml(taxonomy.sky_prompts)}",
    ]  # fmt: skip
    if taxonomy.colors:
        lines.append(f"color = {_toml(_hexadecimal(taxonomy.colors[-1]))}")
    for number, name in enumerate(taxonomy.names):
        lines += ["", "[[class]]", f"name = {_toml(name)}", f"prompts = {_toml(taxonomy.prompts.get(name, ()))}"]
        if taxonomy.colors:
            lines.append(f"color = {_toml(_hexadecimal(taxonomy.colors[number]))}")
        lines += [f"{flag} = true" for flag in _FLAGS if name in getattr(taxonomy, flag)]
        if categories := [category for category, of in taxonomy.categories.items() if of == name]:
            lines.append(f"categories = {_toml(categories)}")
    return "\n".join([*lines, ""])


class Table:
    """A table of a TOML file whose entries are taken one by one; what is left over at the end is an error.

    Args:
        values: what the table holds.
        file: what errors call the file.
        name: what errors call the table; empty for the file itself.
    """

    def __init__(self, values: Mapping[str, Any], file: str, name: str = "") -> None:
        self._values, self._file, self._name = dict(values), file, name
        self._known: list[str] = []

    @classmethod
    def parsed(cls, content: str, file: str) -> Table:
        """The whole file; ConfigError where it is no TOML."""
        try:
            return cls(tomllib.loads(content), file)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{file}: not readable as TOML: {error}") from None

    def __contains__(self, key: str) -> bool:
        self._known.append(key)
        return key in self._values

    def take(self, key: str, expected: str) -> Any:
        """An entry as it is."""
        self._known.append(key)
        if key not in self._values:
            raise ConfigError(f"{self._file}: {self._field(key)} is missing; expected {expected}")
        return self._values.pop(key)

    def table(self, key: str) -> Table:
        found = self.take(key, "a table")
        if not isinstance(found, dict):
            raise self.wrong(key, found, f"a table [{key}]")
        return Table(found, self._file, key)

    def text(self, key: str, expected: str) -> str:
        found = self.take(key, expected)
        if not _is_text(found):
            raise self.wrong(key, found, f"a text: {expected}")
        return found

    def texts(self, key: str) -> tuple[str, ...]:
        found = self.take(key, "a list of texts")
        if not isinstance(found, list) or any(not _is_text(one) for one in found):
            raise self.wrong(key, found, 'a list of texts, such as ["car", "van"]')
        if len(set(found)) < len(found):
            raise self.wrong(key, found, "each text once")
        return tuple(found)

    def truth(self, key: str) -> bool:
        found = self.take(key, "true or false")
        if not isinstance(found, bool):
            raise self.wrong(key, found, "true or false")
        return found

    def items(self) -> list[tuple[str, Any]]:
        """All entries that were not taken yet."""
        return list(self._values.items())

    def wrong(self, key: str, found: object, expected: str) -> ConfigError:
        """The error for an entry that is not as it should be."""
        return ConfigError(f"{self._file}: {self._field(key)} is {_shown(found)}; expected {expected}")

    def finish(self) -> None:
        """ConfigError where something was not taken."""
        known = sorted(set(self._known))
        for key in self._values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                raise ConfigError(
                    f"{self._file}: {self._field(key)} means nothing here"
                    f"{f' (did you mean {near[0]!r}?)' if near else ''}; expected {', '.join(known)} only"
                )

    def _field(self, key: str) -> str:
        return f"{self._name}: {key}" if self._name else key


def _grid(table: Table) -> VoxelGrid:
    if "like" in table:
        name = table.text("like", "the name of a preset")
        if name not in preset_names():
            raise table.wrong("like", name, f"the name of a preset: {', '.join(preset_names())}")
        table.finish()
        return _preset(name).space.grid
    lower = _three_numbers(table, "lower_m", "[x, y, z] of the corner with the smallest coordinates, metres")
    expected = "the edge of a voxel, metres above 0, as one number or as [x, y, z]"
    size = table.take("voxel_size_m", expected)
    sizes = size if isinstance(size, list) else [size] * 3
    if len(sizes) != 3 or not all(_is_number(one) and one > 0 for one in sizes):
        raise table.wrong("voxel_size_m", size, expected)
    expected = "[x, y, z], the numbers of voxels, whole and above 0"
    shape = table.take("shape", expected)
    if (
        not isinstance(shape, list)
        or len(shape) != 3
        or not all(isinstance(one, int) and not isinstance(one, bool) and one > 0 for one in shape)
    ):
        raise table.wrong("shape", shape, expected)
    if math.prod(shape) > _MAX_VOXELS:
        raise table.wrong("shape", shape, f"{_MAX_VOXELS:,} voxels at most")
    table.finish()
    x, y, z = (float(one) for one in sizes)
    return VoxelGrid(lower_m=lower, voxel_size_m=(x, y, z), shape=(shape[0], shape[1], shape[2]))


def _three_numbers(table: Table, key: str, expected: str) -> tuple[float, float, float]:
    found = table.take(key, expected)
    if not isinstance(found, list) or len(found) != 3 or not all(map(_is_number, found)):
        raise table.wrong(key, found, expected)
    x, y, z = map(float, found)
    return x, y, z


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and bool(value.strip())


def _is_number(value: object) -> bool:
    # Kilometres are no mistake that anybody means, and NaN compares with nothing.
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e6 < value < 1e6


def _color(table: Table) -> tuple[int, int, int]:
    found = table.take("color", "a colour")
    parts: Any = found
    if isinstance(found, str) and len(found) == 7 and found[0] == "#":
        try:
            parts = list(bytes.fromhex(found[1:]))
        except ValueError:
            parts = None
    if (
        not isinstance(parts, list)
        or len(parts) != 3
        or not all(isinstance(one, int) and not isinstance(one, bool) and 0 <= one <= 255 for one in parts)
    ):
        raise table.wrong("color", found, 'sRGB as "#rrggbb" or as [red, green, blue], each 0 to 255')
    return parts[0], parts[1], parts[2]


def _hexadecimal(color: tuple[int, int, int]) -> str:
    return f"#{bytes(color).hex()}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _toml(value: Any) -> str:
    """A text, numbers or texts as TOML writes them; JSON's texts are TOML's."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
