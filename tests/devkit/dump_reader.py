"""Writes what occlift's reader says about a data set, as JSON for `compare_devkit.py`.

    python tests/devkit/dump_reader.py ROOT DUMP.json [--version v1.0-mini]

Runs in the environment of this project; the comparison runs in one of its own, because the devkit needs numpy<2.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from occlift.datasets.nuscenes.dataset import NuScenes, NuScenesBox
from occlift.datasets.nuscenes.splits import OFFICIAL_SPLITS, official_scenes
from occlift.scenes.frames import CameraImage, KeyFrame, LidarSweep

# Upper bound of the visible fraction → token of the table.
_TOKENS = {0.4: 1, 0.6: 2, 0.8: 3, 1.0: 4, None: 0}


def camera_record(root: Path, camera: CameraImage) -> dict[str, Any]:
    return {
        "token": camera.key,
        "file": Path(camera.source.name).relative_to(root).as_posix(),
        "timestamp_us": camera.timestamp_us,
        "size_px": [camera.height, camera.width],
        "intrinsics_px": camera.intrinsics_px.tolist(),
        "ego_from_sensor": camera.ego_at_image_from_camera.tolist(),
        "global_from_ego": camera.global_from_ego_at_image.tolist(),
    }


def lidar_record(root: Path, lidar: LidarSweep) -> dict[str, Any]:
    return {
        "token": lidar.key,
        "file": Path(lidar.source.name).relative_to(root).as_posix(),
        "timestamp_us": lidar.timestamp_us,
        "ego_from_sensor": lidar.ego_from_lidar.tolist(),
        "global_from_ego": lidar.global_from_ego.tolist(),
    }


def box_record(box: NuScenesBox) -> dict[str, Any]:
    return {
        "token": box.token,
        "instance_token": box.instance,
        "category": box.category,
        "size_wlh_m": [box.size_lwh_m[i] for i in (1, 0, 2)],
        "global_from_box": box.global_from_box.tolist(),
        "visibility": _TOKENS[box.visibility],
        "num_lidar_points": box.num_lidar_points,
        "attributes": box.attributes,
        "velocity_global_m_s": box.velocity_global_m_s.tolist(),
    }


def key_frame_record(data: NuScenes, frame: KeyFrame) -> dict[str, Any]:
    sensors = {camera.camera: camera_record(data.root, camera) for camera in frame.cameras}
    return {
        "token": frame.token,
        "scene": frame.scene,
        "index": frame.index,
        "timestamp_us": frame.timestamp_us,
        "sensors": {**sensors, "LIDAR_TOP": lidar_record(data.root, frame.lidar_sweep())},
        "boxes": [box_record(box) for box in data.boxes(frame.token)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("dump", type=Path)
    parser.add_argument("--version")
    arguments = parser.parse_args()
    data = NuScenes.open(arguments.root, arguments.version)
    dump = {
        "version": data.version,
        "scenes": data.scenes(),
        "official_splits": {split: sorted(official_scenes(split)) for split in OFFICIAL_SPLITS},
        "key_frames": [
            key_frame_record(data, data.key_frame(token))
            for scene in data.scenes()
            for token in data.key_frame_tokens(scene)
        ],
    }
    arguments.dump.write_text(json.dumps(dump))
    print(f"{len(dump['key_frames'])} key frames of {len(data.scenes())} scenes written to {arguments.dump}")


if __name__ == "__main__":
    main()
