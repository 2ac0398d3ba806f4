"""What is in some labels, in a few numbers: enough to see that classes or depth were misunderstood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from occlift.label_space import OCC3D, UNKNOWN, LabelSpace
from occlift.labels.depth_check import DepthCheck, read_checks
from occlift.labels.files import read_label
from occlift.labels.manifest import MANIFEST_NAME, read_manifest
from occlift.scenes.dataset import evenly_spaced

_READ = 10
_CHECKS_READ = 1000


@dataclass(frozen=True, kw_only=True)
class LabelSummary:
    """What some labels hold.

    Attributes:
        labels: number of labels that were read.
        occupied, free, unknown: shares of their voxels.
        classes: name of a class → share of the occupied voxels, most frequent first.
        ground_height_m: of columns within 15 m the centre of the highest ground voxel, median, ego frame; NaN without
            any.
    """

    labels: int
    occupied: float
    free: float
    unknown: float
    classes: dict[str, float]
    ground_height_m: float

    @property
    def doubts(self) -> tuple[str, ...]:
        """What is unlikely about them, a sentence each."""
        doubts = []
        if self.occupied < 1e-4:
            doubts.append(
                f"{self.occupied:.2%} of the voxels are occupied; is depth in metres along the optical axis, and does "
                "the grid lie around the car?"
            )
        elif np.isnan(self.ground_height_m):
            doubts.append("no voxel within 15 m is of a ground class; are the class ids those of the label space?")
        elif abs(self.ground_height_m) > 1.0:
            doubts.append(
                f"the ground around the car lies at z = {self.ground_height_m:+.1f} m of the ego frame, expected about "
                "0; are class ids those of the label space, depth in metres, and is the mounting right?"
            )
        return tuple(doubts)

    def __str__(self) -> str:
        most = ", ".join(f"{name} {share:.0%}" for name, share in list(self.classes.items())[:5])
        return (
            f"occupied {self.occupied:.1%}, free {self.free:.1%}, unknown {self.unknown:.1%}"
            + (f"; of the occupied: {most}" if most else "")
            + ("" if np.isnan(self.ground_height_m) else f"; ground at z = {self.ground_height_m:+.1f} m")
        )


def summarise_labels(paths: Sequence[Path], *, space: LabelSpace = OCC3D) -> LabelSummary:
    """Reads at most ten of some labels, evenly spaced.

    Raises:
        DataError: one is missing or damaged.

    >>> from occlift import LabelConfig, generate_labels, open_dataset
    >>> config = LabelConfig(semantics="oracle:perfect", depth="oracle:perfect", frames=1)
    >>> run = generate_labels(open_dataset(town), out, config)
    >>> summary = summarise_labels(sorted(out.glob("*/*/labels.npz")))
    >>> summary.labels, summary.doubts
    (8, ())
    """
    taxonomy, grid = space.taxonomy, space.grid
    centers = grid.centers()
    near = np.hypot(centers[..., 0], centers[..., 1]) < 15
    counts = np.zeros(256, np.int64)
    heights = []
    chosen = evenly_spaced(paths, _READ)
    for path in chosen:
        semantics = read_label(path, allow_unknown=True, space=space).semantics
        counts += np.bincount(semantics.ravel(), minlength=256)
        ground = taxonomy.table(taxonomy.ground)[semantics] & near
        # Of every column the highest ground voxel: depth that errs makes ground thick.
        columns = ground.any(axis=2)
        top = grid.shape[2] - 1 - ground[..., ::-1].argmax(axis=2)
        heights.append(centers[0, 0, top[columns], 2])
    found = np.concatenate(heights) if heights else np.zeros(0)
    total = max(int(counts.sum()), 1)
    occupied = counts[: taxonomy.free]
    order = [int(i) for i in np.argsort(-occupied, kind="stable") if occupied[i]]
    return LabelSummary(
        labels=len(chosen),
        occupied=float(occupied.sum()) / total,
        free=float(counts[taxonomy.free]) / total,
        unknown=float(counts[UNKNOWN]) / total,
        classes={taxonomy.name_of(i): float(occupied[i] / occupied.sum()) for i in order},
        ground_height_m=float(np.median(found)) if len(found) else float("nan"),
    )


def depth_report(folder: Path, paths: Sequence[Path]) -> tuple[str, ...]:
    """What was measured about the depth behind some labels of a folder when they were made: the errors of the teacher
    by distance and by rows of the image, and whether they can be trusted, in lines; none where nothing was measured.

    Args:
        paths: of the labels; a thousand of them are read at most, evenly spaced.

    Raises:
        DataError: the manifest, or what is written beside a label, is damaged.

    >>> from occlift import LabelConfig, generate_labels, open_dataset
    >>> config = LabelConfig(semantics="oracle:perfect", depth="oracle:perfect", frames=3)
    >>> run = generate_labels(open_dataset(town), out, config)
    >>> depth_report(out, sorted(out.glob("*/*/labels.npz")))[0]
    'depth (oracle:perfect): one view against others of the same and the next moments'
    """
    check = read_checks(evenly_spaced(paths, _CHECKS_READ))
    if check == DepthCheck():
        return ()
    teacher = read_manifest(folder).config.get("depth") if (folder / MANIFEST_NAME).exists() else None
    return (
        f"depth ({teacher or 'of an unknown teacher'}): one view against others of the same and the next moments",
        *(f"  {line}" for line in str(check).split("\n")),
        *(f"! {doubt}" for doubt in check.doubts),
    )
