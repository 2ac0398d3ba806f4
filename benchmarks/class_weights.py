"""Class weights, learning rate and Lovász of the small EasyOcc, side by side on a finished demo.

    python benchmarks/class_weights.py runs/demo FOLDER [--steps 300]

Trains every variant on the demo's pseudo-labels, predicts its validation split, and prints the table of
docs/results/demo.md: per cent, camera mask, absent classes skipped.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.evaluation.occupancy import evaluate
from occlift.scenes.dataset import split_tokens
from occlift.town.scene_writer import GTS
from occlift.training.occupancy import OccupancyTraining, TrainConfig
from occlift.training.predict import predict
from occlift.training.run import run_training


def variants(steps: int) -> dict[str, TrainConfig]:
    base = TrainConfig()
    base = replace(base, optimizer=replace(base.optimizer, steps=steps))
    return {
        "1/√f": replace(base, loss=replace(base.loss, class_weighting="inverse_sqrt")),
        "1/log f": base,
        "1/log f, learning rate 4e-3": replace(base, optimizer=replace(base.optimizer, learning_rate=4e-3)),
        "1/log f, Lovász ×2 on 100,000 voxels": replace(
            base, loss=replace(base.loss, lovasz=2.0, max_lovasz_voxels=100_000)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    town = arguments.demo / "town"
    data = NuScenes.open(town)
    tokens = split_tokens(data, "val")
    print("| class weights | IoU | mIoU 17 | mIoU 15 |\n| --- | ---: | ---: | ---: |", flush=True)
    for number, (name, config) in enumerate(variants(arguments.steps).items()):
        run = arguments.folder / str(number)
        spec = OccupancyTraining(data=data, labels=arguments.demo / "labels", config=config)
        trained = run_training(spec, run)
        predict(data, run / "predictions", checkpoint=trained.checkpoint)
        scores = evaluate(run / "predictions", town / GTS, tokens=tokens, masks=("camera",)).counts
        means = (scores.mean_iou("camera"), scores.mean_iou("camera", classes=15))
        print(f"| {name} | {scores.geometric_iou('camera'):.2f} | {means[0]:.2f} | {means[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
