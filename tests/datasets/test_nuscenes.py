"""The nuScenes reader: what it reads, how it caches, and what it says about bad input."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from occlift import open_dataset
from occlift.datasets.nuscenes import index_cache, tables
from occlift.datasets.nuscenes.channels import CAMERA_CHANNELS
from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.datasets.nuscenes.index_cache import FILE_NAME
from occlift.datasets.nuscenes.lidar_file import read_lidar
from occlift.datasets.nuscenes.splits import OFFICIAL_SPLITS, official_scenes
from occlift.errors import ConfigError, DataError
from occlift.geometry.transforms import rotation_about_z
from occlift.scenes.dataset import HasBoxes, require
from occlift.scenes.sources import read_image

VERSION = "v1.0-tiny"
HALF_TURN = [0.0, 0.0, 0.0, 1.0]
QUARTER_TURN = [2.0, 0.0, 0.0, 2.0]  # not of unit length, which is legal
INTRINSICS = [[100.0, 0.0, 32.0], [0.0, 100.0, 16.0], [0.0, 0.0, 1.0]]

Tables = dict[str, list[dict[str, Any]]]
Change = Callable[[Tables], Any]


def tiny_tables(scenes: tuple[str, ...] = ("hill", "lake"), samples: int = 4) -> Tables:
    """Two scenes; a car that is seen in every sample and drives +x, and a cone that is seen in the second one."""
    channels = (*CAMERA_CHANNELS, "LIDAR_TOP", "RADAR_FRONT")
    rows: Tables = {
        name: [] for name in ("scene", "sample", "sample_data", "ego_pose", "instance", "sample_annotation")
    }
    rows["sensor"] = [{"token": f"s-{name}", "channel": name, "modality": "any"} for name in channels]
    rows["calibrated_sensor"] = [
        {
            "token": f"c-{name}",
            "sensor_token": f"s-{name}",
            "translation": [1.0, number, 2.0],
            "rotation": QUARTER_TURN,
            "camera_intrinsic": INTRINSICS if name.startswith("CAM") else [],
        }
        for number, name in enumerate(channels)
    ]
    rows["category"] = [{"token": "k1", "name": "vehicle.car"}, {"token": "k2", "name": "movable_object.trafficcone"}]
    rows["attribute"] = [{"token": "a1", "name": "vehicle.moving"}, {"token": "a2", "name": "lights.on"}]
    rows["visibility"] = [{"token": str(number), "level": "", "description": ""} for number in (1, 2, 3, 4)]
    rows["log"] = [{"token": "log", "logfile": "", "vehicle": "", "date_captured": "", "location": ""}]
    rows["map"] = [{"token": "map", "log_tokens": ["log"], "category": "", "filename": "maps/map.png"}]
    for s, scene in enumerate(scenes):
        rows["scene"].append(
            {
                "token": f"scene{s}",
                "log_token": "log",
                "name": scene,
                "description": 'a "quoted}, {text',
                "nbr_samples": samples,
                "first_sample_token": f"t{s}0",
                "last_sample_token": f"t{s}{samples - 1}",
            }
        )
        rows["instance"] += [
            {
                "token": f"car{s}",
                "category_token": "k1",
                "nbr_annotations": samples,
                "first_annotation_token": f"b{s}0",
                "last_annotation_token": f"b{s}{samples - 1}",
            },
            {
                "token": f"cone{s}",
                "category_token": "k2",
                "nbr_annotations": 1,
                "first_annotation_token": f"d{s}",
                "last_annotation_token": f"d{s}",
            },
        ]
        for i in range(samples):
            time_us = 10**15 + s * 10**9 + i * 500_000
            links = {"prev": f"{{}}{s}{i - 1}" if i else "", "next": f"{{}}{s}{i + 1}" if i < samples - 1 else ""}
            rows["sample"].append(
                {
                    "token": f"t{s}{i}",
                    "scene_token": f"scene{s}",
                    "timestamp": time_us,
                    **{key: link.format("t") for key, link in links.items()},
                }
            )
            rows["sample_annotation"].append(
                {
                    "token": f"b{s}{i}",
                    "sample_token": f"t{s}{i}",
                    "instance_token": f"car{s}",
                    "visibility_token": "3",
                    "attribute_tokens": ["a2", "a1"] if i == 1 else ["a1"],
                    "translation": [10.0 + 2 * i * i, 5, 1],
                    "size": [1.8, 4.5, 1.5],
                    "rotation": QUARTER_TURN,
                    "num_lidar_pts": 7,
                    "num_radar_pts": 0,
                    **{key: link.format("b") for key, link in links.items()},
                }
            )
            for c, channel in enumerate(channels):
                for sweep in (False, True):
                    token = f"{channel}-{s}-{i}" + ("-sweep" if sweep else "")
                    camera = channel.startswith("CAM")
                    folder, suffix = "sweeps" if sweep else "samples", "jpg" if camera else "pcd.bin"
                    rows["sample_data"].append(
                        {
                            "token": token,
                            "sample_token": f"t{s}{i}",
                            "ego_pose_token": f"pose-{token}",
                            "calibrated_sensor_token": f"c-{channel}",
                            "timestamp": time_us + c * 1000,
                            "fileformat": suffix,
                            "is_key_frame": not sweep,
                            "height": 32 if camera else 0,
                            "width": 64 if camera else 0,
                            "filename": f"{folder}/{channel}/{token}.{suffix}",
                            "prev": "",
                            "next": "",
                        }
                    )
                    rows["ego_pose"].append(
                        {
                            "token": f"pose-{token}",
                            "timestamp": time_us + c * 1000,
                            "translation": [float(i), c / 8, 0.0],
                            "rotation": HALF_TURN,
                        }
                    )
        rows["sample_annotation"].append(
            {
                **rows["sample_annotation"][-1],
                "token": f"d{s}",
                "sample_token": f"t{s}{min(1, samples - 1)}",
                "instance_token": f"cone{s}",
                "visibility_token": "",
                "attribute_tokens": [],
                "prev": "",
                "next": "",
            }
        )
    return rows


def write_tables(root: Path, rows: Tables) -> Path:
    folder = root / VERSION
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in rows.items():
        (folder / f"{name}.json").write_text(json.dumps(table, indent=0))
    return root


@pytest.fixture(autouse=True)
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    return tmp_path / "user-cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tables(tmp_path / "data", tiny_tables())


def changed(tmp_path: Path, change: Change) -> Path:
    rows = tiny_tables()
    change(rows)
    return write_tables(tmp_path / "data", rows)


def test_key_frame_has_every_sensor_with_its_own_pose(root: Path) -> None:
    data = NuScenes.open(root)
    assert data.version == VERSION
    assert data.scenes() == ("hill", "lake")
    assert data.key_frame_tokens("lake") == ("t10", "t11", "t12", "t13")
    frame = data.key_frame("t12")
    assert (frame.scene, frame.index, frame.timestamp_us) == ("lake", 2, 10**15 + 10**9 + 10**6)
    assert tuple(camera.camera for camera in frame.cameras) == CAMERA_CHANNELS
    assert frame.lidar.key == "LIDAR_TOP-1-2"
    assert frame.lidar.source.name == str(root / "samples/LIDAR_TOP/LIDAR_TOP-1-2.pcd.bin")
    camera = frame.cameras[3]
    assert camera.key == "CAM_BACK_LEFT-1-2"
    assert camera.timestamp_us == frame.timestamp_us + 3000
    assert (camera.height, camera.width) == (32, 64)
    np.testing.assert_array_equal(camera.intrinsics_px, INTRINSICS)
    np.testing.assert_allclose(camera.ego_at_image_from_camera[:3, :3], rotation_about_z(np.pi / 2), atol=1e-12)
    np.testing.assert_array_equal(camera.ego_at_image_from_camera[:3, 3], [1, 3, 2])
    np.testing.assert_allclose(camera.global_from_ego_at_image[:3, :3], rotation_about_z(np.pi), atol=1e-12)
    np.testing.assert_array_equal(camera.global_from_ego_at_image[:3, 3], [2, 3 / 8, 0])
    np.testing.assert_array_equal(frame.global_from_ego[:3, 3], [2, 6 / 8, 0])


def test_arrays_of_one_key_frame_may_be_changed_without_harm(root: Path) -> None:
    data = NuScenes.open(root)
    frame = data.key_frame("t00")
    for array in (frame.lidar.ego_from_lidar, frame.cameras[0].intrinsics_px, frame.global_from_ego):
        array[:] = -1
    data.boxes("t00")[0].velocity_global_m_s[:] = -1
    again = data.key_frame("t00")
    assert again.lidar.ego_from_lidar[3, 3] == again.cameras[0].intrinsics_px[2, 2] == again.global_from_ego[3, 3] == 1
    assert data.boxes("t00")[0].velocity_global_m_s[1] == 0


def test_boxes(root: Path) -> None:
    data = NuScenes.open(root)
    car, cone = data.boxes("t11")
    assert (car.token, car.instance, car.category) == ("b11", "car1", "vehicle.car")
    assert car.size_lwh_m == (4.5, 1.8, 1.5)
    assert (car.visibility, car.num_lidar_points, car.attributes) == (0.8, 7, ("lights.on", "vehicle.moving"))
    np.testing.assert_allclose(car.global_from_box[:3, :3], rotation_about_z(np.pi / 2), atol=1e-12)
    np.testing.assert_array_equal(car.global_from_box[:3, 3], [12, 5, 1])
    assert (cone.category, cone.visibility, cone.attributes) == ("movable_object.trafficcone", None, ())
    assert [len(data.boxes(token)) for token in data.key_frame_tokens("lake")] == [1, 2, 1, 1]
    assert data.boxes("t12")[0].attributes == ("vehicle.moving",)


def test_velocity_is_a_central_difference_where_the_track_goes_on_and_one_sided_at_its_ends(root: Path) -> None:
    data = NuScenes.open(root)
    x = [data.boxes(token)[0].velocity_global_m_s[0] for token in data.key_frame_tokens("hill")]
    # Positions 10 + 2i² metres, half a second apart.
    np.testing.assert_allclose(x, [4, 8, 16, 20], rtol=1e-6)
    assert np.isnan(data.boxes("t01")[1].velocity_global_m_s).all()


def test_velocity_is_unknown_across_long_gaps(tmp_path: Path) -> None:
    def slow_down(rows: Tables) -> None:
        for index, row in enumerate(rows["sample"][:4]):
            row["timestamp"] = 10**15 + (0, 1_400_000, 2_900_000, 4_600_000)[index]

    data = NuScenes.open(changed(tmp_path, slow_down))
    known = [not np.isnan(data.boxes(token)[0].velocity_global_m_s).any() for token in data.key_frame_tokens("hill")]
    # 1.4 s one-sided; 2.9 s and 3.2 s central; 1.7 s one-sided.
    assert known == [True, True, False, False]


def test_order_of_rows_does_not_matter(root: Path, tmp_path: Path) -> None:
    rows = tiny_tables()
    generator = np.random.default_rng(0)
    for name in ("sample", "sample_data", "ego_pose", "instance", "calibrated_sensor", "sample_annotation"):
        rows[name] = [rows[name][index] for index in generator.permutation(len(rows[name]))]
    shuffled, plain = NuScenes.open(write_tables(tmp_path / "shuffled", rows)), NuScenes.open(root)
    for scene in plain.scenes():
        assert shuffled.key_frame_tokens(scene) == plain.key_frame_tokens(scene)
        for token in plain.key_frame_tokens(scene):
            ours, theirs = shuffled.key_frame(token), plain.key_frame(token)
            assert [camera.key for camera in ours.cameras] == [camera.key for camera in theirs.cameras]
            np.testing.assert_array_equal(ours.global_from_ego, theirs.global_from_ego)
            boxes = {box.token: box for box in shuffled.boxes(token)}
            for box in plain.boxes(token):
                np.testing.assert_array_equal(boxes[box.token].velocity_global_m_s, box.velocity_global_m_s)
                assert boxes[box.token].attributes == box.attributes


def test_a_missing_camera_is_legal_and_a_missing_lidar_is_not(tmp_path: Path) -> None:
    gone = {"CAM_BACK-0-0", "LIDAR_TOP-0-1"}

    def drop(rows: Tables) -> None:
        rows["sample_data"] = [row for row in rows["sample_data"] if row["token"] not in gone]

    data = NuScenes.open(changed(tmp_path, drop))
    assert [camera.camera for camera in data.key_frame("t00").cameras] == [
        channel for channel in CAMERA_CHANNELS if channel != "CAM_BACK"
    ]
    with pytest.raises(DataError, match=r"sample t01 of hill has no key frame of LIDAR_TOP"):
        data.key_frame("t01")


def test_unknown_names_are_data_errors(root: Path) -> None:
    data = NuScenes.open(root)
    with pytest.raises(DataError, match="no scene 'sea'; it has hill, lake"):
        data.key_frame_tokens("sea")
    for ask in (data.key_frame, data.boxes):
        with pytest.raises(DataError, match="no sample 'LIDAR_TOP-0-0'"):
            ask("LIDAR_TOP-0-0")


def test_version_is_the_only_one_or_must_be_named(root: Path) -> None:
    (root / "v1.0-other").mkdir()
    # Without tables it is no version.
    assert NuScenes.open(root).version == VERSION
    for name in ("scene", "sensor"):
        (root / f"v1.0-other/{name}.json").write_text("[]")
    with pytest.raises(ConfigError) as error:
        open_dataset(root)
    # The error says what to write, and that works.
    specs = re.findall(r"nuscenes:\S+\?version=\S+", str(error.value))
    assert [spec.rpartition("=")[2] for spec in specs] == ["v1.0-other", VERSION]
    assert open_dataset(specs[1]).scenes() == ("hill", "lake")
    assert NuScenes.open(root, VERSION).version == VERSION
    with pytest.raises(DataError, match=r"v1\.0-none: no such folder.*v1\.0-tiny"):
        NuScenes.open(root, "v1.0-none")
    with pytest.raises(DataError, match="cannot be used as a file name"):
        NuScenes.open(root, "../data/v1.0-tiny")
    with pytest.raises(DataError, match=r"holds no folder v1\.0-\*"):
        NuScenes.open(root / "v1.0-other")
    with pytest.raises(DataError, match="no such folder"):
        NuScenes.open(root / "nowhere")


# Splits


def test_official_splits_have_the_official_sizes() -> None:
    scenes = {split: official_scenes(split) for split in OFFICIAL_SPLITS}
    assert [len(scenes[split]) for split in OFFICIAL_SPLITS] == [700, 150, 150, 8, 2]
    assert len(scenes["train"] | scenes["val"] | scenes["test"]) == 1000
    assert scenes["mini_train"] | scenes["mini_val"] <= scenes["train"] | scenes["val"]
    assert scenes["mini_train"] & scenes["val"] == {"scene-0553", "scene-0796"}


def test_official_lists_hold_where_they_name_a_scene(tmp_path: Path) -> None:
    scenes = ("scene-0103", "scene-0061", "extra", "scene-0553")
    data = NuScenes.open(write_tables(tmp_path, tiny_tables(scenes, samples=1)))
    assert data.scenes("train") == ("scene-0061",)
    assert data.scenes("val") == ("scene-0103", "scene-0553")
    assert data.scenes("mini_val") == ("scene-0103",)
    assert data.scenes("all") == scenes
    with pytest.raises(DataError, match=r"split test has no scene; splits with scenes: train \(1\), val \(2\)"):
        data.scenes("test")
    with pytest.raises(ConfigError, match="no split 'validation'; choose one of train, val"):
        data.scenes("validation")


@pytest.mark.parametrize(("count", "num_train"), [(2, 1), (3, 2), (4, 3), (5, 4), (10, 8), (11, 8)])
def test_other_data_sets_are_split_80_to_20(tmp_path: Path, count: int, num_train: int) -> None:
    scenes = tuple(f"town-{number}" for number in range(count))
    data = NuScenes.open(write_tables(tmp_path, tiny_tables(scenes, samples=1)))
    assert data.scenes("train") == scenes[:num_train]
    assert data.scenes("val") == scenes[num_train:]
    with pytest.raises(DataError, match="split mini_val has no scene"):
        data.scenes("mini_val")


def test_one_scene_has_no_val(tmp_path: Path) -> None:
    data = NuScenes.open(write_tables(tmp_path, tiny_tables(("alone",), samples=1)))
    assert data.scenes("train") == ("alone",)
    with pytest.raises(DataError, match=r"one scene \(alone\), which is train; use the split all"):
        data.scenes("val")


# The cache


def forbid_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the tables were read")

    monkeypatch.setattr(index_cache, "index_frames", refuse)


def test_second_open_reads_no_table(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cold = NuScenes.open(root)
    assert (root / VERSION / FILE_NAME).exists()
    forbid_tables(monkeypatch)
    warm = NuScenes.open(root)
    assert warm.scenes() == cold.scenes()
    for token in cold.key_frame_tokens("hill"):
        np.testing.assert_array_equal(warm.key_frame(token).global_from_ego, cold.key_frame(token).global_from_ego)
        for ours, theirs in zip(warm.boxes(token), cold.boxes(token), strict=True):
            assert (ours.token, ours.category, ours.attributes) == (theirs.token, theirs.category, theirs.attributes)
            np.testing.assert_array_equal(ours.velocity_global_m_s, theirs.velocity_global_m_s)
    shared = pickle.loads(pickle.dumps(warm))
    assert shared.key_frame("t00").lidar.source == warm.key_frame("t00").lidar.source


def test_changed_table_makes_the_cache_stale(root: Path) -> None:
    NuScenes.open(root)
    rows = tiny_tables(("moor", "lake"))
    table = root / VERSION / "scene.json"
    before = table.stat()
    table.write_text(json.dumps(rows["scene"], indent=0))
    os.utime(table, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert table.stat().st_size == before.st_size
    assert NuScenes.open(root).scenes() == ("moor", "lake")


@pytest.mark.parametrize("damage", [b"", b"no zip", b"PK\x03\x04" + b"\0" * 100])
def test_broken_cache_is_rebuilt(root: Path, damage: bytes) -> None:
    NuScenes.open(root)
    cache = root / VERSION / FILE_NAME
    good = cache.read_bytes()
    cache.write_bytes(damage)
    assert NuScenes.open(root).scenes() == ("hill", "lake")
    assert cache.read_bytes() == good


def test_cache_with_damage_anywhere_gives_the_right_answer(root: Path) -> None:
    NuScenes.open(root)
    cache = root / VERSION / FILE_NAME
    good = cache.read_bytes()
    expected = [box.token for box in NuScenes.open(root).boxes("t11")]
    for position in range(0, len(good), 97):
        cache.write_bytes(good[:position] + bytes([good[position] ^ 0xFF]) + good[position + 1 :])
        data = NuScenes.open(root)
        assert data.scenes() == ("hill", "lake")
        assert [box.token for box in data.boxes("t11")] == expected
    cache.write_bytes(good[: len(good) // 2])
    assert [box.token for box in NuScenes.open(root).boxes("t11")] == expected


def test_cache_of_another_format_is_not_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    NuScenes.open(root)
    before = (root / VERSION / FILE_NAME).read_bytes()
    monkeypatch.setattr(index_cache, "FORMAT", index_cache.FORMAT + 1)
    NuScenes.open(root)
    assert (root / VERSION / FILE_NAME).read_bytes() != before


def test_read_only_tables_are_cached_in_the_users_folder(
    root: Path, user_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / VERSION).chmod(0o555)
    try:
        NuScenes.open(root)
        assert not (root / VERSION / FILE_NAME).exists()
        assert len(list((user_cache / "occlift").iterdir())) == 1
        forbid_tables(monkeypatch)
        assert NuScenes.open(root).scenes() == ("hill", "lake")
    finally:
        (root / VERSION).chmod(0o755)


def test_opening_works_where_nothing_can_be_written(root: Path, user_cache: Path) -> None:
    user_cache.write_text("a file where a folder should be")
    (root / VERSION).chmod(0o555)
    try:
        assert len(NuScenes.open(root).boxes("t11")) == 2
    finally:
        (root / VERSION).chmod(0o755)


# Tables as streams


@pytest.mark.parametrize("block_bytes", [1, 7, 64, 100, 1000, 10**7])
@pytest.mark.parametrize("indent", [None, 0, 4])
def test_blocks_are_cut_between_rows_whatever_strings_hold(
    tmp_path: Path, block_bytes: int, indent: int | None
) -> None:
    awkward = ["}, {", '"}, {"', "\\", '\\"}, {', "[{]}", "é}, {ü", "x" * 300, '"token": "}', ""]
    rows = [
        {"token": text, "name": str(number), "more": [{"a": 1}, {"b": [{}, {}]}]} for number, text in enumerate(awkward)
    ]
    path = tmp_path / "category.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8")
    blocks = list(tables.read_blocks(path, tables.NameRow, block_bytes=block_bytes))
    assert [(row.token, row.name) for block in blocks for row in block] == [(row["token"], row["name"]) for row in rows]


def test_a_large_table_comes_in_many_blocks(tmp_path: Path) -> None:
    rows = [{"token": str(number), "name": "plain"} for number in range(1000)]
    path = tmp_path / "category.json"
    path.write_text(json.dumps(rows, indent=0))
    blocks = list(tables.read_blocks(path, tables.NameRow, block_bytes=1000))
    assert max(len(block) for block in blocks) < 40
    assert [int(row.token) for block in blocks for row in block] == list(range(1000))


@pytest.mark.parametrize("text", ["[]", " [\n]\n", "\ufeff[ ]"])
def test_an_empty_table_is_a_table(tmp_path: Path, text: str) -> None:
    path = tmp_path / "category.json"
    path.write_text(text, encoding="utf-8")
    assert tables.read_table(path, tables.NameRow) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"category\.json: expected a JSON array of rows, but the file is empty"),
        ("<html>", r"category\.json: expected a JSON array of rows, but the file starts with b'<html>'"),
        ('{"token": "a"}', r"expected a JSON array"),
        ('[{"token": "a", "name": "b"}, {"token": "c", "na', r"ends too early, at byte 48"),
        ('[{"token": "a", "name": "b"}', r"ends too early, at byte 28"),
        ("[", r"ends too early, at byte 1"),
        ('[{"token": "a", "name": "b"}, {"token" "c"}]', r"not valid JSON near byte 39"),
        ('[{"token": "a", "name": "b"}] ]', r"not valid JSON near byte 31"),
        ('[{"token": "a", "name": "b"}, {"token": "c"}]', r"row 1: Object missing required field `name`"),
        ('[{"token": "a", "name": 3}]', r"row 0, field name: Expected `str`, got `int`"),
        ("[3]", r"row 0: Expected `object`, got `int`"),
    ],
)
@pytest.mark.parametrize("block_bytes", [16, 10**6])
def test_damaged_tables_are_named_with_the_place(tmp_path: Path, text: str, message: str, block_bytes: int) -> None:
    path = tmp_path / "category.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        list(tables.read_blocks(path, tables.NameRow, block_bytes=block_bytes))


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "category.json"
    path.write_bytes(b'[{"token": "\xff\xfe", "name": "b"}]')
    with pytest.raises(DataError, match=r"category\.json: not valid UTF-8"):
        tables.read_table(path, tables.NameRow)


@pytest.mark.parametrize("table", [*index_cache.FRAME_TABLES, *index_cache.BOX_TABLES, "visibility"])
def test_a_missing_or_cut_off_table_is_named(root: Path, table: str) -> None:
    NuScenes.open(root)
    path = root / VERSION / f"{table}.json"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=rf"{table}\.json: the JSON text ends too early, at byte \d+"):
        NuScenes.open(root)
    path.unlink()
    if table in index_cache.FRAME_TABLES:
        with pytest.raises(DataError, match=rf"{table}\.json: this table is missing"):
            NuScenes.open(root)


@pytest.mark.parametrize(
    "change",
    [
        *(lambda folder, table=table: (folder / f"{table}.json").unlink() for table in index_cache.BOX_TABLES),
        lambda folder: (folder / "sample_annotation.json").write_text("[\n]\n"),  # a test set
    ],
    ids=[*index_cache.BOX_TABLES, "empty"],
)
def test_without_annotations_all_works_that_needs_none(root: Path, change: Callable[[Path], Any]) -> None:
    change(root / VERSION)
    for data in (open_dataset(root), open_dataset(root)):  # from the tables, then from the cache
        assert data.key_frame_tokens("lake") == ("t10", "t11", "t12", "t13")
        assert len(data.key_frame("t11").cameras) == 6
        assert not isinstance(data, HasBoxes)
        assert not isinstance(pickle.loads(pickle.dumps(data)), HasBoxes)
        with pytest.raises(ConfigError, match=r"a purpose: needs annotated boxes .*, which nuscenes:.* does not have"):
            require(data, HasBoxes, "a purpose")


# What visibility tokens mean


def visibilities(tmp_path: Path, change: Change) -> list[float | None]:
    root = changed(tmp_path, change)
    found = [[data.boxes("t01")[i].visibility for i in (0, 1)] for data in (NuScenes.open(root), NuScenes.open(root))]
    assert found[0] == found[1], "from the tables, then from the cache"
    return found[0]


@pytest.mark.parametrize(
    ("level", "visible"),
    [
        ("v0-40", 0.4),
        ("v80-100", 1.0),
        ("60 - 80", 0.8),
        ("full", 1.0),
        ("Most", 1.0),
        ("partial", 0.5),
        ("none", 0.1),
        ("unavailable", None),
        ("", 0.8),  # the token is "3"
    ],
)
def test_visibility_is_what_its_table_says(tmp_path: Path, level: str, visible: float | None) -> None:
    assert visibilities(tmp_path, lambda rows: rows["visibility"][2].update(level=level)) == [visible, None]


def test_visibility_does_not_depend_on_the_names_of_rows(tmp_path: Path) -> None:
    def renamed(rows: Tables) -> None:
        # The other way round, and a digest.
        rows["visibility"] = [
            {"token": "1", "level": "full"}, {"token": "b8f07f", "level": "v40-60"}, {"token": "4", "level": "none"}
        ]  # fmt: skip
        for row in rows["sample_annotation"]:
            row["visibility_token"] = "4" if row["token"] == "b01" else "b8f07f"

    assert visibilities(tmp_path, renamed) == [0.1, 0.6]


def test_without_a_table_of_visibilities_tokens_are_those_of_nuscenes(tmp_path: Path) -> None:
    assert visibilities(tmp_path, lambda rows: rows.pop("visibility")) == [0.8, None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows["visibility"][2].update(level="so-so"),
            r"visibility\.json: row 3: field level is 'so-so'; expected a bin in per cent, such as v0-40, or one",
        ),
        (
            lambda rows: rows["sample_annotation"][0].update(visibility_token="5"),
            r"row b00: field visibility_token is '5', but visibility\.json has no such row",
        ),
        (
            lambda rows: (rows.pop("visibility"), rows["sample_annotation"][0].update(visibility_token="5")),
            r"row b00: field visibility_token should be one of 1, 2, 3, 4 or empty where there is no visibility\.json",
        ),
    ],
)
def test_a_visibility_that_says_nothing_is_named(tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(DataError, match=message):
        NuScenes.open(changed(tmp_path, change))


# Inconsistent tables


@pytest.mark.parametrize(
    ("table", "field"),
    [
        ("sample", "scene_token"),
        ("sample_data", "sample_token"),
        ("calibrated_sensor", "sensor_token"),
        ("sample_annotation", "sample_token"),
        ("sample_annotation", "instance_token"),
        ("sample_annotation", "prev"),
        ("sample_annotation", "next"),
        ("instance", "category_token"),
    ],
)
def test_a_dangling_token_is_named(tmp_path: Path, table: str, field: str) -> None:
    root = changed(tmp_path, lambda rows: rows[table][2].update({field: "lost"}))
    token = tiny_tables()[table][2]["token"]
    with pytest.raises(DataError, match=rf"{table}\.json: row {token}: field {field} is 'lost', but \w+\.json has no"):
        NuScenes.open(root)


def test_a_dangling_attribute_is_named(tmp_path: Path) -> None:
    root = changed(tmp_path, lambda rows: rows["sample_annotation"][0]["attribute_tokens"].append("lost"))
    with pytest.raises(DataError, match=r"row b00: field attribute_tokens is 'lost', but attribute\.json"):
        NuScenes.open(root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows["scene"][1].update(name="hill"), r"scene\.json: the name 'hill' occurs in two rows"),
        (lambda rows: rows["sample"][1].update(token="t00"), r"sample\.json: the token 't00' occurs in two rows"),
        (lambda rows: rows["scene"][1].update(name="../../etc"), r"scene\.json: scene name '\.\./\.\./etc' cannot be"),
        (lambda rows: rows["sample"][1].update(token="/etc"), r"sample\.json: token '/etc' cannot be"),
        (
            lambda rows: rows["calibrated_sensor"][1].update(camera_intrinsic=[[1, 2], [3, 4]]),
            r"calibrated_sensor\.json: row c-CAM_FRONT: field camera_intrinsic of CAM_FRONT should be a 3×3 matrix",
        ),
        (
            lambda rows: rows["ego_pose"].clear(),
            r"sample_data\.json: row CAM_FRONT_LEFT-0-0: field ego_pose_token is .*, but ego_pose",
        ),
        (lambda rows: rows["sample"][0].update(timestamp=2**70), r"sample\.json: row 0, field timestamp"),
    ],
)
def test_inconsistent_rows_are_named(tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(DataError, match=message):
        NuScenes.open(changed(tmp_path, change))


def _lose_calibration(rows: Tables) -> None:
    rows["sample_data"][2].update(calibrated_sensor_token="lost")


def _own_calibration(**values: object) -> Change:
    """The camera of record 2 has a calibration of its own with these values, as every scene of nuScenes has."""

    def change(rows: Tables) -> None:
        rows["calibrated_sensor"].append({**rows["calibrated_sensor"][1], "token": "own", **values})
        rows["sample_data"][2].update(calibrated_sensor_token="own")

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows["ego_pose"].pop(2),
            r"sample_data\.json: row CAM_FRONT-0-0: field ego_pose_token is 'pose-CAM_FRONT-0-0', but ego_pose",
        ),
        (
            lambda rows: rows["ego_pose"][2].update(rotation=[0, 0, 0, 0]),
            r"ego_pose\.json: row pose-CAM_FRONT-0-0: field rotation should be a quaternion",
        ),
        (
            _lose_calibration,
            r"row CAM_FRONT-0-0: field calibrated_sensor_token is 'lost', but calibrated_sensor\.json has no such row",
        ),
        # It may be a camera's, and the file does not say.
        (
            lambda rows: rows["sample_data"][2].update(calibrated_sensor_token="lost", filename="a.jpg"),
            r"row CAM_FRONT-0-0: field calibrated_sensor_token is 'lost'",
        ),
        (_own_calibration(camera_intrinsic=[]), r"row own: field camera_intrinsic of CAM_FRONT should be a 3×3 matrix"),
        # What converters write where they know nothing; millimetres; a mirrored image.
        *(
            (
                _own_calibration(camera_intrinsic=[[f, 0.0, 32.0], [0.0, f, 16.0], [0.0, 0.0, last]]),
                r"calibrated_sensor\.json: row own: field camera_intrinsic of CAM_FRONT: expected a matrix \[\[fx, .*"
                rf"32×64 pixels \(height × width\), got \[\[{f:.1f}, 0\.0, 32\.0\]",
            )
            for f, last in ((0.0, 0.0), (0.0, 1.0), (0.9, 1.0), (-100.0, 1.0), (1e5, 1.0))
        ),
        (_own_calibration(rotation=[0, 0, 0, 0]), r"calibrated_sensor\.json: row own: field rotation"),
        (
            lambda rows: rows["sample_data"][2].update(height=0),
            r"row CAM_FRONT-0-0: an image of CAM_FRONT needs height",
        ),
        (
            lambda rows: rows["ego_pose"].pop(12),
            r"row LIDAR_TOP-0-0: field ego_pose_token is 'pose-LIDAR_TOP-0-0', but ego_pose\.json has",
        ),
    ],
)
def test_what_is_wrong_with_a_record_costs_its_sample_alone(tmp_path: Path, change: Change, message: str) -> None:
    root = changed(tmp_path, change)
    for data in (NuScenes.open(root), NuScenes.open(root)):  # from the tables, then from the cache
        with pytest.raises(DataError, match=message) as error:
            data.key_frame("t00")
        assert str(error.value).startswith(str(root / VERSION))
        assert len(data.boxes("t00")) == 1
        for token in (*data.key_frame_tokens("hill")[1:], *data.key_frame_tokens("lake")):
            assert len(data.key_frame(token).cameras) == 6


def test_records_that_are_not_used_may_be_faulty(tmp_path: Path) -> None:
    def change(rows: Tables) -> None:
        radar = next(row for row in rows["sample_data"] if row["token"] == "RADAR_FRONT-0-0")
        radar.update(calibrated_sensor_token="lost")
        # Of two records of one sensor the later one counts.
        whole = next(row for row in rows["sample_data"] if row["token"] == "CAM_BACK-0-1")
        rows["sample_data"].insert(0, {**whole, "token": "earlier", "ego_pose_token": "lost"})

    data = NuScenes.open(changed(tmp_path, change))
    assert len(data.key_frame("t00").cameras) == 6
    assert "CAM_BACK-0-1" in [camera.key for camera in data.key_frame("t01").cameras]


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "samples/../../a",
        "C:/a.jpg",
        "a\\..\\b",
        "",
        ".",
        "samples/",
        "a//b",
        "a\nb",
        "./a",
    ],
)
def test_file_names_do_not_leave_the_data_set(tmp_path: Path, name: str) -> None:
    data = NuScenes.open(changed(tmp_path, lambda rows: rows["sample_data"][0].update(filename=name)))
    with pytest.raises(DataError, match=r"sample_data\.json: row CAM_FRONT_LEFT-0-0: field filename is"):
        data.key_frame("t00")
    assert data.key_frame("t01").cameras


@pytest.mark.parametrize("name", ["a.jpg", "..a/b..", ".hidden/x", "samples/CAM/n015+0800__é 1.jpg"])
def test_unusual_file_names_inside_the_data_set_are_fine(tmp_path: Path, name: str) -> None:
    root = changed(tmp_path, lambda rows: rows["sample_data"][0].update(filename=name))
    assert NuScenes.open(root).key_frame("t00").cameras[0].source.name == str(root / name)


# Sensor files


def test_image_is_rgb(tmp_path: Path) -> None:
    path = tmp_path / "grey.jpg"
    Image.fromarray(np.full((8, 16), 77, dtype=np.uint8)).save(path)
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.shape == (8, 16, 3)
    assert (image == 77).all()


def test_damaged_images_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"a\.jpg: not a readable image"):
            read_image(path)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.jpg: no such file; the data set names it"):
        read_image(path)


def test_lidar_has_five_numbers_per_point(tmp_path: Path) -> None:
    path = tmp_path / "a.pcd.bin"
    points = np.arange(15, dtype="<f4").reshape(3, 5)
    path.write_bytes(points.tobytes())
    read = read_lidar(path)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, points)
    read[0, 0] = 1  # writable
    for size in (0, 47):
        path.write_bytes(points.tobytes()[:size])
        with pytest.raises(DataError, match=rf"a\.pcd\.bin: expected points of 20 bytes .*, got {size} bytes"):
            read_lidar(path)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.pcd\.bin: no such file"):
        read_lidar(path)


# The real frame


def test_real_frame(real_frame: Path) -> None:
    data = NuScenes.open(real_frame)
    assert data.scenes() == ("scene-0061",)
    assert data.scenes("train") == data.scenes("mini_train") == data.scenes()
    (token,) = data.key_frame_tokens("scene-0061")
    frame = data.key_frame(token)
    assert len(frame.cameras) == 6
    assert frame.cameras[0].read().shape == (900, 1600, 3)
    points_lidar = frame.lidar_sweep().source.read()
    assert points_lidar.shape == (34688, 5)
    # The lidar hits the road around the car: most often near the height 0 of the ego frame.
    heights_m = (points_lidar[:, :3] @ frame.lidar.ego_from_lidar[:3, :3].T + frame.lidar.ego_from_lidar[:3, 3])[:, 2]
    near = np.linalg.norm(points_lidar[:, :2], axis=1) < 15
    assert abs(float(np.median(heights_m[near & (heights_m < 0.5)]))) < 0.3
    boxes = data.boxes(token)
    assert len(boxes) == 68
    # Cars are longer than wide, and every box lies within 120 m of the ego.
    assert all(box.size_lwh_m[0] > box.size_lwh_m[1] for box in boxes if box.category == "vehicle.car")
    assert max(np.linalg.norm((box.global_from_box - frame.global_from_ego)[:3, 3]) for box in boxes) < 120
