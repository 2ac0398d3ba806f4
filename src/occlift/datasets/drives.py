"""Data sets of many drives, each in files of its own, which are read when a key frame of it is first wanted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

from occlift.errors import ConfigError, DataError
from occlift.labels.files import checked_name
from occlift.scenes.dataset import DatasetSpec, split_in_order
from occlift.scenes.frames import KeyFrame

_KEPT: Final = 64
"""So many drives are kept in memory."""


class Drive(Protocol):
    """What was read of one drive."""

    @property
    def stamps(self) -> Sequence[str]:
        """Names of its moments, in the order of time."""
        ...

    def key_frame(self, number: int, *, token: str, index: int) -> KeyFrame:
        """The moment of a number among `stamps`."""
        ...


DriveType = TypeVar("DriveType", bound=Drive)


class Drives(ABC, Generic[DriveType]):
    """A `DrivingDataset` of drives. Tokens are `<scene>-<stamp>`; it may be pickled and shared between processes.

    Args:
        root: the folder.
        folders: name of a scene → its folder.
        cameras: names, in the order of arrays.
        splits: name of a split → its scenes; None: train is the first 80 % and val the rest.
        every: 1 makes every moment of a drive a key frame, 2 every other one, and so on.
        options: what to open the data set with again.
    """

    format: str

    def __init__(
        self,
        root: Path,
        folders: Mapping[str, Path],
        *,
        cameras: tuple[str, ...],
        splits: Mapping[str, Sequence[str]] | None,
        every: int,
        options: Mapping[str, str],
    ) -> None:
        for scene in folders:
            checked_name(scene, f"{root}: scene")
        self.root: Final = root
        self._folders = dict(folders)
        self._cameras = cameras
        self._splits = splits
        self._every = every
        self._options = dict(options)
        self._read_drives: OrderedDict[str, DriveType] = OrderedDict()

    @abstractmethod
    def _read(self, scene: str, folder: Path) -> DriveType:
        """Reads a drive; DataError where its files are missing or damaged."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.root)!r}, {len(self._folders)} scenes)"

    @property
    def spec(self) -> DatasetSpec:
        return DatasetSpec(self.format, str(self.root), self._options)

    @property
    def cameras(self) -> tuple[str, ...]:
        return self._cameras

    def scenes(self, split: str = "all") -> tuple[str, ...]:
        """The scenes of a split, by name.

        Raises:
            ConfigError: there is no split of this name.
            DataError: the split has no scene here.
        """
        known = ("train", "val") if self._splits is None else tuple(self._splits)
        if split not in (*known, "all"):
            raise ConfigError(f"{self.spec}: there is no split {split!r}; choose one of {', '.join((*known, 'all'))}")
        if split == "all" or self._splits is None:
            found = split_in_order(tuple(self._folders), split)
        else:
            found = tuple(self._splits[split])
        if not found:
            raise DataError(f"{self.spec}: the split {split} has no scene; use the split all, or add one")
        return found

    def key_frame_tokens(self, scene: str) -> tuple[str, ...]:
        """Tokens of a scene in the order of time.

        Raises:
            DataError: there is no such scene, or its files are missing or damaged.
        """
        return tuple(f"{scene}-{stamp}" for stamp in self.drive(scene).stamps[:: self._every])

    def key_frame(self, token: str) -> KeyFrame:
        """A key frame; images and sweeps are not opened.

        Raises:
            DataError: there is no such key frame, or files of its scene are missing or damaged.
        """
        scene, number = self.position(token)
        return self.drive(scene).key_frame(number, token=token, index=number // self._every)

    def drive(self, scene: str) -> DriveType:
        """What was read of a scene; DataError where there is none of this name."""
        if scene not in self._folders:
            some = ", ".join(list(self._folders)[:5])
            raise DataError(f"{self.spec}: has no scene {scene!r}; it has {len(self._folders)}, such as {some}")
        if scene not in self._read_drives:
            self._read_drives[scene] = self._read(scene, self._folders[scene])
            if len(self._read_drives) > _KEPT:
                self._read_drives.popitem(last=False)
        return self._read_drives[scene]

    def position(self, token: str) -> tuple[str, int]:
        """The scene of a key frame, and its number among the stamps of the drive."""
        scene, _, stamp = token.rpartition("-")
        if scene in self._folders:
            stamps = self.drive(scene).stamps
            # Thousands at most: quickly looked through.
            for number in range(0, len(stamps), self._every):
                if stamps[number] == stamp:
                    return scene, number
        raise DataError(f"{self.spec}: has no key frame {token!r}; tokens are <scene>-<stamp>")

    def __getstate__(self) -> dict[str, Any]:
        # A worker process reads drives anew, and may stand in another folder.
        folders = {scene: folder.resolve() for scene, folder in self._folders.items()}
        return {**vars(self), "root": self.root.resolve(), "_folders": folders, "_read_drives": OrderedDict()}


def names_of(text: str | None, known: Sequence[str], what: str) -> tuple[str, ...] | None:
    """Names from an option with commas between them.

    Raises:
        ConfigError: it names one that is not known, or one twice.
    """
    if text is None:
        return None
    names = tuple(text.split(","))
    for name in names:
        if name not in known or names.count(name) > 1:
            problem = "stands twice" if name in known else "is not there"
            raise ConfigError(f"{what}: {name!r} {problem}; expected names with commas between them: {','.join(known)}")
    return names


def whole_number(text: str | int, what: str) -> int:
    """An option that counts from 1; ConfigError where it does not."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise ConfigError(f"{what} is {text!r}; expected a whole number from 1")
    return number
