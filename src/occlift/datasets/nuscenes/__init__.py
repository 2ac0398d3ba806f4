"""Data sets in the format of nuScenes: tables in `v1.0-*/`, files in `samples/`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from occlift.datasets.nuscenes.dataset import NuScenes


def open_folder(folder: Path, *, version: str | None = None) -> NuScenes:
    """Opens the data set in a folder; `version` is the name of the folder of tables (by default the only one)."""
    from occlift.datasets.nuscenes.dataset import NuScenes

    return NuScenes.open(folder, version)
