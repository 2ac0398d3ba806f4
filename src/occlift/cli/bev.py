"""The commands of bird's-eye-view networks: pretrain them, fine-tune them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from occlift.cli.loop import LOOP_DEFAULTS, LoopOptions, train_as
from occlift.cli.options import named_values

Share = Literal["1%", "10%", "100%"]
Architecture = Literal["simple_bev", "bevformer", "lift_splat"]
Backbone = Literal["resnet18", "resnet50", "resnet101", "efficientnet-b0"]

_SHARES: Final = {"1%": 0.01, "10%": 0.1, "100%": 1.0}


def pretrain(
    recipe: Annotated[
        Positional[Literal["occfeat", "occfeat-demo"]], arg(help="size of the network: as in the paper, or small")
    ],
    root: Annotated[Positional[str], arg(help="data set", metavar="ROOT")],
    network: Annotated[Architecture, arg(help="method that lifts image features to the ground")] = "simple_bev",
    backbone: Annotated[
        Backbone | None, arg(help="image backbone", help_behavior_hint="(default: from the recipe)")
    ] = None,
    teacher: Annotated[
        str | None,
        arg(
            help="teacher of features (see `occlift teachers`)",
            help_behavior_hint="(default: dinov2; oracle for occfeat-demo)",
        ),
    ] = None,
    teacher_option: Annotated[tuple[str, ...], arg(help="options of the teacher, as name=value")] = (),
    occupancy: Annotated[
        Literal["lidar", "labels"], arg(help="source of occupancy targets: lidar, or labels made from images")
    ] = "lidar",
    labels: Annotated[
        Path | None,
        arg(
            help="folder of labels of the training split, for --occupancy labels", help_behavior_hint="(default: none)"
        ),
    ] = None,
    sweeps: Annotated[
        int, arg(help="number of lidar sweeps: the key frame's own and those of key frames before it")
    ] = 1,
    occupancy_factor: Annotated[float, arg(help="weight of the occupancy loss; 0: features only")] = 1.0,
    feature_factor: Annotated[
        float | None,
        arg(help="weight λ of the feature loss; 0: occupancy only", help_behavior_hint="(default: from the recipe)"),
    ] = None,
    class_factor: Annotated[float, arg(help="weight of the class loss; needs --occupancy labels")] = 0.0,
    feature_cache: Annotated[
        Path | None,
        arg(
            help="folder that keeps the teacher's features, in half precision", help_behavior_hint="(default: not kept)"
        ),
    ] = None,
    image_size: Annotated[
        tuple[int, int] | None,
        arg(help="height and width of the images, pixels", help_behavior_hint="(default: from the recipe)"),
    ] = None,
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
    recipe: Annotated[
        Positional[Literal["bev", "bev-demo"]], arg(help="size of the network: as in the papers, or small")
    ],
    root: Annotated[Positional[str], arg(help="data set", metavar="ROOT")],
    pretrained_checkpoint: Annotated[
        Path | None,
        arg(
            name="from",
            help="checkpoint of `occlift pretrain` to start from",
            help_behavior_hint="(default: random weights)",
        ),
    ] = None,
    labels: Annotated[Share, arg(help="share of the training split's labels that is used")] = "100%",
    label_seed: Annotated[int, arg(help="random seed for drawing the labelled subset")] = 0,
    network: Annotated[Architecture, arg(help="method that lifts image features to the ground")] = "simple_bev",
    backbone: Annotated[
        Backbone | None, arg(help="image backbone", help_behavior_hint="(default: from the recipe)")
    ] = None,
    classes: Annotated[
        tuple[str, ...], arg(help="classes to segment: vehicle, pedestrian, drivable_area, crossing, lane_divider")
    ] = ("vehicle",),
    image_size: Annotated[
        tuple[int, int] | None,
        arg(help="height and width of the images, pixels", help_behavior_hint="(default: from the recipe)"),
    ] = None,
    learned_balance: Annotated[
        bool, arg(help="learn the weights of the segmentation, centre and offset losses")
    ] = False,
    blind: Annotated[bool, arg(help="train on uniform grey images (no-image baseline)")] = False,
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
