"""The commands that train a network, let it predict, and export it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


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
    checkpoint_every: Annotated[int | None, arg(help="steps between two checkpoints")] = None,
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    gradient_checkpointing: Annotated[
        bool, arg(help="compute activations again instead of keeping them: less memory, more time")
    ] = False,
    compile: Annotated[bool, arg(help="run the network as torch.compile makes it")] = False,
    devices: Annotated[int, arg(help="processes; more than one trains with DistributedDataParallel")] = 1,
    workers: Annotated[int, arg(help="reading processes per training process")] = 0,
    blind: Annotated[bool, arg(help="grey images: how much is learned without looking")] = False,
    pretrained: Annotated[str | None, arg(help="name or folder of backbone weights (transformers ResNet)")] = None,
    resume: Annotated[Path | None, arg(help="a checkpoint to go on from")] = None,
) -> None:
    """Train EasyOcc on labels."""
    from dataclasses import replace

    from occlift.data.augment import AugmentConfig
    from occlift.recipes.easyocc import TrainConfig
    from occlift.recipes.easyocc import train as run_training

    base = TrainConfig() if recipe == "easyocc-demo" else TrainConfig.full()
    loss = replace(
        base.loss, class_weighting=class_weighting, lovasz=0.0 if lovasz == "none" else base.loss.lovasz,
        lovasz_form=base.loss.lovasz_form if lovasz == "none" else lovasz, focal_gamma=focal_gamma,
        geo_scal=geo_scal, sem_scal=sem_scal, unknown=unknown,
    )  # fmt: skip
    config = replace(
        base, model=replace(base.model, pretrained=pretrained), loss=loss,
        batch_size=batch_size, seed=seed, precision=precision, devices=devices, workers=workers, blind=blind,
        confidence=confidence, augment=AugmentConfig.usual() if augment else base.augment,
        mirror_front_back=mirror_front_back, ema_decay=ema_decay,
        checkpoint_every=checkpoint_every or base.checkpoint_every, gradient_checkpointing=gradient_checkpointing,
        compile=compile,
    )  # fmt: skip
    optimizer = config.optimizer
    optimizer = replace(
        optimizer, steps=steps or optimizer.steps, learning_rate=learning_rate or optimizer.learning_rate
    )
    run = run_training(
        root, labels, out or Path("runs") / recipe, replace(config, optimizer=optimizer),
        validation_labels=validation_labels, resume=resume, max_steps=max_steps,
    )  # fmt: skip
    if is_first_process():
        print(f"{run.checkpoint}: step {run.steps}, {run.train_frames} frames, {run.seconds:.0f} s; see {run.losses}")


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


def export(
    checkpoint: Annotated[Positional[Path], arg(help="what `occlift train` wrote", metavar="CHECKPOINT")],
    onnx: Annotated[Path, arg(help="the file to write", metavar="FILE")],
    opset: Annotated[int, arg(help="of ONNX; 20 is the first that has everything this network needs")] = 20,
    cameras: Annotated[int, arg(help="images per key frame")] = 6,
) -> None:
    """Write a network as ONNX: images and calibration in, logits out; checked against torch."""
    from occlift.recipes.export import export as run_export

    run = run_export(checkpoint, onnx, opset=opset, cameras=cameras)
    print(
        f"{run.onnx}: opset {run.opset}, {run.num_bytes / 1e6:.1f} MB; onnxruntime differs from torch by at most "
        f"{run.max_difference:.1e} in the logits ({run.checked_frames} key frames of random calibration)"
    )


def is_first_process() -> bool:
    """False in the processes that a training on several devices starts by this same command."""
    return os.environ.get("LOCAL_RANK", "0") == "0"
