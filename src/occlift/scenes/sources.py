"""Where the pixels of an image and the points of a sweep come from: a file, or an array.

A source is small and can be pickled; it opens nothing before `read` is called.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from occlift.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage


class ImageSource(ABC):
    """Reads one image; derive from it for other kinds of storage."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What errors call the image: the path of its file where it has one."""

    @property
    def stem(self) -> str:
        """Name of its file without the suffix; empty where there is none."""
        return ""

    @abstractmethod
    def read(self) -> UInt8[np.ndarray, "height width 3"]:
        """The image as RGB.

        Raises:
            DataError: it is missing or damaged.
        """

    def valid(self) -> Bool[np.ndarray, "height width"] | None:
        """Which pixels show the scene (not the car itself, nor what a lens does not cover); None: all of them."""
        return None

    def size(self) -> tuple[int, int]:
        """Height and width, pixels; files say it without being decoded.

        Raises:
            DataError: it is missing or damaged.
        """
        height, width, _ = self.read().shape
        return height, width

    def fingerprint(self) -> int:
        """A number that differs, as a rule, where the content does; compared by caches."""
        return zlib.crc32(np.ascontiguousarray(self.read()).data)


class LidarSource(ABC):
    """Reads the points of one sweep."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What errors call the sweep: the path of its file where it has one."""

    @abstractmethod
    def read(self) -> Float32[np.ndarray, "points channels"]:
        """Points in the frame of the lidar; the first three channels are x, y and z, metres.

        Raises:
            DataError: they are missing or damaged.
        """


@dataclass(frozen=True)
class ImageFile(ImageSource):
    """An image in a file that Pillow reads."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def stem(self) -> str:
        return self.path.stem

    def read(self) -> UInt8[np.ndarray, "height width 3"]:
        return read_image(self.path)

    def size(self) -> tuple[int, int]:
        with _opened(self.path) as image:
            return image.height, image.width

    def fingerprint(self) -> int:
        """The size of the file, bytes: the image is not opened.

        Raises:
            DataError: it cannot be read.
        """
        try:
            return self.path.stat().st_size
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror or error})") from error


@dataclass(frozen=True, eq=False)
class ImageArray(ImageSource):
    """An image in memory."""

    pixels: UInt8[np.ndarray, "height width 3"]
    name: str = "image in memory"

    def read(self) -> UInt8[np.ndarray, "height width 3"]:
        return self.pixels


def read_image(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """An image as RGB.

    Raises:
        DataError: the file is missing, is no image, or is cut off.
    """
    with _opened(path) as image:
        return np.array(image.convert("RGB"))


@contextmanager
def _opened(path: Path) -> Iterator[PillowImage]:
    """The image in a file; what Pillow says against it in the block becomes a DataError."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise missing_file(path) from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path}: not a readable image ({error}); the file is damaged or cut off, fetch it again"
        ) from error


def missing_file(path: Path) -> DataError:
    """The error for a file that the data set names and that is not there."""
    return DataError(f"{path}: no such file; the data set names it, so this part of it was not downloaded or unpacked")
