"""Tables in nuScenes' format with other sensors than nuScenes': other cameras, lenses that distort, no lidar."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_nuscenes import VERSION, Tables, tiny_tables, write_tables

from occlift import open_dataset
from occlift.datasets.nuscenes.channels import CAMERA_CHANNELS
from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.datasets.rectified import Rectified
from occlift.errors import ConfigError, DataError
from occlift.geometry.lenses import BrownConrady, KannalaBrandt
from occlift.scenes import DatasetSpec

NAMES = {"CAM_FRONT_LEFT": "B_LEFT", "CAM_FRONT": "A_AHEAD", "LIDAR_TOP": "LIDAR_CONCAT"}
"""Sensors of the tiny tables → those of the dialect; others are dropped."""


def dialect(names: dict[str, str] = NAMES, *, distortion: Any = None) -> Tables:
    rows = tiny_tables()
    sensors = {f"s-{old}": new for old, new in names.items()}
    rows["sensor"] = [
        {**row, "channel": sensors[row["token"]], "modality": "lidar" if "LIDAR" in row["token"] else "camera"}
        for row in rows["sensor"]
        if row["token"] in sensors
    ]
    rows["calibrated_sensor"] = [
        {**row, "camera_distortion": distortion if row["camera_intrinsic"] else []}
        for row in rows["calibrated_sensor"]
        if row["sensor_token"] in sensors
    ]
    kept = {row["token"] for row in rows["calibrated_sensor"]}
    rows["sample_data"] = [row for row in rows["sample_data"] if row["calibrated_sensor_token"] in kept]
    return rows


def test_other_cameras_and_another_lidar(tmp_path: Path) -> None:
    root = write_tables(tmp_path, dialect())
    for data in (NuScenes.open(root), NuScenes.open(root)):  # from the tables, then from the cache
        assert data.cameras == ("B_LEFT", "A_AHEAD"), "the order of the table"
        frame = data.key_frame("t01")
        assert [image.camera for image in frame.cameras] == ["B_LEFT", "A_AHEAD"]
        assert frame.cameras[1].key == "CAM_FRONT-0-1"
        assert frame.lidar_sweep().key == "LIDAR_TOP-0-1"
        np.testing.assert_array_equal(frame.global_from_ego, frame.lidar_sweep().global_from_ego)
        assert len(data.boxes("t01")) == 2
    assert type(open_dataset(root)) is NuScenes


def test_cameras_of_nuscenes_stand_first_in_its_order(tmp_path: Path) -> None:
    names = {"CAM_BACK": "CAM_TOP", "CAM_FRONT": "CAM_FRONT", "CAM_FRONT_LEFT": "CAM_FRONT_LEFT"}
    rows = dialect(names)
    rows["sensor"].reverse()
    data = NuScenes.open(write_tables(tmp_path, rows))
    assert data.cameras == ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_TOP")


def test_cameras_may_be_chosen(tmp_path: Path) -> None:
    root = write_tables(tmp_path, tiny_tables())
    data = open_dataset(f"nuscenes:{root}?cameras=CAM_BACK,CAM_FRONT")
    assert data.cameras == ("CAM_BACK", "CAM_FRONT")
    plain = {image.camera: image for image in open_dataset(root).key_frame("t02").cameras}
    assert list(plain) == list(CAMERA_CHANNELS)
    for image in data.key_frame("t02").cameras:
        assert image.key == plain[image.camera].key
        np.testing.assert_array_equal(image.global_from_camera, plain[image.camera].global_from_camera)
    for again in (pickle.loads(pickle.dumps(data)), DatasetSpec.parse(str(data.spec)).open()):
        assert [image.camera for image in again.key_frame("t02").cameras] == ["CAM_BACK", "CAM_FRONT"]
    with pytest.raises(ConfigError, match=r"cameras: 'CAM_TOP' is not there; expected .*: CAM_FRONT_LEFT,CAM_FRONT,"):
        open_dataset(f"nuscenes:{root}?cameras=CAM_TOP")


def test_without_lidar_the_image_nearest_in_time_says_where_the_ego_is(tmp_path: Path) -> None:
    rows = dialect({"CAM_FRONT_LEFT": "left", "CAM_FRONT": "front"})
    for row in rows["sample"]:
        row["timestamp"] += 1000  # that of the front camera
    root = write_tables(tmp_path, rows)
    frame = NuScenes.open(root).key_frame("t02")
    left, front = frame.cameras
    assert frame.lidar is None
    assert front.timestamp_us == frame.timestamp_us != left.timestamp_us
    np.testing.assert_array_equal(frame.global_from_ego, front.global_from_ego_at_image)
    assert (left.global_from_ego_at_image != front.global_from_ego_at_image).any()
    # The frame of a label does not depend on which cameras are read.
    alone = NuScenes.open(root, cameras="left").key_frame("t02")
    np.testing.assert_array_equal(alone.global_from_ego, frame.global_from_ego)


def test_a_lidar_without_any_record_is_no_lidar(tmp_path: Path) -> None:
    rows = dialect()
    rows["sample_data"] = [row for row in rows["sample_data"] if "LIDAR" not in row["token"]]
    gone = {"CAM_FRONT-1-0", "CAM_FRONT_LEFT-1-0"}
    rows["sample_data"] = [row for row in rows["sample_data"] if row["token"] not in gone]
    data = NuScenes.open(write_tables(tmp_path, rows))
    assert data.key_frame("t00").lidar is None
    with pytest.raises(DataError, match="sample t10 of lake has no key frame of any camera, so its ego frame"):
        data.key_frame("t10")


def test_tables_without_cameras_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sensor\.json: has no camera; expected rows whose modality is 'camera'"):
        NuScenes.open(write_tables(tmp_path, dialect({"LIDAR_TOP": "LIDAR_TOP"})))


@pytest.mark.parametrize("nothing", [None, [], [0, 0, 0, 0, 0], [0.0] * 4])
def test_no_distortion(tmp_path: Path, nothing: Any) -> None:
    data = open_dataset(write_tables(tmp_path, dialect(distortion=nothing)))
    assert type(data) is NuScenes
    assert data.key_frame("t00").cameras[0].distortion is None


@pytest.mark.parametrize(
    ("distortion", "lens"),
    [
        ([-0.3, 0.1, 0.001, 0.002, 0.01], BrownConrady(k1=-0.3, k2=0.1, p1=0.001, p2=0.002, k3=0.01)),
        (
            [0.3, 0.1, 0.0, 0.0, 0.01, 0.5, 0.2, 0.02],
            BrownConrady(k1=0.3, k2=0.1, k3=0.01, k4=0.5, k5=0.2, k6=0.02),
        ),
        ({"model": "kannala_brandt", "k1": 0.02}, KannalaBrandt(k1=0.02)),
    ],
)
def test_lenses(tmp_path: Path, distortion: Any, lens: object) -> None:
    root = write_tables(tmp_path, dialect(distortion=distortion))
    for data in (NuScenes.open(root), NuScenes.open(root)):  # from the tables, then from the cache
        assert [image.distortion for image in data.key_frame("t00").cameras] == [lens, lens]
    for row in dialect()["sample_data"]:
        if row["fileformat"] == "jpg" and row["is_key_frame"]:
            (root / row["filename"]).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((32, 64, 3), 128, np.uint8)).save(root / row["filename"])
    opened = open_dataset(root)
    assert isinstance(opened, Rectified)
    image = opened.key_frame("t00").cameras[0]
    assert image.distortion is None
    assert abs(int(image.read()[image.height // 2, image.width // 2, 0]) - 128) < 3


@pytest.mark.parametrize(
    ("distortion", "message"),
    [
        (
            [-0.3, 0.1, 0.0, 0.0],
            r"field camera_distortion of A_AHEAD: got 4 numbers; expected 5 or 8 in OpenCV",
        ),
        ({"model": "fisheye"}, r"field camera_distortion of A_AHEAD: model: there is no lens 'fisheye'"),
        ({"model": "mei"}, r"field camera_distortion of A_AHEAD: mei: the parameter 'xi' is missing"),
    ],
)
def test_a_lens_that_is_none_costs_the_samples_that_have_it(tmp_path: Path, distortion: Any, message: str) -> None:
    rows = dialect()
    rows["calibrated_sensor"].append({**rows["calibrated_sensor"][1], "token": "own", "camera_distortion": distortion})
    next(row for row in rows["sample_data"] if row["token"] == "CAM_FRONT-0-0")["calibrated_sensor_token"] = "own"
    data = NuScenes.open(write_tables(tmp_path, rows))
    with pytest.raises(DataError, match=rf"calibrated_sensor\.json: row own: {message}"):
        data.key_frame("t00")
    assert len(data.key_frame("t01").cameras) == 2


def test_a_field_of_another_type_is_named(tmp_path: Path) -> None:
    root = write_tables(tmp_path, dialect(distortion="strong"))
    with pytest.raises(DataError, match=r"calibrated_sensor\.json: row 0, field camera_distortion: Expected"):
        open_dataset(root)
    assert json.loads((root / VERSION / "sensor.json").read_text())


@pytest.mark.parametrize(("name", "count"), [("nuscenes-one-frame", 1), ("nuscenes-four-frames", 4)])
def test_real_tables(real_data: Path, name: str, count: int) -> None:
    data = open_dataset(real_data / name)
    assert data.cameras == CAMERA_CHANNELS
    (scene,) = data.scenes()
    tokens = data.key_frame_tokens(scene)
    assert len(tokens) == count
    for token in tokens:
        frame = data.key_frame(token)
        assert len(frame.cameras) == 6
        # Rows of LIDAR_TOP define the ego frame even where their files are not there.
        np.testing.assert_array_equal(frame.global_from_ego, frame.lidar_sweep().global_from_ego)
    assert data.key_frame(tokens[-1]).cameras[0].read().shape == (900, 1600, 3)
