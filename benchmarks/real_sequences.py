"""Labels of real sequences that are not nuScenes: six cameras and a lidar (DDAD), one grey camera (KITTI).

usage: real_sequences.py FOLDER OUT [ddad] [kitti]

FOLDER holds `ddad-three-frames` and `kitti-sequence`: images, poses, class maps of a network, and lidar or the depth
maps of a network. Both become `frames:` folders in OUT, are checked, labelled, drawn and held against measured depth by
the commands that users call. KITTI's labels, from the depth of a network, are held against the stereo depth of their
own image; DDAD's labels are made from lidar, so those of single frames are held against the sweep of the next one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from occlift import CameraImage, KeyFrame
from occlift.datasets.frames.writer import write_frames
from occlift.geometry.transforms import inverse, rigid_transform
from occlift.scenes import ImageFile, KeyFrameList, LidarSweep
from occlift.scenes.sources import LidarSource


@dataclass(frozen=True, kw_only=True)
class PointsFrom(LidarSource):
    """Points of a file that are given in the ego frame, as they look from a place in it."""

    path: Path
    place_m: tuple[float, float, float]

    @property
    def name(self) -> str:
        return str(self.path)

    def read(self) -> np.ndarray:
        points = np.load(self.path)
        points[:, :3] -= np.array(self.place_m, points.dtype)
        return points


def ddad(folder: Path) -> KeyFrameList:
    """The three frames, each image and sweep with its own pose.

    The points are given in the ego frame: from where they were measured is not told. The lidar's heads stand on the
    roof beside the cameras, so the mean of these is where rays start.
    """
    plain = json.loads((folder / "frames.json").read_text())
    cameras_m = [np.array(camera["ego_from_camera"])[:3, 3] for camera in plain["cameras"].values()]
    x, y, z = np.mean(cameras_m, axis=0).round(2).tolist()
    ego_from_lidar = np.array(plain["ego_from_lidar"]) @ rigid_transform(np.eye(3), (x, y, z))
    frames = []
    for number, frame in enumerate(plain["frames"]):
        images = []
        for name, camera in plain["cameras"].items():
            image = frame["images"][name]
            mounting = np.array(camera["ego_from_camera"])
            intrinsics_px = np.array(camera["intrinsics_px"], float)
            intrinsics_px[:2, 2] += 0.5
            images.append(
                CameraImage(
                    camera=name,
                    key=f"{name}_{number}",
                    timestamp_us=100_000 * number + image["timestamp_us"],
                    height=camera["height"],
                    width=camera["width"],
                    intrinsics_px=intrinsics_px,
                    ego_at_image_from_camera=mounting,
                    global_from_ego_at_image=np.array(image["global_from_camera"]) @ inverse(mounting),
                    source=ImageFile(folder / image["path"]),
                )
            )
        pose = np.array(frame["global_from_ego"])
        sweep = LidarSweep(
            key=f"lidar_{number}",
            timestamp_us=100_000 * number,
            ego_from_lidar=ego_from_lidar,
            global_from_ego=pose,
            source=PointsFrom(path=folder / frame["lidar"]["path"], place_m=(x, y, z)),
        )
        frames.append(
            KeyFrame(
                token=f"ddad_{number}",
                scene="ddad",
                index=number,
                timestamp_us=100_000 * number,
                global_from_ego=pose,
                cameras=tuple(images),
                lidar=sweep,
            )
        )
    return KeyFrameList(frames)


def kitti(folder: Path) -> KeyFrameList:
    """51 frames of the left grey camera; the ego frame lies on the road below it."""
    plain = json.loads((folder / "calibration_and_poses.json").read_text())
    intrinsics_px = np.array(plain["intrinsics_px"])
    intrinsics_px[:2, 2] += 0.5
    mounting = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, plain["camera_height_m"]], [0, 0, 0, 1.0]])
    frames = []
    for number, pose in enumerate(plain["global_from_camera"]):
        global_from_ego = np.array(pose) @ inverse(mounting)
        image = CameraImage(
            camera="grey",
            key=f"grey_{number:06d}",
            timestamp_us=100_000 * number,
            height=plain["height"],
            width=plain["width"],
            intrinsics_px=intrinsics_px,
            ego_at_image_from_camera=mounting,
            global_from_ego_at_image=global_from_ego,
            source=ImageFile(folder / "images" / f"{number:06d}.png"),
        )
        frames.append(
            KeyFrame(
                token=f"kitti_{number:06d}",
                scene="kitti",
                index=number,
                timestamp_us=100_000 * number,
                global_from_ego=global_from_ego,
                cameras=(image,),
            )
        )
    return KeyFrameList(frames)


MAPS = ["pattern={stem}.png", "scale_m=0.00390625"]

SEQUENCES: dict[str, dict[str, Any]] = {
    "ddad": {
        "folder": "ddad-three-frames",
        "read": ddad,
        "classes": "{camera}/{stem}.png",
        "options": ["--frames", "3", "--depth", "lidar", "--stride", "2"],
        "drawn": "ddad_1",
        "judged": ["--frames", "1"],
        "audit": ["--against-depth", "lidar", "--depth-offset", "1"],
    },
    "kitti": {
        "folder": "kitti-sequence",
        "read": kitti,
        "classes": "{stem}.png",
        "options": ["--frames", "13", "--depth", "files", "--depth-option", "root=FOLDER/network_depth", *MAPS],
        "drawn": "kitti_000025",
        "judged": [],
        "audit": ["--against-depth", "files", "--depth-option", "root=FOLDER/stereo_depth", *MAPS],
    },
}


def run(name: str, root: Path, out: Path) -> None:
    """Everything about one sequence."""
    sequence = SEQUENCES[name]
    folder = root / sequence["folder"]
    shutil.rmtree(out / name, ignore_errors=True)
    write_frames(sequence["read"](folder), out / name / "frames")
    data = f"frames:{out / name / 'frames'}"
    labels = judged = out / name / "labels"
    options, judge = ([word.replace("FOLDER", str(folder)) for word in sequence[key]] for key in ("options", "audit"))
    options += ["--semantics", "files", "--semantics-option", f"root={folder / 'network_classes'}",
                f"pattern={sequence['classes']}"]  # fmt: skip
    call("check", data, "--out", out / name / "check", check=False)
    call("label", data, "--out", labels, *options)
    call("show", data, sequence["drawn"], "--labels", labels, "--out", out / name / "show")
    if sequence["judged"]:
        judged = out / name / "labels-judged"
        call("label", data, "--out", judged, *options, *sequence["judged"])
    call("audit", judged, "--root", data, *judge)


def call(*words: object, check: bool = True) -> None:
    """A command of occlift, as users call it."""
    subprocess.run([sys.executable, "-m", "occlift", *map(str, words)], check=check)


if __name__ == "__main__":
    for chosen in sys.argv[3:] or SEQUENCES:
        run(chosen, Path(sys.argv[1]), Path(sys.argv[2]))
