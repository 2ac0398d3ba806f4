"""The sensors that are read: cameras, and one lidar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from occlift.datasets.nuscenes.tables import SensorRow

CAMERA_CHANNELS: Final[tuple[str, ...]] = (
    "CAM_FRONT_LEFT",
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT",
    "CAM_BACK",
    "CAM_BACK_RIGHT",
)
"""The cameras of nuScenes, in the order in which they stand in every array."""

LIDAR_CHANNEL: Final = "LIDAR_TOP"


def cameras_and_lidar(sensors: Sequence[SensorRow]) -> tuple[tuple[str, ...], str | None]:
    """Channels of the cameras, and the channel of the lidar, among the rows of `sensor`.

    Cameras are those of nuScenes, in its order, and after them others of the modality `camera` in the order of the
    table. The lidar is LIDAR_TOP, else the first sensor of the modality `lidar`; None where there is none.
    """
    channels = list(dict.fromkeys(sensor.channel for sensor in sensors))
    of_modality = {sensor.channel: sensor.modality for sensor in sensors}
    cameras = [channel for channel in CAMERA_CHANNELS if channel in channels]
    cameras += [c for c in channels if of_modality[c] == "camera" and c not in CAMERA_CHANNELS]
    lidars = [channel for channel in channels if of_modality[channel] == "lidar"]
    lidar = LIDAR_CHANNEL if LIDAR_CHANNEL in channels else next(iter(lidars), None)
    return tuple(cameras), lidar
