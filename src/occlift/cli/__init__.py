"""The command line: parse, call, print. Heavy imports happen inside the commands, so that `--help` is instant."""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path
from typing import Annotated, Final, Literal

import tyro
from tyro.conf import Positional, arg

from occlift.cli.bev import evaluate_bev, finetune, pretrain, show_bev, show_targets
from occlift.cli.files import write_text
from occlift.cli.labels import audit, label
from occlift.cli.loop import is_first_process
from occlift.cli.rendering import evaluate_rendering, train_rendering
from occlift.cli.training import export, predict, train
from occlift.errors import OccliftError

app = tyro.extras.SubcommandApp()

_MASKS: Final = ("camera", "lidar", "none")


@app.command(name="demo")
def demo(
    out: Annotated[Path, arg(help="folder of the run; what it holds already is reused")] = Path("runs/demo"),
    size: Annotated[
        Literal["standard", "smoke"], arg(help="smoke: every stage in its smallest form, in about a minute")
    ] = "standard",
) -> None:
    """Everything once: a town, labels, training, baselines, scores, a report. No GPU, no downloads."""
    from occlift.cli.tables import print_demo
    from occlift.demo import DemoConfig, run_demo

    config = DemoConfig.standard() if size == "standard" else DemoConfig.smoke()
    print_demo(run_demo(out, config, command=_command()))


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


app.command(name="label")(label)
app.command(name="audit")(audit)


@app.command(name="teachers")
def teachers() -> None:
    """List the teachers, what each needs, and whether it is there."""
    from occlift.cli.tables import print_teachers
    from occlift.teachers.registry import teacher_table

    print_teachers(teacher_table())


app.command(name="train")(train)
app.command(name="predict")(predict)
app.command(name="train-rendering")(train_rendering)
app.command(name="evaluate-rendering")(evaluate_rendering)
app.command(name="pretrain")(pretrain)
app.command(name="finetune")(finetune)
app.command(name="show-targets")(show_targets)
app.command(name="show-bev")(show_bev)
app.command(name="export")(export)


@app.command(name="evaluate")
def evaluate(
    predictions: Annotated[
        Path | None, arg(help="folder with <token>.npz, key semantics: ours or anybody's; with --truth")
    ] = None,
    truth: Annotated[Path | None, arg(help="folder gts/<scene>/<token>/labels.npz")] = None,
    bev: Annotated[
        Path | None, arg(help="score this checkpoint of `occlift finetune bev` instead; needs --root")
    ] = None,
    corrupt: Annotated[
        tuple[str, ...], arg(help="of --bev: corrupt the images, too: NAME, NAME:STRENGTH (1 to 5) or all")
    ] = (),
    mask: Annotated[
        tuple[Literal["camera", "lidar", "none"], ...], arg(help="evaluated voxels; by default all three")
    ] = _MASKS,
    rays: Annotated[bool, arg(help="RayIoU too; needs --root for the lidar poses")] = False,
    root: Annotated[Path | None, arg(help="the data set: for --split and --rays")] = None,
    split: Annotated[
        str | None, arg(help="score exactly this split of ROOT; by default every scene that is predicted, whole")
    ] = None,
    json: Annotated[Path | None, arg(help="write histograms and every named score here")] = None,
    allow_missing: Annotated[
        bool, arg(help="leave out samples that are missing on one side, instead of refusing")
    ] = False,
    part: Annotated[str, arg(help="i/n: score the i-th of n parts, for `occlift merge`", metavar="I/N")] = "1/1",
    device: Annotated[
        str | None,
        arg(
            help="as torch names it: where rays are cast, by default cpu (same answer everywhere); where the network "
            "of --bev runs, by default an accelerator if there is one"
        ),
    ] = None,
) -> None:
    """Score predictions: IoU, every mIoU by name, RayIoU; or a bird's-eye-view network."""
    from occlift.cli.tables import print_evaluation
    from occlift.datasets.nuscenes.dataset import NuScenes
    from occlift.errors import ConfigError
    from occlift.evaluation.occupancy import evaluate as run_evaluation

    if bev is not None:
        if root is None or predictions or truth:
            raise ConfigError("--bev CHECKPOINT needs --root, and neither --predictions nor --truth")
        given = {"--mask": mask != _MASKS, "--rays": rays, "--allow-missing": allow_missing, "--part": part != "1/1"}
        if foreign := [option for option, is_given in given.items() if is_given]:
            raise ConfigError(f"{', '.join(foreign)}: of occupancy; --bev scores cells of the ground, all of a split")
        evaluate_bev(bev, root, split, corrupt, json, device)
        return
    if predictions is None or truth is None or corrupt:
        raise ConfigError("expected --predictions and --truth, or --bev (which knows --corrupt)")
    if root is None and (split or rays):
        raise ConfigError(f"{'--split' if split else '--rays'} needs --root: of which data set?")
    number, slash, parts = part.partition("/")
    if not (slash and number.isdecimal() and parts.isdecimal()):
        raise ConfigError(f"--part {part}: expected I/N, such as 1/4")
    data = NuScenes.open(root) if root else None
    evaluation = run_evaluation(
        predictions, truth, tokens=data.split_tokens(split) if data and split else None, masks=mask,
        rays=data if rays else None, device=device or "cpu", allow_missing=allow_missing,
        part=(int(number), int(parts)),
    )  # fmt: skip
    print_evaluation(evaluation)
    if json:
        write_text(json, evaluation.to_json())


@app.command(name="merge")
def merge(
    parts: Annotated[Positional[tuple[Path, ...]], arg(help="what `occlift evaluate --json` wrote", metavar="JSON")],
    json: Annotated[Path, arg(help="write the evaluation of all samples here")],
) -> None:
    """Add up evaluations of parts of a split; equal to scoring it whole, to the last bit."""
    from occlift.cli.tables import print_evaluation
    from occlift.evaluation.occupancy import merge as run_merge
    from occlift.evaluation.occupancy import read_evaluation

    evaluation = run_merge([read_evaluation(path) for path in parts])
    write_text(json, evaluation.to_json())
    print_evaluation(evaluation)


@app.command(name="compare")
def compare(
    runs: Annotated[Positional[tuple[Path, ...]], arg(help="what `occlift evaluate --json` wrote", metavar="JSON")],
    names: Annotated[tuple[str, ...], arg(help="of the runs; by default their files'")] = (),
    mask: Annotated[tuple[Literal["camera", "lidar", "none"], ...], arg(help="of the columns")] = ("camera", "none"),
    absent: Annotated[
        Literal["skipped", "zero"], arg(help="how classes count that neither truth nor prediction holds")
    ] = "skipped",
    per_class: Annotated[
        Literal["camera", "lidar", "none", "rays"] | None, arg(help="IoU per class, by this mask or by rays")
    ] = None,
    markdown: Annotated[bool, arg(help="print Markdown")] = False,
    picture: Annotated[
        Path | None, arg(help="draw bars per class here, as PNG (camera mask, unless --per-class says otherwise)")
    ] = None,
) -> None:
    """Compare runs: every score beside the others', the best marked."""
    from occlift.cli.tables import print_comparison
    from occlift.evaluation.compare import compare as run_comparison

    comparison = run_comparison(runs, names)
    tables = [comparison.table(masks=mask, absent=absent), *([comparison.class_table(per_class)] if per_class else [])]
    if markdown:
        print("\n".join(table.markdown() for table in tables), end="")
    else:
        for table in tables:
            print_comparison(table)
    if picture:
        comparison.picture(picture, per_class or "camera")


@app.command(name="show")
def show(
    root: Annotated[Positional[Path], arg(help="a nuScenes-format data set", metavar="ROOT")],
    token: Annotated[Positional[str], arg(help="of the sample", metavar="TOKEN")],
    out: Annotated[Path, arg(help="folder of the pictures")] = Path("runs/show"),
    labels: Annotated[Path | None, arg(help="occupancy to draw, in Occ3D's layout; without it the lidar's")] = None,
) -> None:
    """Draw one key frame: lidar and occupancy on the images, and from above."""
    from occlift.viz.show import show as run_show

    run = run_show(root, token, out, labels=labels)
    for path in run.paths:
        print(path)
    print(
        f"{run.num_lidar_points} lidar points; ground at z = {run.ground_height_m:+.2f} m in the ego frame; "
        f"{run.num_boxes_agreeing} of {run.num_boxes} boxes hold as many points as the table says"
    )


def _command() -> str:
    """What was typed, as a user would type it again."""
    return shlex.join(["occlift", *sys.argv[1:]])


def main() -> None:
    """The entry point: errors that a user can mend are printed as a sentence, all others as a stack trace."""
    from occlift.runtime.progress import shown_progress

    try:
        with shown_progress() if is_first_process() else contextlib.nullcontext():
            app.cli(prog="occlift", description="What images show, lifted to 3-D supervision.")
    except OccliftError as error:
        print(f"occlift: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        # What a folder does not allow, or a disk; errors without a file are ours.
        if error.filename is None:
            raise
        file = error.filename2 or error.filename
        print(f"occlift: {file}: {error.strerror}; choose another place, or make this one usable", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as interrupt:
        print(f"occlift: {interrupt or 'interrupted; run the same command again to go on'}", file=sys.stderr)
        sys.exit(130)
