"""How often each class occurs in a town's truth, beside nuScenes.

    python benchmarks/town_class_frequencies.py ROOT

Counts occupied voxels that a lidar of the scene observed (`mask_lidar`): Occ3D's truth holds no others. The reference
counts are those of a semantic occupancy benchmark on nuScenes as published with code of the field, on a finer grid than
Occ3D's; they have no class `others`. They tell orders of magnitude.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from occlift.label_space import FREE, OCC3D
from occlift.labels.files import read_label
from occlift.town.scene_writer import GTS

NUSCENES_VOXELS = {
    "barrier": 9_305_106, "bicycle": 141_351, "bus": 4_604_760, "car": 38_104_219, "construction_vehicle": 1_514_414,
    "motorcycle": 427_391, "pedestrian": 2_314_727, "traffic_cone": 736_239, "trailer": 4_907_511, "truck": 15_841_384,
    "driveable_surface": 316_958_899, "other_flat": 8_559_216, "sidewalk": 70_197_461, "terrain": 70_289_730,
    "manmade": 178_178_063, "vegetation": 122_581_273,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    root = parser.parse_args().root
    counts = np.zeros(FREE, np.int64)
    paths = sorted((root / GTS).glob("*/*/labels.npz"))
    for path in paths:
        label = read_label(path)
        counts += np.bincount(label.semantics[label.mask_lidar], minlength=FREE + 1)[:FREE]
    total = sum(NUSCENES_VOXELS.values())
    print(f"{len(paths)} key frames, {counts.sum() / len(paths):.0f} observed occupied voxels each")
    print("| class | town % | nuScenes % | ratio |\n| --- | ---: | ---: | ---: |")
    for name, count in zip(OCC3D.taxonomy.all_names, counts, strict=False):
        share = 100 * count / counts.sum()
        reference = 100 * NUSCENES_VOXELS[name] / total if name in NUSCENES_VOXELS else float("nan")
        print(f"| {name} | {share:.3f} | {reference:.3f} | {share / reference:.2f} |")


if __name__ == "__main__":
    main()
