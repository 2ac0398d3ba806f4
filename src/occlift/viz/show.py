"""`occlift show`: one key frame as pictures, to see at a glance whether poses, calibration, boxes and labels agree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from occlift.errors import DataError
from occlift.geometry.ego_vehicle import on_ego
from occlift.geometry.grids import VoxelGrid
from occlift.geometry.transforms import inverse, transform_points
from occlift.label_space import OCC3D, LabelSpace, Taxonomy
from occlift.labels.files import label_path, read_label
from occlift.runtime.progress import track
from occlift.scenes.dataset import DrivingDataset, HasBoxes, require_lidar
from occlift.scenes.frames import BoxAnnotation, KeyFrame
from occlift.scenes.rigs import single_rigs
from occlift.viz.birds_eye import Box, birds_eye_image
from occlift.viz.canvas import PAPER, add_caption, legend, panel, readable_name, stack
from occlift.viz.occupancy import height_levels, perspective_image, top_view_with_ruler
from occlift.viz.overlay import draw_lidar, draw_occupancy, resize

PANEL_WIDTH: Final = 800
"""Width of one image in the panels, pixels."""


@dataclass(frozen=True, kw_only=True)
class ShowRun:
    """Result of `show`: written files, and checks of lidar and boxes.

    Attributes:
        paths: paths of the PNG files: lidar on the images, occupancy on the images, bird's-eye view, occupancy.
        occupancy_from: what was drawn as occupancy.
        num_lidar_points: in the sweep; 0 without lidar.
        ground_height_m: z of the ground about the ego in the ego frame, by lidar; 0 if the ego frame lies on it.
        num_boxes: annotated in the key frame.
        num_boxes_agreeing: whose number of lidar points is within one of the data set's or 5 % of it.
    """

    paths: tuple[Path, ...]
    occupancy_from: str
    num_lidar_points: int
    ground_height_m: float
    num_boxes: int
    num_boxes_agreeing: int


def show(
    data: DrivingDataset, token: str, out: Path, *, labels: Path | None = None, space: LabelSpace = OCC3D
) -> ShowRun:
    """Draws one key frame as PNG files into the folder `out`.

    Args:
        token: token of the key frame.
        out: made if missing; files of the same names are replaced.
        labels: a folder in Occ3D's layout; without it the voxels that lidar hits are drawn as occupancy.
        space: grid and classes of the labels; voxels that lidar hits are drawn on this grid, too.

    Raises:
        ConfigError: there are neither labels nor lidar.
        DataError: the key frame, an image, the sweep or the label is missing or broken.
    """
    if labels is None:
        require_lidar(data, [token], "pictures without labels, of voxels that lidar hits")
    key_frame = data.key_frame(token)
    images = read_images(key_frame)
    rigs = single_rigs(key_frame)
    points_ego = lidar_in_ego(key_frame)
    annotations = data.boxes(token) if isinstance(data, HasBoxes) else ()
    boxes = [box_in_ego(annotation, key_frame, taxonomy=space.taxonomy) for annotation in annotations]
    names = [camera_caption(camera.camera) for camera in key_frame.cameras]

    if labels is None:
        semantics, heights = height_levels(voxelise_lidar(points_ego, space.grid))
        drawn_space = LabelSpace(grid=space.grid, taxonomy=heights)
        occupancy_from = "voxels that lidar hit, coloured by height"
    else:
        label = label_path(labels, key_frame.scene, token)
        semantics, drawn_space = read_label(label, allow_unknown=True, space=space).semantics, space
        occupancy_from = f"labels of {labels.name}"

    with_lidar: list[Image.Image] = []
    with_occupancy: list[Image.Image] = []
    for image, rig, name in zip(images, rigs, track(names, "drawing on images"), strict=True):
        small = rig.resized(round(PANEL_WIDTH * rig.height / rig.width), PANEL_WIDTH)
        reduced = resize(image, small.height, small.width)
        drawn = draw_lidar(reduced, small, points_ego)
        with_lidar.append(add_caption(Image.fromarray(drawn), name))
        drawn = draw_occupancy(reduced, small, semantics, space=drawn_space)
        with_occupancy.append(add_caption(Image.fromarray(drawn), name))

    above = top_view_with_ruler(semantics, space=drawn_space, size_px=600)
    perspective = perspective_image(semantics, space=drawn_space, height=600, width=1066)
    both = Image.new("RGB", (perspective.width + above.width + 12, max(perspective.height, above.height)), PAPER)
    both.paste(perspective, (0, 0))
    both.paste(above, (perspective.width + 12, 0))
    pictures = {
        "lidar_on_images.png": panel(with_lidar, 3),
        "occupancy_on_images.png": panel(with_occupancy, 3),
        "birds_eye.png": birds_eye_image(
            points_ego, boxes=boxes, cameras=rigs, camera_names=names, taxonomy=space.taxonomy
        ),
        "occupancy.png": both if labels is None else stack((both, legend(both.width, taxonomy=space.taxonomy))),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        picture.save(out / name)
    counts = [int(box.holds(points_ego).sum()) for box in boxes]
    agreeing = sum(
        abs(count - stated) <= max(1.0, 0.05 * stated)
        for count, annotation in zip(counts, annotations, strict=True)
        if (stated := annotation.num_lidar_points) is not None
    )
    return ShowRun(
        paths=tuple(out / name for name in pictures),
        occupancy_from=occupancy_from,
        num_lidar_points=len(points_ego),
        ground_height_m=ground_height_m(points_ego),
        num_boxes=len(boxes),
        num_boxes_agreeing=agreeing,
    )


def read_images(key_frame: KeyFrame) -> list[UInt8[np.ndarray, "height width 3"]]:
    """The images of a key frame, in its camera order.

    Raises:
        DataError: the frame has no cameras, or an image is missing, broken, or not of the size that the data set says.
    """
    if not key_frame.cameras:
        raise DataError(f"key frame {key_frame.token}: expected camera images, but it has none")
    return [camera.read() for camera in key_frame.cameras]


def camera_caption(camera: str) -> str:
    """CAM_FRONT_LEFT → front left."""
    return readable_name(camera.removeprefix("CAM_")).lower()


def lidar_in_ego(key_frame: KeyFrame) -> Float[np.ndarray, "n 3"]:
    """The lidar sweep in the ego frame of the key frame, metres; no points where the key frame has no lidar."""
    if key_frame.lidar is None:
        return np.zeros((0, 3))
    points_lidar = key_frame.lidar.source.read()[:, :3].astype(np.float64)
    return transform_points(key_frame.ego_from_lidar(key_frame.lidar), points_lidar)


def box_in_ego(annotation: BoxAnnotation, key_frame: KeyFrame, *, taxonomy: Taxonomy = OCC3D.taxonomy) -> Box:
    """An annotated box in the ego frame of the key frame."""
    ego_from_global = inverse(key_frame.global_from_ego)
    return Box(
        ego_from_box=ego_from_global @ annotation.global_from_box,
        size_lwh_m=annotation.size_lwh_m,
        class_id=taxonomy.class_of_category(annotation.category),
    )


def voxelise_lidar(points_ego: Float[np.ndarray, "n 3"], grid: VoxelGrid) -> Bool[np.ndarray, "x y z"]:
    """The voxels that hold a lidar return which is not from the ego vehicle itself."""
    return grid.occupied_by(points_ego[~on_ego(points_ego)])


def ground_height_m(points_ego: Float[np.ndarray, "n 3"]) -> float:
    """Median height of returns between 3 and 15 m from the ego and within 0.5 m of z = 0; NaN if there are none.

    Which layer of voxels the ground is in follows from this number.
    """
    distance_m = np.hypot(points_ego[:, 0], points_ego[:, 1])
    ground = points_ego[(distance_m > 3) & (distance_m < 15) & (np.abs(points_ego[:, 2]) < 0.5), 2]
    return float(np.median(ground)) if len(ground) else float("nan")
