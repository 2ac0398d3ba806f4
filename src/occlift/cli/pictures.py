"""Commands that draw key frames."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from occlift.cli.options import named_values
from occlift.cli.spaces import Space, space_of

Root = Annotated[Positional[str], arg(help="data set", metavar="ROOT")]
Token = Annotated[Positional[str], arg(help="token of the key frame", metavar="TOKEN")]


def show(
    root: Root,
    token: Token,
    out: Annotated[Path, arg(help="folder of the pictures")] = Path("runs/show"),
    labels: Annotated[Path | None, arg(help="folder of the labels to draw; without it the lidar's voxels")] = None,
    space: Space = None,
) -> None:
    """Draw one key frame: lidar and occupancy on the images, and from above."""
    from occlift.scenes.dataset import open_dataset
    from occlift.viz.show import show as run_show

    run = run_show(open_dataset(root), token, out, labels=labels, space=space_of(space, labels))
    for path in run.paths:
        print(path)
    print(
        f"{run.num_lidar_points} lidar points; ground at z = {run.ground_height_m:+.2f} m in the ego frame; "
        f"{run.num_boxes_agreeing} of {run.num_boxes} boxes hold as many points as the data set says"
    )


def show_targets(
    root: Root,
    token: Token,
    out: Annotated[Path, arg(help="folder of the pictures")] = Path("runs/targets"),
    labels: Annotated[
        Path | None, arg(help="folder of labels that occupancy is taken from; without it from the lidar")
    ] = None,
    space: Space = None,
    sweeps: Annotated[int, arg(help="number of lidar sweeps: the key frame's own and those of key frames before")] = 1,
    teacher: Annotated[
        str | None, arg(help="teacher of features (occlift teachers); without it occupancy alone")
    ] = None,
    teacher_option: Annotated[tuple[str, ...], arg(help="options of the teacher, as name=value")] = (),
    stride: Annotated[int, arg(help="edge of a target voxel, cells of half a metre: occfeat 1, occfeat-demo 2")] = 1,
) -> None:
    """Draw what a pretraining would be asked to predict of one key frame, on the images and from above."""
    from occlift.errors import ConfigError
    from occlift.models.occfeat import OccFeatHeadConfig
    from occlift.scenes.dataset import open_dataset
    from occlift.viz.bev_pictures import Targets
    from occlift.viz.bev_pictures import show_targets as run_show

    if teacher_option and teacher is None:
        raise ConfigError("--teacher-option needs --teacher: whose settings?")
    targets = Targets(
        labels=labels, sweeps=sweeps, teacher=teacher, teacher_options=named_values(teacher_option),
        grid=OccFeatHeadConfig(horizontal_stride=stride).grid, space=space_of(space, labels),
    )  # fmt: skip
    run = run_show(open_dataset(root), token, out, targets)
    for path in run.paths:
        print(path)
    print(
        f"{run.occupied} voxels occupied, {run.open} open, {run.unknown} unknown; {run.with_features} have a feature "
        "to predict"
    )


def show_bev(
    checkpoint: Annotated[Positional[Path], arg(help="checkpoint of `occlift finetune`", metavar="CHECKPOINT")],
    root: Root,
    token: Token,
    out: Annotated[Path, arg(help="folder of the picture")] = Path("runs/show"),
) -> None:
    """Draw what a fine-tuned network predicts for one key frame: probabilities, hits, misses and false alarms."""
    from occlift.scenes.dataset import open_dataset
    from occlift.viz.bev_pictures import show_prediction

    print(show_prediction(open_dataset(root), checkpoint, token, out))
