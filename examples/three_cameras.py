"""Three cameras, no lidar, no nuScenes: a `frames:` folder from beginning to end, by the commands of occlift.

    python examples/three_cameras.py FOLDER

The images come from a town, because every machine has one; of its six cameras three are taken. What is written here is
what you write for your own car: docs/own_data.md.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from occlift import open_dataset
from occlift.scenes.truth_maps import truth_maps_path

CAMERAS = {"CAM_FRONT_LEFT": "left", "CAM_FRONT": "front", "CAM_FRONT_RIGHT": "right"}


def write_rig(town: Path, rig: Path) -> None:
    """One folder per scene: calibration.json, frames.jsonl, and images."""
    data = open_dataset(town)
    for scene in data.scenes():
        cameras, lines = {}, []
        for token in data.key_frame_tokens(scene):
            frame = data.key_frame(token)
            images = {}
            for image in frame.cameras:
                if image.camera not in CAMERAS:
                    continue
                name = CAMERAS[image.camera]
                (fx, _, cx), (_, fy, cy), _ = image.intrinsics_px.tolist()
                cameras[name] = {
                    "width": image.width,
                    "height": image.height,
                    "intrinsics_px": {"fx": fx, "fy": fy, "cx": cx, "cy": cy},
                    "ego_from_camera": image.ego_at_image_from_camera.tolist(),
                }
                path = f"images/{name}/{frame.index:03d}.jpg"
                images[name] = {
                    "path": path,
                    "timestamp_us": image.timestamp_us,
                    "global_from_ego": image.global_from_ego_at_image.tolist(),
                }
                target = rig / scene / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(image.source.name, target)
                # The teacher `oracle` reads the town's truth; with yours, name the teachers of docs/labels.md.
                shutil.copyfile(truth_maps_path(Path(image.source.name)), truth_maps_path(target))
            lines.append(
                {
                    "token": token,  # optional; here so that the town's truth, which has it as its name, is found
                    "timestamp_us": frame.timestamp_us,
                    "global_from_ego": frame.global_from_ego.tolist(),
                    "images": images,
                }
            )
        # cx and cy of a town have the centre of the first pixel at 0.5; OpenCV's have it at 0.
        calibration = {"pixel_center": 0.5, "cameras": cameras}
        (rig / scene / "calibration.json").write_text(json.dumps(calibration, indent=2))
        (rig / scene / "frames.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def occlift(*words: object) -> None:
    """Runs a command, as you would in a terminal."""
    print("$ occlift", *words, flush=True)
    subprocess.run([sys.executable, "-m", "occlift", *map(str, words)], check=True)


def main(folder: str, height: int = 96, width: int = 176, steps: int = 20) -> None:
    out = Path(folder)
    town, rig, labels, run = (out / name for name in ("town", "rig", "labels", "run"))
    size = ("--image-height", height, "--image-width", width)
    occlift("town", town, "--scenes", 2, "--frames", 4, *size, "--maps")
    write_rig(town, rig)
    data = f"frames:{rig}"
    occlift("check", data, "--out", out / "check")
    oracle = ("--semantics", "oracle:foundation", "--depth", "oracle:foundation")
    occlift("label", data, "--out", labels, "--frames", 3, *oracle)
    occlift("train", "easyocc-demo", data, "--labels", labels, "--out", run, "--steps", steps)
    occlift("predict", run / "last.ckpt", data, "--out", out / "predictions")
    occlift("evaluate", "--predictions", out / "predictions", "--truth", town / "gts", "--root", data, "--split", "val")
    token = open_dataset(data).key_frame_tokens(open_dataset(data).scenes("val")[0])[1]
    occlift("show", data, token, "--labels", labels, "--out", out / "show")


if __name__ == "__main__":
    main(sys.argv[1])
