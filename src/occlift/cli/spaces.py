"""The command about label spaces, and the option that names one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from pathlib import Path

    from occlift.label_space import LabelSpace


Space = Annotated[
    str | None,
    arg(
        help="classes and grid: a preset (`occlift space --list`) or a .toml file",
        help_behavior_hint="(default: those that the labels were made with; else occ3d)",
        metavar="PRESET|FILE",
    ),
]
"""The option `--space` of commands that make or read labels."""


def space_of(value: str | None, *folders: Path | None, option: str = "--space") -> LabelSpace:
    """The label space that a command works in: what `--space` names, else what the manifest of a folder says.

    Args:
        value: what the option says; None: not given.
        folders: folders of labels that the command writes or reads; None: not given.
        option: name of the option.

    Raises:
        ConfigError: there is no such space, or the option and the folders contradict one another; names both.
        DataError: a manifest is damaged.
    """
    from occlift.label_space import OCC3D, read_space
    from occlift.labels.manifest import recorded_space

    spaces = {} if value is None else {f"{option} {value}": read_space(value)}
    for folder in folders:
        if folder is not None and (recorded := recorded_space(folder)):
            spaces[f"the labels in {folder}"] = recorded
    if not spaces:
        return OCC3D
    (first, chosen), *others = spaces.items()
    for what, other in others:
        chosen.check_same(other, first, what)
    return chosen


def space(
    name: Annotated[
        Positional[str],
        arg(help="preset, or a .toml file, which is checked and printed in full", metavar="PRESET|FILE"),
    ] = "occ3d",
    list: Annotated[bool, arg(help="list the presets instead: their classes, grids and sources")] = False,
) -> None:
    """Print classes and grid as a file to edit: `occlift space occ3d > mine.toml`, then `--space mine.toml`."""
    from occlift.cli.tables import print_spaces
    from occlift.label_space import preset_names, preset_text, read_space_file, to_toml

    if list:
        print_spaces({name: read_space_file(name) for name in preset_names()})
    elif name in preset_names():
        # With its comments: where classes and grid come from, and what the published files call them.
        print(preset_text(name), end="")
    else:
        found = read_space_file(name)
        print(to_toml(found.space, source=found.source), end="")
