"""Images and sweeps in the files of a `frames:` folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32

from occlift.errors import DataError
from occlift.scenes.sources import ImageFile, LidarSource, missing_file, read_image


@dataclass(frozen=True)
class MaskedImageFile(ImageFile):
    """An image of a camera that sees a part of the car itself.

    Attributes:
        mask: an image of the same size; white where the camera sees the car.
    """

    mask: Path

    def valid(self) -> Bool[np.ndarray, "height width"]:
        """Pixels that do not show the car itself.

        Raises:
            DataError: the mask is missing or damaged.
        """
        return _read_valid(self.mask)


@lru_cache(maxsize=16)
def _read_valid(path: Path) -> Bool[np.ndarray, "height width"]:
    valid = read_image(path).max(axis=2) < 128
    valid.setflags(write=False)
    return valid


@dataclass(frozen=True)
class PointFile(LidarSource):
    """A sweep in a `.npy` file [points, 3 or more], or in a `.bin` file of float32 numbers.

    Attributes:
        columns: numbers per point in a `.bin` file.
    """

    path: Path
    columns: int

    @property
    def name(self) -> str:
        return str(self.path)

    def read(self) -> Float32[np.ndarray, "points channels"]:
        try:
            if self.path.suffix == ".npy":
                points = np.load(self.path, allow_pickle=False)
            else:
                points = np.fromfile(self.path, "<f4")
        except FileNotFoundError:
            raise missing_file(self.path) from None
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{self.path}: not a readable sweep ({error}); write it again") from error
        if self.path.suffix != ".npy":
            if points.size % self.columns:
                raise DataError(
                    f"{self.path}: expected {self.columns} float32 numbers per point (lidar.columns of the "
                    f"calibration), got {points.size} numbers in all"
                )
            points = points.reshape(-1, self.columns)
        if points.ndim != 2 or points.shape[1] < 3 or points.dtype.kind not in "fiu":
            raise DataError(
                f"{self.path}: expected numbers [points, 3 or more] with x, y, z first, got {points.dtype} of shape "
                f"{points.shape}"
            )
        return points.astype(np.float32)
