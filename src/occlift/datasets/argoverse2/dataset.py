"""Logs of the Argoverse 2 Sensor Dataset.

As its user guide (https://argoverse.github.io/user-guide/datasets/sensor.html) and its API say:

- Every sweep of the lidar is a moment. The cameras have no common clock with it: each contributes its image nearest in
  time, with the pose of the ego vehicle at that time, which `city_SE3_egovehicle.feather` has for every sensor.
- The ego frame is theirs, x forward, y left, z up, at the time of the sweep. Its origin is the centre of the rear axle,
  so the road lies about 0.3 m below it. The global frame is that of the city.
- Images are undistorted already: `k1`, `k2`, `k3` of `intrinsics.feather` belong to the images before that and are not
  used (argoverse/av2-api issues 219 and 226). Pixel centres are at whole numbers there, as in OpenCV.
- Points of a sweep are published in the ego frame, for two lidars together. Here they are brought into the frame of
  `up_lidar`, so that rays start there; `down_lidar` is 0.1 m below.
- Boxes are annotated at the time of the sweep, in the ego frame. The split test has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Float32

from occlift.datasets.argoverse2.tables import POSE, read_columns, transforms_of
from occlift.datasets.drives import Drives, names_of, whole_number
from occlift.errors import DataError
from occlift.geometry.transforms import inverse, transform_points
from occlift.labels.files import once_each
from occlift.scenes.frames import BoxAnnotation, CameraImage, KeyFrame, LidarSweep
from occlift.scenes.sources import ImageFile, LidarSource, missing_file

RING_CAMERAS: Final = (
    "ring_front_left",
    "ring_front_center",
    "ring_front_right",
    "ring_side_left",
    "ring_side_right",
    "ring_rear_left",
    "ring_rear_right",
)
STEREO_CAMERAS: Final = ("stereo_front_left", "stereo_front_right")
SPLITS: Final = ("train", "val", "test")

LIDAR: Final = "up_lidar"
MAX_GAP_NS: Final = 50_000_000
"""A camera without an image within half a turn of the lidar is left out of the key frame."""


@dataclass(frozen=True, eq=False)
class FeatherSweep(LidarSource):
    """A sweep, brought from the ego frame into that of a lidar: x, y, z, intensity."""

    path: Path
    lidar_from_ego: Float[np.ndarray, "4 4"]

    @property
    def name(self) -> str:
        return str(self.path)

    def read(self) -> Float32[np.ndarray, "points 4"]:
        if not self.path.exists():
            raise missing_file(self.path)
        columns = read_columns(self.path, numbers=("x", "y", "z", "intensity"))
        points_ego = np.stack([columns[name] for name in "xyz"], axis=1)
        points_lidar = transform_points(self.lidar_from_ego, points_ego)
        return np.concatenate((points_lidar, columns["intensity"][:, None]), axis=1).astype(np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Camera:
    """A camera of one log, with the times of its images in rising order."""

    name: str
    folder: Path
    times_ns: Sequence[int]
    height: int
    width: int
    intrinsics_px: Float[np.ndarray, "3 3"]
    ego_from_camera: Float[np.ndarray, "4 4"]


class Log:
    """One log; annotations are read when they are first asked for."""

    def __init__(self, scene: str, folder: Path, cameras: Sequence[str]) -> None:
        self.scene: Final = scene
        self.folder: Final = folder
        self._poses_path = folder / "city_SE3_egovehicle.feather"
        self._times_ns = _times_ns(folder / "sensors/lidar", ".feather")
        if not self._times_ns:
            raise DataError(f"{folder / 'sensors/lidar'}: expected sweeps <timestamp_ns>.feather, found none")
        columns = read_columns(self._poses_path, numbers=("timestamp_ns", *POSE))
        poses = transforms_of(self._poses_path, columns)
        self._poses = dict(zip(columns["timestamp_ns"].tolist(), poses, strict=True))
        self._ego_from_sensor = _mountings(folder)
        self._cameras = _read_cameras(folder, cameras, self._ego_from_sensor)
        self._boxes: dict[int, tuple[BoxAnnotation, ...]] | None = None
        self.ego_from_lidar: Final = _of(
            self._ego_from_sensor, LIDAR, folder / "calibration/egovehicle_SE3_sensor.feather"
        )

    @property
    def stamps(self) -> tuple[str, ...]:
        """Times of the sweeps, nanoseconds."""
        return tuple(map(str, self._times_ns))

    def key_frame(self, number: int, *, token: str, index: int) -> KeyFrame:
        time_ns = self._times_ns[number]
        pose = self._pose(time_ns, self.folder / "sensors/lidar")
        images = [(camera, _nearest(camera.times_ns, time_ns)) for camera in self._cameras]
        return KeyFrame(
            token=token,
            scene=self.scene,
            index=index,
            timestamp_us=time_ns // 1000,
            global_from_ego=pose,
            cameras=tuple(
                CameraImage(
                    camera=camera.name,
                    key=f"{self.scene}-{camera.name}-{image_ns}",
                    timestamp_us=image_ns // 1000,
                    height=camera.height,
                    width=camera.width,
                    intrinsics_px=camera.intrinsics_px,
                    ego_at_image_from_camera=camera.ego_from_camera,
                    global_from_ego_at_image=self._pose(image_ns, camera.folder),
                    source=ImageFile(camera.folder / f"{image_ns}.jpg"),
                )
                for camera, image_ns in images
                if abs(image_ns - time_ns) <= MAX_GAP_NS
            ),
            lidar=LidarSweep(
                key=f"{token}-lidar",
                timestamp_us=time_ns // 1000,
                ego_from_lidar=self.ego_from_lidar,
                global_from_ego=pose,
                source=FeatherSweep(
                    self.folder / f"sensors/lidar/{time_ns}.feather", lidar_from_ego=inverse(self.ego_from_lidar)
                ),
            ),
        )

    def boxes(self, number: int) -> tuple[BoxAnnotation, ...]:
        """The annotations of a sweep, in the order of the file.

        Raises:
            DataError: the log has none, or they are damaged.
        """
        if self._boxes is None:
            self._boxes = self._read_boxes()
        return self._boxes.get(self._times_ns[number], ())

    def _read_boxes(self) -> dict[int, tuple[BoxAnnotation, ...]]:
        path = self.folder / "annotations.feather"
        sizes = ("length_m", "width_m", "height_m")
        columns = read_columns(
            path, words=("track_uuid", "category"), numbers=("timestamp_ns", *sizes, *POSE, "num_interior_pts")
        )
        sizes_lwh_m = np.stack([columns[name] for name in sizes], axis=1)
        if not (sizes_lwh_m > 0).all():
            row = int(np.argmin((sizes_lwh_m > 0).all(axis=1)))
            raise DataError(f"{path}: row {row}: length, width and height should be above 0, got {sizes_lwh_m[row]}")
        found: dict[int, list[BoxAnnotation]] = {}
        times_ns = columns["timestamp_ns"].tolist()
        for row, (time_ns, ego_from_box) in enumerate(zip(times_ns, transforms_of(path, columns), strict=True)):
            length_m, width_m, height_m = sizes_lwh_m[row].tolist()
            global_from_ego = self._pose(time_ns, path)
            found.setdefault(time_ns, []).append(
                BoxAnnotation(
                    instance=str(columns["track_uuid"][row]),
                    category=str(columns["category"][row]),
                    size_lwh_m=(length_m, width_m, height_m),
                    global_from_box=global_from_ego @ ego_from_box,
                    num_lidar_points=int(columns["num_interior_pts"][row]),
                )
            )
        return {time_ns: tuple(boxes) for time_ns, boxes in found.items()}

    def _pose(self, time_ns: int, of: Path) -> Float[np.ndarray, "4 4"]:
        """`global_from_ego` at a time that a sensor or an annotation has."""
        if time_ns not in self._poses:
            raise DataError(f"{self._poses_path}: has no pose at {time_ns} ns, a time of {of}; download this log again")
        return self._poses[time_ns]


class Argoverse2(Drives[Log]):
    """An opened folder; it has the method `boxes` if any of its logs is annotated."""

    format = "argoverse2"

    def __init__(self, root: Path, folders: Mapping[str, Path], **arguments: Any) -> None:
        super().__init__(root, folders, **arguments)
        self._add_boxes()

    def _read(self, scene: str, folder: Path) -> Log:
        return Log(scene, folder, self.cameras)

    def _boxes_of(self, token: str) -> tuple[BoxAnnotation, ...]:
        scene, number = self.position(token)
        return self.drive(scene).boxes(number)

    def _add_boxes(self) -> None:
        # A capability that a folder has or has not is an attribute of the object that has it.
        if any((folder / "annotations.feather").exists() for folder in self._folders.values()):
            self.boxes = self._boxes_of

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "boxes"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._add_boxes()


def open_argoverse2(root: Path, *, cameras: str | None = None, every: str | int = 1) -> Argoverse2:
    """Opens a folder of logs, or of splits of them.

    Args:
        cameras, every: as in `occlift.datasets.argoverse2.open_folder`.

    Raises:
        ConfigError: an option has no such value, or pyarrow is not installed.
        DataError: the folder holds no log.
    """
    what = f"argoverse2:{root}"
    chosen = names_of(cameras, (*RING_CAMERAS, *STEREO_CAMERAS), f"{what}: cameras") or RING_CAMERAS
    number = whole_number(every, f"{what}: every")
    options = ({} if cameras is None else {"cameras": cameras}) | ({"every": str(number)} if number > 1 else {})
    splits = {split: _logs(root / split) for split in SPLITS if (root / split).is_dir()}
    folders = once_each(log for logs in (splits.values() if splits else [_logs(root)]) for log in logs.items())
    if not folders:
        there = "has neither" if root.is_dir() else "does not exist"
        raise DataError(
            f"{root}: expected train/, val/ or test/ with logs, or logs themselves (folders with "
            f"city_SE3_egovehicle.feather, calibration/ and sensors/), but the folder {there}"
        )
    return Argoverse2(
        root, folders, cameras=chosen, splits={name: list(logs) for name, logs in splits.items()} or None,
        every=number, options=options,
    )  # fmt: skip


def _logs(folder: Path) -> dict[str, Path]:
    return {path.parent.name: path.parent for path in sorted(folder.glob("*/city_SE3_egovehicle.feather"))}


def _times_ns(folder: Path, suffix: str) -> list[int]:
    """Times of the files of a sensor, which are their names."""
    return sorted(int(path.stem) for path in folder.glob(f"*{suffix}") if path.stem.isdecimal())


def _mountings(folder: Path) -> dict[str, Float[np.ndarray, "4 4"]]:
    path = folder / "calibration/egovehicle_SE3_sensor.feather"
    columns = read_columns(path, words=("sensor_name",), numbers=POSE)
    return dict(zip(columns["sensor_name"].tolist(), transforms_of(path, columns), strict=True))


def _of(rows: Mapping[str, Any], sensor: str, path: Path) -> Any:
    if sensor not in rows:
        raise DataError(f"{path}: has no sensor {sensor!r}; it has {', '.join(rows) or 'none'}")
    return rows[sensor]


def _read_cameras(
    folder: Path, names: Sequence[str], ego_from_sensor: Mapping[str, Float[np.ndarray, "4 4"]]
) -> list[_Camera]:
    """Cameras of which there are images."""
    path = folder / "calibration/intrinsics.feather"
    numbers = ("fx_px", "fy_px", "cx_px", "cy_px", "height_px", "width_px")
    columns = read_columns(path, words=("sensor_name",), numbers=numbers)
    rows = {name: row for row, name in enumerate(columns["sensor_name"].tolist())}
    cameras = []
    for name in names:
        images = folder / "sensors/cameras" / name
        if not (times_ns := _times_ns(images, ".jpg")):
            continue
        row = _of(rows, name, path)
        fx, fy, cx, cy, height, width = (float(columns[column][row]) for column in numbers)
        if min(fx, fy, height, width) <= 0:
            raise DataError(f"{path}: row {row}: focal lengths, height and width of {name} should be above 0")
        cameras.append(
            _Camera(
                name=name,
                folder=images,
                times_ns=times_ns,
                height=int(height),
                width=int(width),
                intrinsics_px=np.array([[fx, 0, cx + 0.5], [0, fy, cy + 0.5], [0, 0, 1.0]]),
                ego_from_camera=_of(ego_from_sensor, name, folder / "calibration/egovehicle_SE3_sensor.feather"),
            )
        )
    if not cameras:
        raise DataError(f"{folder / 'sensors/cameras'}: expected images <timestamp_ns>.jpg in {', '.join(names)}")
    return cameras


def _nearest(times_ns: Sequence[int], time_ns: int) -> int:
    """The time nearest to another one; the earlier of two."""
    return min(times_ns, key=lambda other_ns: (abs(other_ns - time_ns), other_ns))
