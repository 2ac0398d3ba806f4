"""The command about label spaces, and the option that names one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from occlift.label_space import LabelSpace


Space = Annotated[
    str | None,
    arg(
        help="classes and grid: a preset (`occlift space --list`) or a .toml file",
        help_behavior_hint="(default: what the labels say that they are about; else occ3d)",
        metavar="PRESET|FILE",
    ),
]
"""The option `--space` of commands that read labels."""


def space_of(option: str | None) -> LabelSpace | None:
    """The label space that `--space` names; None: none was named."""
    from occlift.label_space import read_space

    return None if option is None else read_space(option)


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
