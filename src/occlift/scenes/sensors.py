"""Sensor files: JPEG images and LIDAR_TOP sweeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from occlift.errors import DataError

LIDAR_POINT_BYTES = 20
"""Five little-endian float32 values per point: x, y, z (metres), intensity (0..255), ring index."""


def read_image(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """An image as RGB.

    Raises:
        DataError: the file is missing, is no image, or is cut off.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except FileNotFoundError:
        raise _missing(path) from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path}: not a readable image ({error}); the file is damaged or cut off, fetch it again"
        ) from error


def read_lidar(path: Path) -> Float32[np.ndarray, "points 5"]:
    """A LIDAR_TOP sweep (`.pcd.bin`) in the lidar's frame: x, y, z in metres, intensity, ring index.

    Raises:
        DataError: the file is missing or empty, or its size is no whole number of points.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise _missing(path) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not raw or len(raw) % LIDAR_POINT_BYTES:
        raise DataError(
            f"{path}: expected points of {LIDAR_POINT_BYTES} bytes (float32 x, y, z, intensity, ring), "
            f"got {len(raw)} bytes; the file is cut off or of another kind, fetch it again"
        )
    return np.frombuffer(raw, dtype="<f4").reshape(-1, 5).astype(np.float32)


def _missing(path: Path) -> DataError:
    return DataError(
        f"{path}: no such file; the tables name it, so this part of the data set was not downloaded or unpacked"
    )
