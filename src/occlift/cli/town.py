"""The command that builds a town."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


def town(
    out: Annotated[Positional[Path], arg(help="folder of the data set", metavar="OUT")],
    scenes: Annotated[int, arg(help="number of drives, each through a quarter of its own")] = 10,
    frames: Annotated[int, arg(help="number of key frames per scene, at 2 Hz")] = 40,
    seed: Annotated[int, arg(help="random seed of everything")] = 0,
    image_height: Annotated[int, arg(help="height of the images, pixels")] = 224,
    image_width: Annotated[int, arg(help="width of the images, pixels")] = 400,
    maps: Annotated[bool, arg(help="write class and depth maps beside the images, for the oracle teacher")] = False,
    static: Annotated[bool, arg(help="let nothing move but the ego vehicle")] = False,
    workers: Annotated[
        int | None, arg(help="number of processes", help_behavior_hint="(default: one per core)")
    ] = None,
) -> None:
    """Build a procedural town: a nuScenes-format data set with exact truth."""
    from occlift.town.config import TownConfig
    from occlift.town.write import write_town

    config = TownConfig(
        scenes=scenes, frames=frames, seed=seed, image_height=image_height, image_width=image_width, maps=maps,
        static=static,
    )  # fmt: skip
    run = write_town(out, config, workers=workers)
    print(f"{run.root}: {run.scenes} scenes, {run.key_frames} key frames ({run.reused} scenes stood there already)")
