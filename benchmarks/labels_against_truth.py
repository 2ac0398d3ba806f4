"""How far labels of perfect teachers equal the exact truth, and how many ghosts movers leave.

    python benchmarks/labels_against_truth.py FOLDER [--seed 3]

Builds a static and a moving town of one scene of 13 key frames at 96×176 in FOLDER, labels them, and prints the table
of docs/results/labels.md. Compared are the voxels of the truth's camera mask that the label knows, without the
outermost layer of the grid. A ghost is a voxel labelled with a moving class more than two voxels away from any such
voxel of the truth.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy import ndimage

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.evaluation.audit_measures import agreement
from occlift.label_space import FREE, OCC3D, UNKNOWN
from occlift.labels.config import LabelConfig
from occlift.labels.decide import DecisionConfig
from occlift.labels.files import label_path, read_label
from occlift.labels.fuse import Moving
from occlift.labels.generate import generate_labels
from occlift.town.config import TownConfig
from occlift.town.scene_writer import GTS
from occlift.town.write import write_town

MOVING = OCC3D.taxonomy.ids(OCC3D.taxonomy.moving)


def row(name: str, root: Path, labels: Path, *, moving: Moving) -> str:
    config = LabelConfig(
        semantics="oracle:perfect", depth="oracle:perfect", free_stride=1, moving=moving,
        decision=DecisionConfig(fusion="votes", min_points=1),
    )  # fmt: skip
    data = NuScenes.open(root)
    generate_labels(data, labels, config)
    compared = equal = off_boundary = occupied = occupied_equal = ghosts = 0
    for scene in data.scenes():
        for token in data.key_frame_tokens(scene):
            truth = read_label(label_path(root / GTS, scene, token))
            label = read_label(label_path(labels, scene, token), allow_unknown=True).semantics
            inner = np.zeros(label.shape, dtype=bool)
            inner[1:-1, 1:-1, 1:-1] = True
            among = truth.mask_camera & inner
            counts = agreement(label, truth.semantics, among=among)
            compared, equal = compared + counts.compared, equal + counts.equal
            off_boundary += counts.off_boundary
            among &= (label != UNKNOWN) & (truth.semantics < FREE)
            occupied += int(among.sum())
            occupied_equal += int((label[among] == truth.semantics[among]).sum())
            near = ndimage.binary_dilation(np.isin(truth.semantics, MOVING), iterations=2)
            ghosts += int((np.isin(label, MOVING) & ~near).sum())
    return (
        f"| {name} | {100 * equal / compared:.2f} % | {compared:,} | {off_boundary:,} | "
        f"{100 * occupied_equal / occupied:.1f} % | {ghosts:,} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    for static in (True, False):
        config = TownConfig(
            scenes=1, frames=13, seed=arguments.seed, image_height=96, image_width=176, maps=True, static=static
        )
        write_town(folder / ("static" if static else "moving"), config)
    print("| scene | equal | voxels compared | differing off a boundary | equal among occupied | ghosts |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    print(row("static", folder / "static", folder / "labels-static", moving="drop"))
    print(row("moving", folder / "moving", folder / "labels-moving", moving="drop"))
    print(row("moving, movers kept", folder / "moving", folder / "labels-kept", moving="keep"))


if __name__ == "__main__":
    main()
