"""What the rest of the library asks of a data set: the protocol `DrivingDataset`, and capabilities that some have.

Nothing here knows a format. Whoever needs a capability asks for it once, before any work, with `require`.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeVar, get_args, runtime_checkable
from urllib.parse import parse_qsl, urlencode

import numpy as np
from jaxtyping import Bool, Float

from occlift.errors import ConfigError, DataError, OccliftError
from occlift.geometry.grids import BevGrid
from occlift.scenes.frames import BoxAnnotation, CameraImage, KeyFrame
from occlift.scenes.truth_maps import TruthMaps

MapClass = Literal["drivable_area", "crossing", "lane_divider"]

AdjacentImages = tuple[tuple[CameraImage | None, ...], tuple[CameraImage | None, ...]]
"""Images just before, and images just after, one per camera or None."""

MAP_CLASSES: Final[tuple[MapClass, ...]] = get_args(MapClass)


@dataclass(frozen=True)
class DatasetSpec:
    """Which data set to open, and how: what another process needs to open the same.

    Attributes:
        format: name of a format in `occlift.datasets`, or the module of a factory of one's own.
        location: folder of the data set, or the name of the factory in its module.
        options: keyword arguments of the reader or the factory.

    >>> spec = DatasetSpec.parse("my_package.cars:open_fleet?year=2026")
    >>> spec.format, spec.location, dict(spec.options), str(spec)
    ('my_package.cars', 'open_fleet', {'year': '2026'}, 'my_package.cars:open_fleet?year=2026')
    """

    format: str
    location: str
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | Path) -> DatasetSpec:
        """From `format:location?option=value`; a bare path is a data set in the default format.

        Raises:
            ConfigError: there is no such format.
        """
        found = re.fullmatch(r"([A-Za-z_][\w.]+):([^?]*)(?:\?(.*))?", str(text))
        if isinstance(text, Path) or found is None:
            return cls(_formats().DEFAULT_FORMAT, str(text))
        format, location, options = found.groups()
        # A factory has a name, a folder of a format that does not exist usually a slash.
        if format not in _formats().FORMATS and not location.isidentifier():
            raise ConfigError(
                f"{text}: there is no format {format!r}; expected {', '.join(_formats().FORMATS)} (such as "
                f"{_formats().DEFAULT_FORMAT}:FOLDER), or module:factory of your own"
            )
        return cls(format, location, dict(parse_qsl(options or "", keep_blank_values=True)))

    def open(self) -> DrivingDataset:
        """Opens the data set.

        Raises:
            ConfigError: the format, the factory or an option does not exist.
            DataError: there is no such data set, or it is damaged.
        """
        if self.format in _formats().FORMATS:
            module, name = _formats().FORMATS[self.format], "open_folder"
            arguments: tuple[Any, ...] = (Path(self.location),)
        else:
            module, name, arguments = self.format, self.location, ()
        try:
            opener = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"{self}: {error}; expected module:factory that can be imported, or one of the formats "
                f"{', '.join(_formats().FORMATS)}"
            ) from error
        try:
            return opener(*arguments, **self.options)
        except TypeError as error:
            if "argument" not in str(error):
                raise
            raise ConfigError(f"{self}: {error}; check the options behind the question mark") from error
        except DataError as error:
            if other := self._other_format():
                raise DataError(f"{error}; it can be opened as {other}:{self.location}") from error
            raise

    def _other_format(self) -> str | None:
        """The format in which a folder can be opened that is none of the default format."""
        if self.format != _formats().DEFAULT_FORMAT or not Path(self.location).is_dir():
            return None
        for name, module in _formats().FORMATS.items():
            if name != self.format:
                with contextlib.suppress(OccliftError):
                    importlib.import_module(module).open_folder(Path(self.location))
                    return name
        return None

    def __str__(self) -> str:
        return f"{self.format}:{self.location}" + (f"?{urlencode(self.options, safe='/')}" if self.options else "")


def _formats() -> Any:
    return importlib.import_module("occlift.datasets")


def open_dataset(spec: str | Path | DatasetSpec) -> DrivingDataset:
    """Opens a data set.

    Args:
        spec: `format:folder?option=value`, `module:factory?option=value`, or a bare path, which is a folder in
            the default format.

    Raises:
        ConfigError: the format, the factory or an option does not exist.
        DataError: there is no such data set, or it is damaged.

    >>> data = open_dataset(town)
    >>> scene = data.scenes("val")[0]
    >>> frame = data.key_frame(data.key_frame_tokens(scene)[0])
    >>> len(frame.cameras), frame.cameras[0].read().shape
    (6, (48, 88, 3))
    """
    return (spec if isinstance(spec, DatasetSpec) else DatasetSpec.parse(spec)).open()


@runtime_checkable
class DrivingDataset(Protocol):
    """Scenes of key frames. An object of one's own fits by having these members; it should be picklable.

    >>> isinstance(open_dataset(town), DrivingDataset)
    True
    """

    @property
    def spec(self) -> DatasetSpec:
        """How to open it again, and what errors and run records call it."""
        ...

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras, in the order in which they stand in key frames and in every array."""
        ...

    def scenes(self, split: str = "all") -> tuple[str, ...]:
        """Names of the scenes of a split; `all` are all.

        Raises:
            ConfigError: there is no split of this name.
            DataError: the split has no scene.
        """
        ...

    def key_frame_tokens(self, scene: str) -> tuple[str, ...]:
        """Tokens of a scene in the order of time; DataError where there is no such scene."""
        ...

    def key_frame(self, token: str) -> KeyFrame:
        """A key frame, whose files are not opened yet; DataError where there is no such token."""
        ...


@runtime_checkable
class HasBoxes(Protocol):
    """Data sets with annotated boxes."""

    def boxes(self, token: str) -> tuple[BoxAnnotation, ...]:
        """All annotations of a key frame, seen or not."""
        ...


class SceneMap(Protocol):
    """What a map says about the ground around a scene."""

    def cells(
        self, map_class: MapClass, global_from_ego: Float[np.ndarray, "4 4"], grid: BevGrid
    ) -> Bool[np.ndarray, "x y"]:
        """Cells whose centres a map class covers."""
        ...


@runtime_checkable
class HasMap(Protocol):
    """Data sets with a map of the ground."""

    def scene_map(self, scene: str) -> SceneMap:
        """The map of the place where a scene was driven; DataError where it is missing."""
        ...


@runtime_checkable
class HasSweeps(Protocol):
    """Data sets whose cameras also recorded images between the key frames."""

    def adjacent_images(self, token: str) -> AdjacentImages:
        """Of every image of a key frame, in order, the image of the same camera just before it and just after it.

        Returns:
            All that were just before, then all that were just after; None where there is none, as where a scene ends.
        """
        ...


@runtime_checkable
class HasTruthMaps(Protocol):
    """Data sets with exact class, depth and object of every pixel, such as a town."""

    def truth_maps(self, image: CameraImage) -> TruthMaps:
        """The truth of an image; DataError where it is missing or damaged."""
        ...


_Capability = TypeVar("_Capability")
_Item = TypeVar("_Item")

_CAPABILITIES: Final[Mapping[type, str]] = {
    HasBoxes: "annotated boxes (a method boxes(token))",
    HasMap: "a map of the ground (a method scene_map(scene))",
    HasSweeps: "camera images between its key frames (a method adjacent_images(token))",
    HasTruthMaps: "truth maps of its images (a method truth_maps(image))",
}


def require(data: object, capability: type[_Capability], purpose: str) -> _Capability:
    """The data set as one that has a capability.

    Args:
        purpose: what needs it, the beginning of the error.

    Raises:
        ConfigError: it has not.
    """
    if not isinstance(data, capability):
        raise ConfigError(
            f"{purpose}: needs {_CAPABILITIES[capability]}, which {getattr(data, 'spec', data)} does not have"
        )
    return data


def require_lidar(data: DrivingDataset, tokens: Iterable[str], purpose: str) -> None:
    """Raises ConfigError if the first of these key frames that is not damaged has no lidar sweep."""
    for token in tokens:
        try:
            frame = data.key_frame(token)
        except DataError:
            continue
        if frame.lidar is None:
            raise ConfigError(f"{purpose}: needs lidar sweeps, and key frame {token} of {data.spec} has none")
        return


def split_tokens(data: DrivingDataset, split: str) -> tuple[str, ...]:
    """Tokens of the key frames of a split, scene by scene, each in the order of time.

    Raises:
        ConfigError: there is no split of this name.
        DataError: the split holds no key frame.
    """
    tokens = tuple(token for scene in data.scenes(split) for token in data.key_frame_tokens(scene))
    if not tokens:
        raise DataError(f"{data.spec}: the split {split!r} holds no key frame")
    return tokens


def evenly_spaced(items: Sequence[_Item], count: int) -> list[_Item]:
    """At most `count` of some items, from the first to the last.

    >>> evenly_spaced("abcdefg", 3)
    ['a', 'd', 'g']
    """
    chosen = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[i] for i in chosen.tolist()]


def split_in_order(scenes: Sequence[str], split: str) -> tuple[str, ...]:
    """Scenes of a data set that comes without splits: `train` is the first 80 % (rounded down) and `val` the rest.

    Each has at least one scene if there are two; the split may be empty.

    >>> split_in_order(["a", "b", "c"], "val")
    ('c',)
    """
    if split == "all":
        return tuple(scenes)
    num_train = min(max(len(scenes) * 4 // 5, 1), max(len(scenes) - 1, 1))
    return tuple({"train": scenes[:num_train], "val": scenes[num_train:]}.get(split, ()))


class KeyFrameList:
    """A data set of key frames in memory.

    Args:
        frames: key frames of one or several scenes, in any order.
        splits: name of a split → names of its scenes; by default `split_in_order`.

    >>> import numpy as np
    >>> frames = [
    ...     KeyFrame(token=f"t{i}", scene="s", index=i, timestamp_us=i, global_from_ego=np.eye(4), cameras=())
    ...     for i in range(3)
    ... ]
    >>> KeyFrameList(frames).key_frame_tokens("s")
    ('t0', 't1', 't2')
    """

    def __init__(self, frames: Iterable[KeyFrame], *, splits: Mapping[str, Sequence[str]] | None = None) -> None:
        self._frames = {frame.token: frame for frame in frames}
        self._splits = splits
        by_scene: defaultdict[str, list[KeyFrame]] = defaultdict(list)
        for frame in self._frames.values():
            by_scene[frame.scene].append(frame)
        self._tokens = {
            scene: tuple(frame.token for frame in sorted(found, key=lambda frame: frame.index))
            for scene, found in by_scene.items()
        }

    @property
    def spec(self) -> DatasetSpec:
        return DatasetSpec("memory", f"{len(self._frames)} key frames")

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of all cameras, in the order in which they are met first."""
        return tuple(dict.fromkeys(image.camera for frame in self._frames.values() for image in frame.cameras))

    def scenes(self, split: str = "all") -> tuple[str, ...]:
        if self._splits is not None and split != "all":
            if split not in self._splits:
                raise ConfigError(f"there is no split {split!r}; choose one of {', '.join([*self._splits, 'all'])}")
            return tuple(self._splits[split])
        if split not in ("train", "val", "all"):
            raise ConfigError(f"there is no split {split!r}; choose one of train, val, all")
        return split_in_order(tuple(self._tokens), split)

    def key_frame_tokens(self, scene: str) -> tuple[str, ...]:
        if scene not in self._tokens:
            raise DataError(f"{self.spec}: has no scene {scene!r}; it has {', '.join(self._tokens)}")
        return self._tokens[scene]

    def key_frame(self, token: str) -> KeyFrame:
        if token not in self._frames:
            raise DataError(f"{self.spec}: has no key frame {token!r}")
        return self._frames[token]
