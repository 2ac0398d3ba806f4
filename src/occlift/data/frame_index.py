"""The index of key frames and their sensor records, as flat arrays.

Rows of sweeps (`is_key_frame` false) and of other sensors than `CHANNELS` are left out, and not checked. What was
kept is checked here, once: every token names a row that exists, every quaternion is one, every camera has
intrinsics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from occlift.data.key_frame import CAMERA_CHANNELS, LIDAR_CHANNEL
from occlift.data.occ3d import checked_name
from occlift.data.packed import PackedStrings
from occlift.data.references import (
    check_quaternions,
    dangling,
    matrix,
    positions_of,
    resolve,
    starts,
    table_path,
    tokens_of,
)
from occlift.data.tables import (
    CalibratedSensorRow,
    EgoPoseRow,
    SampleDataRow,
    SampleRow,
    SceneRow,
    SensorRow,
    read_blocks,
    read_table,
)
from occlift.errors import DataError

CHANNELS: Final = (*CAMERA_CHANNELS, LIDAR_CHANNEL)
"""The sensors of the index, in the order of the columns of `FrameIndex.records`; the lidar is last."""

FRAME_TABLES: Final = ("calibrated_sensor", "ego_pose", "sample", "sample_data", "scene", "sensor")
"""The tables that the frame index is made of."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameIndex:
    """Key frames, ordered by scene (table order) and time, and their sensor records. Lengths in metres.

    Attributes:
        scene_names: in table order.
        scene_starts: key frames `scene_starts[s]` to `scene_starts[s + 1]` belong to scene s.
        sample_tokens, sample_timestamps_us: per key frame.
        records: per key frame and channel, the index of its sensor record, −1 where there is none.
        record_*: per sensor record: token, file name relative to the root, time stamp, image size (height, width), the
            index of its calibration, and global_from_ego at its time as translation and quaternion (w, x, y, z).
        calibration_*: ego_from_sensor as translation and quaternion, and the intrinsics in pixels (NaN if no camera).
    """

    scene_names: PackedStrings
    scene_starts: Int[np.ndarray, "scenes_plus_1"]
    sample_tokens: PackedStrings
    sample_timestamps_us: Int[np.ndarray, "samples"]
    records: Int[np.ndarray, "samples 7"]
    record_tokens: PackedStrings
    record_files: PackedStrings
    record_timestamps_us: Int[np.ndarray, "records"]
    record_sizes_px: Int[np.ndarray, "records 2"]
    record_calibrations: Int[np.ndarray, "records"]
    record_translations_m: Float[np.ndarray, "records 3"]
    record_quaternions: Float[np.ndarray, "records 4"]
    calibration_translations_m: Float[np.ndarray, "calibrations 3"]
    calibration_quaternions: Float[np.ndarray, "calibrations 4"]
    calibration_intrinsics_px: Float[np.ndarray, "calibrations 3 3"]


def index_frames(folder: Path) -> tuple[FrameIndex, dict[str, int]]:
    """Builds the frame index from the tables in `folder`, and says where each sample token stands in it.

    Raises:
        DataError: a table is missing or damaged; a token names no row; a scene name or a token occurs twice, or is
            unsafe as a file name; an image has no size, a camera no intrinsics, a pose no rotation.
    """
    scenes_path, samples_path = table_path(folder, "scene"), table_path(folder, "sample")
    scenes = read_table(scenes_path, SceneRow)
    positions_of(scenes_path, (checked_name(scene.name, f"{scenes_path}: scene name") for scene in scenes), "name")
    scene_positions = positions_of(scenes_path, tokens_of(scenes))

    samples = read_table(samples_path, SampleRow)
    scene_of_sample = [
        resolve(scene_positions, samples_path, sample, "scene_token", sample.scene_token, "scene") for sample in samples
    ]
    order = sorted(range(len(samples)), key=lambda row: (scene_of_sample[row], samples[row].timestamp))
    samples = [samples[row] for row in order]
    counts = np.bincount(np.asarray(scene_of_sample, dtype=np.int64), minlength=len(scenes))
    sample_positions = positions_of(
        samples_path, (checked_name(sample.token, f"{samples_path}: token") for sample in samples)
    )

    calibrations_path = table_path(folder, "calibrated_sensor")
    calibrations = read_table(calibrations_path, CalibratedSensorRow)
    calibration_positions = positions_of(calibrations_path, tokens_of(calibrations))
    columns = _channel_columns(folder, calibrations)
    calibration_quaternions = matrix([row.rotation for row in calibrations], 4)
    check_quaternions(calibrations_path, calibration_quaternions, tokens_of(calibrations))

    records_path = table_path(folder, "sample_data")
    records = np.full((len(samples), len(CHANNELS)), -1, dtype=np.int32)
    rows: list[SampleDataRow] = []
    calibration_of_row: list[int] = []
    for block in read_blocks(records_path, SampleDataRow):
        for row in block:
            if not row.is_key_frame:
                continue
            calibration = resolve(
                calibration_positions,
                records_path,
                row,
                "calibrated_sensor_token",
                row.calibrated_sensor_token,
                "calibrated_sensor",
            )
            sample = resolve(sample_positions, records_path, row, "sample_token", row.sample_token, "sample")
            column = columns[calibration]
            if column is None:
                continue
            # Should a sample have two records of one sensor, the later row counts, as in the devkit.
            records[sample, column] = len(rows)
            rows.append(row)
            calibration_of_row.append(calibration)
            if column < len(CAMERA_CHANNELS) and not (row.height and row.width):
                raise DataError(
                    f"{records_path}: row {row.token}: an image of {CHANNELS[column]} needs height and width in "
                    f"pixels, got {row.height} × {row.width}"
                )

    translations, quaternions = _ego_poses(folder, rows)
    frames = FrameIndex(
        scene_names=PackedStrings.pack(scene.name for scene in scenes),
        scene_starts=starts(counts),
        sample_tokens=PackedStrings.pack(tokens_of(samples)),
        sample_timestamps_us=np.array([sample.timestamp for sample in samples], dtype=np.int64),
        records=records,
        record_tokens=PackedStrings.pack(tokens_of(rows)),
        record_files=PackedStrings.pack(row.filename for row in rows),
        record_timestamps_us=np.array([row.timestamp for row in rows], dtype=np.int64),
        record_sizes_px=np.array([(row.height or 0, row.width or 0) for row in rows], dtype=np.int32).reshape(-1, 2),
        record_calibrations=np.array(calibration_of_row, dtype=np.int32),
        record_translations_m=translations,
        record_quaternions=quaternions,
        calibration_translations_m=matrix([row.translation for row in calibrations], 3),
        calibration_quaternions=calibration_quaternions,
        calibration_intrinsics_px=_intrinsics(calibrations_path, calibrations, columns),
    )
    return frames, sample_positions


def _channel_columns(folder: Path, calibrations: Sequence[CalibratedSensorRow]) -> list[int | None]:
    """Per calibration, the column of its sensor in `CHANNELS`; None for sensors that are not read."""
    path = table_path(folder, "sensor")
    sensors = read_table(path, SensorRow)
    positions = positions_of(path, tokens_of(sensors))
    columns = {channel: column for column, channel in enumerate(CHANNELS)}
    of_sensor = [columns.get(sensor.channel) for sensor in sensors]
    calibrations_path = table_path(folder, "calibrated_sensor")
    return [
        of_sensor[resolve(positions, calibrations_path, row, "sensor_token", row.sensor_token, "sensor")]
        for row in calibrations
    ]


def _intrinsics(
    path: Path, calibrations: Sequence[CalibratedSensorRow], columns: Sequence[int | None]
) -> Float[np.ndarray, "calibrations 3 3"]:
    intrinsics = np.full((len(calibrations), 3, 3), np.nan)
    for row, (calibration, column) in enumerate(zip(calibrations, columns, strict=True)):
        if column is None or column >= len(CAMERA_CHANNELS):
            continue
        lines = calibration.camera_intrinsic
        if [len(line) for line in lines] != [3, 3, 3]:
            raise DataError(
                f"{path}: row {calibration.token}: field camera_intrinsic of {CHANNELS[column]} should be a "
                f"3×3 matrix, got {lines}"
            )
        intrinsics[row] = lines
    return intrinsics


def _ego_poses(
    folder: Path, records: Sequence[SampleDataRow]
) -> tuple[Float[np.ndarray, "records 3"], Float[np.ndarray, "records 4"]]:
    """The ego pose of every record, without keeping the table's other rows."""
    path = table_path(folder, "ego_pose")
    unique = {record.ego_pose_token: None for record in records}
    positions = {token: position for position, token in enumerate(unique)}
    poses = np.full((len(positions), 7), np.nan)
    found = np.zeros(len(positions), dtype=np.bool_)
    for block in read_blocks(path, EgoPoseRow):
        for row in block:
            position = positions.get(row.token)
            if position is not None:
                poses[position] = row.translation + row.rotation
                found[position] = True
    if not found.all():
        missing = next(record for record in records if not found[positions[record.ego_pose_token]])
        raise dangling(table_path(folder, "sample_data"), missing, "ego_pose_token", missing.ego_pose_token, "ego_pose")
    check_quaternions(path, poses[:, 3:], list(positions))
    of_record = poses[[positions[record.ego_pose_token] for record in records]]
    return np.ascontiguousarray(of_record[:, :3]), np.ascontiguousarray(of_record[:, 3:])
