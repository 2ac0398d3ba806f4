"""A data-set class of your own: everything that occlift does with nuScenes it does with yours.

    python examples/own_dataset.py FOLDER

Here: recordings in a format that nobody else has, a text file of poses and one image per line and camera. `Recordings`
is all that is needed; beside this file `occlift check 'own_dataset:Recordings?root=FOLDER'` and all other commands
open it. The rest of the file makes a small recording in FOLDER, to have one, and labels it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from occlift import CameraImage, KeyFrame, LabelConfig, generate_labels
from occlift.scenes import DatasetSpec, ImageFile

# Of the camera at the left and at the right: x right, y down, z forward → x forward, y left, z up.
MOUNTINGS = {
    name: np.array([[0, 0, 1, 1.2], [-1, 0, 0, left_m], [0, -1, 0, 1.5], [0, 0, 0, 1.0]])
    for name, left_m in (("left", 0.4), ("right", -0.4))
}
HEIGHT, WIDTH, FOCAL_PX = 60, 100, 50.0


class Recordings:
    """Drives, each a folder with `poses.txt` (a line per frame: microseconds, x, y, yaw) and <camera>/<frame>.png."""

    cameras = tuple(MOUNTINGS)

    def __init__(self, root: str) -> None:
        self.root = Path(root)
        # How worker processes and commands open it: module, class or function, its arguments.
        self.spec = DatasetSpec("own_dataset", "Recordings", {"root": root})

    def scenes(self, split: str = "all") -> tuple[str, ...]:
        return tuple(sorted(path.parent.name for path in self.root.glob("*/poses.txt")))

    def key_frame_tokens(self, scene: str) -> tuple[str, ...]:
        return tuple(f"{scene}-{number}" for number in range(len(self.poses(scene))))

    def key_frame(self, token: str) -> KeyFrame:
        scene, _, number = token.rpartition("-")
        time_us, x, y, yaw = self.poses(scene)[int(number)]
        c, s = np.cos(yaw), np.sin(yaw)
        pose = np.array([[c, -s, 0, x], [s, c, 0, y], [0, 0, 1, 0], [0, 0, 0, 1]])
        images = tuple(
            CameraImage(
                camera=camera, key=f"{token}-{camera}", timestamp_us=int(time_us), height=HEIGHT, width=WIDTH,
                intrinsics_px=np.array([[FOCAL_PX, 0, WIDTH / 2], [0, FOCAL_PX, HEIGHT / 2], [0, 0, 1]]),
                ego_at_image_from_camera=mounting, global_from_ego_at_image=pose,
                source=ImageFile(self.root / scene / camera / f"{token}.png"),
            )
            for camera, mounting in MOUNTINGS.items()
        )  # fmt: skip
        return KeyFrame(
            token=token, scene=scene, index=int(number), timestamp_us=int(time_us), global_from_ego=pose, cameras=images
        )

    def poses(self, scene: str) -> np.ndarray:
        return np.loadtxt(self.root / scene / "poses.txt", ndmin=2)


def make_recording(root: Path) -> None:
    """Three frames of a drive towards a wall, with the class and depth maps that networks would make of them."""
    (root / "drive").mkdir(parents=True)
    np.savetxt(root / "drive" / "poses.txt", [(500_000 * n, 1.5 * n, 0, 0) for n in range(3)])
    down = (np.mgrid[:HEIGHT, :WIDTH][0] + 0.5 - HEIGHT / 2) / FOCAL_PX
    for number in range(3):
        road_m = np.where(down > 0, 1.5 / np.maximum(down, 1e-9), np.inf)
        wall_m = 12.0 - 1.5 * number
        class_id = np.where(road_m < wall_m, 11, np.where(down > -0.2, 15, 17))  # Occ3D: road, man-made, sky
        depth_mm = 1000 * np.minimum(road_m, wall_m)
        for camera in MOUNTINGS:
            for folder, pixels in (("drive", class_id * 10), ("classes", class_id), ("depth", depth_mm)):
                path = root / folder / camera / f"drive-{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint16 if folder == "depth" else np.uint8)).save(path)


def main(folder: str) -> None:
    root = Path(folder)
    make_recording(root)
    config = LabelConfig(
        frames=3, semantics="files", semantics_options={"root": str(root / "classes")},
        depth="files", depth_options={"root": str(root / "depth"), "scale_m": "0.001"},
    )  # fmt: skip
    run = generate_labels(Recordings(folder), root / "labels", config)
    print(f"{run.done} labels in {run.out}")


if __name__ == "__main__":
    main(sys.argv[1])
