"""Readers of data-set formats; each package here reads one, and is imported when it is needed."""

from __future__ import annotations

from typing import Final

FORMATS: Final = {"nuscenes": "occlift.datasets.nuscenes"}
"""Name of a format → module with a function `open_folder(folder, **options)`."""

DEFAULT_FORMAT: Final = "nuscenes"
"""The format of a bare path."""
