"""What the scores say about predictions that are perfect but for the road: one voxel too high, or two voxels thick.

occlift town FOLDER --scenes 20 --frames 13 --image-height 96 --image-width 176
python benchmarks/score_sensitivity.py FOLDER [--split val]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.evaluation.occupancy import evaluate
from occlift.label_space import DRIVEABLE_SURFACE, FREE, OCC3D
from occlift.labels.files import label_paths, prediction_path, read_label, write_prediction
from occlift.scenes.dataset import split_tokens
from occlift.town.scene_writer import GTS


def road_raised(semantics: np.ndarray) -> np.ndarray:
    """The road one voxel higher, where nothing else stands; free where it was."""
    road = semantics == DRIVEABLE_SURFACE
    above = np.zeros_like(road)
    above[..., 1:] = road[..., :-1]
    raised = np.where(road, FREE, semantics)
    return np.where(above & (raised == FREE), DRIVEABLE_SURFACE, raised).astype(np.uint8)


def road_thick(semantics: np.ndarray) -> np.ndarray:
    """The road with a second voxel below it."""
    below = np.zeros(semantics.shape, bool)
    below[..., :-1] = (semantics == DRIVEABLE_SURFACE)[..., 1:]
    return np.where(below & (semantics == FREE), DRIVEABLE_SURFACE, semantics).astype(np.uint8)


PREDICTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "perfect": lambda semantics: semantics,
    "road one voxel too high": road_raised,
    "road two voxels thick": road_thick,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", default="val")
    arguments = parser.parse_args()
    data = NuScenes.open(arguments.folder)
    tokens = split_tokens(data, arguments.split)
    paths = label_paths(arguments.folder / GTS, data, tokens)
    columns = (
        "prediction", "IoU, camera", "mIoU 17, camera", "road, camera", "IoU, no mask", "mIoU 17, no mask",
        "road, no mask", "RayIoU", "road, rays",
    )  # fmt: skip
    print(f"| {' | '.join(columns)} |\n| --- |" + " ---: |" * (len(columns) - 1))
    road = OCC3D.taxonomy.all_names[DRIVEABLE_SURFACE]
    for name, change in PREDICTIONS.items():
        with TemporaryDirectory(dir=arguments.folder) as folder:
            for token, path in zip(tokens, paths, strict=True):
                write_prediction(prediction_path(Path(folder), token), change(read_label(path).semantics))
            scored = evaluate(Path(folder), arguments.folder / GTS, tokens=tokens, rays=data)
        values = []
        for mask in ("camera", "none"):
            values += [scored.named()[f"iou_{mask}"], scored.named()[f"miou_17_{mask}_absent_skipped"]]
            values += [scored.class_iou()[mask][road]]
        values += [scored.named()["ray_iou_17"], scored.class_iou()["rays"][road]]
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in values) + " |")


if __name__ == "__main__":
    main()
