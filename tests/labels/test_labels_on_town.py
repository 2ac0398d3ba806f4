"""The whole label road against exact truth: frames, poses, masks and rays must all be right for these to hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.evaluation.audit_measures import agreement
from occlift.label_space import FREE, OCC3D
from occlift.labels.config import LabelConfig
from occlift.labels.decide import DecisionConfig
from occlift.labels.files import OccupancyLabel, label_path, read_label
from occlift.labels.fuse import Moving
from occlift.labels.generate import generate_labels
from occlift.town.config import TownConfig
from occlift.town.scene_writer import GTS
from occlift.town.write import write_town

PERFECT = LabelConfig(
    semantics="oracle:perfect",
    depth="oracle:perfect",
    decision=DecisionConfig(fusion="votes", min_points=1),
    free_stride=1,
)


def _labels(root: Path, out: Path, config: LabelConfig) -> list[tuple[OccupancyLabel, OccupancyLabel]]:
    """(label, truth) of every key frame."""
    data = NuScenes.open(root)
    run = generate_labels(data, out, config)
    assert not run.failed
    return [
        (
            read_label(label_path(out, scene, token), allow_unknown=True),
            read_label(label_path(root / GTS, scene, token)),
        )
        for scene in data.scenes()
        for token in data.key_frame_tokens(scene)
    ]


def _town(root: Path, *, static: bool) -> Path:
    config = TownConfig(scenes=1, frames=7, seed=3, image_height=96, image_width=176, maps=True, static=static)
    write_town(root, config)
    return root


def test_perfect_teachers_in_a_static_world_give_the_truth_wherever_something_was_seen(tmp_path: Path) -> None:
    pairs = _labels(_town(tmp_path / "town", static=True), tmp_path / "labels", PERFECT)
    # What lies beyond the grid is not known here: its outermost layer has no neighbours to tell a boundary by.
    inner = np.zeros(pairs[0][1].semantics.shape, dtype=bool)
    inner[1:-1, 1:-1, 1:-1] = True
    counts = [agreement(label.semantics, truth.semantics, among=truth.mask_camera & inner) for label, truth in pairs]
    compared, equal = sum(c.compared for c in counts), sum(c.equal for c in counts)
    assert compared > 500_000
    assert equal / compared > 0.99
    assert sum(c.off_boundary for c in counts) == 0
    occupied = [(label.semantics[m], truth.semantics[m]) for label, truth in pairs
                for m in [truth.mask_camera & inner & (truth.semantics < FREE) & label.mask_lidar]]  # fmt: skip
    # Free voxels are easy and many; of the occupied ones alone nearly all agree as well.
    assert sum(int((a == b).sum()) for a, b in occupied) / sum(len(a) for a, _ in occupied) > 0.93
    assert (
        np.mean([(truth.mask_camera & label.mask_lidar).sum() / truth.mask_camera.sum() for label, truth in pairs])
        > 0.7
    )


@pytest.mark.parametrize(("moving", "has_ghosts"), [("drop", False), ("keep", True)])
def test_dropping_moving_classes_of_other_frames_leaves_no_ghosts(
    tmp_path: Path, moving: Moving, has_ghosts: bool
) -> None:
    config = LabelConfig(
        semantics="oracle:perfect",
        depth="oracle:perfect",
        decision=DecisionConfig(fusion="votes", min_points=1),
        free_stride=1,
        moving=moving,
    )
    ghosts = 0
    for label, truth in _labels(_town(tmp_path / "town", static=False), tmp_path / "labels", config):
        movers = np.isin(truth.semantics, OCC3D.taxonomy.ids(OCC3D.taxonomy.moving))
        # Cameras fire up to 43 ms before the lidar: a mover is off by a voxel or two, never by more.
        near = ndimage.binary_dilation(movers, iterations=2)
        ghosts += int((np.isin(label.semantics, OCC3D.taxonomy.ids(OCC3D.taxonomy.moving)) & ~near).sum())
    assert (ghosts > 2_000) if has_ghosts else (ghosts <= 5), ghosts
