"""Commands that draw key frames."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from occlift.cli.options import named_values
from occlift.cli.spaces import Space, space_of
from occlift.runtime.words import counted, once_per_kind

if TYPE_CHECKING:
    from occlift.scenes.dataset import DrivingDataset

Root = Annotated[Positional[str], arg(help="data set", metavar="ROOT")]
Token = Annotated[
    Positional[str | None],
    arg(
        help="token of the key frame", metavar="TOKEN", help_behavior_hint="(default: in the middle of the first scene)"
    ),
]


def show(
    root: Root,
    token: Token = None,
    out: Annotated[Path, arg(help="folder of the pictures")] = Path("runs/show"),
    labels: Annotated[
        Path | None,
        arg(
            help="labels, truth or predictions to draw, a folder or a file .npz",
            help_behavior_hint="(default: the lidar's voxels, where there is a lidar)",
        ),
    ] = None,
    space: Space = None,
    video: Annotated[
        Path | None,
        arg(
            help="file .mp4 for the scene of this key frame, instead of pictures of the key frame",
            help_behavior_hint="(default: pictures)",
        ),
    ] = None,
) -> None:
    """Draw one key frame: lidar and occupancy on the images, and from above; or its scene as a video."""
    from occlift.scenes.dataset import open_dataset

    # A single label lies in <folder>/<scene>/<token>, beside the folder's manifest.
    folder = labels.absolute().parents[2] if labels and labels.name == "labels.npz" else labels
    data, label_space = open_dataset(root), space_of(space, folder)
    token = token or _in_the_middle(data)
    if video is not None:
        from occlift.viz.video import write_scene_video

        film = write_scene_video(data, data.key_frame(token).scene, video, labels=labels, space=label_space)
        for note in once_per_kind(film.notes):
            print(note)
        print(f"{film.path}: {counted(film.frames, 'key frame')}, {film.frames_per_s:g} a second")
        return
    from occlift.viz.show import show as run_show

    run = run_show(data, token, out, labels=labels, space=label_space)
    for path in run.paths:
        print(path)
    for note in run.notes:
        print(note)
    if run.num_lidar_points:
        print(
            f"{run.num_lidar_points} lidar points; ground at z = {run.ground_height_m:+.2f} m in the ego frame"
            + (
                f"; {run.num_boxes_agreeing} of {run.num_boxes_stated} boxes hold as many points as the data set says"
                if run.num_boxes_stated
                else ""
            )
        )


def show_targets(
    root: Root,
    token: Token = None,
    out: Annotated[Path, arg(help="folder of the pictures")] = Path("runs/targets"),
    labels: Annotated[
        Path | None,
        arg(help="folder of labels that occupancy is taken from", help_behavior_hint="(default: from the lidar)"),
    ] = None,
    space: Space = None,
    sweeps: Annotated[int, arg(help="number of lidar sweeps: the key frame's own and those of key frames before")] = 1,
    teacher: Annotated[
        str | None,
        arg(help="teacher of features (occlift teachers)", help_behavior_hint="(default: occupancy alone)"),
    ] = None,
    teacher_option: Annotated[
        tuple[str, ...],
        arg(help="options of the teacher", metavar="NAME=VALUE ...", help_behavior_hint="(default: none)"),
    ] = (),
    target_stride: Annotated[
        int, arg(help="edge of a target voxel, cells of half a metre: occfeat 1, occfeat-demo 2")
    ] = 1,
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
        grid=OccFeatHeadConfig(horizontal_stride=target_stride).grid, space=space_of(space, labels),
    )  # fmt: skip
    data = open_dataset(root)
    run = run_show(data, token or _in_the_middle(data), out, targets)
    for path in run.paths:
        print(path)
    print(
        f"{run.occupied} voxels occupied, {run.open} open, {run.unknown} unknown; {run.with_features} have a feature "
        "to predict"
    )


def show_bev(
    checkpoint: Annotated[
        Positional[Path], arg(help="checkpoint of `occlift finetune`, or the folder of its run", metavar="CHECKPOINT")
    ],
    root: Root,
    token: Token = None,
    out: Annotated[Path, arg(help="folder of the picture")] = Path("runs/show"),
) -> None:
    """Draw what a fine-tuned network predicts for one key frame: probabilities, hits, misses and false alarms."""
    from occlift.scenes.dataset import open_dataset
    from occlift.viz.bev_pictures import show_prediction

    data = open_dataset(root)
    print(show_prediction(data, checkpoint, token or _in_the_middle(data), out))


def _in_the_middle(data: DrivingDataset) -> str:
    """The token of the middle key frame of the first scene."""
    tokens = data.key_frame_tokens(data.scenes()[0])
    return tokens[len(tokens) // 2]
