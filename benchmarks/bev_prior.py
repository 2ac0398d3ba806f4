"""What the vehicle IoU of the view from above is worth without any image: where vehicles usually stand.

    python benchmarks/bev_prior.py ROOT [--split val]

ROOT: a nuScenes-format data set. Of every cell of the ego frame, the share of key frames of the training split in which
a vehicle covers it, smoothed by a Gaussian; the same map is the answer for every key frame of SPLIT. At probability 0.5
it answers nowhere. Its best IoU over the smoothings and thresholds below is chosen on SPLIT itself, so it flatters such
an answer: a score has to exceed that before it says that images were used. The best rectangle around the car, which
stands for "everything near is a vehicle", is shown beside.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.geometry.grids import BEV_GRID
from occlift.metrics.bev import bev_counts
from occlift.scenes.dataset import split_tokens
from occlift.training.bev_truth import vehicle_truth

SMOOTHING_M = (0.0, 0.5, 1.0, 2.0, 4.0)
THRESHOLDS = tuple(np.geomspace(0.01, 0.5, 24))
SIDES_M = (5.0, 10.0, 15.0, 20.0, 30.0, 50.0)


def truth_of(data: NuScenes, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Truth and ignored cells of every key frame of a split, (frames, 1, x, y) each."""
    found = [vehicle_truth(data.key_frame(token), data.boxes(token)) for token in split_tokens(data, split)]
    truth, ignored = (np.stack(cells)[:, None] for cells in zip(*found, strict=True))
    return truth, ignored


def best(answers: dict[str, np.ndarray], truth: np.ndarray, ignored: np.ndarray) -> tuple[dict[str, float], str]:
    """The scores of the answer with the highest filtered IoU, and its name; one answer serves all key frames."""
    scores = {
        name: bev_counts(prediction=np.broadcast_to(answer, truth.shape), truth=truth, ignored=ignored).named()
        for name, answer in answers.items()
    }
    name = max(scores, key=lambda each: scores[each]["bev_iou_vehicle_filtered"])
    return scores[name], name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--split", default="val")
    options = parser.parse_args()
    data = NuScenes.open(options.root)
    often = truth_of(data, "train")[0].mean(axis=(0, 1))
    truth, ignored = truth_of(data, options.split)
    print(f"vehicles cover {100 * often.mean():.2f} % of the cells in training, {100 * truth.mean():.2f} % in "
          f"{options.split} ({len(truth)} key frames); the most frequent cell {100 * often.max():.1f} %")  # fmt: skip
    smooth = {sigma: gaussian_filter(often, sigma / BEV_GRID.cell_size_m[0]) for sigma in SMOOTHING_M}
    priors = {
        f"smoothed by {sigma} m, threshold {threshold:.3f}": smooth[sigma] > threshold
        for sigma, threshold in product(SMOOTHING_M, THRESHOLDS)
    }
    x, y = np.moveaxis(np.abs(BEV_GRID.centers()), -1, 0)
    boxes = {f"|x| < {a} m, |y| < {b} m": (x < a) & (y < b) for a, b in product(SIDES_M, SIDES_M)}
    for what, answers in (("prior", priors), ("rectangle", boxes)):
        scores, name = best(answers, truth, ignored)
        print(f"best {what}: filtered {scores['bev_iou_vehicle_filtered']:.2f}, "
              f"all {scores['bev_iou_vehicle_unfiltered']:.2f} ({name})")  # fmt: skip


if __name__ == "__main__":
    main()
