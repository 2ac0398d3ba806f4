"""The commands of bird's-eye-view networks: pretrain them, fine-tune them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from occlift.cli.labels import named_values
from occlift.cli.loop import LOOP_DEFAULTS, LoopOptions, train_as

Share = Literal["1%", "10%", "100%"]
Architecture = Literal["simple_bev", "bevformer", "lift_splat"]
Backbone = Literal["resnet18", "resnet50", "resnet101", "efficientnet-b0"]

_SHARES: Final = {"1%": 0.01, "10%": 0.1, "100%": 1.0}


def pretrain(
    recipe: Annotated[
        Positional[Literal["occfeat", "occfeat-demo"]], arg(help="the network: as in the paper, or small")
    ],
    root: Annotated[Positional[str], arg(help="data set", metavar="ROOT")],
    network: Annotated[Architecture, arg(help="how image features reach the ground")] = "simple_bev",
    backbone: Annotated[Backbone | None, arg(help="of the images; by default the recipe's")] = None,
    teacher: Annotated[
        str | None, arg(help="of features (occlift teachers); by default dinov2, for occfeat-demo oracle")
    ] = None,
    teacher_option: Annotated[tuple[str, ...], arg(help="its settings, as name=value")] = (),
    occupancy: Annotated[
        Literal["lidar", "labels"], arg(help="targets: what the lidar touched, or labels made from images")
    ] = "lidar",
    labels: Annotated[Path | None, arg(help="labels of the training split, for --occupancy labels")] = None,
    sweeps: Annotated[int, arg(help="of the lidar: the key frame's own and those of key frames before it")] = 1,
    occupancy_factor: Annotated[float, arg(help="of the occupancy term; 0: features only")] = 1.0,
    feature_factor: Annotated[float | None, arg(help="λ, of the feature term; 0: occupancy only")] = None,
    class_factor: Annotated[float, arg(help="of a term of classes; needs --occupancy labels")] = 0.0,
    feature_cache: Annotated[
        Path | None, arg(help="keep the teacher's features in this folder, in half precision")
    ] = None,
    image_size: Annotated[tuple[int, int] | None, arg(help="height and width; by default the recipe's")] = None,
    loop: OmitArgPrefixes[LoopOptions] = LOOP_DEFAULTS,
) -> None:
    """Pretrain a bird's-eye-view network by occupancy and features (OccFeat), with lidar or without."""
    from dataclasses import replace

    from occlift.scenes.dataset import open_dataset
    from occlift.training.occfeat import OccFeatPretraining, PretrainConfig

    base = PretrainConfig.demo(network) if recipe == "occfeat-demo" else PretrainConfig.paper(network)
    factor = base.loss.features if feature_factor is None else feature_factor
    config = replace(
        base,
        model=replace(
            base.model, backbone=backbone or base.model.backbone, pretrained=loop.pretrained, **_size(image_size)
        ),
        loss=replace(base.loss, occupancy=occupancy_factor, features=factor, classes=class_factor),
        teacher=teacher or base.teacher,
        teacher_options=named_values(teacher_option),
        occupancy=occupancy,
        sweeps=sweeps,
    )
    spec = OccFeatPretraining(
        data=open_dataset(root), config=loop.applied(config), labels=labels, feature_cache=feature_cache
    )
    train_as(spec, recipe, loop)


def finetune(
    recipe: Annotated[Positional[Literal["bev", "bev-demo"]], arg(help="the network: as in the papers, or small")],
    root: Annotated[Positional[str], arg(help="data set", metavar="ROOT")],
    pretrained_checkpoint: Annotated[
        Path | None, arg(name="from", help="what `occlift pretrain` wrote; without it random weights")
    ] = None,
    labels: Annotated[Share, arg(help="how many of the training split's labels are used")] = "100%",
    label_seed: Annotated[int, arg(help="of which they are")] = 0,
    network: Annotated[Architecture, arg(help="how image features reach the ground")] = "simple_bev",
    backbone: Annotated[Backbone | None, arg(help="of the images; by default the recipe's")] = None,
    classes: Annotated[tuple[str, ...], arg(help="vehicle, pedestrian, drivable_area, crossing, lane_divider")] = (
        "vehicle",
    ),
    image_size: Annotated[tuple[int, int] | None, arg(help="height and width; by default the recipe's")] = None,
    learned_balance: Annotated[bool, arg(help="learn how much segmentation, centres and offsets count")] = False,
    blind: Annotated[bool, arg(help="grey images: how much is learned without looking")] = False,
    loop: OmitArgPrefixes[LoopOptions] = LOOP_DEFAULTS,
) -> None:
    """Train a bird's-eye-view network on all labels or a few, from pretrained weights or not."""
    from dataclasses import replace

    from occlift.scenes.dataset import open_dataset
    from occlift.training.bev import BevFinetuning, FinetuneConfig

    base = FinetuneConfig.demo(network) if recipe == "bev-demo" else FinetuneConfig.paper(network)
    config = replace(
        base,
        model=replace(
            base.model, backbone=backbone or base.model.backbone, pretrained=loop.pretrained, classes=tuple(classes),
            **_size(image_size),
        ),
        learned_balance=learned_balance,
        labels=_SHARES[labels],
        label_seed=label_seed,
        blind=blind,
    )  # fmt: skip
    spec = BevFinetuning(data=open_dataset(root), config=loop.applied(config), pretrained=pretrained_checkpoint)
    train_as(spec, recipe, loop)


def _size(image_size: tuple[int, int] | None) -> dict[str, Any]:
    return {} if image_size is None else {"image_height": image_size[0], "image_width": image_size[1]}
