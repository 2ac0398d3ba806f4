"""The index of a data set, cached beside its tables.

The cache is an `.npz` without pickle. It counts only if it was made from tables of the same sizes and time stamps by
the same format; otherwise, or if it is damaged, it is made again. Where the tables' folder cannot be written, the
user's cache folder serves.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, get_type_hints

import numpy as np
from numpy.typing import NDArray

from occlift.datasets.nuscenes.box_index import BOX_TABLES, VISIBILITY_TABLE, BoxIndex, has_boxes, index_boxes
from occlift.datasets.nuscenes.frame_index import FRAME_TABLES, FrameIndex, index_frames
from occlift.datasets.nuscenes.packed import PackedStrings
from occlift.datasets.nuscenes.references import table_path
from occlift.datasets.nuscenes.sweep_index import SweepIndex, index_sweeps
from occlift.errors import DataError
from occlift.runtime.folders import has_home
from occlift.runtime.npz import read_npz, write_npz

FORMAT: Final = 5
"""To be raised with every change of what the arrays mean or which there are."""

FILE_NAME: Final = ".occlift-index.npz"
SWEEPS_FILE_NAME: Final = ".occlift-sweeps.npz"

_log = logging.getLogger(__name__)

IndexType = TypeVar("IndexType", FrameIndex, BoxIndex, SweepIndex)


def load_frames(folder: Path) -> tuple[FrameIndex, BoxIndex | None]:
    """The frame index of the tables in `folder`, from the cache if it is good, else from the tables.

    The box index comes with it where it had to be made anyway; otherwise `load_boxes` reads it when it is needed, if
    there are boxes.

    Raises:
        DataError: a table is missing, damaged or inconsistent.
    """
    cached = _from_cache(folder, FrameIndex)
    return (cached, None) if cached is not None else _build(folder)


def load_boxes(folder: Path) -> BoxIndex:
    """The box index of the tables in `folder`, from the cache if it is good, else from the tables.

    Raises:
        DataError: a table is missing, damaged or inconsistent.
    """
    cached = _from_cache(folder, BoxIndex)
    if cached is None:
        _, cached = _build(folder)
    assert cached is not None, "asked for where there are boxes"
    return cached


def load_sweeps(folder: Path, frames: FrameIndex) -> SweepIndex:
    """The index of the camera images beside those of the key frames, cached in a file of its own: few runs need it.

    Raises:
        DataError: a table is missing, damaged or inconsistent.
    """
    cached = _from_cache(folder, SweepIndex, SWEEPS_FILE_NAME)
    if cached is not None:
        return cached
    key = _key(folder)
    sweeps = index_sweeps(folder, frames)
    _write(folder, SWEEPS_FILE_NAME, {"key": key, **_arrays(sweeps)})
    return sweeps


def cache_paths(folder: Path, name: str = FILE_NAME) -> tuple[Path, ...]:
    """Where the cache may lie: beside the tables, or in the user's cache folder under a name made of the path."""
    if not os.environ.get("XDG_CACHE_HOME") and not has_home():
        return (folder / name,)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:24]
    return folder / name, base / "occlift" / f"{digest}{name}"


def _build(folder: Path) -> tuple[FrameIndex, BoxIndex | None]:
    # The key is taken first: should a table change while it is read, the cache is stale from the start.
    key = _key(folder)
    frames, sample_positions = index_frames(folder)
    boxes = index_boxes(folder, sample_positions, frames.sample_timestamps_us) if has_boxes(folder) else None
    _write(folder, FILE_NAME, {"key": key, **_arrays(frames), **({} if boxes is None else _arrays(boxes))})
    return frames, boxes


def _write(folder: Path, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    for path in cache_paths(folder, name):
        if path.parent == folder and not folder.stat().st_mode & 0o222:
            # Marked read-only: left alone even by root, who could write.
            continue
        try:
            write_npz(path, arrays, level=0)
            break
        except OSError as error:
            _log.debug("index not cached in %s: %s", path, error)


def _key(folder: Path) -> NDArray[np.uint8]:
    """What the cache depends on, as the bytes of a JSON text."""
    tables: dict[str, tuple[int, int]] = {}
    for table in sorted({*FRAME_TABLES, *BOX_TABLES, VISIBILITY_TABLE}):
        try:
            status = table_path(folder, table).stat()
            tables[table] = (status.st_size, status.st_mtime_ns)
        except OSError:
            # There are no boxes, or reading the table says what is wrong with it: no cache has such frames.
            tables[table] = (-1, -1)
    text = json.dumps({"format": FORMAT, "tables": tables}, sort_keys=True)
    return np.frombuffer(text.encode(), dtype=np.uint8)


def _from_cache(folder: Path, index_type: type[IndexType], name: str = FILE_NAME) -> IndexType | None:
    key = _key(folder)
    for path in cache_paths(folder, name):
        try:
            if np.array_equal(read_npz(path, ("key",))["key"], key):
                return _index(index_type, read_npz(path, _array_names(index_type)))
        except DataError as error:
            _log.debug("no index from the cache: %s", error)
    return None


def _arrays(index: FrameIndex | BoxIndex | SweepIndex) -> dict[str, NDArray[Any]]:
    """The arrays of an index under the names that they have in the cache."""
    arrays: dict[str, NDArray[Any]] = {}
    prefix = type(index).__name__
    for field in dataclasses.fields(index):
        value = getattr(index, field.name)
        if isinstance(value, PackedStrings):
            arrays[f"{prefix}.{field.name}.letters"] = value.letters
            arrays[f"{prefix}.{field.name}.starts"] = value.starts
        else:
            arrays[f"{prefix}.{field.name}"] = value
    return arrays


def _array_names(index_type: type[IndexType]) -> list[str]:
    types = get_type_hints(index_type)
    names: list[str] = []
    for field in dataclasses.fields(index_type):
        name = f"{index_type.__name__}.{field.name}"
        names += [f"{name}.letters", f"{name}.starts"] if types[field.name] is PackedStrings else [name]
    return names


def _index(index_type: type[IndexType], arrays: Mapping[str, NDArray[Any]]) -> IndexType:
    """The inverse of `_arrays`."""
    values: dict[str, PackedStrings | NDArray[Any]] = {}
    for field in dataclasses.fields(index_type):
        name = f"{index_type.__name__}.{field.name}"
        if name in arrays:
            values[field.name] = arrays[name]
        else:
            values[field.name] = PackedStrings(letters=arrays[f"{name}.letters"], starts=arrays[f"{name}.starts"])
    return index_type(**values)  # type: ignore[arg-type]
