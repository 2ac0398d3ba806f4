"""The plain folder `frames:`: a calibration and one line per frame for every scene, as docs/own_data.md describes."""

from __future__ import annotations

from pathlib import Path

from occlift.scenes.dataset import DrivingDataset


def open_folder(folder: Path) -> DrivingDataset:
    """Opens such a folder; distorted cameras become pinhole cameras (`Rectified`)."""
    from occlift.datasets.frames.dataset import FramesFolder
    from occlift.datasets.rectified import rectify_if_distorted

    return rectify_if_distorted(FramesFolder.open(folder))
