"""Labels of real sequences that are not nuScenes: six cameras and a lidar (DDAD), one grey camera (KITTI).

usage: real_sequences.py FOLDER OUT [ddad] [kitti]

FOLDER holds `ddad-three-frames` and `kitti-sequence`: images, poses, class maps of a network, and lidar or the depth
maps of a network. Both become `frames:` folders in OUT, are checked, labelled and drawn by the commands that users
call. What is printed then: how much of each label is occupied, free and unknown, and how many of the points of lidar
or stereo that the label's own key frame sees within 30 m lie in an occupied voxel, or beside one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation

from occlift import CameraImage, KeyFrame, LabelFolder, open_dataset
from occlift.datasets.frames.sources import PointFile
from occlift.datasets.frames.writer import write_frames
from occlift.geometry.transforms import inverse, transform_points
from occlift.label_space import OCC3D, UNKNOWN
from occlift.scenes import ImageFile, KeyFrameList, LidarSweep
from occlift.scenes.dataset import DrivingDataset


def ddad(folder: Path) -> KeyFrameList:
    """The three frames, each image and sweep with its own pose."""
    plain = json.loads((folder / "frames.json").read_text())
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
            ego_from_lidar=np.array(plain["ego_from_lidar"]),
            global_from_ego=pose,
            source=PointFile(folder / frame["lidar"]["path"], 4),
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


def lidar_points(data: DrivingDataset, token: str, folder: Path) -> np.ndarray:
    """The sweep in the ego frame."""
    frame = data.key_frame(token)
    sweep = frame.lidar_sweep()
    ego_from_lidar = inverse(frame.global_from_ego) @ sweep.global_from_ego @ sweep.ego_from_lidar
    return transform_points(ego_from_lidar, sweep.source.read()[:, :3].astype(float))


def stereo_points(data: DrivingDataset, token: str, folder: Path) -> np.ndarray:
    """The stereo depth map of the image as points in the ego frame."""
    (image,) = data.key_frame(token).cameras
    depth_m = np.asarray(Image.open(folder / "stereo_depth" / f"{image.stem}.png")) / 256.0
    rows, columns = np.nonzero((depth_m > 0) & (depth_m < 30))
    pixels = np.stack((columns + 0.5, rows + 0.5, np.ones(len(rows))), 1)
    points = pixels @ np.linalg.inv(image.intrinsics_px).T * depth_m[rows, columns, None]
    return transform_points(image.ego_at_image_from_camera, points)


SEQUENCES: dict[str, dict[str, Any]] = {
    "ddad": {
        "folder": "ddad-three-frames",
        "read": ddad,
        "points": lidar_points,
        "options": ["--frames", "3", "--depth", "lidar", "--stride", "2"],
        "drawn": "ddad_1",
    },
    "kitti": {
        "folder": "kitti-sequence",
        "read": kitti,
        "points": stereo_points,
        "options": ["--frames", "13", "--depth", "files"],
        "drawn": "kitti_000025",
    },
}


def run(name: str, root: Path, out: Path) -> None:
    """Everything about one sequence."""
    sequence = SEQUENCES[name]
    folder = root / sequence["folder"]
    frames = out / name / "frames"
    shutil.rmtree(out / name, ignore_errors=True)
    write_frames(sequence["read"](folder), frames)
    data = f"frames:{frames}"
    labels = out / name / "labels"
    options = ["--semantics", "files", "--semantics-option", f"root={folder / 'network_classes'}",
               f"pattern={'{camera}/{stem}.png' if name == 'ddad' else '{stem}.png'}"]  # fmt: skip
    if name == "kitti":
        options += ["--depth-option", f"root={folder / 'network_depth'}", "pattern={stem}.png", "scale_m=0.00390625"]
    subprocess.run([sys.executable, "-m", "occlift", "check", data, "--out", out / name / "check"], check=False)
    call("label", data, "--out", labels, *options, *sequence["options"])
    call("show", data, sequence["drawn"], "--labels", labels, "--out", out / name / "show")
    report(open_dataset(data), labels, sequence["points"], folder)


def call(*words: object) -> None:
    """A command of occlift, as users call it."""
    subprocess.run([sys.executable, "-m", "occlift", *map(str, words)], check=True)


def report(data: DrivingDataset, labels: Path, points: Any, folder: Path) -> None:
    """Prints what is in the labels, and how they agree with measured points."""
    grid, free = OCC3D.grid, OCC3D.taxonomy.free
    made = LabelFolder(labels)
    shares, hit, near = [], [], []
    for scene in data.scenes():
        for token in data.key_frame_tokens(scene):
            semantics = made.label(token).semantics.numpy()
            occupied = semantics < free
            shares.append([occupied.mean(), (semantics == free).mean(), (semantics == UNKNOWN).mean()])
            found = points(data, token, folder)
            found = found[np.linalg.norm(found[:, :2], axis=1) < 30]
            index, inside = grid.indices(found)
            at = tuple(index[inside & (np.linalg.norm(found[:, :2], axis=1) > 4)].T)
            seen = semantics[at] != UNKNOWN
            hit.append(occupied[at][seen].mean())
            near.append(binary_dilation(occupied, np.ones((3, 3, 3)))[at][seen].mean())
    occupied_share, free_share, unknown_share = 100 * np.mean(shares, 0)
    print(
        f"{len(shares)} labels: occupied {occupied_share:.1f} %, free {free_share:.1f} %, unknown {unknown_share:.1f} "
        f"%; of the measured points in known voxels {100 * np.mean(hit):.1f} % lie in an occupied one, "
        f"{100 * np.mean(near):.1f} % in or beside one"
    )


if __name__ == "__main__":
    for chosen in sys.argv[3:] or SEQUENCES:
        run(chosen, Path(sys.argv[1]), Path(sys.argv[2]))
