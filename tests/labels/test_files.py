"""Occ3D labels and predictions: round trips, layout, and refusals."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from occlift.errors import DataError
from occlift.labels.files import (
    OccupancyLabel,
    checked_name,
    label_path,
    prediction_path,
    read_label,
    read_prediction,
    write_label,
    write_prediction,
)

SHAPE = (200, 200, 16)


@pytest.fixture(scope="module")
def label() -> OccupancyLabel:
    generator = np.random.default_rng(0)
    return OccupancyLabel(
        semantics=generator.integers(0, 18, SHAPE, dtype=np.uint8),
        mask_lidar=generator.random(SHAPE) < 0.5,
        mask_camera=generator.random(SHAPE) < 0.2,
    )


def test_label_comes_back_as_it_was_written(tmp_path: Path, label: OccupancyLabel) -> None:
    path = label_path(tmp_path, "scene-0001", "0a1b")
    assert path == tmp_path / "scene-0001/0a1b/labels.npz"
    write_label(path, label)
    back = read_label(path)
    np.testing.assert_array_equal(back.semantics, label.semantics)
    np.testing.assert_array_equal(back.mask_lidar, label.mask_lidar)
    np.testing.assert_array_equal(back.mask_camera, label.mask_camera)
    assert (back.semantics.dtype, back.mask_lidar.dtype, back.mask_camera.dtype) == (np.uint8, np.bool_, np.bool_)


def test_label_is_stored_in_the_layout_of_occ3d(tmp_path: Path, label: OccupancyLabel) -> None:
    write_label(tmp_path / "labels.npz", label)
    with np.load(tmp_path / "labels.npz") as archive:
        assert {name: (array.dtype, array.shape) for name, array in archive.items()} == {
            name: (np.dtype(np.uint8), SHAPE) for name in ("semantics", "mask_lidar", "mask_camera")
        }
        assert set(np.unique(archive["mask_camera"])) == {0, 1}


def test_same_label_same_bytes_and_nothing_left_beside(tmp_path: Path, label: OccupancyLabel) -> None:
    path = tmp_path / "deep/folder/labels.npz"
    write_label(path, label)
    first = path.read_bytes()
    write_label(path, label)
    assert path.read_bytes() == first
    assert [entry.name for entry in path.parent.iterdir()] == ["labels.npz"]
    assert len(first) < 3 * 200 * 200 * 16
    assert {entry.date_time for entry in zipfile.ZipFile(path).infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, label: OccupancyLabel, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "labels.npz"
    write_label(path, label)
    before = path.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="no space left"):
        write_label(path, label)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["labels.npz"]


def test_unknown_is_only_read_where_it_is_allowed(tmp_path: Path, label: OccupancyLabel) -> None:
    semantics = label.semantics.copy()
    semantics[3, 4, 5] = 255
    path = tmp_path / "labels.npz"
    write_label(path, replace(label, semantics=semantics))
    assert read_label(path, allow_unknown=True).semantics[3, 4, 5] == 255
    with pytest.raises(DataError, match=r"labels\.npz: semantics holds class 255 at voxel \[3, 4, 5\].*0\.\.17"):
        read_label(path)


@pytest.mark.parametrize("allow_unknown", [False, True])
@pytest.mark.parametrize("value", [18, 200, 254])
def test_classes_that_do_not_exist_are_refused(tmp_path: Path, value: int, allow_unknown: bool) -> None:
    semantics = np.full(SHAPE, 17, dtype=np.uint8)
    semantics[0, 1, 2] = value
    zeros = np.zeros(SHAPE, dtype=np.uint8)
    np.savez(tmp_path / "labels.npz", semantics=semantics, mask_lidar=zeros, mask_camera=zeros)
    with pytest.raises(DataError, match=rf"labels\.npz: semantics holds class {value} at voxel \[0, 1, 2\]"):
        read_label(tmp_path / "labels.npz", allow_unknown=allow_unknown)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"semantics": np.zeros((200, 200, 8), np.uint8)}, r"semantics should have the shape \(200, 200, 16\)"),
        ({"mask_lidar": np.zeros((16, 200, 200), np.uint8)}, r"mask_lidar should have the shape"),
        ({"semantics": np.zeros(SHAPE, np.float32)}, r"semantics should hold integers .* but holds float32"),
        ({"semantics": np.full(SHAPE, -1, np.int64)}, r"semantics holds class -1"),
        ({"mask_camera": np.full(SHAPE, 255, np.uint8)}, r"mask_camera should hold 0 and 1 only, but holds 255"),
        ({"mask_camera": None}, r"has no array mask_camera; it holds semantics, mask_lidar"),
        ({"semantics": np.array({"a": 1}, dtype=object)}, r"not a readable \.npz archive"),
    ],
)
def test_wrong_labels_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arrays = {name: np.zeros(SHAPE, np.uint8) for name in ("semantics", "mask_lidar", "mask_camera")} | change
    path = tmp_path / "labels.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(DataError, match=rf"labels\.npz: {message}"):
        read_label(path)


def test_damaged_files_are_named(tmp_path: Path, label: OccupancyLabel) -> None:
    path = tmp_path / "labels.npz"
    with pytest.raises(DataError, match=r"labels\.npz: no such file"):
        read_label(path)
    write_label(path, label)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 0xFF
    single = io.BytesIO()
    np.save(single, label.semantics)
    for damaged in (b"", b"hello", whole[: len(whole) // 2], bytes(flipped), single.getvalue()):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"labels\.npz: "):
            read_label(path)


def test_prediction_comes_back_and_other_integer_types_are_accepted(tmp_path: Path, label: OccupancyLabel) -> None:
    path = prediction_path(tmp_path / "out", "0a1b")
    assert path == tmp_path / "out/0a1b.npz"
    write_prediction(path, label.semantics)
    np.testing.assert_array_equal(read_prediction(path), label.semantics)
    np.savez(path, semantics=label.semantics.astype(np.int64))
    back = read_prediction(path)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, label.semantics)
    np.savez(path, semantics=np.full(SHAPE, 255, np.uint8))
    with pytest.raises(DataError, match="class 255"):
        read_prediction(path)


@pytest.mark.usefixtures("without_shape_checks")
def test_what_is_of_another_grid_or_class_list_is_not_written(tmp_path: Path, label: OccupancyLabel) -> None:
    with pytest.raises(DataError, match=r"a\.npz: semantics holds class 18 .* another class list"):
        write_prediction(tmp_path / "a.npz", np.full(SHAPE, 18, np.uint8))
    with pytest.raises(DataError, match=r"a\.npz: semantics holds class 255"):
        write_prediction(tmp_path / "a.npz", np.full(SHAPE, 255, np.uint8))
    with pytest.raises(DataError, match=r"a\.npz: semantics holds class 99"):
        write_label(tmp_path / "a.npz", replace(label, semantics=np.full(SHAPE, 99, np.uint8)))
    with pytest.raises(DataError, match=r"a\.npz: mask_lidar should have the shape .* is it of another grid\? Then"):
        write_label(tmp_path / "a.npz", replace(label, mask_lidar=label.mask_lidar[:100]))
    small = label.semantics[:100]
    with pytest.raises(DataError, match=r"a\.npz: semantics should have the shape \(200, 200, 16\).*\(100, 200, 16\)"):
        write_label(tmp_path / "a.npz", OccupancyLabel(semantics=small, mask_lidar=small < 1, mask_camera=small < 1))
    with pytest.raises(DataError, match="semantics should have the shape"):
        write_prediction(tmp_path / "a.npz", small)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["scene-0061", "ca9a282c9e77460f8360f564131a8af5", "Straße 7", "a..b", "x" * 128])
def test_safe_names_pass(name: str) -> None:
    assert checked_name(name, "token") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../../etc", "/etc", "a/b", "a\\b", "C:", "a\0b", "a\nb", " a", "a.", ".a", "x" * 129, "a*"]
)
def test_unsafe_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"^scene name .* cannot be used as a file name"):
        label_path(tmp_path, name, "token")
    with pytest.raises(DataError, match=r"^sample token .* cannot be used as a file name"):
        prediction_path(tmp_path, name)
