"""The commands that train a network, let it predict, and export it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from occlift.cli.loop import LOOP_DEFAULTS, LoopOptions, train_as


def train(
    recipe: Annotated[
        Positional[Literal["easyocc-demo", "easyocc"]], arg(help="the network: small, or as in the paper")
    ],
    root: Annotated[Positional[str], arg(help="data set", metavar="ROOT")],
    labels: Annotated[Path, arg(help="labels of its training split")],
    validation_labels: Annotated[Path | None, arg(help="score against these while training")] = None,
    class_weighting: Annotated[
        Literal["none", "inverse_sqrt", "inverse_log"], arg(help="of the cross-entropy, from the labels' frequencies f")
    ] = "inverse_log",
    lovasz: Annotated[
        Literal["none", "classes", "geometric", "both", "split"],
        arg(help="over the classes, over occupied and free, both, or split between occupied and free"),
    ] = "classes",
    focal_gamma: Annotated[float, arg(help="above 0: focal loss instead of cross-entropy")] = 0.0,
    geo_scal: Annotated[float, arg(help="factor of the affinity loss of occupied and free")] = 0.0,
    sem_scal: Annotated[float, arg(help="factor of the affinity loss of the classes")] = 0.0,
    unknown: Annotated[
        Literal["ignore", "free"], arg(help="voxels that the labels do not know: left out, or free as in the paper")
    ] = "ignore",
    confidence: Annotated[
        bool, arg(help="voxels count as much as their labels are sure (`occlift label --confidence`)")
    ] = False,
    augment: Annotated[
        bool, arg(help="images resized, shifted, turned, flipped and recoloured at random, their cameras with them")
    ] = False,
    mirror_front_back: Annotated[
        bool, arg(help="half of the key frames with front and back exchanged, as half have left and right")
    ] = False,
    ema_decay: Annotated[float | None, arg(help="average the weights, and predict with the average; 0.999")] = None,
    gradient_checkpointing: Annotated[
        bool, arg(help="compute activations again instead of keeping them: less memory, more time")
    ] = False,
    compile: Annotated[bool, arg(help="run the network as torch.compile makes it")] = False,
    blind: Annotated[bool, arg(help="grey images: how much is learned without looking")] = False,
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
        Positional[Path], arg(help="a checkpoint, or random:easyocc for a network with random weights")
    ],
    root: Annotated[Positional[str], arg(help="data set", metavar="ROOT")],
    out: Annotated[Path, arg(help="folder of the predictions: <token>.npz")],
    split: Annotated[str, arg(help="train, val, test, mini_train, mini_val or all")] = "val",
    tokens: Annotated[tuple[str, ...], arg(help="samples to predict, instead of a split")] = (),
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    device: Annotated[str | None, arg(help="as torch names it; by default an accelerator where there is one")] = None,
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
    checkpoint: Annotated[Positional[Path], arg(help="what `occlift train` wrote", metavar="CHECKPOINT")],
    onnx: Annotated[Path, arg(help="the file to write", metavar="FILE")],
    opset: Annotated[int, arg(help="of ONNX; 20 is the first that has everything this network needs")] = 20,
    cameras: Annotated[int | None, arg(help="images per key frame (default: as in the training)")] = None,
) -> None:
    """Write a network as ONNX: images and calibration in, logits out; checked against torch."""
    from occlift.training.export import export as run_export

    run = run_export(checkpoint, onnx, opset=opset, cameras=cameras)
    print(
        f"{run.onnx}: opset {run.opset}, {run.num_bytes / 1e6:.1f} MB; onnxruntime differs from torch by at most "
        f"{run.max_difference:.1e} in the logits ({run.checked_frames} key frames of random calibration)"
    )
