"""Teachers that read maps from disk: your own, or those that somebody published (`occlift.teachers.layouts`).

Class maps: integer `.npy`, `.npz` or single-channel `.png`, with the ids of the classes asked for (the label space's;
its `free` is the sky, 255 unknown), or others that `class_ids` explains. Depth maps: metres along the optical axis as
floating point `.npy` or `.npz`; integers of any of the three kinds only with `scale_m`, the metres of one unit, because
files do not say whether they count millimetres (0.001) or 1/256 metres. A depth that is 0 or less, NaN or infinite is
unknown.

Maps may be smaller or larger than their images, with the same proportions.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any, Final

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray

from occlift.errors import ConfigError, DataError
from occlift.label_space import (
    OCC3D,
    UNKNOWN,
    Taxonomy,
    class_mapping,
    class_table,
    read_mapping,
    read_space,
)
from occlift.runtime.folders import expanded
from occlift.runtime.npz import read_npz
from occlift.scenes.dataset import DrivingDataset, evenly_spaced
from occlift.scenes.frames import CameraImage, KeyFrame
from occlift.teachers.layouts import DEPTH_LAYOUTS, SEMANTICS_LAYOUTS, SUFFIXES, Layout, LayoutName
from occlift.teachers.teacher import DepthMap, SemanticMap, SemanticsTeacher

_log = logging.getLogger(__name__)

_FIELDS: Final = ("camera", "channel", "stem", "token", "sample", "scene", "suffix")
_MOST_NAMED: Final = 12
_PER_SCENE: Final = "<scene>/<camera>/<image name>"
_GROUND_AND_SKY: Final = 0.1
"""Smallest share of ground and sky that is not strange; real frames of three data sets have 38 to 55 %."""

_NO_HEADER: Final = ".bin"
"""Suffix of files that are nothing but int8, row by row, as OccNeRF's are."""


@dataclass(frozen=True, kw_only=True)
class FilesSemanticsConfig:
    """Where class maps lie and what their ids mean.

    Attributes:
        root: the folder.
        layout: where the maps lie below it; `plain` is `<scene>/<camera>/<image name>` or `<camera>/<image name>` with
            .npy, .npz or .png.
        pattern: another place than the layout's, with the fields {scene}, {camera}, {stem}, {token}, {sample} and
            {suffix}.
        key: of the array in `.npz` files; by default the only one that there is.
        class_ids: `id=class` each, in place of or beside what the layout says: `0=255`, `16=17`. By default ids are
            those of the label space (`occlift space --list`): 0..n−1 its classes, n sky, 255 unknown.
        space: preset or .toml file whose classes the maps hold instead; they become those of the label space by
            `class_mapping`.
        mapping: TOML file that says what they become, where names do not.
    """

    root: Path
    layout: LayoutName = "plain"
    pattern: str = ""
    key: str = ""
    class_ids: tuple[str, ...] = ()
    space: str = ""
    mapping: Path | None = None


@dataclass(frozen=True, kw_only=True)
class FilesDepthConfig:
    """Where depth maps lie and what their numbers mean.

    Attributes:
        root: the folder.
        layout: where the maps lie below it; `plain` is `<scene>/<camera>/<image name>` or `<camera>/<image name>` with
            .npy, .npz or .png.
        pattern: another place than the layout's, with the fields {scene}, {camera}, {stem}, {token}, {sample} and
            {suffix}.
        key: of the array in `.npz` files; by default the only one that there is.
        scale_m: metres per unit; integers are refused without it, floating point numbers are metres without it.
    """

    root: Path
    layout: LayoutName = "plain"
    pattern: str = ""
    key: str = ""
    scale_m: float | None = None


class FilesSemantics:
    """A `SemanticsTeacher` that reads class maps from disk. Scores are 1 where a class is known.

    Args:
        taxonomy: classes asked for.

    Raises:
        ConfigError: there is no such folder, or an option cannot be understood.
    """

    def __init__(self, config: FilesSemanticsConfig, *, taxonomy: Taxonomy = OCC3D.taxonomy) -> None:
        layout = SEMANTICS_LAYOUTS[config.layout]
        self._config = config
        self._maps = _MapFiles(config.root, config.pattern, config.key, layout)
        held = read_space(config.space).taxonomy if config.space else taxonomy
        given = None if config.mapping is None else read_mapping(config.mapping)
        file = str(config.mapping or "teacher files, without its option mapping=FILE")
        self._becomes = class_mapping(held, taxonomy, given, file=file)
        class_ids = _class_ids(config.class_ids, layout, held)
        self._taxonomy = held
        self._numbers = np.array(sorted(class_ids))
        classes = np.array([class_ids[number] for number in sorted(class_ids)], np.uint8)
        self._classes = class_table(held, taxonomy, self._becomes)[classes]

    @property
    def settings(self) -> Mapping[str, object]:
        return {
            "teacher": "files",
            **self._maps.settings,
            "layout": self._config.layout,
            "class_ids": list(self._config.class_ids),
            **({"classes": self._becomes} if self._config.space or self._config.mapping else {}),
        }

    def semantics(self, frame: KeyFrame) -> list[SemanticMap]:
        """The class maps of a key frame.

        Raises:
            DataError: a file is missing, damaged, of the wrong kind or size, or holds an id that means nothing.
        """
        return [self._of_image(path, values) for path, values in self._maps.read(frame)]

    def _of_image(self, path: Path, ids: NDArray[Any]) -> SemanticMap:
        if not np.issubdtype(ids.dtype, np.integer):
            raise DataError(f"{path}: holds {ids.dtype}; expected integers, an id of a class per pixel")
        numbers, classes, free = self._numbers, self._classes, self._taxonomy.free
        place = np.minimum(np.searchsorted(numbers, ids), len(numbers) - 1)
        if not (known := numbers[place] == ids).all():
            unknown = np.unique(ids[~known])
            named = ", ".join(map(str, unknown[:_MOST_NAMED])) + (", ..." if len(unknown) > _MOST_NAMED else "")
            raise DataError(
                f"{path}: holds the id {named}, which stands for no class here; say what it means "
                f"(--semantics-option class_ids={unknown[0]}=CLASS,...; CLASS: 0..{free - 1} classes, {free} sky, 255 "
                "unknown), or which list the maps are of (--semantics-option space=...)"
            )
        class_id = classes[place]
        return SemanticMap(class_id=class_id, score=(class_id != UNKNOWN).astype(np.float32))


def warn_of_strange_maps(teacher: SemanticsTeacher, data: DrivingDataset, taxonomy: Taxonomy) -> None:
    """Warns, once, where class maps on disk are hardly those of drives: ids do not say which class list they are of.

    Looks at the first key frames of some scenes. Nearly all that cameras around a car see of roads is known: a third
    and more of it is ground and sky. What is wrong with files is for those to say who read all of them.
    """
    if not isinstance(teacher, FilesSemantics) or not taxonomy.ground:
        return
    tokens, counts = [], np.zeros(256, np.int64)
    for scene in evenly_spaced(data.scenes(), 3):
        for token in data.key_frame_tokens(scene)[:1]:
            try:
                maps = [one.class_id for one in teacher.semantics(data.key_frame(token))]
            except DataError:
                continue
            counts += np.bincount(np.concatenate([one.ravel() for one in maps]), minlength=256)
            tokens.append(token)
    known = int(counts[: taxonomy.num_classes].sum())
    expected = int(counts[[*taxonomy.ids(taxonomy.ground), taxonomy.free]].sum())
    if expected >= _GROUND_AND_SKY * known:
        return
    frequent = [int(number) for number in np.argsort(-counts, kind="stable")[:3] if counts[number]]
    found = ", ".join(f"{taxonomy.name_of(number)} {counts[number] / counts.sum():.0%}" for number in frequent)
    _log.warning(
        "%s: only %.0f %% of what the class maps of %s show is ground (%s) or sky, and mostly they show %s. If that "
        "is not so in the images, the ids are of another class list: say which by space=... or class_ids=...",
        teacher.settings["root"], 100 * expected / known, ", ".join(tokens), ", ".join(taxonomy.ground), found,
    )  # fmt: skip


class FilesDepth:
    """A `DepthTeacher` that reads depth maps from disk. Confidences are 1 where a depth is known.

    Raises:
        ConfigError: there is no such folder, or an option cannot be understood.
    """

    def __init__(self, config: FilesDepthConfig) -> None:
        if config.scale_m is not None and not 0 < config.scale_m < np.inf:
            raise ConfigError(f"files: scale_m is {config.scale_m}; expected metres per unit, above 0")
        self._config = config
        self._maps = _MapFiles(config.root, config.pattern, config.key, DEPTH_LAYOUTS[config.layout])

    @property
    def settings(self) -> Mapping[str, object]:
        return {
            "teacher": "files",
            **self._maps.settings,
            "layout": self._config.layout,
            "scale_m": self._config.scale_m,
        }

    def depth(self, frame: KeyFrame) -> list[DepthMap]:
        """The depth maps of a key frame.

        Raises:
            DataError: a file is missing, damaged, or of the wrong kind or size.
        """
        return [self._of_image(path, values) for path, values in self._maps.read(frame)]

    def _of_image(self, path: Path, values: NDArray[Any]) -> DepthMap:
        scale_m = self._config.scale_m
        if np.issubdtype(values.dtype, np.integer) and scale_m is None:
            raise DataError(
                f"{path}: holds {values.dtype}, and a file does not say what one unit is; say it with the option "
                "scale_m (--depth-option scale_m=0.001 for millimetres, 0.00390625 for 1/256 metres)"
            )
        if not np.issubdtype(values.dtype, np.integer) and not np.issubdtype(values.dtype, np.floating):
            raise DataError(f"{path}: holds {values.dtype}; expected a number per pixel")
        depth_m = values.astype(np.float32) * np.float32(1 if scale_m is None else scale_m)
        known = np.isfinite(depth_m) & (depth_m > 0)
        depth_m[~known] = np.nan
        return DepthMap(depth_m=depth_m, confidence=known.astype(np.float32))


class _MapFiles:
    """The maps below a folder."""

    def __init__(self, root: Path, pattern: str, key: str, layout: Layout) -> None:
        self._root, self._key, self._layout = expanded(root), key, layout
        self._pattern = pattern or layout.pattern
        self._flat_pattern = "" if pattern else layout.flat_pattern
        self._images: dict[Path, str] = {}
        if not self._root.is_dir():
            raise ConfigError(f"files: {root}: no such folder; expected one that holds {self._pattern}")
        try:
            fields = {name for _, name, _, _ in Formatter().parse(self._pattern) if name is not None}
        except ValueError as error:
            raise ConfigError(f"files: the pattern {self._pattern!r} cannot be understood ({error})") from None
        if unknown := sorted(fields - set(_FIELDS)):
            raise ConfigError(
                f"files: the pattern {self._pattern!r} has a field {{{unknown[0]}}}; there are only "
                f"{', '.join(f'{{{name}}}' for name in _FIELDS)}"
            )
        per_image = fields & {"stem", "token"} or (fields & {"camera", "channel"} and "sample" in fields)
        if not per_image and not (layout.stacked and "sample" in fields):
            raise ConfigError(
                f"files: the pattern {self._pattern!r} names the same file for several images; it needs {{stem}}, "
                "{token}, or {camera} and {sample}"
            )

    @property
    def settings(self) -> dict[str, object]:
        return {"root": self._root.as_posix(), "pattern": self._pattern, "key": self._key}

    def read(self, frame: KeyFrame) -> Iterator[tuple[Path, Shaped[np.ndarray, "height width"]]]:
        """The file of every image's map, and the map; its size fits the image."""
        for camera in frame.cameras:
            path = self._path(frame, camera)
            image = f"{camera.camera} of {frame.token}"
            if self._images.setdefault(path, image) != image and not self._layout.stacked:
                raise ConfigError(
                    f"files: {path} would be the map of {self._images[path]} and of {image}; where images of several "
                    f"scenes or cameras have one name, their maps lie in {_PER_SCENE}, or where pattern=... says "
                    "(fields {scene} and {camera})"
                )
            yield path, self._map(path, camera)

    def _map(self, path: Path, camera: CameraImage) -> Shaped[np.ndarray, "height width"]:
        array = _read(path, self._key, camera)
        if self._layout.stacked:
            array = self._slice(path, array, camera)
        if array.ndim != 2:
            raise DataError(f"{path}: has shape {list(array.shape)}; expected [height, width], one number per pixel")
        height, width = array.shape
        # Within the rounding of a map that was made smaller by any factor.
        if abs(width * camera.height - height * camera.width) > max(camera.height, camera.width):
            raise DataError(
                f"{path}: a map of {(height, width)} pixels (height, width) for the image {camera.stem} of "
                f"{(camera.height, camera.width)}; expected the whole image, at any scale, with its proportions"
            )
        return array

    def _path(self, frame: KeyFrame, camera: CameraImage) -> Path:
        fields = {
            "channel": camera.camera,
            "camera": camera.camera,
            "stem": camera.stem,
            "token": camera.key,
            "sample": frame.token,
            "scene": frame.scene,
        }
        candidates = [
            self._root / pattern.format(**fields, suffix=suffix)
            for pattern in filter(None, (self._pattern, self._flat_pattern))
            for suffix in (SUFFIXES if "{suffix}" in pattern else ("",))
        ]
        for path in candidates:
            if path.is_file():
                return path
        others = f" (nor with {', '.join(SUFFIXES[1:])})" if "{suffix}" in self._pattern else ""
        if self._flat_pattern:
            others += f" (nor {candidates[-1].with_suffix('').relative_to(self._root)})"
        raise DataError(f"{candidates[0]}: no such file{others}; it should hold the map of {camera.stem}")

    def _slice(self, path: Path, array: NDArray[Any], camera: CameraImage) -> NDArray[Any]:
        cameras = self._layout.stacked
        if array.ndim != 3 or len(array) != len(cameras):
            raise DataError(
                f"{path}: has shape {list(array.shape)}; expected [{len(cameras)}, height, width], the maps of "
                f"{', '.join(cameras)}"
            )
        if camera.camera not in cameras:
            raise DataError(
                f"{path}: this layout has no camera {camera.camera}, only {', '.join(cameras)}; use another"
            )
        return array[cameras.index(camera.camera)]


def _class_ids(pairs: tuple[str, ...], layout: Layout, taxonomy: Taxonomy) -> dict[int, int]:
    """Id on disk → class id: what the layout says, and over it what the user says."""
    numbers = {name: number for number, name in enumerate(taxonomy.all_names)} | {"unknown": UNKNOWN}
    if layout.classes is None:
        result = {number: number for number in sorted(numbers.values())}
    else:
        result = {number: numbers[name] for number, name in layout.classes.items() if name in numbers}
    for pair in pairs:
        number, equals, class_number = pair.partition("=")
        try:
            source, target = int(number), int(class_number)
        except ValueError:
            source, target = 0, -1
        if not equals or target not in numbers.values():
            raise ConfigError(
                f"files: class_ids holds {pair!r}; expected id=class, where class is 0..{taxonomy.free - 1}, "
                f"{taxonomy.free} (sky) or 255 (unknown)"
            )
        result[source] = target
    return result


def _read(path: Path, key: str, camera: CameraImage) -> NDArray[Any]:
    try:
        if path.suffix == ".npz":
            return _from_npz(path, key)
        if path.suffix == ".png":
            return _from_png(path)
        if path.suffix == _NO_HEADER:
            values = np.fromfile(path, np.int8)
            if values.size != camera.height * camera.width:
                raise DataError(
                    f"{path}: holds {values.size} bytes; expected {camera.height * camera.width}, one per pixel of "
                    f"{camera.stem} ({camera.height} × {camera.width})"
                )
            return values.reshape(camera.height, camera.width)
        if path.suffix != ".npy":
            raise DataError(f"{path}: is of no kind that can be read; expected .npy, .npz, .png or {_NO_HEADER}")
        # Mapped, so that of the maps of several cameras in one file only one is read.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, EOFError) as error:
        raise DataError(f"{path}: not a readable .npy array ({error}); the file is damaged") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: expected a single array, found an archive; rename it to .npz")
    return array


def _from_npz(path: Path, key: str) -> NDArray[Any]:
    if key:
        return read_npz(path, (key,))[key]
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: not a readable .npz archive ({error}); the file is damaged") from error
    if len(names) != 1:
        raise DataError(f"{path}: holds {', '.join(names) or 'nothing'}; say with key=... which of them is the map")
    return read_npz(path, names)[names[0]]


def _from_png(path: Path) -> NDArray[Any]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            # Greys of 8 or 16 bits; or a palette, whose indices are the ids.
            if image.mode not in ("L", "P", "I", "I;16", "I;16B"):
                raise DataError(
                    f"{path}: a picture of mode {image.mode} with several channels; expected one number per pixel "
                    "(grey of 8 or 16 bits, or a palette), not colours"
                )
            return np.array(image)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable picture ({error}); the file is damaged or cut off") from error
