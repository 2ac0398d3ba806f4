"""What a teacher says about images, kept on the disk.

Under `<folder>/<digest>/`, named by everything that it depends on: `manifest.json` states it, and
`<channel>/<image token>.npz` holds what was said about an image, and as `image` the size of the image in pixels and of
its file in bytes, by which another image of the same name is noticed. Another teacher, or other settings, go to another
folder beside it. Files are written atomically and have the same bytes whenever the teacher says the same, so several
processes may fill one cache.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from occlift.errors import DataError
from occlift.runtime.files import replacing
from occlift.runtime.npz import read_npz, write_npz
from occlift.scenes.frames import CameraImage, KeyFrame

MANIFEST_NAME: Final = "manifest.json"

_FORMAT: Final = 1
"""Part of the digest; goes up when the files change."""

_IMAGE: Final = "image"

Said = TypeVar("Said")

Arrays = dict[str, NDArray[Any]]


class TeacherCache(ABC, Generic[Said]):
    """Asks a teacher only about key frames of which something is missing.

    Args:
        folder: of all caches; those of other teachers may lie there too.
        statement: everything that the answers depend on besides the key frame, as JSON values.

    Attributes:
        folder: of this teacher's answers.
        what: is kept, for errors.
        names: of the arrays that hold it.
        level: of compression.
        asks_again: for all images of a key frame when one is missing, because what a teacher says of an image may
            depend on the others; otherwise for those that are missing alone.

    Raises:
        DataError: a folder of that name holds something else.
    """

    what: ClassVar[str]
    names: ClassVar[tuple[str, ...]]
    level: ClassVar[int]
    asks_again: ClassVar[bool]

    def __init__(self, folder: Path, statement: Mapping[str, object]) -> None:
        # As JSON gives them back: tuples are lists there.
        self._statement = json.loads(json.dumps({"format": _FORMAT, **statement}))
        text = json.dumps(self._statement, sort_keys=True)
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._stated = self._check_manifest()

    def path(self, image: CameraImage) -> Path:
        """Where what was said about an image lies, or will."""
        return self.folder / image.camera / f"{image.key}.npz"

    def fill(self, frame: KeyFrame) -> None:
        """Writes what is missing of a key frame, and reads nothing.

        Raises:
            DataError: an image is missing, or what the teacher says.
            OSError: a file cannot be written.
        """
        self._make_missing(frame)

    def answers(self, frame: KeyFrame) -> list[Said]:
        """What the teacher says, one answer per camera; those that were missing are written.

        Raises:
            DataError: as `fill`; or a file is damaged, or of another image.
            OSError: a file cannot be written.
        """
        made = self._make_missing(frame)
        return [made[c.camera] if c.camera in made else self._read(c) for c in frame.cameras]

    @abstractmethod
    def _ask(self, frame: KeyFrame) -> Sequence[Said]:
        """What the teacher says, one answer per camera."""

    @abstractmethod
    def _as_kept(self, said: Said, camera: CameraImage) -> Said:
        """What reading will give back; DataError if it cannot be kept."""

    @abstractmethod
    def _packed(self, said: Said) -> Arrays:
        """The arrays `names` of an answer as it is kept."""

    @abstractmethod
    def _unpacked(self, arrays: Arrays) -> Said | None:
        """The answer that these arrays hold; None if they are not what `_packed` makes."""

    def _make_missing(self, frame: KeyFrame) -> dict[str, Said]:
        """What was not there, by camera."""
        missing = {camera.camera for camera in frame.cameras if not self.path(camera).exists()}
        if not missing:
            return {}
        asked = frame.cameras if self.asks_again else tuple(c for c in frame.cameras if c.camera in missing)
        answers = zip(asked, self._ask(replace(frame, cameras=asked)), strict=True)
        return {camera.camera: self._keep(camera, said) for camera, said in answers if camera.camera in missing}

    def _keep(self, camera: CameraImage, said: Said) -> Said:
        kept = self._as_kept(said, camera)
        if not self._stated:
            self._write_manifest()
        write_npz(self.path(camera), {**self._packed(kept), _IMAGE: _size_of(camera)}, level=self.level)
        return kept

    def _read(self, camera: CameraImage) -> Said:
        path = self.path(camera)
        try:
            arrays = read_npz(path, (*self.names, _IMAGE))
        except DataError as error:
            raise DataError(f"{error}; remove it, and its {self.what} are made again") from error
        image = arrays[_IMAGE]
        said = self._unpacked(arrays)
        if said is None or (image.dtype.name, image.shape) != ("int64", (3,)):
            shapes = [(array.dtype.name, array.ndim, array.size) for array in arrays.values()]
            raise DataError(
                f"{path}: holds no {self.what} as this version writes them (types, dimensions and sizes {shapes}); "
                f"remove it, and its {self.what} are made again"
            )
        if not np.array_equal(image, _size_of(camera)):
            height, width, size = image.tolist()
            raise DataError(
                f"{path}: {self.what} of an image of {height}×{width} pixels (fingerprint {size}), but "
                f"{camera.source.name} is another; give every data set a cache folder of its own, or remove this one"
            )
        return said

    def _check_manifest(self) -> bool:
        """Whether the folder says already whose answers it holds."""
        path = self.folder / MANIFEST_NAME
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return False
        except ValueError as error:
            raise DataError(
                f"{path}: not a readable manifest ({error}); remove the folder, and its {self.what} are made again"
            ) from error
        if found != self._statement:
            raise DataError(
                f"{path}: a folder of this name should hold {self.what} by {self._statement}, but says {found}; was it "
                "renamed? Remove it, or choose another folder"
            )
        return True

    def _write_manifest(self) -> None:
        with replacing(self.folder / MANIFEST_NAME) as file:
            file.write(f"{json.dumps(self._statement, indent=1, sort_keys=True)}\n".encode())
        self._stated = True


def _size_of(camera: CameraImage) -> NDArray[Any]:
    """Height, width and fingerprint of an image (the size of its file): enough to tell two data sets apart."""
    return np.array((camera.height, camera.width, camera.source.fingerprint()), np.int64)
