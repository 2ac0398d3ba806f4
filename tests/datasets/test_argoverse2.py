"""Argoverse 2: logs that the test writes."""

from __future__ import annotations

import math
import pickle
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import feather

from occlift import open_dataset
from occlift.datasets.frames.writer import write_frames
from occlift.errors import ConfigError, DataError
from occlift.geometry.grids import VoxelGrid
from occlift.geometry.transforms import inverse, transform_points
from occlift.scenes import DatasetSpec, DrivingDataset, HasBoxes
from occlift.scenes.lidar_depth import lidar_depth
from occlift.training.volume_targets import lidar_occupancy
from occlift.viz.show import show

LOG = "01bb304d-7bd8-35f8-bbef-7086b688e35e"
START_NS = 315_968_867_659_956_000
SWEEPS_NS = [START_NS + i * 100_000_000 for i in range(4)]
FRONT, SIDE = "ring_front_center", "ring_side_left"
FORWARD = (0.5, -0.5, 0.5, -0.5)
"""Quaternion of a camera that looks ahead."""
HALF = math.sqrt(0.5)


def write(path: Path, columns: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    feather.write_feather(pa.table(dict(columns)), path)


def pose_columns(rows: list[tuple[float, ...]]) -> dict[str, list[float]]:
    return {name: [row[i] for row in rows] for i, name in enumerate(("qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m"))}


def camera_times_ns(camera: str) -> list[int]:
    """At 20 Hz, some milliseconds off the sweeps; the front camera has no image about the last sweep."""
    offset_ns = 12_000_000 if camera == FRONT else -21_000_000
    return [START_NS + offset_ns + i * 50_000_000 for i in range(5 if camera == FRONT else 8)]


def x_m(time_ns: int) -> float:
    """The car drives along the x axis of the city at 10 m/s."""
    return 700 + 10e-9 * (time_ns - START_NS)


def write_log(folder: Path, *, annotated: bool = True) -> Path:
    for camera, (height, width) in ((FRONT, (64, 48)), (SIDE, (48, 64))):
        images = folder / "sensors/cameras" / camera
        images.mkdir(parents=True)
        for time_ns in camera_times_ns(camera):
            Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(images / f"{time_ns}.jpg")
    times_ns = sorted({*SWEEPS_NS, *camera_times_ns(FRONT), *camera_times_ns(SIDE)})
    poses = [(1.0, 0.0, 0.0, 0.0, x_m(time_ns), 1275.0, -24.0) for time_ns in times_ns]
    write(folder / "city_SE3_egovehicle.feather", {"timestamp_ns": times_ns} | pose_columns(poses))
    mountings = [
        (*FORWARD, 1.6, 0.0, 1.4),
        (HALF, -HALF, 0.0, 0.0, 1.3, 0.3, 1.4),
        (1.0, 0.0, 0.0, 0.0, 1.35, 0.0, 1.64),
        (0.0, -1.0, 0.0, 0.0, 1.35, 0.0, 1.57),
    ]
    names = {"sensor_name": [FRONT, SIDE, "up_lidar", "down_lidar"]}
    write(folder / "calibration/egovehicle_SE3_sensor.feather", names | pose_columns(mountings))
    write(
        folder / "calibration/intrinsics.feather",
        {
            "sensor_name": [FRONT, SIDE], "fx_px": [50.0, 45.0], "fy_px": [50.0, 45.0], "cx_px": [24.0, 31.0],
            "cy_px": [33.0, 23.5], "k1": [-0.24, -0.25], "k2": [-0.21, -0.13], "k3": [0.32, 0.2],
            "height_px": [64, 48], "width_px": [48, 64],
        },
    )  # fmt: skip
    for time_ns in SWEEPS_NS:
        # A wall that stands still, 20 m before the place of the first sweep.
        columns = {
            "x": np.array([20 - (x_m(time_ns) - 700), -30], np.float16), "y": np.array([0.5, 4], np.float16),
            "z": np.array([0.25, 1], np.float16), "intensity": np.array([24, 25], np.uint8),
            "laser_number": np.array([31, 14], np.uint8), "offset_ns": np.array([3318000, 3320303], np.int32),
        }  # fmt: skip
        write(folder / f"sensors/lidar/{time_ns}.feather", columns)
    if annotated:
        boxes = [(HALF, 0.0, 0.0, HALF, 10.0, 2.0, 0.5)] * 3
        write(
            folder / "annotations.feather",
            {
                "timestamp_ns": [SWEEPS_NS[0], SWEEPS_NS[0], SWEEPS_NS[2]], "track_uuid": ["a", "b", "a"],
                "category": ["REGULAR_VEHICLE", "BOLLARD", "REGULAR_VEHICLE"], "length_m": [4.5, 0.3, 4.5],
                "width_m": [1.9, 0.2, 1.9], "height_m": [1.5, 0.7, 1.5], "num_interior_pts": [120, 5, 90],
            }
            | pose_columns(boxes),
        )  # fmt: skip
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_log(tmp_path / "av2/train" / LOG)
    return tmp_path / "av2"


def test_a_log(root: Path) -> None:
    data = open_dataset(f"argoverse2:{root}")
    assert isinstance(data, DrivingDataset)
    assert (len(data.cameras), data.scenes(), data.scenes("train")) == (7, (LOG,), (LOG,))
    tokens = data.key_frame_tokens(LOG)
    assert tokens == tuple(f"{LOG}-{time_ns}" for time_ns in SWEEPS_NS)
    frame = data.key_frame(tokens[1])
    assert (frame.index, frame.timestamp_us) == (1, SWEEPS_NS[1] // 1000)
    np.testing.assert_allclose(frame.global_from_ego[:3, 3], [701, 1275, -24])
    front, side = frame.cameras
    assert (front.camera, front.height, front.width) == (FRONT, 64, 48)
    assert (side.camera, side.height, side.width) == (SIDE, 48, 64)
    assert front.read().shape == (64, 48, 3)
    # Undistorted images; pixel centres at whole numbers.
    assert front.distortion is None
    np.testing.assert_array_equal(front.intrinsics_px, [[50, 0, 24.5], [0, 50, 33.5], [0, 0, 1]])
    # Each the nearest in time, with its own pose: 12 ms later, 21 ms earlier.
    assert front.stem == str(SWEEPS_NS[1] + 12_000_000)
    assert side.stem == str(SWEEPS_NS[1] - 21_000_000)
    assert front.global_from_ego_at_image[0, 3] == pytest.approx(701.12)
    assert side.global_from_ego_at_image[0, 3] == pytest.approx(700.79)
    # The front camera looks ahead, the other to the left.
    np.testing.assert_allclose(front.ego_at_image_from_camera[:3, 2], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(side.ego_at_image_from_camera[:3, 2], [0, 1, 0], atol=1e-12)
    assert [image.camera for image in data.key_frame(tokens[3]).cameras] == [SIDE], "the front has none near it"


def test_sweeps_start_at_the_lidar_and_stand_still_in_the_city(root: Path) -> None:
    data = open_dataset(f"argoverse2:{root}")
    frames = [data.key_frame(token) for token in data.key_frame_tokens(LOG)]
    for frame in frames:
        sweep = frame.lidar_sweep()
        points = sweep.source.read()
        assert points.shape == (2, 4)
        assert points[0, 3] == 24
        np.testing.assert_allclose(frame.ego_from_lidar(sweep)[:3, 3], [1.35, 0, 1.64])
        points_global = transform_points(sweep.global_from_lidar, points[:, :3].astype(np.float64))
        np.testing.assert_allclose(points_global[0], [720, 1275.5, -23.75], atol=0.02)
    pixels_uv, depth_m = lidar_depth(frames[1], frames[1].cameras[0], frames[1].lidar_sweep().source.read()[:, :3])
    # Camera at 701.12 + 1.6 when its image was taken.
    np.testing.assert_allclose(depth_m, [17.28], atol=0.02)
    np.testing.assert_allclose(pixels_uv, [[24.5 - 50 * 0.5 / 17.28, 33.5 + 50 * 1.15 / 17.28]], atol=0.05)
    # The wall lies in one voxel, what travels with the car behind it in one per sweep.
    grid = VoxelGrid(lower_m=(-30.5, -1.75, -0.75), voxel_size_m=(1.0, 1.5, 1.5), shape=(60, 8, 4))
    assert (lidar_occupancy(frames[0], grid, others=frames[1:]) == 1).sum() == 5


def test_boxes(root: Path) -> None:
    data = open_dataset(f"argoverse2:{root}")
    assert isinstance(data, HasBoxes)
    tokens = data.key_frame_tokens(LOG)
    car, bollard = data.boxes(tokens[0])
    assert (car.instance, car.category, car.size_lwh_m) == ("a", "REGULAR_VEHICLE", (4.5, 1.9, 1.5))
    assert (bollard.category, bollard.num_lidar_points, bollard.visibility) == ("BOLLARD", 5, None)
    # Ahead of the car and turned to the left.
    np.testing.assert_allclose(car.global_from_box[:3, 3], [710, 1277, -23.5])
    np.testing.assert_allclose(car.global_from_box[:3, 0], [0, 1, 0], atol=1e-12)
    assert data.boxes(tokens[1]) == ()
    (later,) = data.boxes(tokens[2])
    ego_from_box = inverse(data.key_frame(tokens[2]).global_from_ego) @ later.global_from_box
    np.testing.assert_allclose(ego_from_box[:3, 3], [10, 2, 0.5])


def test_splits_options_and_other_processes(root: Path) -> None:
    write_log(root / "test/other", annotated=False)
    data = open_dataset(f"argoverse2:{root}?every=2&cameras={SIDE},{FRONT}")
    assert (data.scenes(), data.scenes("test")) == ((LOG, "other"), ("other",))
    assert data.cameras == (SIDE, FRONT)
    assert data.key_frame_tokens(LOG) == tuple(f"{LOG}-{time_ns}" for time_ns in SWEEPS_NS[::2])
    again = pickle.loads(pickle.dumps(data))
    assert len(again.boxes(data.key_frame_tokens(LOG)[0])) == 2
    assert DatasetSpec.parse(str(data.spec)).open().key_frame_tokens(LOG) == data.key_frame_tokens(LOG)
    assert isinstance(data, HasBoxes)
    with pytest.raises(DataError, match=r"other/annotations\.feather: no such file"):
        data.boxes(data.key_frame_tokens("other")[0])
    with pytest.raises(ConfigError, match="there is no split 'val'; choose one of train, test, all"):
        data.scenes("val")
    with pytest.raises(ConfigError, match=r"cameras: 'ring_front' is not there; expected .*ring_front_left"):
        open_dataset(f"argoverse2:{root}?cameras=ring_front")
    # A picture needs no boxes.
    assert any(
        "no boxes are drawn" in note for note in show(data, data.key_frame_tokens("other")[0], root / "show").notes
    )
    alone = open_dataset(f"argoverse2:{root / 'test'}")
    assert not isinstance(alone, HasBoxes)
    assert alone.scenes("train") == ("other",)
    with pytest.raises(DataError, match=r"expected train/, val/ or test/ with logs.* does not exist"):
        open_dataset(f"argoverse2:{root / 'none'}")


def test_a_log_in_two_splits_is_refused(root: Path) -> None:
    write_log(root / "val" / LOG)
    with pytest.raises(DataError, match=rf"two files of {LOG}, \S*train/{LOG} and \S*val/{LOG}; remove one"):
        open_dataset(f"argoverse2:{root}")


def test_it_can_be_written_as_a_plain_folder(root: Path, tmp_path: Path) -> None:
    data = open_dataset(f"argoverse2:{root}")
    write_frames(data, tmp_path / "frames", splits=("train",))
    copy = open_dataset(f"frames:{tmp_path / 'frames'}")
    assert isinstance(data, HasBoxes)
    assert isinstance(copy, HasBoxes)
    for token in data.key_frame_tokens(LOG):
        ours, theirs = copy.key_frame(token), data.key_frame(token)
        assert [image.timestamp_us for image in ours.cameras] == [image.timestamp_us for image in theirs.cameras]
        for image, other in zip(ours.cameras, theirs.cameras, strict=True):
            np.testing.assert_array_equal(image.global_from_camera, other.global_from_camera)
        np.testing.assert_array_equal(ours.lidar_sweep().source.read(), theirs.lidar_sweep().source.read())
        assert [box.instance for box in copy.boxes(token)] == [box.instance for box in data.boxes(token)]


Change = Callable[[Path], object]


def edit(name: str, column: str, value: Any) -> Change:
    """Puts a value into the first row of a column; None takes the column out."""

    def change(log: Path) -> None:
        table = feather.read_table(log / name, memory_map=False)
        columns = {key: table.column(key).to_pylist() for key in table.column_names}
        if value is None:
            del columns[column]
        else:
            columns[column][0] = value
        write(log / name, columns)

    return change


def empty(name: str) -> Change:
    def change(log: Path) -> None:
        for path in (log / name).iterdir():
            path.unlink()

    return change


POSES, MOUNTINGS, INTRINSICS = (
    "city_SE3_egovehicle.feather",
    "calibration/egovehicle_SE3_sensor.feather",
    "calibration/intrinsics.feather",
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda log: (log / MOUNTINGS).unlink(), r"egovehicle_SE3_sensor\.feather: no such file"),
        (lambda log: (log / POSES).write_bytes(b"ARROW"), r"city_SE3_egovehicle\.feather: not a readable feather file"),
        (edit(POSES, "qw", None), r"has no column 'qw'; it has timestamp_ns, qx"),
        (edit(POSES, "qw", 0.0), r"row 0: qw, qx, qy, qz should be a quaternion that is not 0"),
        (edit(POSES, "tx_m", math.nan), r"column 'tx_m' should hold finite numbers"),
        (edit(POSES, "timestamp_ns", 5), r"has no pose at \d+ ns, a time of .*ring_side_left"),
        (edit(MOUNTINGS, "sensor_name", "front"), r"has no sensor 'ring_front_center'; it has front, ring_side_left"),
        (edit(INTRINSICS, "sensor_name", "front"), r"intrinsics\.feather: has no sensor 'ring_front_center'"),
        (edit(INTRINSICS, "fx_px", 0.0), r"row 0: focal lengths, height and width of ring_front_center should be abo"),
        (empty("sensors/lidar"), r"sensors/lidar: expected sweeps <timestamp_ns>\.feather, found none"),
        (lambda log: [empty(f"sensors/cameras/{name}")(log) for name in (FRONT, SIDE)], r"expected images <timestamp"),
    ],
)
def test_what_is_wrong_with_a_log_is_said(root: Path, change: Change, message: str) -> None:
    change(root / "train" / LOG)
    with pytest.raises(DataError, match=message):
        open_dataset(f"argoverse2:{root}").key_frame(f"{LOG}-{SWEEPS_NS[0]}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit("annotations.feather", "length_m", -1.0), r"row 0: length, width and height should be above 0"),
        (edit("annotations.feather", "timestamp_ns", 7), r"has no pose at 7 ns, a time of .*annotations\.feather"),
        (edit("annotations.feather", "num_interior_pts", None), r"has no column 'num_interior_pts'"),
    ],
)
def test_what_is_wrong_with_annotations_is_said(root: Path, change: Change, message: str) -> None:
    change(root / "train" / LOG)
    data = open_dataset(f"argoverse2:{root}")
    assert isinstance(data, HasBoxes)
    with pytest.raises(DataError, match=message):
        data.boxes(f"{LOG}-{SWEEPS_NS[0]}")


def test_a_missing_pyarrow_and_a_broken_sweep_are_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_dataset(f"argoverse2:{root}")
    frame = data.key_frame(f"{LOG}-{SWEEPS_NS[0]}")
    path = root / f"train/{LOG}/sensors/lidar/{SWEEPS_NS[0]}.feather"
    edit(path.name, "y", None)(path.parent)
    with pytest.raises(DataError, match=r"has no column 'y'"):
        frame.lidar_sweep().source.read()
    path.unlink()
    with pytest.raises(DataError, match=r"\.feather: no such file; the data set names it"):
        frame.lidar_sweep().source.read()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'occlift\[argoverse2\]'"):
        open_dataset(f"argoverse2:{root}").key_frame(f"{LOG}-{SWEEPS_NS[1]}")
