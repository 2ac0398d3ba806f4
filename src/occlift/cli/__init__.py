"""The command line: parse, call, print. Heavy imports happen inside the commands, so that `--help` is instant."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional, arg

from occlift.errors import OccliftError

if TYPE_CHECKING:
    from occlift.recipes.demo import DemoRun
    from occlift.recipes.scores import Evaluation

app = tyro.extras.SubcommandApp()


@app.command(name="demo")
def demo(
    out: Annotated[Path, arg(help="folder of the run; what it holds already is reused")] = Path("runs/demo"),
    size: Annotated[
        Literal["standard", "smoke"], arg(help="smoke: every stage in its smallest form, in about a minute")
    ] = "standard",
) -> None:
    """Everything once: a town, labels, training, baselines, scores, a report. No GPU, no downloads."""
    from occlift.recipes.demo import DemoConfig, run_demo

    config = DemoConfig.standard() if size == "standard" else DemoConfig.smoke()
    _print_demo(run_demo(out, config, command=_command()))


@app.command(name="town")
def town(
    out: Annotated[Positional[Path], arg(help="folder of the data set", metavar="OUT")],
    scenes: Annotated[int, arg(help="drives, each through a quarter of its own")] = 10,
    frames: Annotated[int, arg(help="key frames per scene, at 2 Hz")] = 40,
    seed: int = 0,
    image_height: Annotated[int, arg(help="pixels")] = 224,
    image_width: Annotated[int, arg(help="pixels")] = 400,
    maps: Annotated[bool, arg(help="class and depth maps beside the images, for the oracle teacher")] = False,
    static: Annotated[bool, arg(help="nothing moves but the ego")] = False,
    workers: Annotated[int | None, arg(help="processes; by default one per core")] = None,
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


@app.command(name="label")
def label(
    root: Annotated[Positional[Path], arg(help="a nuScenes-format data set", metavar="ROOT")],
    out: Annotated[Path, arg(help="folder of the labels, in Occ3D's layout")],
    semantics: Annotated[str, arg(help="the teacher of classes")] = "oracle:foundation",
    depth: Annotated[str, arg(help="the teacher of depth")] = "oracle:foundation",
    frames: Annotated[int, arg(help="key frames fused into one label, the current one in the middle")] = 13,
    min_points: Annotated[int, arg(help="points that make a voxel occupied")] = 3,
    keep_moving: Annotated[bool, arg(help="fuse moving classes of other frames too: everything leaves ghosts")] = False,
    stride: Annotated[int, arg(help="every so-many-th pixel gives a point")] = 1,
    free_stride: Annotated[int, arg(help="every so-many-th pixel casts a ray")] = 2,
    seed: Annotated[int, arg(help="of the oracle's errors")] = 0,
    split: Annotated[str, arg(help="train, val, test, mini_train, mini_val or all")] = "all",
) -> None:
    """Make occupancy labels from what teachers see in the images."""
    from occlift.data.nuscenes import NuScenes
    from occlift.labels.generate import LabelConfig, generate_labels

    config = LabelConfig(
        semantics=semantics, depth=depth, frames=frames, min_points=min_points, drop_moving=not keep_moving,
        stride=stride, free_stride=free_stride, seed=seed,
    )  # fmt: skip
    data = NuScenes.open(root)
    run = generate_labels(data, out, config, scenes=data.split(split))
    print(f"{run.out}: {run.done} labels made ({run.seconds_per_label:.2f} s each), {run.reused} were there already")
    if run.failed:
        for token, reason in list(run.failed.items())[:10]:
            print(f"  no label for {token}: {reason}", file=sys.stderr)
        raise OccliftError(f"{len(run.failed)} labels could not be made; {run.out / 'manifest.json'} says why")


@app.command(name="train")
def train(
    recipe: Annotated[
        Positional[Literal["easyocc-demo", "easyocc"]], arg(help="the network: small, or as in the paper")
    ],
    root: Annotated[Positional[Path], arg(help="a nuScenes-format data set", metavar="ROOT")],
    labels: Annotated[Path, arg(help="labels of its training split")],
    out: Annotated[Path | None, arg(help="run folder; by default runs/RECIPE")] = None,
    validation_labels: Annotated[Path | None, arg(help="score against these while training")] = None,
    steps: Annotated[int | None, arg(help="length of the schedule")] = None,
    max_steps: Annotated[int | None, arg(help="stop after this step of the schedule")] = None,
    batch_size: Annotated[int, arg(help="key frames per process and step")] = 1,
    learning_rate: float | None = None,
    seed: int = 0,
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    devices: Annotated[int, arg(help="processes; more than one trains with DistributedDataParallel")] = 1,
    workers: Annotated[int, arg(help="reading processes per training process")] = 0,
    blind: Annotated[bool, arg(help="grey images: how much is learned without looking")] = False,
    pretrained: Annotated[str | None, arg(help="name or folder of backbone weights (transformers ResNet)")] = None,
    resume: Annotated[Path | None, arg(help="a checkpoint to go on from")] = None,
) -> None:
    """Train EasyOcc on labels."""
    from dataclasses import replace

    from occlift.recipes.easyocc import TrainConfig
    from occlift.recipes.easyocc import train as run_training

    base = TrainConfig() if recipe == "easyocc-demo" else TrainConfig.full()
    config = replace(
        base, model=replace(base.model, pretrained=pretrained), batch_size=batch_size, seed=seed, precision=precision,
        devices=devices, workers=workers, blind=blind,
    )  # fmt: skip
    optimizer = config.optimizer
    optimizer = replace(
        optimizer, steps=steps or optimizer.steps, learning_rate=learning_rate or optimizer.learning_rate
    )
    run = run_training(
        root, labels, out or Path("runs") / recipe, replace(config, optimizer=optimizer),
        validation_labels=validation_labels, resume=resume, max_steps=max_steps,
    )  # fmt: skip
    if _is_first_process():
        print(f"{run.checkpoint}: step {run.steps}, {run.train_frames} frames, {run.seconds:.0f} s; see {run.losses}")


@app.command(name="predict")
def predict(
    checkpoint: Annotated[
        Positional[Path], arg(help="a checkpoint, or random:easyocc for a network with random weights")
    ],
    root: Annotated[Positional[Path], arg(help="a nuScenes-format data set", metavar="ROOT")],
    out: Annotated[Path, arg(help="folder of the predictions: <token>.npz")],
    split: Annotated[str, arg(help="train, val, test, mini_train, mini_val or all")] = "val",
    tokens: Annotated[tuple[str, ...], arg(help="samples to predict, instead of a split")] = (),
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    device: Annotated[str | None, arg(help="as torch names it; by default an accelerator where there is one")] = None,
) -> None:
    """Write predictions in the layout of Occ3D submissions."""
    from occlift.models.easyocc import EasyOccConfig
    from occlift.recipes.easyocc import predict as run_prediction

    shapes = {"random:easyocc": EasyOccConfig.full, "random:easyocc-demo": EasyOccConfig.demo}
    shape = shapes.get(str(checkpoint))
    run = run_prediction(
        root, out, checkpoint=None if shape else checkpoint, model=shape() if shape else None, split=split,
        tokens=tokens or None, precision=precision, device=device,
    )  # fmt: skip
    print(
        f"{run.out}: {run.frames} frames in {run.seconds:.1f} s ({run.model_seconds / run.frames:.2f} s a frame inside "
        f"the network), peak memory {run.peak_memory_bytes / 1e9:.1f} GB"
    )


@app.command(name="evaluate")
def evaluate(
    predictions: Annotated[Path, arg(help="folder with <token>.npz, key semantics: ours or anybody's")],
    truth: Annotated[Path, arg(help="folder gts/<scene>/<token>/labels.npz")],
    mask: Annotated[
        tuple[Literal["camera", "lidar", "none"], ...], arg(help="evaluated voxels; by default all three")
    ] = ("camera", "lidar", "none"),
    root: Annotated[Path | None, arg(help="with --split: the data set whose split must be complete")] = None,
    split: Annotated[str | None, arg(help="score exactly this split of ROOT")] = None,
    json: Annotated[Path | None, arg(help="write histograms and every named score here")] = None,
) -> None:
    """Score predictions: IoU and every mIoU by name."""
    from occlift.data.nuscenes import NuScenes
    from occlift.errors import ConfigError
    from occlift.recipes.scores import evaluate as run_evaluation
    from occlift.recipes.scores import split_tokens

    if (root is None) != (split is None):
        raise ConfigError("--root and --split go together: the split of which data set must be complete?")
    tokens = split_tokens(NuScenes.open(root), split) if root and split else None
    evaluation = run_evaluation(predictions, truth, tokens=tokens, masks=mask)
    if json:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(evaluation.to_json(), encoding="utf-8")
    _print_evaluation(evaluation)


@app.command(name="show")
def show(
    root: Annotated[Positional[Path], arg(help="a nuScenes-format data set", metavar="ROOT")],
    token: Annotated[Positional[str], arg(help="of the sample", metavar="TOKEN")],
    out: Annotated[Path, arg(help="folder of the pictures")] = Path("runs/show"),
    labels: Annotated[Path | None, arg(help="occupancy to draw, in Occ3D's layout; without it the lidar's")] = None,
) -> None:
    """Draw one key frame: lidar and occupancy on the images, and from above."""
    from occlift.recipes.show import show as run_show

    run = run_show(root, token, out, labels=labels)
    for path in run.paths:
        print(path)
    print(
        f"{run.num_lidar_points} lidar points; ground at z = {run.ground_height_m:+.2f} m in the ego frame; "
        f"{run.num_boxes_agreeing} of {run.num_boxes} boxes hold as many points as the table says"
    )


def _is_first_process() -> bool:
    """False in the processes that a training on several devices starts by this same command."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _command() -> str:
    """What was typed, as a user would type it again."""
    return shlex.join(["occlift", *sys.argv[1:]])


def _percent(value: float) -> str:
    return "–" if value != value else f"{value:.2f}"


def _print_evaluation(evaluation: Evaluation) -> None:
    from rich.console import Console
    from rich.table import Table

    scores = evaluation.scores
    table = Table(title=f"{evaluation.frames} key frames, per cent", title_justify="left")
    for column in ("mask", "IoU", "mIoU 17", "mIoU 15", "mIoU 17, absent = 0", "mIoU 15, absent = 0"):
        table.add_column(column, justify="left" if column == "mask" else "right")
    for mask in scores.histograms:
        means = [
            scores.mean_iou(mask, classes=classes, absent=absent)
            for absent in ("skipped", "zero")
            for classes in (17, 15)
        ]
        table.add_row(mask, *map(_percent, (scores.geometric_iou(mask), *means)))
    Console().print(table)


def _print_demo(run: DemoRun) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Unseen scenes of the town, per cent", title_justify="left")
    table.add_column("")
    for mask in ("camera mask", "no mask"):
        for score in ("IoU", "mIoU 17", "mIoU 15"):
            table.add_column(f"{score}\n{mask}", justify="right")
    for row in run.rows:
        masked, unmasked = row.with_camera_mask, row.without_mask
        values = (masked.iou, masked.miou_17, masked.miou_15, unmasked.iou, unmasked.miou_17, unmasked.miou_15)
        table.add_row(row.name, *map(_percent, values))
    console = Console()
    console.print(table)
    for row in run.rows:
        console.print(f"{row.name}: {row.note}", highlight=False)
    console.print(
        f"EasyOcc has {run.ratio:.2f} times the mIoU (17 classes, camera mask) of the better of prior and blind."
    )
    console.print(f"{run.seconds:.0f} s, peak memory {run.peak_memory_gb:.1f} GB.", highlight=False)
    console.print(f"Report: {run.report}", soft_wrap=True, highlight=False)
    console.print(f"3-D scene: {run.scene}", soft_wrap=True, highlight=False)


def main() -> None:
    """The entry point: errors that a user can mend are printed as a sentence, all others as a stack trace."""
    from occlift.progress import shown_progress

    try:
        with shown_progress() if _is_first_process() else contextlib.nullcontext():
            app.cli(prog="occlift", description="What images show, lifted to 3-D supervision.")
    except OccliftError as error:
        print(f"occlift: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("occlift: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
