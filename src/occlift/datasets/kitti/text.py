"""The text files of KITTI: calibrations, poses, times and packets of the GPS/IMU unit.

Formats: the `readme.txt` of the odometry development kit, and the `readme.txt` and `dataformat.txt` of that of the raw
recordings (A. Geiger et al., "Vision meets Robotics: The KITTI Dataset", IJRR 2013).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float

from occlift.datasets.frames.values import Place, transform
from occlift.errors import DataError
from occlift.geometry.transforms import inverse, rigid_transform, rotation_about_z

EARTH_RADIUS_M: Final = 6378137.0
_OXTS_NUMBERS: Final = 30
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(\d{1,9}))?")


def read_lines(path: Path, what: str) -> list[tuple[Place, str]]:
    """The lines of a text file that are not empty, and where they stand.

    Args:
        what: what the file holds, for the error.

    Raises:
        DataError: there is no such file, or it is no text.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; it should hold {what}: unpack the archive with it here") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected text with {what} ({error}); unpack the archive with it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return [(Place(path, number), line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def read_calibration(path: Path, counts: Mapping[str, int]) -> dict[str, tuple[Place, Float[np.ndarray, "numbers"]]]:
    """Lines `name: numbers`.

    Args:
        counts: name → how many numbers it has; other lines are skipped.

    Raises:
        DataError: the file is missing; a line is, or has another count of numbers, or one that is none.
    """
    found = {}
    names = []
    for place, line in read_lines(path, "a calibration"):
        name, _, text = line.partition(":")
        names.append(name)
        if name in counts:
            found[name] = (place.at(name), _numbers(place.at(name), text, counts[name]))
    for name in counts:
        if name not in found:
            raise DataError(f"{path}: expected a line {name!r} of {counts[name]} numbers; found {', '.join(names)}")
    return found


def rigid(place: Place, rotation_and_translation: Float[np.ndarray, "3 4"]) -> Float[np.ndarray, "4 4"]:
    """A transform from its upper three rows; rotations that were rounded for the file are made exact.

    Raises:
        DataError: it holds no rotation.
    """
    return transform(place, np.vstack((rotation_and_translation, (0.0, 0.0, 0.0, 1.0))).tolist())


def pinhole(
    place: Place, projection: Float[np.ndarray, "12"]
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "4 4"]]:
    """Intrinsics with pixel centres at + 0.5, and `camera0_from_camera`, of a 3×4 projection out of rectified camera 0.

    KITTI's pixel centres are at whole numbers.

    Raises:
        DataError: its left part is no matrix of intrinsics.
    """
    matrix = projection.reshape(3, 4)
    intrinsics_px = matrix[:, :3].copy()
    lower = intrinsics_px[[1, 2, 2], [0, 0, 1]]
    if lower.any() or intrinsics_px[2, 2] != 1 or min(intrinsics_px[0, 0], intrinsics_px[1, 1]) <= 0:
        place.fail(
            "expected a 3×4 projection of a rectified camera, [fx 0 cx tx; 0 fy cy ty; 0 0 1 tz] with fx and fy above "
            f"0, got {matrix.tolist()}"
        )
    camera_from_camera0 = rigid_transform(np.eye(3), np.linalg.solve(intrinsics_px, matrix[:, 3]))
    intrinsics_px[:2, 2] += 0.5
    return intrinsics_px, inverse(camera_from_camera0)


def read_poses(path: Path) -> list[Float[np.ndarray, "4 4"]]:
    """One pose a line, twelve numbers each: the frame of camera 0 in that of its first image.

    Raises:
        DataError: the file is missing, or a line holds no pose.
    """
    return [
        rigid(place, _numbers(place, line, 12).reshape(3, 4))
        for place, line in read_lines(path, "one pose of camera 0 a line")
    ]


def read_times_us(path: Path) -> list[int]:
    """One time a line, seconds from the first, as microseconds.

    Raises:
        DataError: the file is missing, or a line holds no time, or one not after that before it.
    """
    lines = read_lines(path, "one time in seconds a line")
    return _increasing([(place, round(1e6 * float(_numbers(place, line, 1)[0]))) for place, line in lines])


def read_dates_us(path: Path) -> list[int]:
    """One date and time of day a line, as microseconds since 1970 in the clock of the file.

    Raises:
        DataError: the file is missing, or a line holds no time, or one not after that before it.
    """
    times = []
    for place, line in read_lines(path, "one time a line"):
        found = _TIME.fullmatch(line)
        try:
            seconds = found and datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc)
        except ValueError:
            seconds = None
        if not found or not seconds:
            place.fail(f"expected a time such as 2011-09-26 13:02:25.964389445, got {line!r}")
        times.append((place, int(seconds.timestamp()) * 1_000_000 + int((found[2] or "0").ljust(9, "0")) // 1000))
    return _increasing(times)


def read_oxts(path: Path) -> Float[np.ndarray, "30"]:
    """The numbers of one packet of the GPS/IMU unit.

    Raises:
        DataError: the file is missing, does not hold 30 numbers in a line, or no latitude.
    """
    lines = read_lines(path, "a packet of the GPS/IMU unit")
    if len(lines) != 1:
        raise DataError(f"{path}: expected one line of {_OXTS_NUMBERS} numbers, found {len(lines)} lines")
    place, line = lines[0]
    packet = _numbers(place, line, _OXTS_NUMBERS)
    if not abs(packet[0]) < 90:
        place.fail(f"expected a latitude between -90 and 90 degrees first, got {packet[0]}")
    return packet


def oxts_poses(packets: Sequence[Float[np.ndarray, "30"]]) -> list[Float[np.ndarray, "4 4"]]:
    """`global_from_imu` of every packet: x east, y north, z up, metres from the first; the IMU has x forward and z up.

    Latitude and longitude are projected by Mercator at the scale of the first latitude, as the raw development kit does
    it; the angles are roll about x, then pitch about y, then yaw about z.
    """
    if not packets:
        return []
    scale = math.cos(math.radians(packets[0][0]))
    poses = []
    for packet in packets:
        latitude_deg, longitude_deg, altitude_m, roll_rad, pitch_rad, yaw_rad = packet[:6].tolist()
        east_m = scale * EARTH_RADIUS_M * math.radians(longitude_deg)
        north_m = scale * EARTH_RADIUS_M * math.log(math.tan(math.radians(90 + latitude_deg) / 2))
        rotation = rotation_about_z(yaw_rad) @ _about_y(pitch_rad) @ _about_x(roll_rad)
        poses.append(rigid_transform(rotation, (east_m, north_m, altitude_m)))
    origin_m = poses[0][:3, 3].copy()
    for pose in poses:
        pose[:3, 3] -= origin_m
    return poses


def _about_x(angle_rad: float) -> Float[np.ndarray, "3 3"]:
    c, s = math.cos(angle_rad), math.sin(angle_rad)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def _about_y(angle_rad: float) -> Float[np.ndarray, "3 3"]:
    c, s = math.cos(angle_rad), math.sin(angle_rad)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def _numbers(place: Place, text: str, count: int) -> Float[np.ndarray, "numbers"]:
    words = text.split()
    try:
        numbers = [float(word) for word in words]
    except ValueError as error:
        place.fail(f"expected {count} numbers ({error})")
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        place.fail(f"expected {count} finite numbers, found {len(numbers)}: {text.strip()[:200]}")
    return np.array(numbers)


def _increasing(times: Sequence[tuple[Place, int]]) -> list[int]:
    for (_, before), (place, time_us) in pairwise(times):
        if time_us <= before:
            place.fail(f"the time {time_us} µs does not come after that of the line before, {before} µs")
    return [time_us for _, time_us in times]
