"""From a car with two fisheye cameras to a label in 3-D, in four steps.

    python examples/fisheye.py

The car stands in a hall: a grey floor, and red walls 8 m away. `photograph` and `classes_and_depths` stand for your
cameras, and for the networks that find classes and depths in your images. A few seconds.
"""

from __future__ import annotations

import numpy as np

from occlift import CameraImage, KeyFrame, OccupancyLabel, PosedView, label_from_views
from occlift.datasets.rectified import Rectified
from occlift.geometry.lens_projection import unproject
from occlift.geometry.lenses import KannalaBrandt
from occlift.scenes import ImageArray, KeyFrameList

HEIGHT, WIDTH = 240, 320
# 1. The lens as OpenCV calibrates it (cv2.fisheye); the principal point gets half a pixel more than there.
LENS = KannalaBrandt(k1=0.02, k2=-0.003)
INTRINSICS_PX = np.array([[96.0, 0, WIDTH / 2], [0, 96.0, HEIGHT / 2], [0, 0, 1]])
EGO_FROM_CAMERA = {
    "front": np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]]),
    "back": np.array([[0.0, 0, -1, 0], [1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]]),
}


def hall(rays_ego: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether rays of the cameras end on the floor, and after how many of their lengths they end."""
    floor = 1.5 / np.maximum(-rays_ego[..., 2], 1e-6)
    wall = 8.1 / np.abs(rays_ego[..., :2]).max(-1)
    return floor < wall, np.minimum(floor, wall)


def pixel_centers(height: int, width: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1)


def photograph(ego_from_camera: np.ndarray) -> np.ndarray:
    rays, shown = unproject(pixel_centers(HEIGHT, WIDTH), INTRINSICS_PX, LENS)
    on_floor, _ = hall(rays @ ego_from_camera[:3, :3].T)
    return (np.where(on_floor[..., None], (90, 90, 90), (200, 60, 50)) * shown[..., None]).astype(np.uint8)


def classes_and_depths(image: CameraImage) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.concatenate([pixel_centers(image.height, image.width), np.ones((image.height, image.width, 1))], -1)
    rays = pixels @ np.linalg.inv(image.intrinsics_px).T @ image.ego_at_image_from_camera[:3, :3].T
    is_red = image.read()[..., 0] > 145
    return np.where(is_red, 15, 11).astype(np.uint8), hall(rays)[1].astype(np.float32)  # 15 manmade, 11 road


def main() -> OccupancyLabel:
    # 2. The images of one moment, with calibration and poses; images in files are ImageFile(path).
    images = tuple(
        CameraImage(
            camera=name, key=f"{name}-0", timestamp_us=0, height=HEIGHT, width=WIDTH, intrinsics_px=INTRINSICS_PX,
            distortion=LENS, ego_at_image_from_camera=ego_from_camera, global_from_ego_at_image=np.eye(4),
            source=ImageArray(photograph(ego_from_camera)),
        )
        for name, ego_from_camera in EGO_FROM_CAMERA.items()
    )  # fmt: skip
    frame = KeyFrame(token="0", scene="hall", index=0, timestamp_us=0, global_from_ego=np.eye(4), cameras=images)
    # 3. Three virtual pinhole cameras for each fisheye.
    data = Rectified(KeyFrameList([frame]))
    print("cameras:", ", ".join(data.cameras))
    # 4. The label. Pixels that the lens does not show are not valid: they say nothing.
    views = []
    for image in data.key_frame("0").cameras:
        class_id, depth_m = classes_and_depths(image)
        pose = image.ego_at_image_from_camera
        views.append(
            PosedView(
                class_id=class_id, depth_m=depth_m, intrinsics_px=image.intrinsics_px, ego_from_camera=pose,
                valid=image.valid(),
            )
        )  # fmt: skip
    label = label_from_views(views)
    for name, class_id in (("road", 11), ("manmade", 15), ("free", 17), ("unknown", 255)):
        print(f"{name}: {(label.semantics == class_id).sum()} voxels")
    return label


if __name__ == "__main__":
    main()
