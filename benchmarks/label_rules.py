"""What the rules of a label are worth: moving objects, thresholds, thin things, carving, against exact truth.

    occlift town FOLDER --scenes 20 --frames 13 --image-height 96 --image-width 176 --maps
    python benchmarks/label_rules.py FOLDER [--split val]

Labels of `oracle:foundation`, 13 key frames fused, scored with unknown as free. A ghost is a voxel labelled with a
moving class more than two voxels away from any such voxel of the truth.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.label_space import FREE, NUM_CLASSES, OCC3D, UNKNOWN
from occlift.labels.config import LabelConfig
from occlift.labels.decide import DecisionConfig, decide
from occlift.labels.files import label_path, read_label
from occlift.labels.scene import SceneLabeller
from occlift.metrics.occupancy import OccupancyCounts, histograms
from occlift.runtime.progress import shown_progress, track
from occlift.teachers.registry import depth_teacher, semantics_teacher
from occlift.town.scene_writer import GTS

MOVERS = OCC3D.taxonomy.ids(OCC3D.taxonomy.moving)
DEFAULT = DecisionConfig(fusion="votes")
MOVING: Mapping[str, DecisionConfig] = {"drop": DEFAULT, "keep": DEFAULT, "still": DEFAULT, "boxes": DEFAULT}
RULES: Mapping[str, DecisionConfig] = {
    "min_points 1": replace(DEFAULT, min_points=1),
    "min_points 2": replace(DEFAULT, min_points=2),
    "min_points 3 (default)": DEFAULT,
    "min_points 5": replace(DEFAULT, min_points=5),
    "min_points 8": replace(DEFAULT, min_points=8),
    "thin_share 0.5": replace(DEFAULT, thin_share=0.5),
    "thin_share 0.25": replace(DEFAULT, thin_share=0.25),
    "thin_share 0.1": replace(DEFAULT, thin_share=0.1),
    "carve 16": replace(DEFAULT, carve=16.0),
    "carve 4": replace(DEFAULT, carve=4.0),
    "carve 1": replace(DEFAULT, carve=1.0),
    "thin classes from 1 point": replace(DEFAULT, class_min_points=dict.fromkeys(OCC3D.taxonomy.thin, 1)),
}


class Tally:
    """Scores of one kind of label over the split."""

    def __init__(self) -> None:
        zero = {mask: np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64) for mask in ("camera", "none")}
        self.counts = OccupancyCounts(histograms=zero)  # type: ignore[arg-type]
        self.ghosts = self.unknown = self.seen = 0

    def add(self, semantics: np.ndarray, truth: np.ndarray, mask_camera: np.ndarray, near_movers: np.ndarray) -> None:
        decided = np.where(semantics == UNKNOWN, FREE, semantics).astype(np.uint8)
        counted = histograms(truth=truth, prediction=decided, evaluated={"camera": mask_camera, "none": None})
        self.counts += OccupancyCounts(histograms=counted)
        self.ghosts += int((np.isin(semantics, MOVERS) & ~near_movers).sum())
        self.unknown += int((semantics[mask_camera] == UNKNOWN).sum())
        self.seen += int(mask_camera.sum())

    def row(self, name: str) -> str:
        iou = self.counts.class_iou("camera")
        groups = [
            np.nanmean([iou[OCC3D.taxonomy.all_names[c]] for c in classes])
            for classes in (MOVERS, OCC3D.taxonomy.ids(OCC3D.taxonomy.thin))
        ]
        return (
            f"| {name} | {self.counts.geometric_iou('camera'):.2f} | {self.counts.mean_iou('camera'):.2f} | "
            f"{self.counts.mean_iou('none'):.2f} | {groups[0]:.2f} | {groups[1]:.2f} | "
            f"{100 * self.unknown / self.seen:.1f} | {self.ghosts:,} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", default="val")
    arguments = parser.parse_args()
    data = NuScenes.open(arguments.folder)
    tallies: dict[str, Tally] = {}
    for moving, default in MOVING.items():
        config = LabelConfig(moving=moving, decision=DEFAULT)  # type: ignore[arg-type]
        labeller = SceneLabeller(
            data, Path("unused"), config, semantics_teacher(config.semantics), depth_teacher(config.depth)
        )
        rules = {f"moving {moving}": default, **(RULES if moving == "drop" else {})}
        for scene in track(data.scenes(arguments.split), f"moving {moving}"):
            for position, token in enumerate(data.key_frame_tokens(scene)):
                truth = read_label(label_path(arguments.folder / GTS, scene, token))
                movers = np.isin(truth.semantics, MOVERS)
                near_movers = ndimage.binary_dilation(movers, iterations=2)
                votes = labeller.votes(scene, position)
                for name, rule in rules.items():
                    tally = tallies.setdefault(name, Tally())
                    tally.add(decide(votes, rule).semantics, truth.semantics, truth.mask_camera, near_movers)
    columns = "labels", "IoU, camera", "mIoU 17, camera", "mIoU 17, no mask", "moving", "thin", "unknown %", "ghosts"
    print(f"| {' | '.join(columns)} |")
    print("| --- |" + " ---: |" * (len(columns) - 1))
    for name, tally in tallies.items():
        print(tally.row(name))


if __name__ == "__main__":
    with shown_progress():
        main()
