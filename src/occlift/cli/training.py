"""The commands that train a network, let it predict, and export it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from occlift.cli.loop import LoopOptions, loop_options, train_as
from occlift.cli.options import Given, options
from occlift.cli.spaces import Space, space_of
from occlift.runtime.words import counted

if TYPE_CHECKING:
    from occlift.training.occupancy import TrainConfig


def _recipes() -> dict[str, TrainConfig]:
    from occlift.training.occupancy import TrainConfig

    return {"easyocc-demo": TrainConfig(), "easyocc": TrainConfig.full()}


_OPTIONS = options(
    _recipes, "loss.class_weighting", "loss.focal_gamma", "loss.geo_scal", "loss.sem_scal", "loss.unknown",
    "confidence", "mirror_front_back", "ema_decay", "gradient_checkpointing", "compile", "blind",
)  # fmt: skip


def train(
    recipe: Annotated[Positional[Literal["easyocc-demo", "easyocc"]], arg(help="size of the network: small, or full")],
    root: Annotated[Positional[str], arg(help="data set", metavar="ROOT")],
    labels: Annotated[Path, arg(help="folder of labels of the training split")],
    given: Annotated[Given, _OPTIONS],
    loop: OmitArgPrefixes[Annotated[LoopOptions, loop_options(_recipes)]],
    space: Space = None,
    validation_labels: Annotated[
        Path | None, arg(help="folder of labels to score against while training", help_behavior_hint="(default: none)")
    ] = None,
    lovasz: Annotated[
        Literal["none", "classes", "geometric", "both", "split"],
        arg(help="Lovász loss: over the classes, over occupied and free, both, or split between occupied and free"),
    ] = "classes",
    augment: Annotated[
        bool, arg(help="resize, shift, rotate, flip and recolour images at random, and adjust their cameras")
    ] = False,
) -> None:
    """Train EasyOcc on labels."""
    from occlift.scenes.dataset import open_dataset
    from occlift.training.augment import AugmentConfig
    from occlift.training.occupancy import OccupancyTraining

    base = _recipes()[recipe]
    label_space = space_of(space, labels, validation_labels)
    config = given.onto(
        base, augment=AugmentConfig.usual() if augment else base.augment,
        **{"model.space": label_space},
        **{"loss.lovasz": 0.0} if lovasz == "none" else {"loss.lovasz_form": lovasz},
    )  # fmt: skip
    spec = OccupancyTraining(
        data=open_dataset(root), labels=labels, config=loop.onto(config), validation_labels=validation_labels
    )
    train_as(spec, recipe, loop)


def predict(
    checkpoint: Annotated[
        Positional[Path], arg(help="checkpoint, folder of a run, or random:easyocc for a network with random weights")
    ],
    root: Annotated[Positional[str], arg(help="data set", metavar="ROOT")],
    out: Annotated[Path, arg(help="folder of the predictions: <token>.npz")],
    split: Annotated[str, arg(help="split of ROOT: train, val, test, mini_train, mini_val or all")] = "val",
    tokens: Annotated[
        tuple[str, ...],
        arg(
            help="tokens of the key frames to predict, instead of a split",
            metavar="TOKEN ...",
            help_behavior_hint="(default: none)",
        ),
    ] = (),
    precision: Annotated[
        Literal["auto", "bf16", "fp32"], arg(help="arithmetic; auto is bf16 where the hardware computes in it")
    ] = "auto",
    device: Annotated[
        str | None, arg(help="torch device", help_behavior_hint="(default: an accelerator if there is one)")
    ] = None,
) -> None:
    """Write predictions in the layout of Occ3D submissions."""
    from occlift.models.easyocc import EasyOccConfig
    from occlift.scenes.dataset import open_dataset
    from occlift.training.predict import predict as run_prediction

    shapes = {"random:easyocc": EasyOccConfig.full, "random:easyocc-demo": EasyOccConfig.demo}
    shape = shapes.get(str(checkpoint))
    run = run_prediction(
        open_dataset(root), out, checkpoint=None if shape else checkpoint, model=shape() if shape else None,
        split=split, tokens=tokens or None, precision=precision, device=device,
    )  # fmt: skip
    print(
        f"{run.out}: {counted(run.frames, 'frame')} in {run.seconds:.1f} s "
        f"({run.model_seconds / run.frames:.2f} s a frame inside "
        f"the network), peak memory {run.peak_memory_bytes / 1e9:.1f} GB"
    )


def export(
    checkpoint: Annotated[
        Positional[Path], arg(help="checkpoint of `occlift train`, or the folder of its run", metavar="CHECKPOINT")
    ],
    onnx: Annotated[Path, arg(help="ONNX file to write", metavar="FILE")],
    opset: Annotated[int, arg(help="version of ONNX's operators, 20 or higher")] = 20,
    cameras: Annotated[
        int | None, arg(help="images per key frame", help_behavior_hint="(default: as in the training)")
    ] = None,
) -> None:
    """Write a network as ONNX: images and calibration in, logits out; checked against torch."""
    from occlift.training.export import export as run_export

    run = run_export(checkpoint, onnx, opset=opset, cameras=cameras)
    print(
        f"{run.onnx}: opset {run.opset}, {run.num_bytes / 1e6:.1f} MB; onnxruntime differs from torch by at most "
        f"{run.max_difference:.1e} in the logits ({counted(run.checked_frames, 'key frame')} of random calibration)"
    )
