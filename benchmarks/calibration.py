"""Whether the confidence of surface labels is a probability: expected calibration error and reliability diagram.

    python benchmarks/calibration.py [--town TOWN ...] [--real FOLDER] [--out reliability.png]

TOWN and FOLDER as for `label_quality.py`. Prints one Markdown row per set of labels: voxels, the share of them that is
right, their mean confidence, and the expected calibration error (docs/metrics.md). Right, on a town: the class is that
of the truth, free included, over all voxels that the label knows. On KITTI: occupied or free as measured, because
nobody knows the classes.

The constants of `occlift.labels.decide` were fitted by maximum likelihood on 12 labels of six training scenes of a town
of seed 0 (`oracle:foundation`, 13 frames of 6×96×176): all known voxels, right or wrong, one logistic regression of the
logarithms for occupied voxels (times the class's share of the votes) and one for free ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from label_quality import Case, kitti_cases, town_cases

from occlift import OCC3D
from occlift.label_space import UNKNOWN
from occlift.labels.decide import decide_surface
from occlift.labels.surface import fuse_surface
from occlift.metrics.calibration import calibration_counts, calibration_error

FREE = OCC3D.taxonomy.free


def add(found: dict[str, np.ndarray], name: str, case: Case) -> None:
    """Counts the voxels of a label in every row that they belong to."""
    label = decide_surface(fuse_surface(case.views, OCC3D.grid))
    occupied, known = label.semantics < FREE, label.semantics != UNKNOWN
    if case.truth is not None:
        assert case.mask_camera is not None
        right = label.semantics == case.truth
        rows = {
            f"{name}, known": known,
            f"{name}, occupied": occupied,
            f"{name}, free": known & ~occupied,
            f"{name}, known, in the camera mask": known & case.mask_camera,
        }
    else:
        assert case.occupied is not None
        assert case.free is not None
        right = occupied == case.occupied
        measured = known & (case.occupied | case.free)
        rows = {f"{case.row}, known": measured, f"{case.row}, occupied": measured & occupied}
    for row, among in rows.items():
        counts = calibration_counts(label.confidence[among], right[among])
        found[row] = found[row] + counts if row in found else counts


def table(found: dict[str, np.ndarray]) -> None:
    print("| labels | voxels | right | confidence | expected calibration error |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for row, counts in found.items():
        total = counts.sum()
        confidence = (counts.sum(axis=1) * np.arange(256)).sum() / 255 / total
        right = counts[:, 1].sum() / total
        print(f"| {row} | {total} | {right:.1%} | {confidence:.1%} | {calibration_error(counts):.3f} |")


def diagram(found: dict[str, np.ndarray], path: Path) -> None:
    """Share that is right over confidence, a line per row; the area of a point is the share of the voxels."""
    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 8), layout="constrained")
    axes.set_prop_cycle(color=mpl.colormaps["tab20"].colors)  # type: ignore[attr-defined]
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
    for row, counts in found.items():
        total = counts.sum(axis=1)
        there = np.flatnonzero(total)
        share = counts[there, 1] / total[there]
        (line,) = axes.plot(there / 255, share, linewidth=1, label=f"{row} ({calibration_error(counts):.3f})")
        axes.scatter(there / 255, share, s=200 * (total[there] / total.sum()) ** 0.5, color=line.get_color(), alpha=0.6)
    axes.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1.02), ylim=(0, 1.02))
    figure.legend(loc="outside lower center", ncols=2, title="expected calibration error", fontsize="small")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--town", type=Path, action="append", default=[])
    parser.add_argument("--real", type=Path)
    parser.add_argument("--out", type=Path, default=Path("reliability.png"))
    arguments = parser.parse_args()
    found: dict[str, np.ndarray] = {}
    sets: list[tuple[str, Iterable[Case]]] = [(town.name, town_cases(town)) for town in arguments.town]
    if arguments.real:
        sets.append(("KITTI", kitti_cases(arguments.real / "kitti-sequence")))
    for name, cases in sets:
        for case in cases:
            add(found, name, case)
    table(found)
    diagram(found, arguments.out)


if __name__ == "__main__":
    main()
