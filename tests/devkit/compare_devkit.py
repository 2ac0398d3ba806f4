"""Compares what occlift's reader says about a data set with the public nuscenes-devkit.

    python tests/devkit/compare_devkit.py ROOT DUMP.json [--points-in-boxes exact|report] [--without-maps]

Runs in an environment that has nuscenes-devkit (and not occlift); DUMP.json is from `dump_reader.py`. Opens the data
set with the devkit, calls `get_sample_data` on every sensor of every sample, and compares scenes, key frames, file
names, time stamps, calibration, poses, boxes and velocities. Exits with 1 and lists the first differences, if any.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from nuscenes.nuscenes import NuScenes
from nuscenes.utils import splits
from nuscenes.utils.data_classes import Box, LidarPointCloud
from nuscenes.utils.geometry_utils import BoxVisibility, points_in_box, transform_matrix
from pyquaternion import Quaternion

TOLERANCE = 1e-6
# The chain global → sensor goes through coordinates of kilometres, and differs in the order of its products.
CHAIN_TOLERANCE = 1e-5
LISTED = 20


class Differences:
    """Counts comparisons and differences, and keeps the first differences in words."""

    def __init__(self) -> None:
        self.num_compared = 0
        self.num_different = 0
        self.listed: list[str] = []

    def same(self, where: str, ours: Any, devkit: Any) -> None:
        self._count(ours == devkit, where, ours, devkit)

    def close(self, where: str, ours: Any, devkit: Any, tolerance: float = TOLERANCE) -> None:
        ours, devkit = np.asarray(ours, dtype=np.float64), np.asarray(devkit, dtype=np.float64)
        equal = ours.shape == devkit.shape and np.allclose(ours, devkit, rtol=0, atol=tolerance, equal_nan=True)
        self._count(equal, where, ours.tolist(), devkit.tolist())

    def _count(self, equal: bool, where: str, ours: Any, devkit: Any) -> None:
        self.num_compared += 1
        if not equal:
            self.num_different += 1
            if len(self.listed) < LISTED:
                self.listed.append(f"{where}\n    occlift: {ours}\n    devkit:  {devkit}")


def pose(record: dict[str, Any]) -> np.ndarray:
    return transform_matrix(record["translation"], Quaternion(record["rotation"]))


def box_pose(box: Box) -> np.ndarray:
    return transform_matrix(box.center, box.orientation)


def compare_scenes(nusc: NuScenes, dump: dict[str, Any], differences: Differences) -> None:
    differences.same("scenes", dump["scenes"], [scene["name"] for scene in nusc.scene])
    official = splits.create_splits_scenes()
    for split, scenes in dump["official_splits"].items():
        differences.same(f"official split {split}", scenes, sorted(official[split]))
    tokens = []
    for scene in nusc.scene:
        token = scene["first_sample_token"]
        while token:
            tokens.append([scene["name"], token])
            token = nusc.get("sample", token)["next"]
    differences.same("key frames", [[frame["scene"], frame["token"]] for frame in dump["key_frames"]], tokens)


def compare_sensor(
    nusc: NuScenes, where: str, ours: dict[str, Any], token: str, boxes: dict[str, Any], differences: Differences
) -> None:
    record = nusc.get("sample_data", token)
    calibration = nusc.get("calibrated_sensor", record["calibrated_sensor_token"])
    global_from_ego, ego_from_sensor = pose(nusc.get("ego_pose", record["ego_pose_token"])), pose(calibration)
    path, seen, intrinsics = nusc.get_sample_data(token, box_vis_level=BoxVisibility.NONE)
    differences.same(f"{where} token", ours["token"], token)
    differences.same(f"{where} file", ours["file"], Path(path).relative_to(nusc.dataroot).as_posix())
    differences.same(f"{where} file exists", Path(path).is_file(), True)
    differences.same(f"{where} timestamp", ours["timestamp_us"], record["timestamp"])
    differences.close(f"{where} ego pose", ours["global_from_ego"], global_from_ego)
    differences.close(f"{where} calibration", ours["ego_from_sensor"], ego_from_sensor)
    if intrinsics is not None:
        differences.close(f"{where} intrinsics", ours["intrinsics_px"], intrinsics)
        differences.same(f"{where} image size", ours["size_px"], [record["height"], record["width"]])
    # get_sample_data gives the boxes in the sensor's frame: both poses and their order are in that.
    sensor_from_global = np.linalg.inv(np.asarray(ours["global_from_ego"]) @ np.asarray(ours["ego_from_sensor"]))
    differences.same(f"{where} boxes", sorted(boxes), sorted(box.token for box in seen))
    for box in seen:
        if box.token in boxes:
            sensor_from_box = sensor_from_global @ np.asarray(boxes[box.token]["global_from_box"])
            differences.close(f"{where} box {box.token}", sensor_from_box, box_pose(box), CHAIN_TOLERANCE)


def compare_box(nusc: NuScenes, where: str, ours: dict[str, Any], differences: Differences) -> None:
    annotation = nusc.get("sample_annotation", ours["token"])
    box = nusc.get_box(ours["token"])
    visibility = annotation["visibility_token"]
    attributes = [nusc.get("attribute", token)["name"] for token in annotation["attribute_tokens"]]
    differences.same(f"{where} instance", ours["instance_token"], annotation["instance_token"])
    differences.same(f"{where} category", ours["category"], annotation["category_name"])
    differences.close(f"{where} size", ours["size_wlh_m"], box.wlh)
    differences.close(f"{where} pose", ours["global_from_box"], box_pose(box))
    differences.same(f"{where} visibility", ours["visibility"], int(visibility) if visibility else 0)
    differences.same(f"{where} lidar points", ours["num_lidar_points"], annotation["num_lidar_pts"])
    differences.same(f"{where} attributes", ours["attributes"], attributes)
    differences.close(f"{where} velocity", ours["velocity_global_m_s"], nusc.box_velocity(ours["token"]))


def points_per_box(nusc: NuScenes, lidar_token: str) -> tuple[list[int], list[int]]:
    """Counted lidar points and `num_lidar_pts`, for every box of a sweep."""
    path, boxes, _ = nusc.get_sample_data(lidar_token)
    points = LidarPointCloud.from_file(path).points[:3]
    counted = [int(points_in_box(box, points).sum()) for box in boxes]
    return counted, [nusc.get("sample_annotation", box.token)["num_lidar_pts"] for box in boxes]


def compare(nusc: NuScenes, dump: dict[str, Any], points_in_boxes: str | None) -> tuple[Differences, str]:
    """All differences, and in words how far the counted lidar points agree."""
    differences = Differences()
    compare_scenes(nusc, dump, differences)
    counted: list[int] = []
    stated: list[int] = []
    for frame in dump["key_frames"]:
        sample = nusc.get("sample", frame["token"])
        where = f"sample {frame['token']}"
        channels = sorted(name for name in sample["data"] if name.startswith("CAM_") or name == "LIDAR_TOP")
        differences.same(f"{where} timestamp", frame["timestamp_us"], sample["timestamp"])
        differences.same(f"{where} annotations", [box["token"] for box in frame["boxes"]], sample["anns"])
        differences.same(f"{where} channels", sorted(frame["sensors"]), channels)
        boxes = {box["token"]: box for box in frame["boxes"]}
        for channel, token in sample["data"].items():
            if channel in frame["sensors"]:
                compare_sensor(nusc, f"{where} {channel}", frame["sensors"][channel], token, boxes, differences)
            else:
                nusc.get_sample_data(token)
        for box in frame["boxes"]:
            compare_box(nusc, f"annotation {box['token']}", box, differences)
        if points_in_boxes:
            in_frame, in_table = points_per_box(nusc, sample["data"]["LIDAR_TOP"])
            counted += in_frame
            stated += in_table
            if points_in_boxes == "exact":
                differences.same(f"{where} points in boxes (counted, table)", in_frame, in_table)
    apart = np.abs(np.asarray(counted, dtype=np.int64) - np.asarray(stated, dtype=np.int64))
    agreement = (
        f"num_lidar_pts equals the counted points in {int((apart == 0).sum())} of {len(apart)} boxes, "
        f"differs by at most {int(apart.max())}, in sum {sum(counted)} counted and {sum(stated)} in the table"
        if len(apart)
        else "no lidar points counted in boxes"
    )
    return differences, agreement


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("dump", type=Path)
    parser.add_argument(
        "--points-in-boxes",
        choices=("exact", "report"),
        help="count the lidar points in each box; `exact` fails where num_lidar_pts is another number",
    )
    parser.add_argument("--without-maps", action="store_true", help="do not open the map masks (some have none)")
    arguments = parser.parse_args()
    dump = json.loads(arguments.dump.read_text())
    nusc = NuScenes(version=dump["version"], dataroot=str(arguments.root), verbose=False)
    differences, agreement = compare(nusc, dump, arguments.points_in_boxes)
    if not arguments.without_maps:
        for record in nusc.map:
            mask = record["mask"].mask()
            differences.same(f"map {record['filename']} is a mask", mask.ndim == 2 and mask.size > 0, True)
    print(f"{arguments.root}: {differences.num_compared} comparisons, {differences.num_different} differences")
    print(agreement)
    for line in differences.listed:
        print(line)
    sys.exit(1 if differences.num_different else 0)


if __name__ == "__main__":
    main()
