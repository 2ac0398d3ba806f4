"""The command that checks a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

_MOST_PRINTED = 30


def check(
    root: Annotated[Positional[str], arg(help="data set: FOLDER or FORMAT:FOLDER", metavar="ROOT")],
    out: Annotated[Path, arg(help="folder of the picture")] = Path("runs/check"),
    split: Annotated[str, arg(help="split of ROOT")] = "all",
    token: Annotated[
        str | None,
        arg(help="token of the key frame to draw", help_behavior_hint="(default: in the middle of the first scene)"),
    ] = None,
) -> None:
    """Check files, times, calibration and poses of a data set, and draw one key frame."""
    from occlift.errors import DataError
    from occlift.evaluation.check import check_dataset
    from occlift.scenes.dataset import open_dataset

    data = open_dataset(root)
    run = check_dataset(data, out, split=split, token=token)
    print(f"{data.spec}: {len(run.driven_m)} scenes, {run.frames} key frames, cameras {', '.join(data.cameras)}")
    print("corners matched between consecutive images, against the poses:")
    width = max([6, *(len(one.camera) for one in run.poses)])
    print(f"  {'camera':{width}}  pairs  matches  median error  agree")
    for one in run.poses:
        scores = (
            f"{one.median_error_px:9.1f} px  {one.agreeing:5.0%}" if one.matches else "   too little motion or texture"
        )
        print(f"  {one.camera:{width}}  {one.pairs:5}  {one.matches:7}  {scores}")
    for problem in run.problems[:_MOST_PRINTED]:
        print(f"! {problem}")
    if len(run.problems) > _MOST_PRINTED:
        print(f"! and {len(run.problems) - _MOST_PRINTED} more")
    if run.picture:
        print(f"{run.picture}: key frame {run.drawn}; if the grid lies on the road, mounting and intrinsics are right")
    if run.problems:
        raise DataError(f"{data.spec}: {len(run.problems)} problems, named above")
    print("no problem found")
