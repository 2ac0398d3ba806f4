"""The example that turns a ROS bag into a `frames:` folder."""

from __future__ import annotations

import importlib
import io
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from occlift import open_dataset
from occlift.datasets.frames.dataset import FramesFolder
from occlift.errors import ConfigError, DataError
from occlift.geometry.lenses import BrownConrady, KannalaBrandt
from occlift.geometry.transforms import transform_points

REPOSITORY = Path(__file__).resolve().parents[2]
STORE = get_typestore(Stores.ROS2_HUMBLE)
START_NS = 1_700_000_000_000_000_000
CAMERAS = {"front": ("/front/image_raw", "/front/camera_info"), "left": ("/left/compressed", "/left/camera_info")}
OPTICAL = (-0.5, 0.5, -0.5, 0.5)
"""Quaternion (x, y, z, w) of a camera that looks ahead."""


@pytest.fixture(scope="module")
def example() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "examples")
        return importlib.import_module("convert_rosbag")


def make(kind: str, **fields: Any) -> Any:
    return STORE.types[kind](**fields)


def header(time_ns: int, frame: str) -> Any:
    stamp = make("builtin_interfaces/msg/Time", sec=time_ns // 10**9, nanosec=time_ns % 10**9)
    return make("std_msgs/msg/Header", stamp=stamp, frame_id=frame)


def link(time_ns: int, parent: str, child: str, shift: tuple[float, ...], turn: tuple[float, ...]) -> Any:
    return make(
        "geometry_msgs/msg/TransformStamped", header=header(time_ns, parent), child_frame_id=child,
        transform=make(
            "geometry_msgs/msg/Transform",
            translation=make("geometry_msgs/msg/Vector3", x=shift[0], y=shift[1], z=shift[2]),
            rotation=make("geometry_msgs/msg/Quaternion", x=turn[0], y=turn[1], z=turn[2], w=turn[3]),
        ),
    )  # fmt: skip


def info(frame: str, model: str, numbers: list[float]) -> Any:
    matrix = np.array([50.0, 0, 31.5, 0, 51, 23.5, 0, 0, 1])
    return make(
        "sensor_msgs/msg/CameraInfo", header=header(START_NS, frame), height=48, width=64, distortion_model=model,
        d=np.array(numbers), k=matrix, r=np.eye(3).ravel(),
        p=np.array([40.0, 0, 30.5, 0, 0, 40, 20.5, 0, 0, 0, 1, 0]), binning_x=0, binning_y=0,
        roi=make(
            "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        ),
    )  # fmt: skip


def raw_image(time_ns: int, encoding: str = "bgr8") -> Any:
    row = np.zeros((48, 200), np.uint8)  # 8 bytes of padding a row
    row[:, 0:192:3], row[:, 2:192:3] = 10, 30
    return make(
        "sensor_msgs/msg/Image", header=header(time_ns, "front_optical"), height=48, width=64, encoding=encoding,
        is_bigendian=0, step=200, data=row.ravel(),
    )  # fmt: skip


def jpeg(time_ns: int) -> Any:
    data = io.BytesIO()
    Image.fromarray(np.full((48, 64, 3), 100, np.uint8)).save(data, "JPEG")
    return make(
        "sensor_msgs/msg/CompressedImage", header=header(time_ns, "left_optical"), format="jpeg",
        data=np.frombuffer(data.getvalue(), np.uint8),
    )  # fmt: skip


def cloud(time_ns: int) -> Any:
    layout = np.dtype({"names": ["x", "y", "z", "ring"], "formats": ["<f4"] * 3 + ["<u2"], "offsets": [0, 4, 8, 16],
                       "itemsize": 20})  # fmt: skip
    points = np.zeros(3, layout)
    points["x"], points["y"], points["z"] = (10, 20, np.nan), (1, 2, 3), (0.5, 0.5, 0.5)
    fields = [
        make("sensor_msgs/msg/PointField", name=name, offset=layout.fields[name][1], datatype=kind, count=1)
        for name, kind in (("x", 7), ("y", 7), ("z", 7), ("ring", 4))
    ]
    return make(
        "sensor_msgs/msg/PointCloud2", header=header(time_ns, "lidar"), height=1, width=3, fields=fields,
        is_bigendian=False, point_step=20, row_step=60, data=np.frombuffer(points.tobytes(), np.uint8), is_dense=False,
    )  # fmt: skip


def messages() -> list[tuple[str, int, Any]]:
    """Topic, time and message of a drive along the world's y axis at 10 m/s, of half a second."""
    found: list[tuple[str, int, Any]] = []
    static = [
        link(0, "base_link", "mast", (1.0, 0.0, 1.0), (0, 0, 0, 1)),
        link(0, "mast", "front_optical", (0.5, 0.0, 0.5), OPTICAL),
        link(0, "mast", "left_optical", (0.0, 0.4, 0.5), OPTICAL),
        link(0, "base_link", "lidar", (0.9, 0.0, 1.8), (0, 0, 0, 1)),
    ]
    found.append(("/tf_static", START_NS, make("tf2_msgs/msg/TFMessage", transforms=static)))
    quarter = (0.0, 0.0, math.sqrt(0.5), math.sqrt(0.5))
    for i in range(11):
        time_ns = START_NS + i * 50_000_000
        moved = [
            link(time_ns, "odom", "base_link", (0.0, 0.5 * i, 0.0), quarter),
            link(time_ns, "map", "odom", (100.0, 0.0, 0.0), (0, 0, 0, 1)),
        ]
        found.append(("/tf", time_ns, make("tf2_msgs/msg/TFMessage", transforms=moved)))
    found.append(("/front/camera_info", START_NS, info("front_optical", "plumb_bob", [-0.1, 0.01, 0.0, 0.0, 0.002])))
    found.append(("/left/camera_info", START_NS, info("left_optical", "equidistant", [0.02, 0.0, 0.0, 0.001])))
    for i in range(-1, 5):
        # The first one comes before any pose.
        time_ns = START_NS + 20_000_000 + i * 100_000_000
        found.append(("/front/image_raw", time_ns, raw_image(time_ns)))
        if i != 2:
            found.append(("/left/compressed", time_ns + 15_000_000, jpeg(time_ns + 15_000_000)))
        found.append(("/points", time_ns - 10_000_000, cloud(time_ns - 10_000_000)))
    return sorted(found, key=lambda item: item[1])


def write_bag(path: Path, found: list[tuple[str, int, Any]], plugin: StoragePlugin = StoragePlugin.MCAP) -> Path:
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        connections: dict[str, Any] = {}
        for topic, time_ns, message in found:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], time_ns, STORE.serialize_cdr(message, kind))
    return path


@pytest.mark.parametrize("plugin", list(StoragePlugin))
def test_a_bag_becomes_a_folder(example: ModuleType, tmp_path: Path, plugin: StoragePlugin) -> None:
    bag = write_bag(tmp_path / "drive", messages(), plugin)
    example.convert(bag, tmp_path / "out", cameras=CAMERAS, lidar="/points")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drive", "out"], "nothing is left behind"
    data = FramesFolder.open(tmp_path / "out")
    tokens = data.key_frame_tokens("drive")
    assert len(tokens) == 5
    frame = data.key_frame(tokens[1])
    assert frame.timestamp_us == (START_NS + 120_000_000) // 1000
    # Between the poses at 0.10 and 0.15 s; the car looks along the world's y axis.
    np.testing.assert_allclose(frame.global_from_ego[:3, 3], [100, 1.2, 0], atol=1e-9)
    np.testing.assert_allclose(frame.global_from_ego[:3, 0], [0, 1, 0], atol=1e-9)
    front, left = frame.cameras
    assert front.read()[0, 63].tolist() == [30, 0, 10]
    assert abs(int(left.source.read()[0, 0, 0]) - 100) < 3
    np.testing.assert_array_equal(front.intrinsics_px, [[50, 0, 32], [0, 51, 24], [0, 0, 1]])
    assert front.distortion == BrownConrady(k1=-0.1, k2=0.01, k3=0.002)
    assert left.distortion == KannalaBrandt(k1=0.02, k4=0.001)
    np.testing.assert_allclose(front.ego_at_image_from_camera[:3, 3], [1.5, 0, 1.5], atol=1e-9)
    np.testing.assert_allclose(front.ego_at_image_from_camera[:3, 2], [1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(left.global_from_ego_at_image[:3, 3], [100, 1.35, 0], atol=1e-9)
    assert [image.camera for image in data.key_frame(tokens[2]).cameras] == ["front"]
    sweep = frame.lidar_sweep()
    points = sweep.source.read()
    np.testing.assert_allclose(points, [[10, 1, 0.5, 0], [20, 2, 0.5, 0]])
    np.testing.assert_allclose(
        transform_points(sweep.global_from_lidar, points[:, :3].astype(np.float64))[0], [99, 1.1 + 10.9, 2.3], atol=1e-6
    )


def test_rectified_images_and_thinning(example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = write_bag(tmp_path / "drive", messages())
    (storage,) = bag.glob("*.mcap")
    arguments = ["--camera", "front=/front/image_raw,/front/camera_info", "--rectified", "--every", "2"]
    monkeypatch.setattr("sys.argv", ["x", str(storage), str(tmp_path / "out"), *arguments])
    example.main()
    data = open_dataset(f"frames:{tmp_path / 'out'}")
    (scene,) = data.scenes()
    assert len(data.key_frame_tokens(scene)) == 2
    image = data.key_frame(data.key_frame_tokens(scene)[0]).cameras[0]
    np.testing.assert_array_equal(image.intrinsics_px, [[40, 0, 31], [0, 40, 21], [0, 0, 1]])
    with pytest.raises(SystemExit, match=r"^convert_rosbag: .*out: is not empty"):
        example.main()
    monkeypatch.setattr("sys.argv", ["x", str(storage), str(tmp_path / "other"), "--camera", "front=/front"])
    with pytest.raises(SystemExit, match=r"--camera front=/front: expected NAME=IMAGE_TOPIC,INFO_TOPIC"):
        example.main()


def test_what_is_wrong_with_a_bag_is_said(example: ModuleType, tmp_path: Path) -> None:
    whole = messages()

    def converted(name: str, found: list[tuple[str, int, Any]], **options: Any) -> None:
        bag = write_bag(tmp_path / name, found)
        example.convert(bag, tmp_path / f"{name}-out", **{"cameras": CAMERAS, **options})

    def changed(topic: str, message: Any) -> list[tuple[str, int, Any]]:
        return [(name, time_ns, message if name == topic else old) for name, time_ns, old in whole]

    with pytest.raises(DataError, match=r"a: has no topic /front/image; it has /front/camera_info, /front/image_raw"):
        converted("a", whole, cameras={"front": ("/front/image", "/front/camera_info")})
    with pytest.raises(DataError, match=r"no transform between base_link and world; found: base_link > mast, "):
        converted("b", whole, global_="world")
    with pytest.raises(DataError, match=r"d: /front/image_raw: the encoding 'yuv422' is not known here"):
        converted("d", changed("/front/image_raw", raw_image(START_NS, "yuv422")))
    with pytest.raises(DataError, match=r"/left/camera_info: the lens 'omni' with 2 numbers is not known here"):
        converted("e", changed("/left/camera_info", info("left_optical", "omni", [0.1, 0.1])))
    blank = info("left_optical", "plumb_bob", [])
    blank.k[:] = 0
    with pytest.raises(DataError, match=r"/left/camera_info: the camera is not calibrated"):
        converted("f", changed("/left/camera_info", blank))
    flat = cloud(START_NS)
    flat.fields.pop(2)
    with pytest.raises(DataError, match=r"g: /points: expected the fields x, y and z, found x, y, ring"):
        converted("g", changed("/points", flat), lidar="/points")
    early = [item for item in whole if item[0] != "/tf" or item[1] > START_NS + 480_000_000]
    with pytest.raises(DataError, match=r"h: no image has a pose of base_link in map at its time"):
        converted("h", early)
    with pytest.raises(DataError, match=r"none: not a readable bag"):
        example.convert(tmp_path / "none", tmp_path / "none-out", cameras=CAMERAS)
    (tmp_path / "bad.mcap").write_bytes(b"no bag")
    with pytest.raises(DataError, match=r"bad\.mcap: not a readable bag"):
        example.convert(tmp_path / "bad.mcap", tmp_path / "bad-out", cameras=CAMERAS)
    with pytest.raises(ConfigError, match="expected NAME=IMAGE_TOPIC,INFO_TOPIC"):
        example.parse_camera("front")
