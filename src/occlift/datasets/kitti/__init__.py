"""KITTI, in the layouts of its odometry benchmark and of its raw recordings."""

from __future__ import annotations

from pathlib import Path

from occlift.scenes.dataset import DrivingDataset


def open_folder(folder: Path, *, cameras: str | None = None, every: str | int = 1) -> DrivingDataset:
    """Opens the folder that holds `sequences/` and `poses/`, or that of raw recordings.

    Args:
        cameras: names of folders of images with commas between them, such as image_2,image_3 (odometry) or
            image_02,image_03 (raw); by default the left colour camera if it is there, else the left grey one.
        every: 1 makes every moment (at 10 Hz) a key frame, 2 every other one, and so on.
    """
    from occlift.datasets.kitti.dataset import open_kitti

    return open_kitti(Path(folder), cameras=cameras, every=every)
