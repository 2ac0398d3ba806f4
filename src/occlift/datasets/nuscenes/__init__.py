"""Data sets in the format of nuScenes: tables in `v1.0-*/`, files in `samples/`."""

from __future__ import annotations

from pathlib import Path

from occlift.scenes.dataset import DrivingDataset


def open_folder(folder: Path, *, version: str | None = None, cameras: str | None = None) -> DrivingDataset:
    """Opens the data set in a folder, with virtual pinhole cameras in the place of those whose lens distorts.

    Args:
        version: name of the folder of tables; by default the only `v1.0-*` that there is.
        cameras: names of cameras with commas between them, in the order that is wanted; by default all.
    """
    from occlift.datasets.nuscenes.dataset import NuScenes

    data = NuScenes.open(folder, version, cameras=cameras)
    if not data.has_lenses:
        return data
    from occlift.datasets.rectified import rectify_if_distorted

    return rectify_if_distorted(data)
