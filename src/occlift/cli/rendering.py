"""The commands of the rendering baseline: train it, and see how well it knows what its cameras see."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from occlift.cli.loop import LoopOptions, loop_options, train_as
from occlift.cli.options import Given, named_values, options
from occlift.cli.spaces import Space, space_of
from occlift.runtime.files import write_text

if TYPE_CHECKING:
    from occlift.training.rendering import RenderingTrainConfig


def _recipes() -> dict[str, RenderingTrainConfig]:
    from occlift.training.rendering import RenderingTrainConfig

    return {"rendering-demo": RenderingTrainConfig.demo(), "rendering": RenderingTrainConfig.full()}


_OPTIONS = options(
    _recipes, "confidence", "semantics", "semantics_options", "depth", "depth_options", "teacher_seed", "neighbours",
)  # fmt: skip


def train_rendering(
    recipe: Annotated[
        Positional[Literal["rendering-demo", "rendering"]], arg(help="size of the network: small, or full")
    ],
    root: Annotated[Positional[str], arg(help="data set", metavar="ROOT")],
    given: Annotated[Given, _OPTIONS],
    loop: OmitArgPrefixes[Annotated[LoopOptions, loop_options(_recipes, pretrained="model.network.pretrained")]],
    labels: Annotated[
        Path | None,
        arg(
            help="folder of labels of the training split, for the 3-D pseudo-loss",
            help_behavior_hint="(default: no pseudo-loss)",
        ),
    ] = None,
    space: Space = None,
    map_cache: Annotated[
        Path | None, arg(help="folder that keeps the teachers' maps", help_behavior_hint="(default: not kept)")
    ] = None,
    maps_only: Annotated[
        bool, arg(help="supervise with class and depth maps in 2-D instead of photometric consistency")
    ] = False,
    contracted: Annotated[bool, arg(help="contract space beyond the grid, so that it reaches to infinity")] = False,
) -> None:
    """Train the rendering baseline on images and class maps, with or without the pseudo-loss."""
    from occlift.errors import ConfigError
    from occlift.models.rendering import RenderingConfig
    from occlift.scenes.dataset import open_dataset
    from occlift.training.occupancy import TrainConfig
    from occlift.training.rendering import RenderingTraining
    from occlift.training.rendering_task import RenderingLossConfig

    small = recipe == "rendering-demo"
    if small and contracted:
        raise ConfigError("--contracted changes the grid of `rendering`; rendering-demo has the label space's own")
    base, label_space = _recipes()[recipe], space_of(space, labels)
    pseudo = (TrainConfig() if small else TrainConfig.full()).loss
    config = given.onto(
        base, model=base.model if small else RenderingConfig.full(contracted=contracted, space=label_space),
        loss=RenderingLossConfig.of_maps() if maps_only else base.loss, pseudo=pseudo if labels else None,
        **{"model.network.space": label_space},
    )  # fmt: skip
    spec = RenderingTraining(data=open_dataset(root), config=loop.onto(config), labels=labels, map_cache=map_cache)
    train_as(spec, recipe, loop)


def evaluate_rendering(
    checkpoint: Annotated[
        Positional[Path], arg(help="checkpoint of `occlift train-rendering`, or the folder of its run")
    ],
    root: Annotated[Positional[str], arg(help="data set", metavar="ROOT")],
    split: Annotated[str, arg(help="split of ROOT: train, val, test, mini_train, mini_val or all")] = "val",
    train_split: Annotated[str, arg(help="split of ROOT that the baselines are computed from")] = "train",
    tokens: Annotated[
        tuple[str, ...],
        arg(
            help="tokens of the key frames, instead of a split",
            metavar="TOKEN ...",
            help_behavior_hint="(default: none)",
        ),
    ] = (),
    semantics: Annotated[str, arg(help="teacher whose class maps are the truth")] = "oracle:perfect",
    train_semantics: Annotated[
        str, arg(help="teacher whose class maps the baselines are computed from")
    ] = "oracle:foundation",
    semantics_option: Annotated[
        tuple[str, ...],
        arg(help="options of both teachers", metavar="NAME=VALUE ...", help_behavior_hint="(default: none)"),
    ] = (),
    precision: Annotated[
        Literal["auto", "bf16", "fp32"], arg(help="arithmetic; auto is bf16 where the hardware computes in it")
    ] = "auto",
    device: Annotated[
        str | None, arg(help="torch device", help_behavior_hint="(default: an accelerator if there is one)")
    ] = None,
    json: Annotated[Path | None, arg(help="file for every measure", help_behavior_hint="(default: none)")] = None,
) -> None:
    """Score what is rendered: depth against lidar, classes against class maps, each beside guesses."""
    from occlift.cli.tables import print_rendered
    from occlift.evaluation.rendering import evaluate_rendering as run_evaluation
    from occlift.scenes.dataset import open_dataset

    run = run_evaluation(
        open_dataset(root), checkpoint, split=split, train_split=train_split, tokens=tokens or None,
        semantics=semantics, train_semantics=train_semantics, semantics_options=named_values(semantics_option),
        precision=precision, device=device,
    )  # fmt: skip
    if json is not None:
        write_text(json, run.to_json())
    print_rendered(run)
