"""The index of sweeps: of every image of a key frame, the images of the same camera just before it and just after it.

The readings of a sensor form a chain in the tables, by `prev` and `next` of `sample_data`. Of all its links only those
beside a key frame are kept, so that the index of a large data set stays small.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from occlift.datasets.nuscenes.frame_index import FrameIndex, ego_poses
from occlift.datasets.nuscenes.packed import PackedStrings
from occlift.datasets.nuscenes.references import positions_of, table_path, tokens_of
from occlift.datasets.nuscenes.tables import (
    CalibratedSensorRow,
    SampleDataRow,
    SensorChainRow,
    read_blocks,
    read_table,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class SweepIndex:
    """Images beside those of key frames.

    Attributes:
        beside: per key frame, camera and side (before, after), the index of a record; −1 where there is none that can
            be used.
        record_*: as in `FrameIndex`.
    """

    beside: Int[np.ndarray, "samples cameras 2"]
    record_tokens: PackedStrings
    record_files: PackedStrings
    record_timestamps_us: Int[np.ndarray, "records"]
    record_sizes_px: Int[np.ndarray, "records 2"]
    record_calibrations: Int[np.ndarray, "records"]
    record_translations_m: Float[np.ndarray, "records 3"]
    record_quaternions: Float[np.ndarray, "records 4"]


def index_sweeps(folder: Path, frames: FrameIndex) -> SweepIndex:
    """Builds the index of sweeps of the key frames in `frames` from the tables in `folder`.

    Raises:
        DataError: a table is missing or damaged.
    """
    images = frames.records[:, :-1]
    of_token = {
        frames.record_tokens[int(images[sample, camera])]: (sample, camera)
        for sample, camera in np.argwhere(images >= 0).tolist()
    }
    records_path, calibrations_path = table_path(folder, "sample_data"), table_path(folder, "calibrated_sensor")
    wanted: dict[str, list[tuple[int, int, int]]] = {}
    for links in read_blocks(records_path, SensorChainRow):
        for link in links:
            if link.is_key_frame and (at := of_token.get(link.token)) is not None:
                for side, token in enumerate((link.prev, link.next)):
                    if token:
                        wanted.setdefault(token, []).append((*at, side))
    calibration_positions = positions_of(
        calibrations_path, tokens_of(read_table(calibrations_path, CalibratedSensorRow))
    )
    rows: list[SampleDataRow] = []
    calibrations: list[int] = []
    for block in read_blocks(records_path, SampleDataRow):
        for row in block:
            calibration = calibration_positions.get(row.calibrated_sensor_token, -1)
            if row.token in wanted and calibration >= 0 and row.height and row.width:
                rows.append(row)
                calibrations.append(calibration)
    translations, quaternions, faults = ego_poses(folder, rows)
    beside = np.full((*images.shape, 2), -1, dtype=np.int32)
    for record, row in enumerate(rows):
        if record not in faults:
            for place in wanted[row.token]:
                beside[place] = record
    return SweepIndex(
        beside=beside,
        record_tokens=PackedStrings.pack(tokens_of(rows)),
        record_files=PackedStrings.pack(row.filename for row in rows),
        record_timestamps_us=np.array([row.timestamp for row in rows], dtype=np.int64),
        record_sizes_px=np.array([(row.height or 0, row.width or 0) for row in rows], dtype=np.int32).reshape(-1, 2),
        record_calibrations=np.array(calibrations, dtype=np.int32),
        record_translations_m=translations,
        record_quaternions=quaternions,
    )
