"""The commands that train a network, let it predict, and export it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from occlift.cli.loop import LOOP_DEFAULTS, LoopOptions, train_as


def train(
    recipe: Annotated[
        Positional[Literal["easyocc-demo", "easyocc"]], arg(help="size of the network: small, or as in the paper")
    ],
    root: Annotated[Positional[str], arg(help="data set", metavar="ROOT")],
    labels: Annotated[Path, arg(help="labels of its training split")],
    validation_labels: Annotated[
        Path | None, arg(help="folder of labels to score against while training", help_behavior_hint="(default: none)")
    ] = None,
    class_weighting: Annotated[
        Literal["none", "inverse_sqrt", "inverse_log"],
        arg(help="class weights of the cross-entropy, from the labels' frequencies f"),
    ] = "inverse_log",
    lovasz: Annotated[
        Literal["none", "classes", "geometric", "both", "split"],
        arg(help="Lovász loss: over the classes, over occupied and free, both, or split between occupied and free"),
    ] = "classes",
    focal_gamma: Annotated[float, arg(help="exponent of the focal loss; 0: cross-entropy")] = 0.0,
    geo_scal: Annotated[float, arg(help="weight of the affinity loss of occupied and free")] = 0.0,
    sem_scal: Annotated[float, arg(help="weight of the affinity loss of the classes")] = 0.0,
    unknown: Annotated[
        Literal["ignore", "free"], arg(help="treatment of unknown voxels: left out, or free as in the paper")
    ] = "ignore",
    confidence: Annotated[
        bool, arg(help="weight each voxel by the confidence of its label (`occlift label --confidence`)")
    ] = False,
    augment: Annotated[
        bool, arg(help="resize, shift, rotate, flip and recolour images at random, and adjust their cameras")
    ] = False,
    mirror_front_back: Annotated[
        bool, arg(help="exchange front and back of half of the key frames, besides left and right of half")
    ] = False,
    ema_decay: Annotated[
        float | None,
        arg(
            help="decay of averaged weights, which are predicted with, such as 0.999",
            help_behavior_hint="(default: no averaging)",
        ),
    ] = None,
    gradient_checkpointing: Annotated[
        bool, arg(help="recompute activations in the backward pass: less memory, more time")
    ] = False,
    compile: Annotated[bool, arg(help="compile the network with torch.compile")] = False,
    blind: Annotated[bool, arg(help="train on uniform grey images (no-image baseline)")] = False,
    loop: OmitArgPrefixes[LoopOptions] = LOOP_DEFAULTS,
) -> None:
    """Train EasyOcc on labels."""
    from dataclasses import replace

    from occlift.scenes.dataset import open_dataset
    from occlift.training.augment import AugmentConfig
    from occlift.training.occupancy import OccupancyTraining, TrainConfig

    base = TrainConfig() if recipe == "easyocc-demo" else TrainConfig.full()
    loss = replace(
        base.loss, class_weighting=class_weighting, lovasz=0.0 if lovasz == "none" else base.loss.lovasz,
        lovasz_form=base.loss.lovasz_form if lovasz == "none" else lovasz, focal_gamma=focal_gamma,
        geo_scal=geo_scal, sem_scal=sem_scal, unknown=unknown,
    )  # fmt: skip
    config = replace(
        base, model=replace(base.model, pretrained=loop.pretrained), loss=loss, blind=blind, confidence=confidence,
        augment=AugmentConfig.usual() if augment else base.augment, mirror_front_back=mirror_front_back,
        ema_decay=ema_decay, gradient_checkpointing=gradient_checkpointing, compile=compile,
    )  # fmt: skip
    spec = OccupancyTraining(
        data=open_dataset(root), labels=labels, config=loop.applied(config), validation_labels=validation_labels
    )
    train_as(spec, recipe, loop)


def predict(
    checkpoint: Annotated[
        Positional[Path], arg(help="checkpoint, or random:easyocc for a network with random weights")
    ],
    root: Annotated[Positional[str], arg(help="data set", metavar="ROOT")],
    out: Annotated[Path, arg(help="folder of the predictions: <token>.npz")],
    split: Annotated[str, arg(help="split of ROOT: train, val, test, mini_train, mini_val or all")] = "val",
    tokens: Annotated[tuple[str, ...], arg(help="tokens of the key frames to predict, instead of a split")] = (),
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
        f"{run.out}: {run.frames} frames in {run.seconds:.1f} s ({run.model_seconds / run.frames:.2f} s a frame inside "
        f"the network), peak memory {run.peak_memory_bytes / 1e9:.1f} GB"
    )


def export(
    checkpoint: Annotated[Positional[Path], arg(help="checkpoint of `occlift train`", metavar="CHECKPOINT")],
    onnx: Annotated[Path, arg(help="ONNX file to write", metavar="FILE")],
    opset: Annotated[int, arg(help="version of ONNX's operators, 20 or higher")] = 20,
    cameras: Annotated[int | None, arg(help="images per key frame (default: as in the training)")] = None,
) -> None:
    """Write a network as ONNX: images and calibration in, logits out; checked against torch."""
    from occlift.training.export import export as run_export

    run = run_export(checkpoint, onnx, opset=opset, cameras=cameras)
    print(
        f"{run.onnx}: opset {run.opset}, {run.num_bytes / 1e6:.1f} MB; onnxruntime differs from torch by at most "
        f"{run.max_difference:.1e} in the logits ({run.checked_frames} key frames of random calibration)"
    )
