"""KITTI: odometry sequences and raw recordings that the test writes, and a real sequence if it is there."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from occlift import open_dataset
from occlift.datasets.frames.writer import write_frames
from occlift.errors import ConfigError, DataError
from occlift.geometry.transforms import inverse, transform_points
from occlift.label_space import DRIVEABLE_SURFACE
from occlift.labels.unproject import unproject
from occlift.scenes import DatasetSpec, DrivingDataset, HasBoxes
from occlift.scenes.lidar_depth import lidar_depth

P0 = "700 0 60 0 0 700 20 0 0 0 1 0"
P2 = "720 0 62 45.36 0 720 21 0.72 0 0 1 0.002"
"""Right of camera 0 by −0.063 m, as KITTI has its left colour camera left of the grey one."""
TR = "0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27"
NUM_FRAMES = 3


def write_images(folder: Path, digits: int, count: int = NUM_FRAMES) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.full((40, 120, 3), 10 * number, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:0{digits}}.png")


def write_sweeps(folder: Path, digits: int, count: int = NUM_FRAMES) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        np.array([[10.27, -0.5, -0.08, 0.5]], "<f4").tofile(folder / f"{number:0{digits}}.bin")


def write_odometry(root: Path, *sequences: str) -> Path:
    for name in sequences:
        folder = root / "sequences" / name
        for camera in ("image_0", "image_2"):
            write_images(folder / camera, 6)
        write_sweeps(folder / "velodyne", 6)
        (folder / "calib.txt").write_text(f"P0: {P0}\nP1: {P0}\nP2: {P2}\nP3: {P2}\nTr: {TR}\n")
        (folder / "times.txt").write_text("0.000000e+00\n1.037359e-01\n2.075000e-01\n")
        (root / "poses").mkdir(exist_ok=True)
        # Ahead by 2 m a frame, and down by 0.1 m (the y axis of a camera).
        (root / f"poses/{name}.txt").write_text(
            "".join(f"1 0 0 0 0 1 0 {0.1 * i} 0 0 1 {2 * i}\n" for i in range(NUM_FRAMES))
        )
    return root


def write_raw(root: Path, drive: str = "0001") -> Path:
    date = root / "2011_09_26"
    folder = date / f"2011_09_26_drive_{drive}_sync"
    stamps = "".join(f"2011-09-26 13:02:25.{9 - NUM_FRAMES + i}64389445\n" for i in range(NUM_FRAMES))
    for camera in ("image_00", "image_02", "image_03"):
        write_images(folder / camera / "data", 10)
        (folder / camera / "timestamps.txt").write_text(stamps)
    write_sweeps(folder / "velodyne_points/data", 10, count=2)
    (folder / "oxts/data").mkdir(parents=True)
    for i in range(NUM_FRAMES):
        # 1e-5 degrees of longitude at 49 degrees north are 0.7303 m; turned to the north, and 0.5 m up a packet.
        packet = [49.0, 8.4 + 1e-5 * i, 116.0 + 0.5 * i, 0.0, 0.0, math.pi / 2, *[0.0] * 24]
        (folder / f"oxts/data/{i:010}.txt").write_text(" ".join(map(str, packet)) + "\n")
    (date / "calib_imu_to_velo.txt").write_text(
        "calib_time: 25-May-2012 16:47:16\nR: 1 0 0 0 1 0 0 0 1\nT: -0.81 0.32 -0.80\n"
    )
    (date / "calib_velo_to_cam.txt").write_text("R: 0 -1 0 0 0 -1 1 0 0\nT: 0 -0.08 -0.27\ndelta_f: 0 0\n")
    rectifying = "1 0 0 0 0.8 -0.6 0 0.6 0.8"
    (date / "calib_cam_to_cam.txt").write_text(
        f"calib_time: 09-Jan-2012 13:57:47\nR_rect_00: {rectifying}\n"
        f"P_rect_00: {P0}\nP_rect_01: {P0}\nP_rect_02: {P2}\nP_rect_03: {P2}\n"
    )
    return root


@pytest.fixture
def odometry(tmp_path: Path) -> Path:
    return write_odometry(tmp_path / "kitti", "00")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_raw(tmp_path / "kitti")


def test_an_odometry_sequence(odometry: Path) -> None:
    data = open_dataset(f"kitti:{odometry}")
    assert isinstance(data, DrivingDataset)
    assert not isinstance(data, HasBoxes)
    assert (data.cameras, data.scenes(), data.scenes("train")) == (("image_2",), ("00",), ("00",))
    assert data.key_frame_tokens("00") == ("00-000000", "00-000001", "00-000002")
    frame = data.key_frame("00-000002")
    assert (frame.scene, frame.index, frame.timestamp_us) == ("00", 2, 207_500)
    (image,) = frame.cameras
    assert (image.camera, image.height, image.width, image.stem) == ("image_2", 40, 120, "00-000002")
    assert image.read()[0, 0].tolist() == [20, 20, 20]
    # KITTI's pixel centres are at whole numbers.
    np.testing.assert_array_equal(image.intrinsics_px, [[720, 0, 62.5], [0, 720, 21.5], [0, 0, 1]])
    assert image.distortion is None
    # x forward, y left, z up, on the road: 2 m further a frame, and lower by 0.1 m.
    np.testing.assert_allclose(frame.global_from_ego[:3, 3], [4, 0, -0.2], atol=1e-12)
    np.testing.assert_allclose(frame.global_from_ego[:3, :3], np.eye(3), atol=1e-12)


def test_two_images_of_one_number_are_refused(odometry: Path) -> None:
    shutil.copy(odometry / "sequences/00/image_2/000001.png", odometry / "sequences/00/image_2/1.png")
    with pytest.raises(DataError, match=r"two files of 1, \S*image_2/000001\.png and \S*image_2/1\.png; remove one"):
        open_dataset(f"kitti:{odometry}").key_frame("00-000002")


def test_a_projection_of_kitti_is_ours_but_for_half_a_pixel(odometry: Path) -> None:
    data = open_dataset(f"kitti:{odometry}?cameras=image_2,image_0")
    assert data.cameras == ("image_2", "image_0")
    frame = data.key_frame("00-000001")
    point_camera0 = np.array([0.4, 0.2, 9.0, 1.0])
    for image, text in zip(frame.cameras, (P2, P0), strict=True):
        u, v, depth_m = np.array(text.split(), float).reshape(3, 4) @ point_camera0
        ego_from_camera0 = frame.ego_from_camera(frame.cameras[1])
        ours = image.intrinsics_px @ transform_points(
            inverse(image.ego_at_image_from_camera), transform_points(ego_from_camera0, point_camera0[:3])
        )
        np.testing.assert_allclose([ours[0] / ours[2], ours[1] / ours[2]], [u / depth_m + 0.5, v / depth_m + 0.5])
    # Camera 0 looks ahead from 1.65 m above the road; camera 2 stands left of it, that is at y above 0.
    np.testing.assert_allclose(frame.ego_from_camera(frame.cameras[1])[:3, 3], [0, 0, 1.65], atol=1e-12)
    assert frame.ego_from_camera(frame.cameras[0])[1, 3] == pytest.approx(0.063, abs=1e-3)
    # The lidar point is 10 m before camera 0 and 0.5 m right of it.
    assert frame.lidar is not None
    pixels_uv, depth_m = lidar_depth(frame, frame.cameras[1], frame.lidar.source.read()[:, :3])
    np.testing.assert_allclose(depth_m, [10.0], atol=1e-6)
    np.testing.assert_allclose(pixels_uv, [[60.5 + 35, 20.5]], atol=1e-4)


def test_a_raw_recording(raw: Path) -> None:
    data = open_dataset(f"kitti:{raw}")
    scene = "2011_09_26_drive_0001_sync"
    assert (data.cameras, data.scenes()) == (("image_02",), (scene,))
    assert open_dataset(f"kitti:{raw / '2011_09_26'}").scenes() == (scene,)
    tokens = data.key_frame_tokens(scene)
    assert tokens[0] == f"{scene}-0000000000"
    first, second, third = map(data.key_frame, tokens)
    assert first.timestamp_us == 1_317_042_145_664_389
    assert third.timestamp_us - first.timestamp_us == 200_000
    # East by 0.73 m and up by 0.5 m a packet, while the car looks north.
    np.testing.assert_allclose(first.global_from_ego[:3, 3], [0, 0, -0.93], atol=1e-9)
    step_m = second.global_from_ego[:3, 3] - first.global_from_ego[:3, 3]
    np.testing.assert_allclose(step_m, [0.7303, 0, 0.5], atol=1e-4)
    np.testing.assert_allclose(second.global_from_ego[:3, 0], [0, 1, 0], atol=1e-12)
    # Set-up of KITTI: lidar 1.73 m and camera 0 1.65 m above the road, 0.81 m and 1.08 m before the IMU.
    assert first.lidar is not None
    assert third.lidar is None
    np.testing.assert_allclose(first.ego_from_lidar(first.lidar)[:3, 3], [0.81, -0.32, 1.73], atol=1e-12)
    camera0 = open_dataset(f"kitti:{raw}?cameras=image_00").key_frame(tokens[0]).cameras[0]
    np.testing.assert_allclose(camera0.ego_at_image_from_camera[:3, 3], [1.08, -0.32, 1.65], atol=1e-12)
    # The rectifying rotation turns the optical axis: KITTI's own chain is P_rect @ R_rect @ Tr_velo_to_cam.
    point_velo = np.array([12.0, 1.0, -0.5])
    point_ego = transform_points(first.ego_from_lidar(first.lidar), point_velo)
    ours = camera0.intrinsics_px @ transform_points(inverse(camera0.ego_at_image_from_camera), point_ego)
    unrectified = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]]) @ point_velo + [0, -0.08, -0.27]
    rectified = np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]]) @ unrectified
    theirs = np.array(P0.split(), float).reshape(3, 4)[:, :3] @ rectified
    np.testing.assert_allclose(ours[:2] / ours[2], theirs[:2] / theirs[2] + 0.5)


def test_splits_thinning_and_other_processes(tmp_path: Path) -> None:
    root = write_odometry(tmp_path, "00", "07", "08")
    (root / "sequences/21/image_2").mkdir(parents=True)
    data = open_dataset(f"kitti:{root}?every=2")
    assert data.scenes() == ("00", "07", "08"), "a sequence without poses is left out"
    assert (data.scenes("train"), data.scenes("val")) == (("00", "07"), ("08",))
    assert data.key_frame_tokens("07") == ("07-000000", "07-000002")
    assert data.key_frame("07-000002").index == 1
    with pytest.raises(DataError, match="no key frame '07-000001'"):
        data.key_frame("07-000001")
    again = pickle.loads(pickle.dumps(data))
    assert again.key_frame_tokens("07") == data.key_frame_tokens("07")
    assert DatasetSpec.parse(str(data.spec)).open().key_frame_tokens("08") == data.key_frame_tokens("08")
    # SemanticKITTI has its poses beside the images.
    (root / "poses/00.txt").rename(root / "sequences/00/poses.txt")
    assert "00" in open_dataset(f"kitti:{root}").scenes()


@pytest.mark.parametrize("write", [lambda root: write_odometry(root, "00"), write_raw])
def test_it_can_be_written_as_a_plain_folder(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    data = open_dataset(f"kitti:{write(tmp_path / 'kitti')}")
    write_frames(data, tmp_path / "frames")
    copy = open_dataset(f"frames:{tmp_path / 'frames'}")
    (scene,) = data.scenes()
    assert copy.key_frame_tokens(scene) == data.key_frame_tokens(scene)
    for token in data.key_frame_tokens(scene):
        ours, theirs = copy.key_frame(token), data.key_frame(token)
        np.testing.assert_array_equal(ours.global_from_ego, theirs.global_from_ego)
        np.testing.assert_array_equal(ours.cameras[0].read(), theirs.cameras[0].read())
        assert (ours.lidar is None) == (theirs.lidar is None)


Change = Callable[[Path], object]


def put(name: str, old: str, new: str) -> Change:
    def change(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new, 1))

    return change


def drop(name: str) -> Change:
    return lambda root: (root / name).unlink()


SEQUENCE, DRIVE = "sequences/00", "2011_09_26/2011_09_26_drive_0001_sync"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(f"{SEQUENCE}/calib.txt"), r"00/calib\.txt: no such file; it should hold a calibration"),
        (drop(f"{SEQUENCE}/times.txt"), r"00/times\.txt: no such file"),
        (put(f"{SEQUENCE}/calib.txt", "P2:", "Q2:"), r"expected a line 'P2' of 12 numbers; found P0, P1, Q2"),
        (put(f"{SEQUENCE}/calib.txt", "Tr:", "Te:"), r"expected a line 'Tr' of 12 numbers"),
        (put(f"{SEQUENCE}/calib.txt", "62 45", "45"), r"line 3: field P2: expected 12 finite numbers, found 11"),
        (put(f"{SEQUENCE}/calib.txt", "P2: 720", "P2: x"), r"line 3: field P2: expected 12 numbers \(could not"),
        (put(f"{SEQUENCE}/calib.txt", "P2: 720", "P2: -1"), r"field P2: expected a 3×4 projection"),
        (put(f"{SEQUENCE}/calib.txt", "Tr: 0", "Tr: 1"), r"line 5: field Tr: expected a rotation"),
        (put("poses/00.txt", "1 0 0 0 0 1", "1 0 0 0 0 -1"), r"poses/00\.txt: line 1: expected a rotation, got a mirr"),
        (put("poses/00.txt", "1 0 0 0 0 1", "nan 0 0 0 0 1"), r"poses/00\.txt: line 1: expected 12 finite numbers"),
        (put("poses/00.txt", "1 0 0 0 0 1 0 0.0 0 0 1 0\n", ""), r"00\.txt: has 2 poses, but .*times\.txt has 3 times"),
        (put(f"{SEQUENCE}/times.txt", "1.037", "9.037"), r"times\.txt: line 3: the time 207500 µs does not come after"),
        (lambda r: (r / "poses/00.txt").write_bytes(b"\xff\xfe"), r"poses/00\.txt: expected text"),
        (drop("poses/00.txt"), r"none of the 1 folders in sequences/ has poses"),
        (lambda r: write_images(r / SEQUENCE / "image_3", 6, 4) or r, ""),
    ],
)
def test_what_is_wrong_with_a_sequence_is_said(odometry: Path, change: Change, message: str) -> None:
    change(odometry)
    with pytest.raises(DataError, match=message or r"times\.txt: has 3 times, but there is an image .*000003\.png"):
        open_dataset(f"kitti:{odometry}" + ("" if message else "?cameras=image_3")).key_frame("00-000000")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("2011_09_26/calib_imu_to_velo.txt"), r"calib_imu_to_velo\.txt: no such file"),
        (
            put("2011_09_26/calib_velo_to_cam.txt", "R: 0", "R: 5"),
            r"velo_to_cam\.txt: line 1: field R: expected a rota",
        ),
        (put("2011_09_26/calib_velo_to_cam.txt", "T: 0", "T:"), r"field T: expected 3 finite numbers, found 2"),
        (put("2011_09_26/calib_cam_to_cam.txt", "R_rect_00", "R_00"), r"expected a line 'R_rect_00' of 9 numbers"),
        (put(f"{DRIVE}/image_02/timestamps.txt", ".6", ","), r"timestamps\.txt: line 1: expected a time such as"),
        (put(f"{DRIVE}/image_02/timestamps.txt", "-26 ", "-66 "), r"timestamps\.txt: line 1: expected a time such as"),
        (
            put(f"{DRIVE}/image_02/timestamps.txt", ".7", ".5"),
            r"timestamps\.txt: line 2: the time \d+ µs does not come",
        ),
        (lambda r: (r / f"{DRIVE}/image_02/timestamps.txt").write_text(""), r"has 0 times, but there is an image"),
        (drop(f"{DRIVE}/oxts/data/0000000001.txt"), r"oxts/data: expected packets .* without a gap, found 2"),
        (drop(f"{DRIVE}/oxts/data/0000000002.txt"), r"there are 2 poses, but an image .*0000000002\.png"),
        (put(f"{DRIVE}/oxts/data/0000000001.txt", "49.0", ""), r"0000000001\.txt: line 1: expected 30 finite numbers"),
        (put(f"{DRIVE}/oxts/data/0000000001.txt", "49.0", "90.0"), r"expected a latitude between -90 and 90"),
        (lambda r: (r / f"{DRIVE}/oxts/data/0000000001.txt").write_text(""), r"expected one line of 30 numbers"),
    ],
)
def test_what_is_wrong_with_a_recording_is_said(raw: Path, change: Change, message: str) -> None:
    change(raw)
    with pytest.raises(DataError, match=message):
        open_dataset(f"kitti:{raw}").key_frame("2011_09_26_drive_0001_sync-0000000000")


def test_wrong_options_and_folders_are_said(odometry: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected sequences/ and poses/ \(odometry\), or .* does not exist"):
        open_dataset(f"kitti:{tmp_path / 'none'}")
    with pytest.raises(ConfigError, match=r"cameras: 'image_02' is not there; expected .*: image_2,image_0"):
        open_dataset(f"kitti:{odometry}?cameras=image_02")
    with pytest.raises(ConfigError, match="'image_2' stands twice"):
        open_dataset(f"kitti:{odometry}?cameras=image_2,image_2")
    with pytest.raises(ConfigError, match="every is '0'; expected a whole number from 1"):
        open_dataset(f"kitti:{odometry}?every=0")
    data = open_dataset(f"kitti:{odometry}")
    with pytest.raises(ConfigError, match="there is no split 'test'; choose one of train, val, all"):
        data.scenes("test")
    with pytest.raises(DataError, match="the split val has no scene"):
        data.scenes("val")
    with pytest.raises(DataError, match="has no scene '01'"):
        data.key_frame_tokens("01")
    (odometry / "sequences/00/velodyne/000000.bin").write_bytes(b"123")
    frame = data.key_frame("00-000000")
    with pytest.raises(DataError, match=r"000000\.bin: expected points of 16 bytes"):
        frame.lidar_sweep().source.read()
    (odometry / "sequences/00/image_2/000000.png").write_bytes(b"123")
    with pytest.raises(DataError, match=r"000000\.png: not a readable image"):
        open_dataset(f"kitti:{odometry}").key_frame("00-000000")


@pytest.fixture(scope="module")
def real(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DrivingDataset]:
    """The real sequence, in KITTI's layout around links to its images."""
    source = real_data / "kitti-sequence"
    told = json.loads((source / "calibration_and_poses.json").read_text())
    root = tmp_path_factory.mktemp("kitti")
    folder = root / "sequences/04"
    folder.mkdir(parents=True)
    (folder / "image_0").symlink_to(source / "images", target_is_directory=True)
    projection = np.c_[np.array(told["intrinsics_px"]), np.zeros(3)]
    (folder / "calib.txt").write_text("P0: " + " ".join(map(str, projection.ravel().tolist())) + "\n")
    poses = np.array(told["global_from_camera"])
    (folder / "times.txt").write_text("".join(f"{told['frame_interval_s'] * i:e}\n" for i in range(len(poses))))
    (root / "poses").mkdir()
    np.savetxt(root / "poses/04.txt", poses[:, :3].reshape(len(poses), 12), fmt="%.6e")
    return source, open_dataset(f"kitti:{root}")


def depth_map(path: Path) -> np.ndarray:
    depth_m = np.asarray(Image.open(path)).astype(np.float32) / 256
    return np.where(depth_m > 0, depth_m, np.float32(np.nan))


def test_the_road_of_the_real_sequence_lies_at_zero(real: tuple[Path, DrivingDataset]) -> None:
    source, data = real
    tokens = data.key_frame_tokens("04")
    assert (len(tokens), data.cameras) == (51, ("image_0",))
    frame = data.key_frame(tokens[25])
    (image,) = frame.cameras
    assert image.read().shape == (370, 1226, 3)
    depth_m = depth_map(source / "stereo_depth/000025.png")
    road = np.asarray(Image.open(source / "network_classes/000025.png")) == DRIVEABLE_SURFACE
    points_ego = unproject(depth_m, image.intrinsics_px, frame.ego_from_camera(image))[road & (depth_m < 15)]
    assert len(points_ego) > 5000
    # The nominal height and level of the camera are off by about 0.15 m here, less than half a voxel.
    assert abs(np.median(points_ego[:, 2])) < 0.25
    assert (np.abs(points_ego[:, 2]) < 0.4).mean() > 0.9
    assert points_ego[:, 0].min() > 3


def test_what_stands_still_in_the_real_sequence_stays_where_it_is(real: tuple[Path, DrivingDataset]) -> None:
    """Depth of one frame, seen from five frames later, is the depth there; with swapped poses it is not."""
    source, data = real
    first, second = (data.key_frame(f"04-{number:06}") for number in (20, 25))
    moved_m = np.linalg.norm(first.global_from_ego[:3, 3] - second.global_from_ego[:3, 3])
    assert moved_m > 3
    seen_m, other_m = (depth_map(source / f"stereo_depth/0000{number}.png") for number in (20, 25))
    image = first.cameras[0]
    points_global = unproject(seen_m, image.intrinsics_px, image.global_from_camera)
    points_global = points_global[np.isfinite(points_global[..., 0]) & (seen_m < 25)]
    errors_m = []
    for swap in (False, True):
        camera_from_global = inverse(second.cameras[0].global_from_camera)
        if swap:
            back = first.global_from_ego @ inverse(second.global_from_ego) @ first.global_from_ego
            camera_from_global = inverse(back @ second.cameras[0].ego_at_image_from_camera)
        points_camera = transform_points(camera_from_global, points_global)
        ahead = points_camera[points_camera[:, 2] > 3]
        uv = (ahead @ image.intrinsics_px.T)[:, :2] / ahead[:, 2:]
        inside = ((uv >= 0) & (uv < (image.width, image.height))).all(axis=1)
        column, row = np.floor(uv[inside]).astype(int).T
        errors_m.append(np.nanmedian(np.abs(other_m[row, column] - ahead[inside, 2])))
    assert errors_m[0] < 0.4
    assert errors_m[1] > 3 * errors_m[0]
