"""What `occlift label` says about the labels that it made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from occlift.label_space import OCC3D
from occlift.labels.files import OccupancyLabel, write_label
from occlift.labels.summary import LabelSummary, summarise_labels


def summary_of(folder: Path, semantics: np.ndarray) -> LabelSummary:
    seen = np.ones(semantics.shape, bool)
    path = folder / "scene" / "token" / "labels.npz"
    write_label(path, OccupancyLabel(semantics=semantics, mask_lidar=seen, mask_camera=seen))
    return summarise_labels([path])


def test_shares_and_the_height_of_the_ground(tmp_path: Path) -> None:
    semantics = np.full(OCC3D.grid.shape, 17, np.uint8)
    semantics[:, :, 2] = 11
    semantics[:, :, 1] = 11
    semantics[:10, :, 3] = 4
    summary = summary_of(tmp_path, semantics)
    assert summary.ground_height_m == OCC3D.grid.centers()[0, 0, 2, 2]
    assert list(summary.classes) == ["driveable_surface", "car"]
    assert summary.occupied == (2 * 200 * 200 + 10 * 200) / OCC3D.grid.num_voxels
    assert summary.doubts == ()
    assert "driveable_surface 98%, car 2%; ground at z = +0.0 m" in str(summary)


def test_labels_that_cannot_be_are_doubted(tmp_path: Path) -> None:
    empty = np.full(OCC3D.grid.shape, 17, np.uint8)
    assert "is depth in metres" in summary_of(tmp_path / "empty", empty).doubts[0]
    walls = empty.copy()
    walls[120, :, :] = 15
    assert "no voxel within 15 m is of a ground class" in summary_of(tmp_path / "walls", walls).doubts[0]
    walls[:, :, 9] = 11
    assert "the ground around the car lies at z = +2.8 m" in summary_of(tmp_path / "high", walls).doubts[0]


def test_the_command_ends_with_what_is_in_the_labels(small_town: Path, tmp_path: Path) -> None:
    oracle = ["--semantics", "oracle:perfect", "--depth", "oracle:perfect", "--frames", "1"]
    command = [sys.executable, "-m", "occlift", "label", str(small_town), "--out", str(tmp_path / "labels"), *oracle]
    said = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert "of the occupied: " in said[0]
    assert "ground at z = " in said[0]
    assert "!" not in said[0]
    assert "8 were there already" in said[1]
    assert "where images, maps or poses changed since, remove them first" in said[1]
