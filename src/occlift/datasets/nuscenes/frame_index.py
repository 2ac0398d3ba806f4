"""The index of key frames and their sensor records, as flat arrays.

Rows of sweeps (`is_key_frame` false) and of other sensors than cameras and one lidar are left out, and not checked;
`sweep_index` reads sweeps where they are needed.
What was kept is checked here, once. A table that is damaged as a whole, or names that lead nowhere, are refused. What
is wrong with the pose, the calibration or the image size of a single record is kept as a text and costs its sample, no
other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from occlift.datasets.nuscenes.channels import cameras_and_lidar
from occlift.datasets.nuscenes.lenses import lens_of
from occlift.datasets.nuscenes.packed import PackedStrings
from occlift.datasets.nuscenes.references import (
    are_rotations,
    dangling,
    matrix,
    no_rotation,
    positions_of,
    resolve,
    starts,
    table_path,
    tokens_of,
)
from occlift.datasets.nuscenes.tables import (
    CalibratedSensorRow,
    EgoPoseRow,
    SampleDataRow,
    SampleRow,
    SceneRow,
    SensorRow,
    read_blocks,
    read_table,
)
from occlift.errors import ConfigError, DataError
from occlift.geometry.intrinsics import fault_of_intrinsics
from occlift.labels.files import checked_name

FRAME_TABLES: Final = ("calibrated_sensor", "ego_pose", "sample", "sample_data", "scene", "sensor")
"""The tables that the frame index is made of."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameIndex:
    """Key frames, ordered by scene (table order) and time, and their sensor records. Lengths in metres.

    Attributes:
        channels: the cameras and, last, the lidar; its name is empty where there is none.
        scene_names: in table order.
        scene_starts: key frames `scene_starts[s]` to `scene_starts[s + 1]` belong to scene s.
        sample_tokens, sample_timestamps_us: per key frame.
        records: per key frame and channel, the index of its sensor record, −1 where there is none.
        record_*: per sensor record: token, file name relative to the root, time stamp, image size (height, width), the
            index of its calibration, and global_from_ego at its time as translation and quaternion (w, x, y, z).
        calibration_*: ego_from_sensor as translation and quaternion, the intrinsics in pixels (NaN if no camera), and
            the lens as the JSON text of a dictionary, empty for a pinhole.
        camera_sweeps: file name of the first sweep of a camera, relative to the root; empty where there is none.
        faulty_samples, faults: key frames of which a record cannot be used, and per such key frame what is wrong with
            it; the text begins with the file name of a table.
    """

    channels: PackedStrings
    scene_names: PackedStrings
    scene_starts: Int[np.ndarray, "scenes_plus_1"]
    sample_tokens: PackedStrings
    sample_timestamps_us: Int[np.ndarray, "samples"]
    records: Int[np.ndarray, "samples channels"]
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
    calibration_lenses: PackedStrings
    camera_sweeps: PackedStrings
    faulty_samples: Int[np.ndarray, "faults"]
    faults: PackedStrings


def index_frames(folder: Path) -> tuple[FrameIndex, dict[str, int]]:
    """Builds the frame index from the tables in `folder`, and says where each sample token stands in it.

    Raises:
        DataError: a table is missing or damaged; a record or a sample belongs to none; a scene name or a token occurs
            twice, or is unsafe as a file name; no key frame has records that can be used.
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
    channels, columns, other_channels = _channel_columns(folder, calibrations)
    unknown_column = len(channels)
    calibration_quaternions = matrix([row.rotation for row in calibrations], 4)
    intrinsics_px, lenses, calibration_faults = _checked_calibrations(
        calibrations, calibration_quaternions, columns, channels
    )

    records_path = table_path(folder, "sample_data")
    records = np.full((len(samples), len(channels)), -1, dtype=np.int32)
    rows: list[SampleDataRow] = []
    calibration_of_row: list[int] = []
    sample_of_row: list[int] = []
    faults: dict[int, str] = {}
    row_faults: dict[int, str] = {}
    checked_sizes: dict[tuple[int, int, int], str] = {}
    sweeps: list[str] = []

    def fault_of(row: SampleDataRow, calibration: int, column: int) -> str:
        """What is wrong with a record, its pose aside; empty if nothing is."""
        fault = calibration_faults.get(calibration) or _fault(row, calibration, column, channels)
        if fault or column == len(channels) - 1 or calibration < 0:
            return fault
        size = calibration, row.height or 0, row.width or 0
        # Calibrations are few and key frames many.
        if size not in checked_sizes:
            checked_sizes[size] = _intrinsics_fault(
                calibrations[calibration], intrinsics_px[calibration], lenses[calibration], size, channels[column]
            )
        return checked_sizes[size]

    for block in read_blocks(records_path, SampleDataRow):
        for row in block:
            if not row.is_key_frame:
                if not sweeps:
                    calibration = calibration_positions.get(row.calibrated_sensor_token, -1)
                    column = columns[calibration] if calibration >= 0 else None
                    if column is not None and column < len(channels) - 1:
                        sweeps.append(row.filename)
                continue
            sample = resolve(sample_positions, records_path, row, "sample_token", row.sample_token, "sample")
            calibration = calibration_positions.get(row.calibrated_sensor_token, -1)
            column = columns[calibration] if calibration >= 0 else _column_by_file(row, channels, other_channels)
            if column is None:
                continue
            fault = fault_of(row, calibration, column)
            if column == unknown_column:
                faults[sample] = fault
                continue
            if fault:
                row_faults[len(rows)] = fault
            # Should a sample have two records of one sensor, the later row counts, as in the devkit.
            records[sample, column] = len(rows)
            rows.append(row)
            calibration_of_row.append(calibration)
            sample_of_row.append(sample)

    translations, quaternions, pose_faults = ego_poses(folder, rows)
    for record, fault in sorted({**pose_faults, **row_faults}.items()):
        if record in records[sample_of_row[record]]:
            faults.setdefault(sample_of_row[record], fault)
    if faults and len(faults) == len(samples):
        raise DataError(f"{folder}/{faults[min(faults)]}")
    faulty_samples = sorted(faults)
    frames = FrameIndex(
        channels=PackedStrings.pack(channels),
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
        calibration_intrinsics_px=intrinsics_px,
        calibration_lenses=PackedStrings.pack(lenses),
        camera_sweeps=PackedStrings.pack(sweeps),
        faulty_samples=np.array(faulty_samples, dtype=np.int64),
        faults=PackedStrings.pack(faults[sample] for sample in faulty_samples),
    )
    return frames, sample_positions


def _channel_columns(
    folder: Path, calibrations: Sequence[CalibratedSensorRow]
) -> tuple[tuple[str, ...], list[int | None], frozenset[str]]:
    """The channels that are read, the lidar (or an empty name) last; per calibration the column of its sensor among
    them, None for sensors that are not read; and the channels of those sensors."""
    path = table_path(folder, "sensor")
    sensors = read_table(path, SensorRow)
    positions = positions_of(path, tokens_of(sensors))
    cameras, lidar = cameras_and_lidar(sensors)
    if not cameras:
        raise DataError(f"{path}: has no camera; expected rows whose modality is 'camera'")
    channels = (*cameras, lidar or "")
    columns = {channel: column for column, channel in enumerate(channels)}
    of_sensor = [columns.get(sensor.channel) for sensor in sensors]
    calibrations_path = table_path(folder, "calibrated_sensor")
    of_calibration = [
        of_sensor[resolve(positions, calibrations_path, row, "sensor_token", row.sensor_token, "sensor")]
        for row in calibrations
    ]
    return channels, of_calibration, frozenset(sensor.channel for sensor in sensors) - set(channels)


def _column_by_file(row: SampleDataRow, channels: Sequence[str], other_channels: frozenset[str]) -> int | None:
    """The column of a record whose calibration is lost, by the folder of its file: `samples/<channel>/`.

    None for sensors that are not read. Where the folder does not say, the record may be that of a camera, and nobody
    must do without a camera unawares: the column after the last one.
    """
    channel = row.filename.rpartition("/")[0].rpartition("/")[2]
    if channel in other_channels:
        return None
    return channels.index(channel) if channel and channel in channels else len(channels)


def _fault(row: SampleDataRow, calibration: int, column: int, channels: Sequence[str]) -> str:
    """What is wrong with a record, its pose aside; empty if nothing is."""
    path = Path("sample_data.json")
    if calibration < 0:
        token = row.calibrated_sensor_token
        return str(dangling(path, row, "calibrated_sensor_token", token, "calibrated_sensor"))
    if column < len(channels) - 1 and not (row.height and row.width):
        return (
            f"{path}: row {row.token}: an image of {channels[column]} needs height and width in pixels, got "
            f"{row.height} × {row.width}"
        )
    return ""


def _intrinsics_fault(
    row: CalibratedSensorRow,
    intrinsics_px: Float[np.ndarray, "3 3"],
    lens: str,
    size: tuple[int, int, int],
    channel: str,
) -> str:
    """What is wrong with the intrinsics of a calibration for images of a size; empty if nothing is."""
    has_own_focal = bool(lens) and json.loads(lens)["model"] == "f_theta"
    fault = fault_of_intrinsics(intrinsics_px, size[1], size[2], check_focal=not has_own_focal)
    path = Path("calibrated_sensor.json")
    return f"{path}: row {row.token}: field camera_intrinsic of {channel}: {fault}" if fault else ""


def _checked_calibrations(
    calibrations: Sequence[CalibratedSensorRow],
    quaternions: Float[np.ndarray, "calibrations 4"],
    columns: Sequence[int | None],
    channels: Sequence[str],
) -> tuple[Float[np.ndarray, "calibrations 3 3"], list[str], dict[int, str]]:
    """Intrinsics, NaN where there are none; lenses; and what is wrong with calibrations, by their positions."""
    path = Path("calibrated_sensor.json")
    intrinsics_px = np.full((len(calibrations), 3, 3), np.nan)
    lenses = [""] * len(calibrations)
    faults: dict[int, str] = {}
    for position, (row, column) in enumerate(zip(calibrations, columns, strict=True)):
        if column is None or column == len(channels) - 1:
            continue
        lines = row.camera_intrinsic
        if [len(line) for line in lines] == [3, 3, 3]:
            intrinsics_px[position] = lines
        else:
            faults[position] = (
                f"{path}: row {row.token}: field camera_intrinsic of {channels[column]} should be a 3×3 matrix, got "
                f"{lines}"
            )
        try:
            lens = lens_of(row.camera_distortion)
            lenses[position] = "" if lens is None else json.dumps(lens.to_dict())
        except ConfigError as error:
            faults[position] = f"{path}: row {row.token}: field camera_distortion of {channels[column]}: {error}"
    for position in np.flatnonzero(~are_rotations(quaternions)).tolist():
        faults[position] = str(no_rotation(path, calibrations[position].token, quaternions[position]))
    return intrinsics_px, lenses, faults


def ego_poses(
    folder: Path, records: Sequence[SampleDataRow]
) -> tuple[Float[np.ndarray, "records 3"], Float[np.ndarray, "records 4"], dict[int, str]]:
    """The ego pose of every record, without keeping the table's other rows; and what is wrong with them, by record."""
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
    of_record = np.array([positions[record.ego_pose_token] for record in records], dtype=np.int64)
    usable = found & are_rotations(poses[:, 3:])
    faults: dict[int, str] = {}
    for number in np.flatnonzero(~usable[of_record]).tolist():
        record, position = records[number], of_record[number]
        if found[position]:
            faults[number] = str(no_rotation(Path(path.name), record.ego_pose_token, poses[position, 3:]))
        else:
            error = dangling(Path("sample_data.json"), record, "ego_pose_token", record.ego_pose_token, "ego_pose")
            faults[number] = str(error)
    return np.ascontiguousarray(poses[of_record, :3]), np.ascontiguousarray(poses[of_record, 3:]), faults
