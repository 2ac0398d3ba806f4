"""Lidar sweeps in nuScenes' files (`.pcd.bin`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float32

from occlift.errors import DataError
from occlift.scenes.sources import LidarSource, missing_file

LIDAR_POINT_BYTES: Final = 20
"""Five little-endian float32 values per point: x, y, z (metres), intensity (0..255), ring index."""


@dataclass(frozen=True)
class LidarFile(LidarSource):
    """A LIDAR_TOP sweep in a file."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def read(self) -> Float32[np.ndarray, "points 5"]:
        return read_lidar(self.path)


def read_lidar(path: Path) -> Float32[np.ndarray, "points 5"]:
    """A LIDAR_TOP sweep (`.pcd.bin`) in the lidar's frame: x, y, z in metres, intensity, ring index.

    Raises:
        DataError: the file is missing or empty, or its size is no whole number of points.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise missing_file(path) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not raw or len(raw) % LIDAR_POINT_BYTES:
        raise DataError(
            f"{path}: expected points of {LIDAR_POINT_BYTES} bytes (float32 x, y, z, intensity, ring), "
            f"got {len(raw)} bytes; the file is cut off or of another kind, fetch it again"
        )
    return np.frombuffer(raw, dtype="<f4").reshape(-1, 5).astype(np.float32)
