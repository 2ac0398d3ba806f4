"""The commands of the rendering baseline: train it, and see how well it knows depth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from occlift.cli.files import write_text
from occlift.cli.training import is_first_process

if TYPE_CHECKING:
    from occlift.recipes.depth import DepthEvaluation


def train_rendering(
    recipe: Annotated[
        Positional[Literal["rendering-demo", "rendering"]], arg(help="the network: small, or as in the paper")
    ],
    root: Annotated[Positional[Path], arg(help="a nuScenes-format data set", metavar="ROOT")],
    labels: Annotated[
        Path | None, arg(help="labels of its training split: adds the 3-D pseudo-loss against them")
    ] = None,
    semantics: Annotated[
        str, arg(help="the teacher of class maps; files:FOLDER reads kept ones")
    ] = "oracle:foundation",
    depth: Annotated[str, arg(help="the teacher of depth maps; asked with --maps-only alone")] = "oracle:foundation",
    maps_only: Annotated[
        bool, arg(help="class and depth maps in 2-D instead of photometric consistency: what labels say, unfused")
    ] = False,
    contracted: Annotated[bool, arg(help="rendering: a grid that reaches to infinity")] = False,
    out: Annotated[Path | None, arg(help="run folder; by default runs/RECIPE")] = None,
    steps: Annotated[int | None, arg(help="length of the schedule")] = None,
    max_steps: Annotated[int | None, arg(help="stop after this step of the schedule")] = None,
    batch_size: Annotated[int, arg(help="key frames per process and step")] = 1,
    learning_rate: float | None = None,
    seed: int = 0,
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    devices: Annotated[int, arg(help="processes; more than one trains with DistributedDataParallel")] = 1,
    workers: Annotated[int, arg(help="reading processes per training process")] = 0,
    pretrained: Annotated[str | None, arg(help="name or folder of backbone weights (transformers ResNet)")] = None,
    resume: Annotated[Path | None, arg(help="a checkpoint to go on from")] = None,
) -> None:
    """Train the rendering baseline on images and class maps, with or without the pseudo-loss."""
    from dataclasses import replace

    from occlift.errors import ConfigError
    from occlift.models.rendering import RenderingConfig
    from occlift.recipes.easyocc import TrainConfig
    from occlift.recipes.rendering import RenderingTrainConfig
    from occlift.recipes.rendering import train_rendering as run_training
    from occlift.tasks.rendering import RenderingLossConfig

    small = recipe == "rendering-demo"
    if small and contracted:
        raise ConfigError("--contracted changes the grid of `rendering`; rendering-demo has Occ3D's own")
    base = RenderingTrainConfig.demo() if small else RenderingTrainConfig.full()
    model = base.model if small else RenderingConfig.full(contracted=contracted)
    pseudo = (TrainConfig() if small else TrainConfig.full()).loss
    optimizer = replace(
        base.optimizer, steps=steps or base.optimizer.steps,
        learning_rate=learning_rate or base.optimizer.learning_rate,
    )  # fmt: skip
    config = replace(
        base, model=replace(model, network=replace(model.network, pretrained=pretrained)), optimizer=optimizer,
        loss=RenderingLossConfig.of_maps() if maps_only else base.loss, pseudo=pseudo if labels else None,
        semantics=semantics, depth=depth, batch_size=batch_size, seed=seed, precision=precision, devices=devices,
        workers=workers,
    )  # fmt: skip
    run = run_training(root, out or Path("runs") / recipe, config, labels=labels, resume=resume, max_steps=max_steps)
    if is_first_process():
        print(f"{run.checkpoint}: step {run.steps}, {run.train_frames} frames, {run.seconds:.0f} s; see {run.losses}")


def depth(
    checkpoint: Annotated[Positional[Path], arg(help="of `occlift train-rendering`")],
    root: Annotated[Positional[Path], arg(help="a nuScenes-format data set", metavar="ROOT")],
    split: Annotated[str, arg(help="train, val, test, mini_train, mini_val or all")] = "val",
    train_split: Annotated[str, arg(help="whose median depth is the constant guess")] = "train",
    tokens: Annotated[tuple[str, ...], arg(help="samples, instead of a split")] = (),
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    device: Annotated[str | None, arg(help="as torch names it; by default an accelerator where there is one")] = None,
    json: Annotated[Path | None, arg(help="write every measure here")] = None,
) -> None:
    """Score rendered depth against lidar, beside a constant and a flat ground."""
    from occlift.recipes.depth import evaluate_depth

    run = evaluate_depth(
        root, checkpoint, split=split, train_split=train_split, tokens=tokens or None, precision=precision,
        device=device,
    )  # fmt: skip
    _print(run)
    if json is not None:
        write_text(json, run.to_json())


def _print(run: DepthEvaluation) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Depth against lidar, {run.frames} key frames, per image, metric")
    table.add_column("")
    rows = {"rendered": run.model, "constant": run.constant, "ground": run.ground}
    for name in run.model.measures("per_image", "metric"):
        table.add_column(name, justify="right")
    for label, sums in rows.items():
        table.add_row(label, *(f"{value:.3f}" for value in sums.measures("per_image", "metric").values()))
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"constant: {run.constant_m:.1f} m everywhere, the median of the training lidar; ground: the flat ground "
        "ego frame, 80 m above the horizon"
    )
