"""Drives of KITTI's odometry benchmark and of its raw recordings.

The ego frame has x forward, y left, z up and lies on the road:

- odometry: 1.65 m straight below camera 0 (left, grey) and with its axes, because the benchmark has no other;
- raw: 0.93 m straight below the GPS/IMU unit and with its axes: just before the rear axle, as in nuScenes.

Both heights are those of KITTI's set-up (http://www.cvlibs.net/datasets/kitti/setup.php). The global frame has z up and
its origin at the first moment of a drive. Images are rectified: pinholes without distortion. A moment has one pose for
everything: the cameras are triggered when the lidar faces forward, and its points are used as they are published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, Float32
from PIL import Image

from occlift.datasets.drives import Drives, names_of, whole_number
from occlift.datasets.kitti.text import (
    oxts_poses,
    pinhole,
    read_calibration,
    read_dates_us,
    read_oxts,
    read_poses,
    read_times_us,
    rigid,
)
from occlift.errors import DataError
from occlift.geometry.transforms import inverse, rigid_transform
from occlift.labels.files import once_each
from occlift.scenes.frames import CameraImage, KeyFrame, LidarSweep
from occlift.scenes.sources import ImageFile, LidarSource, missing_file, read_image

CAMERA_HEIGHT_M: Final = 1.65
IMU_HEIGHT_M: Final = 0.93

_POINT_BYTES: Final = 16
_EGO_FROM_CAMERA0: Final = np.array(
    [[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, CAMERA_HEIGHT_M], [0.0, 0.0, 0.0, 1.0]]
)
_EGO_FROM_IMU: Final = rigid_transform(np.eye(3), (0.0, 0.0, IMU_HEIGHT_M))
_CAMERA_NUMBERS: Final = (2, 0, 3, 1)
"""Left colour, left grey, right colour, right grey: the first that is there is read unless others are named."""
_VALIDATION_SEQUENCE: Final = "08"
"""Of the odometry benchmark, as SemanticKITTI divides it."""


@dataclass(frozen=True)
class KittiImage(ImageFile):
    """An image; its number alone is not unique, so the name of its scene stands before it in names of maps."""

    scene: str

    @property
    def stem(self) -> str:
        return f"{self.scene}-{self.path.stem}"


@dataclass(frozen=True)
class VelodyneFile(LidarSource):
    """A sweep: x forward, y left, z up in metres, and reflectance."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def read(self) -> Float32[np.ndarray, "points 4"]:
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            raise missing_file(self.path) from None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror or error})") from error
        if not raw or len(raw) % _POINT_BYTES:
            raise DataError(
                f"{self.path}: expected points of {_POINT_BYTES} bytes (float32 x, y, z, reflectance), got {len(raw)} "
                "bytes; the file is cut off or of another kind, unpack it again"
            )
        return np.frombuffer(raw, "<f4").reshape(-1, 4).astype(np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Camera:
    """A camera of one drive; its images by their numbers."""

    name: str
    intrinsics_px: Float[np.ndarray, "3 3"]
    ego_from_camera: Float[np.ndarray, "4 4"]
    height: int
    width: int
    images: Mapping[int, Path]
    times_us: Sequence[int]


@dataclass(frozen=True, kw_only=True, eq=False)
class KittiDrive:
    """One sequence or raw recording."""

    scene: str
    cameras: tuple[_Camera, ...]
    global_from_ego: Sequence[Float[np.ndarray, "4 4"]]
    ego_from_lidar: Float[np.ndarray, "4 4"] | None
    sweeps: Mapping[int, Path]
    numbers: tuple[int, ...]
    stamps: tuple[str, ...]

    def key_frame(self, number: int, *, token: str, index: int) -> KeyFrame:
        moment = self.numbers[number]
        pose = self.global_from_ego[moment]
        time_us = next(camera.times_us[moment] for camera in self.cameras if moment in camera.images)
        lidar = None
        if self.ego_from_lidar is not None and moment in self.sweeps:
            lidar = LidarSweep(
                key=f"{token}-lidar",
                timestamp_us=time_us,
                ego_from_lidar=self.ego_from_lidar,
                global_from_ego=pose,
                source=VelodyneFile(self.sweeps[moment]),
            )
        return KeyFrame(
            token=token,
            scene=self.scene,
            index=index,
            timestamp_us=time_us,
            global_from_ego=pose,
            cameras=tuple(
                CameraImage(
                    camera=camera.name,
                    key=f"{token}-{camera.name}",
                    timestamp_us=camera.times_us[moment],
                    height=camera.height,
                    width=camera.width,
                    intrinsics_px=camera.intrinsics_px,
                    ego_at_image_from_camera=camera.ego_from_camera,
                    global_from_ego_at_image=pose,
                    source=KittiImage(camera.images[moment], self.scene),
                )
                for camera in self.cameras
                if moment in camera.images
            ),
            lidar=lidar,
        )


class KittiOdometry(Drives[KittiDrive]):
    """Sequences of the odometry benchmark that have poses.

    They lie in `sequences/NN`, their poses in `poses/NN.txt` or, as SemanticKITTI has them, `sequences/NN/poses.txt`.
    """

    format = "kitti"

    def _read(self, scene: str, folder: Path) -> KittiDrive:
        poses_path = _poses_path(self.root, folder)
        poses, times_us = read_poses(poses_path), read_times_us(folder / "times.txt")
        if len(poses) != len(times_us):
            raise DataError(
                f"{poses_path}: has {len(poses)} poses, but {folder / 'times.txt'} has {len(times_us)} times"
            )
        camera0_from_ego = inverse(_EGO_FROM_CAMERA0)
        sweeps = _numbered(folder / "velodyne", ".bin")
        names = {f"P{name[-1]}": 12 for name in self.cameras}
        calibration = read_calibration(folder / "calib.txt", names | ({"Tr": 12} if sweeps else {}))
        ego_from_lidar = None
        if sweeps:
            place, numbers = calibration["Tr"]
            ego_from_lidar = _EGO_FROM_CAMERA0 @ rigid(place, numbers.reshape(3, 4))
        cameras = []
        for name in self.cameras:
            if images := _numbered(folder / name, ".png", ".jpg"):
                intrinsics_px, camera0_from_camera = pinhole(*calibration[f"P{name[-1]}"])
                ego_from_camera = _EGO_FROM_CAMERA0 @ camera0_from_camera
                cameras.append(_camera(name, images, intrinsics_px, ego_from_camera, times_us, folder / "times.txt"))
        # The first pose is the identity, so that the global frame is the first ego frame.
        global_from_ego = [_EGO_FROM_CAMERA0 @ pose @ camera0_from_ego for pose in poses]
        return _drive(scene, folder, self.cameras, cameras, global_from_ego, ego_from_lidar, sweeps)


class KittiRaw(Drives[KittiDrive]):
    """Synchronised and rectified raw recordings: `<date>/<date>_drive_NNNN_sync` and the calibration of the date."""

    format = "kitti"

    def _read(self, scene: str, folder: Path) -> KittiDrive:
        date = folder.parent
        velo_from_imu = _rigid_file(date / "calib_imu_to_velo.txt")
        unrectified_from_velo = _rigid_file(date / "calib_velo_to_cam.txt")
        names = {f"P_rect_{name[-2:]}": 12 for name in self.cameras}
        calibration = read_calibration(date / "calib_cam_to_cam.txt", names | {"R_rect_00": 9})
        place, numbers = calibration["R_rect_00"]
        camera0_from_unrectified = rigid(place, np.c_[numbers.reshape(3, 3), np.zeros(3)])
        ego_from_velo = _EGO_FROM_IMU @ inverse(velo_from_imu)
        ego_from_camera0 = ego_from_velo @ inverse(camera0_from_unrectified @ unrectified_from_velo)

        packets = _numbered(folder / "oxts/data", ".txt")
        if sorted(packets) != list(range(len(packets))) or not packets:
            raise DataError(
                f"{folder / 'oxts/data'}: expected packets 0000000000.txt, 0000000001.txt, … without a gap, found "
                f"{len(packets)} of them"
            )
        poses = oxts_poses([read_oxts(packets[number]) for number in range(len(packets))])
        imu_from_ego = inverse(_EGO_FROM_IMU)
        cameras = []
        for name in self.cameras:
            if images := _numbered(folder / name / "data", ".png", ".jpg"):
                intrinsics_px, camera0_from_camera = pinhole(*calibration[f"P_rect_{name[-2:]}"])
                times_path = folder / name / "timestamps.txt"
                ego_from_camera = ego_from_camera0 @ camera0_from_camera
                cameras.append(
                    _camera(name, images, intrinsics_px, ego_from_camera, read_dates_us(times_path), times_path)
                )
        sweeps = _numbered(folder / "velodyne_points/data", ".bin")
        global_from_ego = [global_from_imu @ imu_from_ego for global_from_imu in poses]
        return _drive(scene, folder, self.cameras, cameras, global_from_ego, ego_from_velo, sweeps)


def open_kitti(root: Path, *, cameras: str | None = None, every: str | int = 1) -> KittiOdometry | KittiRaw:
    """Opens a folder in one of the two layouts.

    Args:
        cameras, every: as in `occlift.datasets.kitti.open_folder`.

    Raises:
        ConfigError: an option has no such value.
        DataError: the folder has neither layout, or nothing in it has poses or images.
    """
    options = {} if cameras is None else {"cameras": cameras}
    number = whole_number(every, f"kitti:{root}: every")
    if number > 1:
        options["every"] = str(number)
    if (root / "sequences").is_dir():
        found = [path for path in sorted((root / "sequences").iterdir()) if path.is_dir()]
        folders = {path.name: path for path in found if _poses_path(root, path).exists()}
        if not folders:
            raise DataError(
                f"{root}: none of the {len(found)} folders in sequences/ has poses; expected poses/NN.txt (the archive "
                "data_odometry_poses), which the benchmark has for the sequences 00 to 10"
            )
        others = [scene for scene in folders if scene != _VALIDATION_SEQUENCE]
        official = len(others) not in (0, len(folders))
        return KittiOdometry(
            root,
            folders,
            cameras=_cameras(root, folders, "image_{}", cameras),
            splits={"train": others, "val": [_VALIDATION_SEQUENCE]} if official else None,
            every=number,
            options=options,
        )
    dates = (
        [root]
        if (root / "calib_cam_to_cam.txt").exists()
        else sorted(path.parent for path in root.glob("*/calib_cam_to_cam.txt"))
    )
    folders = {path.name: path for date in dates for path in sorted(date.glob("*_drive_*_sync")) if path.is_dir()}
    if not folders:
        there = "holds neither" if root.is_dir() else "does not exist"
        raise DataError(
            f"{root}: expected sequences/ and poses/ (odometry), or <date>/calib_cam_to_cam.txt and "
            f"<date>/<date>_drive_NNNN_sync/ (raw, synchronised and rectified), but the folder {there}"
        )
    return KittiRaw(
        root, folders, cameras=_cameras(root, folders, "image_0{}", cameras), splits=None, every=number, options=options
    )


def _cameras(root: Path, folders: Mapping[str, Path], pattern: str, named: str | None) -> tuple[str, ...]:
    """The cameras to read, in their order."""
    names = [pattern.format(number) for number in _CAMERA_NUMBERS]
    there = [name for name in names if any((folder / name).is_dir() for folder in folders.values())]
    if not there:
        raise DataError(f"{root}: no folder of images; expected {', '.join(sorted(names))} in {next(iter(folders))}/")
    return names_of(named, there, f"kitti:{root}: cameras") or (there[0],)


def _poses_path(root: Path, sequence: Path) -> Path:
    path = root / "poses" / f"{sequence.name}.txt"
    return path if path.exists() or not (sequence / "poses.txt").exists() else sequence / "poses.txt"


def _numbered(folder: Path, *suffixes: str) -> dict[int, Path]:
    """Files whose names are numbers, by these, in their order."""
    found = sorted(path for path in folder.glob("*") if path.suffix in suffixes and path.stem.isdecimal())
    files = once_each((str(int(path.stem)), path) for path in found)
    return {int(number): path for number, path in files.items()}


def _rigid_file(path: Path) -> Float[np.ndarray, "4 4"]:
    """The transform in a calibration with the lines R and T."""
    calibration = read_calibration(path, {"R": 9, "T": 3})
    (place, rotation), (_, translation_m) = calibration["R"], calibration["T"]
    return rigid(place, np.c_[rotation.reshape(3, 3), translation_m])


def _camera(
    name: str,
    images: Mapping[int, Path],
    intrinsics_px: Float[np.ndarray, "3 3"],
    ego_from_camera: Float[np.ndarray, "4 4"],
    times_us: Sequence[int],
    times_path: Path,
) -> _Camera:
    last = max(images)
    if last >= len(times_us):
        raise DataError(f"{times_path}: has {len(times_us)} times, but there is an image {images[last]}")
    height, width = _size(images[min(images)])
    return _Camera(
        name=name,
        intrinsics_px=intrinsics_px,
        ego_from_camera=ego_from_camera,
        height=height,
        width=width,
        images=images,
        times_us=times_us,
    )


def _size(path: Path) -> tuple[int, int]:
    """Height and width of an image, which is that of all images of its camera."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, ValueError, SyntaxError):
        # Says what is wrong with it.
        height, width, _ = read_image(path).shape
        return height, width


def _drive(
    scene: str,
    folder: Path,
    names: Sequence[str],
    cameras: Sequence[_Camera],
    global_from_ego: Sequence[Float[np.ndarray, "4 4"]],
    ego_from_lidar: Float[np.ndarray, "4 4"] | None,
    sweeps: Mapping[int, Path],
) -> KittiDrive:
    if not cameras:
        raise DataError(f"{folder}: expected images in {', '.join(names)}, found none; leave this scene out")
    paths = {number: path for camera in reversed(cameras) for number, path in camera.images.items()}
    numbers = tuple(sorted(paths))
    if numbers[-1] >= len(global_from_ego):
        raise DataError(f"{folder}: there are {len(global_from_ego)} poses, but an image {paths[numbers[-1]]}")
    return KittiDrive(
        scene=scene,
        cameras=tuple(cameras),
        global_from_ego=global_from_ego,
        ego_from_lidar=ego_from_lidar,
        sweeps=sweeps,
        numbers=numbers,
        stamps=tuple(paths[number].stem for number in numbers),
    )
