"""From arrays to an occupancy label: no data set, no files, no network.

    python examples/labels_from_arrays.py

Two cameras stand on a road in front of a wall. What a network would say about their images, a class and a depth for
every pixel, is computed here; put in yours.
"""

from __future__ import annotations

import numpy as np

from occlift import OCC3D, PosedView, label_from_views

HEIGHT, WIDTH, FOCAL_PX = 120, 200, 100.0
CAMERA_HEIGHT_M, WALL_M = 1.5, 15.0


def view(left_m: float) -> PosedView:
    """What a camera sees that stands `left_m` to the left of the middle of the car and looks forward."""
    rows, _ = np.mgrid[:HEIGHT, :WIDTH] + 0.5  # pixel centres
    down = (rows - HEIGHT / 2) / FOCAL_PX  # slope of the ray of every pixel
    road_m = np.where(down > 0, CAMERA_HEIGHT_M / np.maximum(down, 1e-9), np.inf)
    names = np.where(road_m < WALL_M, "driveable_surface", np.where(down > -0.2, "manmade", "free"))
    class_ids = {name: OCC3D.taxonomy.id_of(name) for name in np.unique(names)}
    return PosedView(
        class_id=np.vectorize(class_ids.get)(names).astype(np.uint8),  # free: the sky
        depth_m=np.minimum(road_m, WALL_M).astype(np.float32),  # along the optical axis
        intrinsics_px=np.array([[FOCAL_PX, 0, WIDTH / 2], [0, FOCAL_PX, HEIGHT / 2], [0, 0, 1]]),
        # The columns are the camera's right, down and forward, and its position: forward, left, up of the car.
        ego_from_camera=np.array([[0, 0, 1, 0], [-1, 0, 0, left_m], [0, -1, 0, CAMERA_HEIGHT_M], [0, 0, 0, 1.0]]),
    )


def main() -> None:
    label = label_from_views([view(0.5), view(-0.5)])
    for class_id, count in zip(*np.unique(label.semantics, return_counts=True), strict=True):
        print(f"{OCC3D.taxonomy.name_of(int(class_id)):20}{count:7} voxels")


if __name__ == "__main__":
    main()
