"""The Argoverse 2 Sensor Dataset."""

from __future__ import annotations

from pathlib import Path

from occlift.scenes.dataset import DrivingDataset


def open_folder(folder: Path, *, cameras: str | None = None, every: str | int = 1) -> DrivingDataset:
    """Opens the folder that holds `train/`, `val/` or `test/`, or one that holds logs.

    Args:
        cameras: names with commas between them, such as ring_front_left,ring_front_right; by default the seven ring
            cameras.
        every: 1 makes every sweep of the lidar (at 10 Hz) a key frame, 2 every other one, and so on.
    """
    from occlift.datasets.argoverse2.dataset import open_argoverse2

    return open_argoverse2(Path(folder), cameras=cameras, every=every)
