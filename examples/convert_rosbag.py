"""A ROS 2 bag (sqlite3 or MCAP) or a ROS 1 bag as a `frames:` folder.

    pip install rosbags
    python examples/convert_rosbag.py drive_0 data/drive \\
        --camera front=/front/image_raw,/front/camera_info --camera left=/left/image_raw,/left/camera_info \\
        --lidar /lidar/points
    occlift check frames:data/drive

Key frames are at the images of the first camera (every `--every`-th). Other cameras and the lidar contribute what is
nearest in time, up to `--max-gap-s`, each with the pose at its own time. Poses and mountings come from `/tf` and
`/tf_static`: the ego frame is `--ego` (x forward, y left, z up, on the road: base_link or base_footprint), the global
one `--global`. Between two poses of `/tf` it is interpolated; images before the first or after the last are left out.

Images: sensor_msgs/Image (rgb8, bgr8, rgba8, bgra8, mono8) and CompressedImage (JPEG or PNG, kept as they are).
Calibration: sensor_msgs/CameraInfo; for images that are rectified already, say `--rectified`. Its pixel centres are at
whole numbers, so half a pixel is added. Camera frames follow REP 103: x right, y down, z ahead.
"""

from __future__ import annotations

import argparse
import bisect
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation, Slerp

from occlift import CameraImage, KeyFrame
from occlift.datasets.frames.sources import PointFile
from occlift.datasets.frames.writer import write_frames
from occlift.errors import ConfigError, DataError, OccliftError
from occlift.geometry.lenses import BrownConrady, KannalaBrandt, Lens
from occlift.geometry.transforms import inverse, rigid_transform
from occlift.scenes import ImageFile, KeyFrameList, LidarSweep

CHANNELS = {"rgb8": "RGB", "bgr8": "BGR", "rgba8": "RGBA", "bgra8": "BGRA", "mono8": "L"}
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
"""sensor_msgs/PointField's data types."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bag", type=Path, help="folder of a ROS 2 bag, .mcap or .db3 file, or ROS 1 .bag file")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--camera", action="append", required=True, metavar="NAME=IMAGE_TOPIC,INFO_TOPIC")
    parser.add_argument("--lidar", metavar="TOPIC", help="sensor_msgs/PointCloud2")
    parser.add_argument("--ego", default="base_link", help="frame of the car")
    parser.add_argument("--global", default="map", dest="global_", help="frame of the world")
    parser.add_argument("--every", type=int, default=1, help="1: every image of the first camera, 2: every other one")
    parser.add_argument("--max-gap-s", type=float, default=0.06, help="between a key frame and what belongs to it")
    parser.add_argument("--rectified", action="store_true", help="the images are undistorted already")
    given = parser.parse_args()
    try:
        convert(
            given.bag, given.out, cameras=dict(map(parse_camera, given.camera)), lidar=given.lidar, ego=given.ego,
            global_=given.global_, every=given.every, max_gap_s=given.max_gap_s, rectified=given.rectified,
        )  # fmt: skip
    except OccliftError as error:
        raise SystemExit(f"convert_rosbag: {error}") from None


def parse_camera(text: str) -> tuple[str, tuple[str, str]]:
    """Name, and the topics of its images and of its calibration."""
    name, _, topics = text.partition("=")
    images, _, info = topics.partition(",")
    if not (name and images and info):
        raise ConfigError(f"--camera {text}: expected NAME=IMAGE_TOPIC,INFO_TOPIC")
    return name, (images, info)


def convert(
    bag: Path,
    out: Path,
    *,
    cameras: Mapping[str, tuple[str, str]],
    lidar: str | None = None,
    ego: str = "base_link",
    global_: str = "map",
    every: int = 1,
    max_gap_s: float = 0.06,
    rectified: bool = False,
) -> None:
    """Writes the folder, whose one scene has the name of the bag.

    Args:
        cameras: name → topics of its images and of its calibration.

    Raises:
        DataError: a topic or a transform is missing, or a message cannot be understood.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside the result, so that images are linked there and not copied.
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        recording = read_bag(bag, Path(scratch), cameras, lidar)
        frames = list(key_frames(recording, bag.stem, cameras, lidar, ego, global_, every, max_gap_s, rectified))
        if not frames:
            raise DataError(f"{bag}: no image has a pose of {ego} in {global_} at its time; found: {recording.tree}")
        write_frames(KeyFrameList(frames), out)


@dataclass
class Message:
    """An image or a sweep that was written to a file."""

    time_ns: int
    frame_id: str
    path: Path


class Tree:
    """The frames of `/tf` and `/tf_static`."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}
        self._found: defaultdict[str, list[tuple[int, np.ndarray, np.ndarray]]] = defaultdict(list)
        self._static: set[str] = set()

    def add(self, message: Any, *, static: bool) -> None:
        for one in message.transforms:
            child = one.child_frame_id.lstrip("/")
            shift, turn = one.transform.translation, one.transform.rotation
            self._parents[child] = one.header.frame_id.lstrip("/")
            self._found[child].append(
                (time_of(one), np.array([shift.x, shift.y, shift.z]), np.array([turn.x, turn.y, turn.z, turn.w]))
            )
            if static:
                self._static.add(child)

    def sort(self) -> None:
        for found in self._found.values():
            found.sort(key=lambda item: item[0])

    def __str__(self) -> str:
        return ", ".join(f"{parent} > {child}" for child, parent in self._parents.items()) or "no transform"

    def lookup(self, target: str, source: str, time_ns: int) -> np.ndarray | None:
        """`target_from_source` at a time; None where it lies outside of the times of `/tf`.

        Raises:
            DataError: the frames are not connected.
        """
        chains = [self._chain(frame) for frame in (target, source)]
        common = next((frame for frame in chains[0] if frame in chains[1]), None)
        if common is None:
            raise DataError(f"there is no transform between {source} and {target}; found: {self}")
        sides = []
        for chain in chains:
            common_from_frame = np.eye(4)
            for child in chain[: chain.index(common)]:
                step = self._step(child, time_ns)
                if step is None:
                    return None
                common_from_frame = step @ common_from_frame
            sides.append(common_from_frame)
        return inverse(sides[0]) @ sides[1]

    def _chain(self, frame: str) -> list[str]:
        """The frame, its parent, and so on up to the root."""
        chain = [frame.lstrip("/")]
        while chain[-1] in self._parents and self._parents[chain[-1]] not in chain:
            chain.append(self._parents[chain[-1]])
        return chain

    def _step(self, child: str, time_ns: int) -> np.ndarray | None:
        """`parent_from_child` at a time."""
        found = self._found[child]
        at = bisect.bisect_left(found, time_ns, key=lambda item: item[0])
        if child in self._static or (at < len(found) and found[at][0] == time_ns):
            _, shift, turn = found[-1] if child in self._static else found[at]
            return rigid_transform(Rotation.from_quat(turn).as_matrix(), shift)
        if at in (0, len(found)):
            return None
        (before_ns, *_), (after_ns, *_) = found[at - 1 : at + 1]
        share = (time_ns - before_ns) / (after_ns - before_ns)
        shift = (1 - share) * found[at - 1][1] + share * found[at][1]
        turns = Slerp([0.0, 1.0], Rotation.from_quat([found[at - 1][2], found[at][2]]))
        return rigid_transform(turns(share).as_matrix(), shift)


@dataclass
class Recording:
    """What was read of a bag."""

    tree: Tree = field(default_factory=Tree)
    infos: dict[str, Any] = field(default_factory=dict)
    messages: defaultdict[str, list[Message]] = field(default_factory=lambda: defaultdict(list))


def read_bag(bag: Path, folder: Path, cameras: Mapping[str, tuple[str, str]], lidar: str | None) -> Recording:
    """Reads the topics, and writes images and sweeps into a folder."""
    recording = Recording()
    images, infos = ([topics[i] for topics in cameras.values()] for i in (0, 1))
    wanted = {"/tf", "/tf_static", *images, *infos, *([lidar] if lidar else [])}
    try:
        with AnyReader([bag], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
            topics = {connection.topic for connection in reader.connections}
            if missing := sorted(wanted - topics - {"/tf_static"}):
                raise DataError(f"{bag}: has no topic {', '.join(missing)}; it has {', '.join(sorted(topics))}")
            connections = [connection for connection in reader.connections if connection.topic in wanted]
            for number, (connection, _, raw) in enumerate(reader.messages(connections=connections)):
                topic, message = connection.topic, reader.deserialize(raw, connection.msgtype)
                if topic in ("/tf", "/tf_static"):
                    recording.tree.add(message, static=topic == "/tf_static")
                elif topic in infos:
                    recording.infos.setdefault(topic, message)
                else:
                    write = write_image if topic in images else write_sweep
                    path = write(message, folder / f"{number:08}", f"{bag}: {topic}")
                    recording.messages[topic].append(Message(time_of(message), message.header.frame_id, path))
    except (AnyReaderError, FileNotFoundError) as error:
        raise DataError(f"{bag}: not a readable bag ({error})") from error
    recording.tree.sort()
    for found in recording.messages.values():
        found.sort(key=lambda message: message.time_ns)
    if without := [info for info in infos if info not in recording.infos]:
        raise DataError(f"{bag}: the topic {without[0]} has no message; it should say the calibration of its camera")
    return recording


def key_frames(
    recording: Recording,
    scene: str,
    cameras: Mapping[str, tuple[str, str]],
    lidar: str | None,
    ego: str,
    global_: str,
    every: int,
    max_gap_s: float,
    rectified: bool,
) -> Iterator[KeyFrame]:
    """The key frames that have a pose, in the order of time."""
    tree, index = recording.tree, 0
    first = next(iter(cameras.values()))[0]
    used: set[Path] = set()

    def near(topic: str, time_ns: int) -> Message | None:
        """The message nearest in time, unless it is too far or belongs to another key frame."""
        found = recording.messages[topic]
        nearest = min(found, key=lambda message: abs(message.time_ns - time_ns), default=None)
        if nearest is None or abs(nearest.time_ns - time_ns) > 1e9 * max_gap_s or nearest.path in used:
            return None
        return nearest

    for moment in recording.messages[first][::every]:
        pose = tree.lookup(global_, ego, moment.time_ns)
        if pose is None:
            continue
        images = []
        for name, (topic, info) in cameras.items():
            message = near(topic, moment.time_ns)
            placed = message and place(tree, message, ego, global_)
            if message is None or placed is None:
                continue
            used.add(message.path)
            intrinsics_px, lens = calibration_of(recording.infos[info], info, rectified=rectified)
            images.append(
                CameraImage(
                    camera=name, key=f"{scene}-{name}-{message.time_ns}", timestamp_us=message.time_ns // 1000,
                    height=recording.infos[info].height, width=recording.infos[info].width,
                    intrinsics_px=intrinsics_px, distortion=lens, ego_at_image_from_camera=placed[0],
                    global_from_ego_at_image=placed[1], source=ImageFile(message.path),
                )
            )  # fmt: skip
        if not images:
            continue
        sweep = None
        message = near(lidar, moment.time_ns) if lidar else None
        if message is not None and (placed := place(tree, message, ego, global_)) is not None:
            used.add(message.path)
            sweep = LidarSweep(
                key=f"{scene}-lidar-{message.time_ns}", timestamp_us=message.time_ns // 1000,
                ego_from_lidar=placed[0], global_from_ego=placed[1], source=PointFile(message.path, 4),
            )  # fmt: skip
        yield KeyFrame(
            token=f"{scene}-{moment.time_ns}", scene=scene, index=index, timestamp_us=moment.time_ns // 1000,
            global_from_ego=pose, cameras=tuple(images), lidar=sweep,
        )  # fmt: skip
        index += 1


def place(tree: Tree, message: Message, ego: str, global_: str) -> tuple[np.ndarray, np.ndarray] | None:
    """`ego_from_sensor` and `global_from_ego` at the time of a message; None where there is no pose."""
    ego_from_sensor = tree.lookup(ego, message.frame_id, message.time_ns)
    global_from_ego = tree.lookup(global_, ego, message.time_ns)
    return None if ego_from_sensor is None or global_from_ego is None else (ego_from_sensor, global_from_ego)


def calibration_of(info: Any, topic: str, *, rectified: bool) -> tuple[np.ndarray, Lens | None]:
    """Intrinsics, pixel centres at + 0.5, and lens of a sensor_msgs/CameraInfo."""
    small = {name.lower(): getattr(info, name) for name in dir(info) if name in "dkpDKP"}  # ROS 1 has capitals
    matrix = np.array(small["p"] if rectified else small["k"], np.float64).reshape(3, -1)[:, :3].copy()
    if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise DataError(f"{topic}: the camera is not calibrated, its matrix is {matrix.tolist()}")
    matrix[:2, 2] += 0.5
    numbers = [float(number) for number in small["d"]]
    if rectified or not any(numbers):
        return matrix, None
    if info.distortion_model in ("plumb_bob", "rational_polynomial") and len(numbers) in (4, 5, 8):
        return matrix, BrownConrady(
            **dict(zip(("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"), numbers, strict=False))
        )
    if info.distortion_model in ("equidistant", "fisheye") and len(numbers) == 4:
        return matrix, KannalaBrandt(**dict(zip(("k1", "k2", "k3", "k4"), numbers, strict=True)))
    raise DataError(f"{topic}: the lens {info.distortion_model!r} with {len(numbers)} numbers is not known here")


def write_image(message: Any, path: Path, what: str) -> Path:
    """Writes an image message as a file."""
    if hasattr(message, "format"):
        kind = {b"\xff\xd8": ".jpg", b"\x89P": ".png"}.get(bytes(message.data[:2]))
        if kind is None:
            raise DataError(f"{what}: images of the format {message.format!r} are not known here; expected JPEG or PNG")
        path = path.with_suffix(kind)
        path.write_bytes(bytes(message.data))
        return path
    if message.encoding not in CHANNELS:
        raise DataError(f"{what}: the encoding {message.encoding!r} is not known here; expected {', '.join(CHANNELS)}")
    channels = CHANNELS[message.encoding]
    rows = np.asarray(message.data, np.uint8)[: message.height * message.step].reshape(message.height, message.step)
    pixels = rows[:, : message.width * len(channels)].reshape(message.height, message.width, len(channels))
    rgb = pixels[..., [channels.index(name) for name in ("LLL" if channels == "L" else "RGB")]]
    path = path.with_suffix(".png")
    Image.fromarray(np.ascontiguousarray(rgb)).save(path, compress_level=1)
    return path


def write_sweep(message: Any, path: Path, what: str) -> Path:
    """Writes x, y, z and intensity (0 without) of the finite points of a sensor_msgs/PointCloud2."""
    fields = {one.name: one for one in message.fields}
    if not {"x", "y", "z"} <= fields.keys():
        raise DataError(f"{what}: expected the fields x, y and z, found {', '.join(fields)}")
    names = [name for name in ("x", "y", "z", "intensity") if name in fields]
    order = ">" if message.is_bigendian else "<"
    layout = np.dtype(
        {
            "names": names,
            "formats": [order + NUMBERS[fields[name].datatype] for name in names],
            "offsets": [fields[name].offset for name in names],
            "itemsize": message.point_step,
        }
    )
    raw = np.asarray(message.data, np.uint8).reshape(message.height, message.row_step)
    found = np.frombuffer(raw[:, : message.width * message.point_step].tobytes(), layout)
    points = np.zeros((len(found), 4), np.float32)
    for column, name in enumerate(names):
        points[:, column] = found[name]
    path = path.with_suffix(".npy")
    np.save(path, points[np.isfinite(points).all(axis=1)])
    return path


def time_of(message: Any) -> int:
    """Time stamp of the header, nanoseconds."""
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


if __name__ == "__main__":
    main()
