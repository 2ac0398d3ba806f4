"""Commands about data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from occlift.cli.spaces import Space, space_of
from occlift.errors import ConfigError, DataError
from occlift.runtime.words import counted, once_per_kind, such_as

if TYPE_CHECKING:
    from occlift.scenes.dataset import DrivingDataset

_MOST_PRINTED = 30


def check(
    root: Annotated[Positional[str], arg(help="data set: FOLDER or FORMAT:FOLDER", metavar="ROOT")],
    out: Annotated[Path, arg(help="folder of the picture")] = Path("runs/check"),
    split: Annotated[str, arg(help="split of ROOT")] = "all",
    token: Annotated[
        str | None,
        arg(help="token of the key frame to draw", help_behavior_hint="(default: in the middle of the first scene)"),
    ] = None,
    space: Space = None,
) -> None:
    """Check files, times, calibration and poses of a data set, and draw one key frame."""
    from occlift.evaluation.check import check_dataset
    from occlift.scenes.dataset import open_dataset

    data = open_dataset(root)
    run = check_dataset(data, out, split=split, token=token, taxonomy=space_of(space).taxonomy)
    print(
        f"{data.spec}: {counted(len(run.driven_m), 'scene')}, {counted(run.frames, 'key frame')}, "
        f"cameras {', '.join(data.cameras)}"
    )
    for name in ("train", "val"):
        print(f"  {name}: {_scenes_said(data, name)}")
    print("corners matched between consecutive images, against the poses:")
    width = max([6, *(len(one.camera) for one in run.poses)])
    print(f"  {'camera':{width}}  pairs  matches  median error  agree")
    for one in run.poses:
        scores = f"{one.median_error_px:9.1f} px  {one.agreeing:5.0%}" if one.matches else "   nothing to match"
        print(f"  {one.camera:{width}}  {one.pairs:5}  {one.matches:7}  {scores}")
    if not any(one.matches for one in run.poses):
        print("  (no two consecutive images that are 0.15 to 8 m apart and show corners)")
    kinds = once_per_kind(run.problems)
    for problem in kinds[:_MOST_PRINTED]:
        print(f"! {problem}")
    if len(kinds) > _MOST_PRINTED:
        print(f"! and {len(kinds) - _MOST_PRINTED} more kinds")
    for note in run.notes:
        print(f"note: {note}")
    if run.picture:
        print(f"{run.picture}: key frame {run.drawn}; if the grid lies on the road, mounting and intrinsics are right")
    if run.problems:
        raise DataError(f"{data.spec}: {counted(len(run.problems), 'problem')}, named above")
    print("no problem found")


def _scenes_said(data: DrivingDataset, split: str) -> str:
    try:
        scenes = data.scenes(split)
    except (ConfigError, DataError):
        scenes = ()
    return f"{counted(len(scenes), 'scene')} ({such_as(scenes)})" if scenes else "no scene"


def write_frames(
    root: Annotated[Positional[str], arg(help="data set: FOLDER or FORMAT:FOLDER", metavar="ROOT")],
    out: Annotated[Path, arg(help="folder to write, empty or missing")],
    split: Annotated[str, arg(help="split of ROOT")] = "all",
) -> None:
    """Write a data set as a plain folder of frames, with pinhole cameras in the place of distorted ones."""
    from occlift.datasets.frames.writer import write_frames as run
    from occlift.scenes.dataset import open_dataset

    data = open_dataset(root)
    scenes = data.scenes(split)
    run(data, out, scenes=scenes)
    print(f"frames:{out}: {counted(len(scenes), 'scene')}, cameras {', '.join(data.cameras)}")
