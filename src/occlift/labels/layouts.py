"""Labels on the disk in the layouts of other projects, and from one layout and space to another.

**occ3d**: `<scene>/<token>/labels.npz`, as `occlift.labels.files`.

**surroundocc** (facts from docs/data.md and the label generator of github.com/weiyithu/SurroundOcc):
`<file of the lidar sweep>.npy`, integers [n, 4], x, y, z index and class of every voxel that is not free.

**openoccupancy** (facts from `LoadOccupancy` in occ_plugin/datasets/pipelines/loading.py of
github.com/JeffWang987/OpenOccupancy): `scene_<scene's token>/occupancy/<sweep's key>.npy`, integers [n, 4], z, y, x
index and class; files with seven columns have velocities before the class. A voxel may stand there several times; the
most frequent class holds.

In both, voxels lie in the frame of the *lidar*, classes count from 1, and class 0 is neither free nor a class: their
loaders leave it out of training and scores. It is `unknown` here, in both directions, and what is not listed is free.
There are no masks: all that is known is inside both.

**npz**: `<scene>/<token>.npz`, with `semantics`, `mask_lidar`, `mask_camera` and, if there is one, `confidence` as in
Occ3D's layout, and besides what these are about: `class_names` (texts, by id; free comes next, 255 is unknown),
`lower_m` and `voxel_size_m` (metres, ego frame). `numpy.load` alone makes sense of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from occlift.errors import ConfigError, DataError
from occlift.geometry.transforms import inverse
from occlift.label_space import UNKNOWN, LabelSpace, class_mapping
from occlift.labels.convert import convert_label
from occlift.labels.files import (
    OccupancyLabel,
    checked_name,
    label_path,
    once_each,
    read_confidence,
    read_label,
    write_label,
)
from occlift.labels.manifest import MANIFEST_NAME, open_manifest, read_manifest
from occlift.runtime.files import replacing
from occlift.runtime.folder_lock import sole_writer
from occlift.runtime.folders import is_claimed
from occlift.runtime.npz import MissingArray, read_npz, write_npz
from occlift.runtime.progress import track
from occlift.scenes.dataset import DrivingDataset
from occlift.scenes.frames import KeyFrame

Layout = Literal["occ3d", "surroundocc", "openoccupancy", "npz"]

_IN_LIDAR: Final = ("surroundocc", "openoccupancy")
_FIRST_AXES: Final[Mapping[str, tuple[int, int, int]]] = {"surroundocc": (0, 1, 2), "openoccupancy": (2, 1, 0)}
_PATTERNS: Final[Mapping[Layout, str]] = {
    "occ3d": "*/*/labels.npz",
    "openoccupancy": "*/occupancy/*.npy",
    "npz": "*/*.npz",
    "surroundocc": "*.npy",
}


@runtime_checkable
class HasSceneTokens(Protocol):
    """Data sets that know scenes by a token, too."""

    def scene_token(self, scene: str) -> str:
        """The token of a scene."""
        ...


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """Where the label of a key frame lies.

    Attributes:
        ego_from_grid: from the frame of its voxels to the ego frame of the key frame, 4×4; None: they are in that.
    """

    path: Path
    scene: str
    token: str
    ego_from_grid: Float[np.ndarray, "4 4"] | None = None


@dataclass(frozen=True, kw_only=True)
class ConvertRun:
    """What `convert_labels` did.

    Attributes:
        layout: of the labels that were read.
        labels: number of labels written.
        classes: class that was read → class that was written.
    """

    out: Path
    layout: Layout
    labels: int
    classes: Mapping[str, str]


def convert_labels(
    labels: Path,
    out: Path,
    *,
    source: LabelSpace,
    target: LabelSpace,
    layout: Layout = "occ3d",
    mapping: Mapping[str, str] | None = None,
    data: DrivingDataset | None = None,
    file: str = "mapping",
) -> ConvertRun:
    """Writes all labels of a folder in another space (`convert_label`), layout, or both.

    Args:
        labels: folder of labels in any of the layouts; which it is, is seen.
        out: folder of the converted labels; its manifest says what they are about, and from what they were made.
        source: grid and classes of `labels`.
        target: grid and classes of `out`.
        layout: layout of `out`.
        mapping: class of the source → class of the target, `free` or `unknown`, beside those that names tell.
        data: the data set, for layouts whose voxels are in the frame of the lidar.
        file: what errors call the mapping.

    Raises:
        ConfigError: a class has no counterpart, the data set is needed and not given, or `out` holds something else.
        DataError: there are no labels, a file is damaged or of another space, or a key frame has no lidar.

    >>> from occlift.label_space import OCC3D, read_space
    >>> run = convert_labels(town / "gts", out, source=OCC3D, target=read_space("kitti360"), layout="npz")
    >>> run.labels, run.classes["pedestrian"]
    (8, 'person')
    """
    classes = class_mapping(source.taxonomy, target.taxonomy, mapping, file=file)
    found = layout_of(labels)
    if data is None and (given := [one for one in (found, layout) if one in _IN_LIDAR]):
        raise ConfigError(
            f"files of {given[0]} are named after lidar sweeps, and their voxels are in the lidar's frame: the data "
            "set is needed (--root)"
        )
    if out.resolve() == labels.resolve():
        raise ConfigError(f"{out}: converted labels need a folder of their own")
    is_claimed(out, MANIFEST_NAME, contents="labels converted by `occlift convert-labels`")
    with sole_writer(out):
        return _convert(labels, out, source, target, found, layout, classes, data)


def _convert(
    labels: Path, out: Path, source: LabelSpace, target: LabelSpace, found: Layout, layout: Layout,
    classes: Mapping[str, str], data: DrivingDataset | None,
) -> ConvertRun:  # fmt: skip
    config = {
        "converted": classes,
        "layout": layout,
        "from": source.to_dict(),
        "labels": dict(read_manifest(labels).config) if (labels / MANIFEST_NAME).exists() else None,
    }
    manifest = open_manifest(out, config, target)
    manifest.write(out)
    files = list(label_files(labels, found, data))
    for one in track(files, "convert"):
        frame, target_from_source = None, one.ego_from_grid
        if data is not None and layout in _IN_LIDAR:
            frame = data.key_frame(one.token)
            # From lidar to lidar nothing moves.
            target_from_source = None if found in _IN_LIDAR else inverse(ego_from_lidar(frame))
        converted = convert_label(
            read_layout(one, found, source), source, target, classes, target_from_source=target_from_source
        )
        _write(out, one, frame, converted, target, layout, data)
        manifest.labels[one.token] = {"state": "done"}
    manifest.write(out)
    return ConvertRun(out=out, layout=found, labels=len(files), classes=classes)


def layout_of(labels: Path) -> Layout:
    """The layout of a folder of labels, by what lies in it.

    Raises:
        DataError: there is no such folder, or it holds no labels.
    """
    if not labels.is_dir():
        raise DataError(f"{labels}: no such folder")
    for layout, pattern in _PATTERNS.items():
        if next(labels.glob(pattern), None):
            return layout
    raise DataError(
        f"{labels}: holds no labels; expected {', '.join(f'{pattern} ({name})' for name, pattern in _PATTERNS.items())}"
    )


def label_files(labels: Path, layout: Layout, data: DrivingDataset | None = None) -> Iterator[LabelFile]:
    """All labels of a folder, scene by scene.

    Args:
        data: the data set; where files are named after lidar sweeps.

    Raises:
        DataError: no key frame of the data set has one, or there are two of one key frame.
    """
    if layout not in _IN_LIDAR:

        def folder(path: Path) -> Path:
            return path.parent if layout == "occ3d" else path.with_suffix("")

        files = once_each((folder(path).name, path) for path in sorted(labels.glob(_PATTERNS[layout])))
        for token, path in files.items():
            yield LabelFile(path=path, scene=folder(path).parent.name, token=token)
        return
    assert data is not None
    by_name = once_each((file.name, file) for file in sorted(labels.glob(_PATTERNS[layout])))
    met = False
    for scene in data.scenes():
        for token in data.key_frame_tokens(scene):
            frame = data.key_frame(token)
            if frame.lidar is not None and (file := by_name.get(_sweep_file(frame, layout))):
                met = True
                yield LabelFile(path=file, scene=scene, token=token, ego_from_grid=ego_from_lidar(frame))
    if not met:
        raise DataError(
            f"{labels}: none of its {len(by_name)} files belongs to a lidar sweep of {data.spec}, such as "
            f"{next(iter(by_name))}; is it the data set that they were made from?"
        )


def ego_from_lidar(frame: KeyFrame) -> Float[np.ndarray, "4 4"]:
    """From the lidar of a key frame, at the time of its sweep, to the ego frame of the key frame.

    Raises:
        DataError: the key frame has no lidar.
    """
    sweep, ego_from_global = frame.lidar_sweep(), inverse(frame.global_from_ego)
    global_from_lidar = sweep.global_from_ego @ sweep.ego_from_lidar
    return ego_from_global @ global_from_lidar


def read_layout(file: LabelFile, layout: Layout, space: LabelSpace) -> OccupancyLabel:
    """Reads a label in one of the layouts.

    Raises:
        DataError: the file is damaged, or about another grid or other classes.
    """
    if layout in _IN_LIDAR:
        semantics = _from_rows(file.path, _rows(file.path), _FIRST_AXES[layout], space)
        known = semantics != UNKNOWN
        return OccupancyLabel(semantics=semantics, mask_lidar=known, mask_camera=known)
    if layout == "npz":
        _check_about(file.path, space)
    label = read_label(file.path, allow_unknown=True, space=space)
    try:
        return replace(label, confidence=read_confidence(file.path, space=space))
    except MissingArray:
        return label


def _write(
    out: Path, file: LabelFile, frame: KeyFrame | None, label: OccupancyLabel, space: LabelSpace, layout: Layout,
    data: DrivingDataset | None,
) -> None:  # fmt: skip
    if layout == "occ3d":
        write_label(label_path(out, file.scene, file.token), label, space=space)
    elif layout == "npz":
        arrays = {"semantics": label.semantics, "mask_lidar": label.mask_lidar, "mask_camera": label.mask_camera}
        if label.confidence is not None:
            arrays["confidence"] = label.confidence
        about = _about(space)
        path = out / checked_name(file.scene, "scene name") / f"{checked_name(file.token, 'sample token')}.npz"
        write_npz(path, {**{name: array.astype(np.uint8) for name, array in arrays.items()}, **about}, level=6)
    else:
        assert frame is not None
        folder = out
        if layout == "openoccupancy":
            # Other data sets than the one that OpenOccupancy is about have no tokens of scenes.
            scene = data.scene_token(file.scene) if isinstance(data, HasSceneTokens) else file.scene
            folder = out / f"scene_{checked_name(scene, 'scene token')}" / "occupancy"
        index = np.argwhere(label.semantics != space.taxonomy.free)
        classes = label.semantics[tuple(index.T)].astype(np.int16) + 1
        classes[classes == UNKNOWN + 1] = 0
        rows = np.column_stack([index[:, _FIRST_AXES[layout]].astype(np.int16), classes])
        with replacing(folder / checked_name(_sweep_file(frame, layout), "file name")) as stream:
            np.save(stream, rows, allow_pickle=False)


def _sweep_file(frame: KeyFrame, layout: Layout) -> str:
    sweep = frame.lidar_sweep()
    return f"{Path(sweep.source.name).name if layout == 'surroundocc' else sweep.key}.npy"


def _rows(path: Path) -> NDArray[Any]:
    try:
        rows = np.load(path, allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, EOFError) as error:
        raise DataError(f"{path}: not a readable .npy array ({error}); the file is damaged") from error
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] < 4 or rows.dtype.kind not in "iuf":
        found = f"{rows.dtype} of shape {list(rows.shape)}" if isinstance(rows, np.ndarray) else "an archive"
        raise DataError(f"{path}: holds {found}; expected numbers [n, 4], indices of a voxel and its class per row")
    return rows


def _from_rows(
    path: Path, rows: NDArray[Any], axes: tuple[int, int, int], space: LabelSpace
) -> UInt8[np.ndarray, "x y z"]:
    """A dense label from rows; free where none stands."""
    taxonomy, shape = space.taxonomy, space.grid.shape
    # Velocities may stand between index and class; nothing else has fractions.
    table = rows[:, [*axes, rows.shape[1] - 1]]
    # NaN and what is too large for an index are no integers.
    whole = np.where(np.abs(table) < 2**31, table, -1).astype(np.int64)
    limits = np.array([*shape, taxonomy.free + 1])
    wrong = ((whole != table) | (whole < 0) | (whole >= limits)).any(axis=1)
    if wrong.any():
        raise DataError(
            f"{path}: row {int(np.flatnonzero(wrong)[0])} is {rows[wrong][0].tolist()}, and {int(wrong.sum()) - 1} "
            f"more do not fit; expected whole indices within {list(shape)} (x, y, z) and classes 0 to {taxonomy.free}; "
            "is it a label of another grid or class list?"
        )
    flat = np.ravel_multi_index(tuple(whole[:, :3].T), shape)
    pairs, count = np.unique(flat * 256 + whole[:, 3], return_counts=True)
    # Last of each voxel the most frequent class, of equals the smallest.
    order = np.lexsort((-(pairs % 256), count, pairs // 256))
    semantics = np.full(space.grid.num_voxels, taxonomy.free, np.uint8)
    voxel, class_number = pairs[order] // 256, pairs[order] % 256
    last = np.append(voxel[1:] != voxel[:-1], True)[: len(voxel)]
    semantics[voxel[last]] = np.where(class_number[last] == 0, UNKNOWN, class_number[last] - 1)
    return semantics.reshape(shape)


def _about(space: LabelSpace) -> dict[str, NDArray[Any]]:
    return {
        "class_names": np.array(space.taxonomy.names),
        "lower_m": np.array(space.grid.lower_m),
        "voxel_size_m": np.array(space.grid.voxel_size_m),
    }


def _check_about(path: Path, space: LabelSpace) -> None:
    there = read_npz(path, tuple(_about(space)))
    for name, expected in _about(space).items():
        found = there[name]
        if name == "class_names":
            equal = np.array_equal(found, expected)
        else:
            equal = found.shape == expected.shape and found.dtype.kind in "iuf" and np.allclose(found, expected)
        if not equal:
            raise DataError(f"{path}: {name} is {found.tolist()}; the label space says {expected.tolist()}")
