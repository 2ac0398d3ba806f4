"""Data-set formats; each package here reads one, and is imported when it is needed.

`table_writer` writes the format of towns.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from occlift.datasets.nuscenes import table_writer

__all__ = ["DEFAULT_FORMAT", "FORMATS", "table_writer"]

FORMATS: Final = {
    "argoverse2": "occlift.datasets.argoverse2",
    "frames": "occlift.datasets.frames",
    "kitti": "occlift.datasets.kitti",
    "nuscenes": "occlift.datasets.nuscenes",
}
"""Name of a format → module with a function `open_folder(folder, **options)`."""

DEFAULT_FORMAT: Final = "nuscenes"
"""The format of a bare path."""


def __getattr__(name: str) -> ModuleType:
    if name == "table_writer":
        return import_module("occlift.datasets.nuscenes.table_writer")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
