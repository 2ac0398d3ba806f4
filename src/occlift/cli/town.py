"""The command that builds a town."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from occlift.cli.options import Given, options
from occlift.runtime.words import counted

if TYPE_CHECKING:
    from occlift.town.config import TownConfig


def _configs() -> dict[str, TownConfig]:
    from occlift.town.config import TownConfig

    return {"town": TownConfig()}


def town(
    out: Annotated[Positional[Path], arg(help="folder of the data set", metavar="OUT")],
    given: Annotated[Given, options(_configs)],
    workers: Annotated[
        int | None, arg(help="number of processes", help_behavior_hint="(default: one per core)")
    ] = None,
) -> None:
    """Build a procedural town: a nuScenes-format data set with exact truth."""
    from occlift.town.write import write_town

    run = write_town(out, given.onto(_configs()["town"]), workers=workers)
    print(
        f"{run.root}: {counted(run.scenes, 'scene')}, {counted(run.key_frames, 'key frame')} "
        f"({run.reused} stood there already)"
    )
