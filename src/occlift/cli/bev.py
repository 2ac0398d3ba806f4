"""The commands of bird's-eye-view networks: pretrain them, fine-tune them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from occlift.cli.loop import LoopOptions, loop_options, train_as
from occlift.cli.options import Given, options
from occlift.cli.spaces import Space, space_of

if TYPE_CHECKING:
    from occlift.training.bev import FinetuneConfig
    from occlift.training.occfeat import PretrainConfig

Share = Literal["1%", "10%", "100%"]
Architecture = Literal["simple_bev", "bevformer", "lift_splat"]
Network = Annotated[Architecture, arg(help="method that lifts image features to the ground")]
ImageSize = Annotated[
    tuple[int, int] | None,
    arg(help="height and width of the images, pixels", help_behavior_hint="(default: from the recipe)"),
]

_SHARES: Final = {"1%": 0.01, "10%": 0.1, "100%": 1.0}


def _pretrainings(network: Architecture = "simple_bev") -> dict[str, PretrainConfig]:
    from occlift.training.occfeat import PretrainConfig

    return {"occfeat": PretrainConfig.full(network), "occfeat-demo": PretrainConfig.demo(network)}


def _finetunings(network: Architecture = "simple_bev") -> dict[str, FinetuneConfig]:
    from occlift.training.bev import FinetuneConfig

    return {"bev": FinetuneConfig.full(network), "bev-demo": FinetuneConfig.demo(network)}


_PRETRAIN_OPTIONS = options(
    _pretrainings, "model.backbone", "teacher", "teacher_options", "occupancy", "sweeps",
    occupancy_factor="loss.occupancy", feature_factor="loss.features", class_factor="loss.classes",
)  # fmt: skip
_FINETUNE_OPTIONS = options(_finetunings, "label_seed", "model.backbone", "model.classes", "learned_balance", "blind")


def pretrain(
    recipe: Annotated[Positional[Literal["occfeat", "occfeat-demo"]], arg(help="size of the network: full, or small")],
    root: Annotated[Positional[str], arg(help="data set", metavar="ROOT")],
    given: Annotated[Given, _PRETRAIN_OPTIONS],
    loop: OmitArgPrefixes[Annotated[LoopOptions, loop_options(_pretrainings)]],
    network: Network = "simple_bev",
    labels: Annotated[
        Path | None,
        arg(
            help="folder of labels of the training split, for --occupancy labels", help_behavior_hint="(default: none)"
        ),
    ] = None,
    space: Space = None,
    feature_cache: Annotated[
        Path | None,
        arg(
            help="folder that keeps the teacher's features, in half precision", help_behavior_hint="(default: not kept)"
        ),
    ] = None,
    image_size: ImageSize = None,
) -> None:
    """Pretrain a bird's-eye-view network by occupancy and features (OccFeat), with lidar or without."""
    from occlift.errors import ConfigError
    from occlift.scenes.dataset import open_dataset
    from occlift.training.occfeat import OccFeatPretraining

    if space and labels is None:
        raise ConfigError("--space says what labels are about: it needs --labels")
    config = given.onto(_pretrainings(network)[recipe], space=space_of(space, labels), **_size(image_size))
    spec = OccFeatPretraining(
        data=open_dataset(root), config=loop.onto(config), labels=labels, feature_cache=feature_cache
    )
    train_as(spec, recipe, loop)


def finetune(
    recipe: Annotated[Positional[Literal["bev", "bev-demo"]], arg(help="size of the network: full, or small")],
    root: Annotated[Positional[str], arg(help="data set", metavar="ROOT")],
    given: Annotated[Given, _FINETUNE_OPTIONS],
    loop: OmitArgPrefixes[Annotated[LoopOptions, loop_options(_finetunings)]],
    pretrained_checkpoint: Annotated[
        Path | None,
        arg(
            name="from",
            help="checkpoint of `occlift pretrain` to start from, or the folder of its run",
            help_behavior_hint="(default: random weights)",
        ),
    ] = None,
    label_share: Annotated[Share, arg(help="share of the training split's labels that is used")] = "100%",
    network: Network = "simple_bev",
    image_size: ImageSize = None,
) -> None:
    """Train a bird's-eye-view network on all labels or a few, from pretrained weights or not."""
    from occlift.scenes.dataset import open_dataset
    from occlift.training.bev import BevFinetuning

    config = given.onto(_finetunings(network)[recipe], labels=_SHARES[label_share], **_size(image_size))
    spec = BevFinetuning(data=open_dataset(root), config=loop.onto(config), pretrained=pretrained_checkpoint)
    train_as(spec, recipe, loop)


def _size(image_size: tuple[int, int] | None) -> dict[str, Any]:
    return {} if image_size is None else {"model.image_height": image_size[0], "model.image_width": image_size[1]}
