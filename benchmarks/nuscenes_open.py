"""How long opening tables of the size of nuScenes v1.0-trainval takes, and how much memory.

    python benchmarks/nuscenes_open.py FOLDER [--scale 0.1] [--devkit-python PYTHON]

Writes synthetic tables to FOLDER (2.4 GiB at full scale; reused if they are there), opens them cold (no index
cached) and warm, and with nuscenes-devkit if a Python that has it is given; each in a process of its own. The page
cache of the operating system is left as it is. Prints JSON: seconds, and the peak resident memory in GiB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VERSION = "v1.0-trainval"
SCENES, SAMPLES = 850, 34_149
# Records per sample, the key frame included: together 77, and 2.63 M over the data set, as in nuScenes.
RECORDS = {
    "LIDAR_TOP": 10,
    **dict.fromkeys(
        ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT"), 6
    ),
    **dict.fromkeys(("RADAR_FRONT", "RADAR_FRONT_LEFT", "RADAR_FRONT_RIGHT", "RADAR_BACK_LEFT"), 6),
    "RADAR_BACK_RIGHT": 7,
}
# 850 scenes × 76 tracks × 18 key frames: 1.16 M annotations.
TRACKS, TRACK_LENGTH = 76, 18
CATEGORIES = ("vehicle.car", "vehicle.truck", "human.pedestrian.adult", "movable_object.barrier")
ATTRIBUTES = ("vehicle.moving", "vehicle.parked", "pedestrian.moving")

OURS = """
import json, sys, time
from pathlib import Path
started = time.perf_counter()
from occlift.datasets.nuscenes.dataset import NuScenes
data = NuScenes.open(Path(sys.argv[1]))
opened = time.perf_counter()
tokens = [token for scene in data.scenes() for token in data.key_frame_tokens(scene)]
first = time.perf_counter()
data.boxes(tokens[0])
boxes = time.perf_counter()
some = tokens[:: max(1, len(tokens) // 1000)]
frames = [data.key_frame(token) for token in some]
framed = time.perf_counter()
annotations = sum(len(data.boxes(token)) for token in some)
result = {
    "open_s": opened - started, "first_boxes_s": boxes - first, "samples": len(tokens),
    "key_frame_ms": 1e3 * (framed - boxes) / len(some),
    "boxes_ms": 1e3 * (time.perf_counter() - framed) / len(some), "boxes_per_frame": annotations / len(some),
}
"""

DEVKIT = """
import json, sys, time
started = time.perf_counter()
from nuscenes import NuScenes
data = NuScenes(version=sys.argv[2], dataroot=sys.argv[1], verbose=False)
result = {"open_s": time.perf_counter() - started, "samples": len(data.sample)}
"""

# VmHWM belongs to this process alone; ru_maxrss would count the parent before exec too.
PEAK = """
try:
    status = open("/proc/self/status").read()
    result["peak_gib"] = int(status.split("VmHWM:")[1].split()[0]) / 2**20
except OSError:
    import resource
    result["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps(result))
"""


def token(*parts: object) -> str:
    """32 hexadecimal digits, as in nuScenes."""
    return hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=16).hexdigest()


def write_table(folder: Path, name: str, rows: Iterator[dict[str, Any]]) -> int:
    """Writes one table in nuScenes' formatting: a key per line, no indentation. Returns the number of rows."""
    count = 0
    with (folder / f"{name}.json").open("w", encoding="utf-8") as file:
        file.write("[\n")
        for count, row in enumerate(rows, start=1):
            file.write((",\n" if count > 1 else "") + json.dumps(row, indent=0))
        file.write("\n]")
    return count


class Tables:
    """Rows of synthetic tables; every value follows from the numbers of scene, sample, sensor and record."""

    def __init__(self, scale: float) -> None:
        self.num_scenes = max(1, round(SCENES * scale))
        self.num_samples = max(self.num_scenes, round(SAMPLES * scale))
        from occlift.datasets.nuscenes.splits import official_scenes

        self.names = sorted(official_scenes("train") | official_scenes("val"))

    def samples_of(self, scene: int) -> int:
        return self.num_samples // self.num_scenes + (scene < self.num_samples % self.num_scenes)

    def samples(self) -> Iterator[tuple[int, int]]:
        for scene in range(self.num_scenes):
            for index in range(self.samples_of(scene)):
                yield scene, index

    def time_us(self, scene: int, index: int) -> int:
        return 1_531_000_000_000_000 + scene * 1_000_000_000 + index * 500_000

    def scene_rows(self) -> Iterator[dict[str, Any]]:
        for scene in range(self.num_scenes):
            last = self.samples_of(scene) - 1
            yield {
                "token": token("scene", scene),
                "log_token": token("log", scene % 68),
                "nbr_samples": last + 1,
                "first_sample_token": token("sample", scene, 0),
                "last_sample_token": token("sample", scene, last),
                "name": self.names[scene],
                "description": "Parked truck, construction, intersection, turn left, following a van",
            }

    def sample_rows(self) -> Iterator[dict[str, Any]]:
        for scene, index in self.samples():
            last = index == self.samples_of(scene) - 1
            yield {
                "token": token("sample", scene, index),
                "timestamp": self.time_us(scene, index),
                "prev": token("sample", scene, index - 1) if index else "",
                "next": "" if last else token("sample", scene, index + 1),
                "scene_token": token("scene", scene),
            }

    def records(self) -> Iterator[tuple[int, int, str, int]]:
        for scene, index in self.samples():
            for channel, count in RECORDS.items():
                for number in range(count):
                    yield scene, index, channel, number

    def sample_data_rows(self) -> Iterator[dict[str, Any]]:
        for scene, index, channel, number in self.records():
            camera, key = channel.startswith("CAM"), number == 0
            suffix, form = (".jpg", "jpg") if camera else (".pcd.bin" if channel == "LIDAR_TOP" else ".pcd", "pcd")
            time_us = self.time_us(scene, index) + number * 500_000 // RECORDS[channel]
            record = index * RECORDS[channel] + number
            end = self.samples_of(scene) * RECORDS[channel] - 1
            yield {
                "token": token("data", scene, channel, record),
                "sample_token": token("sample", scene, index),
                "ego_pose_token": token("data", scene, channel, record),
                "calibrated_sensor_token": token("calibration", scene, channel),
                "timestamp": time_us,
                "fileformat": form,
                "is_key_frame": key,
                "height": 900 if camera else 0,
                "width": 1600 if camera else 0,
                "filename": f"{'samples' if key else 'sweeps'}/{channel}/"
                f"n015-2018-07-18-11-07-57+0800__{channel}__{time_us}{suffix}",
                "prev": token("data", scene, channel, record - 1) if record else "",
                "next": token("data", scene, channel, record + 1) if record < end else "",
            }

    def ego_pose_rows(self) -> Iterator[dict[str, Any]]:
        for scene, index, channel, number in self.records():
            record = index * RECORDS[channel] + number
            yield {
                "token": token("data", scene, channel, record),
                "timestamp": self.time_us(scene, index) + number * 500_000 // RECORDS[channel],
                "rotation": [0.5720320396729045, -0.0016977771610471074, 0.011798001930183783, -0.8201446642457809],
                "translation": [411.3039349319818 + index, 1180.8903791765097 + number / 7, 0.0],
            }

    def calibrated_sensor_rows(self) -> Iterator[dict[str, Any]]:
        camera_matrix = [[1266.417203046554, 0.0, 816.2670197447984], [0.0, 1266.417203046554, 491.50706579294757]]
        for scene in range(self.num_scenes):
            for channel in RECORDS:
                yield {
                    "token": token("calibration", scene, channel),
                    "sensor_token": token("sensor", channel),
                    "translation": [1.70079118954, 0.0159456324149, 1.51095763913],
                    "rotation": [0.4998015430569128, -0.5030316162024876, 0.4997798114386805, -0.49737083824542755],
                    "camera_intrinsic": [*camera_matrix, [0.0, 0.0, 1.0]] if channel.startswith("CAM") else [],
                }

    def tracks(self) -> Iterator[tuple[int, int, int, int]]:
        """Scene, track, and the first and last key frame of the track."""
        for scene in range(self.num_scenes):
            length = min(TRACK_LENGTH, self.samples_of(scene))
            for track in range(TRACKS):
                first = track * 37 % (self.samples_of(scene) - length + 1)
                yield scene, track, first, first + length - 1

    def instance_rows(self) -> Iterator[dict[str, Any]]:
        for scene, track, first, last in self.tracks():
            yield {
                "token": token("instance", scene, track),
                "category_token": token("category", track % len(CATEGORIES)),
                "nbr_annotations": last - first + 1,
                "first_annotation_token": token("annotation", scene, track, first),
                "last_annotation_token": token("annotation", scene, track, last),
            }

    def annotation_rows(self) -> Iterator[dict[str, Any]]:
        for scene, track, first, last in self.tracks():
            for index in range(first, last + 1):
                yield {
                    "token": token("annotation", scene, track, index),
                    "sample_token": token("sample", scene, index),
                    "instance_token": token("instance", scene, track),
                    "visibility_token": str(1 + (track + index) % 4),
                    "attribute_tokens": [token("attribute", track % len(ATTRIBUTES))],
                    "translation": [373.256 + track * 1.003, 1130.419 + index * 0.337, 0.8],
                    "size": [1.621, 4.669, 1.642],
                    "rotation": [0.9831098797903927, 0.0, 0.0, -0.18301629506281616],
                    "prev": token("annotation", scene, track, index - 1) if index > first else "",
                    "next": token("annotation", scene, track, index + 1) if index < last else "",
                    "num_lidar_pts": track % 50,
                    "num_radar_pts": 0,
                }


def write_tables(root: Path, scale: float) -> dict[str, int]:
    """Writes all 13 tables and the map file that the devkit wants to exist; returns the numbers of rows."""
    tables = Tables(scale)
    folder = root / VERSION
    folder.mkdir(parents=True, exist_ok=True)
    (root / "maps").mkdir(exist_ok=True)
    (root / "maps/map.png").touch()
    kinds = {channel: {"LID": "lidar", "CAM": "camera", "RAD": "radar"}[channel[:3]] for channel in RECORDS}
    rows: dict[str, Iterator[dict[str, Any]]] = {
        "sensor": ({"token": token("sensor", name), "channel": name, "modality": kinds[name]} for name in kinds),
        "category": (
            {"token": token("category", number), "name": name, "description": "", "index": number}
            for number, name in enumerate(CATEGORIES)
        ),
        "attribute": (
            {"token": token("attribute", number), "name": name, "description": ""}
            for number, name in enumerate(ATTRIBUTES)
        ),
        "visibility": (
            {"token": str(number), "level": level, "description": ""}
            for number, level in enumerate(("v0-40", "v40-60", "v60-80", "v80-100"), start=1)
        ),
        "log": (
            {
                "token": token("log", number),
                "logfile": f"log-{number}",
                "vehicle": "n015",
                "date_captured": "2018-07-18",
                "location": "singapore-onenorth",
            }
            for number in range(68)
        ),
        "map": iter(
            [
                {
                    "token": token("map"),
                    "log_tokens": [token("log", number) for number in range(68)],
                    "category": "semantic_prior",
                    "filename": "maps/map.png",
                }
            ]
        ),
        "scene": tables.scene_rows(),
        "sample": tables.sample_rows(),
        "calibrated_sensor": tables.calibrated_sensor_rows(),
        "instance": tables.instance_rows(),
        "sample_annotation": tables.annotation_rows(),
        "ego_pose": tables.ego_pose_rows(),
        "sample_data": tables.sample_data_rows(),
    }
    return {name: write_table(folder, name, table) for name, table in rows.items()}


def measured(python: str, program: str, *arguments: str, memory_gib: float | None = None) -> dict[str, Any]:
    """What a program in a process of its own prints, or why it did not."""

    def limit_memory() -> None:
        import resource

        assert memory_gib is not None
        limit = int(memory_gib * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    done = subprocess.run(
        [python, "-c", program + PEAK, *arguments],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit_memory if memory_gib else None,
    )
    if done.returncode:
        last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"failed": last_line, "exit_status": done.returncode, "memory_limit_gib": memory_gib}
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the tables are written, or lie already")
    parser.add_argument("--scale", type=float, default=1.0, help="part of v1.0-trainval's size, 0 < scale <= 1")
    parser.add_argument("--devkit-python", help="a Python that has nuscenes-devkit")
    parser.add_argument("--devkit-memory-gib", type=float, help="limit of the devkit's address space")
    arguments = parser.parse_args()

    root: Path = arguments.folder
    marker = root / "written.json"
    if not marker.exists() or json.loads(marker.read_text())["scale"] != arguments.scale:
        marker.unlink(missing_ok=True)
        started = time.perf_counter()
        rows = write_tables(root, arguments.scale)
        sys.stderr.write(f"tables written in {time.perf_counter() - started:.0f} s\n")
        marker.write_text(json.dumps({"scale": arguments.scale, "rows": rows}))

    from occlift.datasets.nuscenes.index_cache import cache_paths

    for path in cache_paths(root / VERSION):
        path.unlink(missing_ok=True)
    sizes = sum(path.stat().st_size for path in (root / VERSION).glob("*.json"))
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        **json.loads(marker.read_text()),
        "tables_gib": sizes / 2**30,
        "cold": measured(sys.executable, OURS, str(root)),
        "warm": measured(sys.executable, OURS, str(root)),
        "cache_gib": sum(path.stat().st_size for path in cache_paths(root / VERSION) if path.exists()) / 2**30,
    }
    if arguments.devkit_python:
        limit = arguments.devkit_memory_gib
        report["devkit"] = measured(arguments.devkit_python, DEVKIT, str(root), VERSION, memory_gib=limit)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
