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
from occlift.labels.files import label_path, prediction_path, read_truth
from occlift.runtime.files import replacing
from occlift.runtime.progress import track
from occlift.scenes.dataset import DrivingDataset, HasBoxes
from occlift.scenes.frames import BoxAnnotation, KeyFrame
from occlift.scenes.rigs import single_rigs
from occlift.viz.birds_eye import BIRDS_EYE_REACH_M, Box, birds_eye_image, height_colors
from occlift.viz.canvas import PAPER, add_caption, color_scale, gallery, gallery_sizes, legend, readable_name, stack
from occlift.viz.occupancy import height_levels, perspective_image, top_view_with_ruler
from occlift.viz.overlay import MAX_SHOWN_DEPTH_M, depth_colors, draw_lidar, draw_occupancy, resize

PANEL_WIDTH: Final = 800
"""Width of one image in the panels, pixels."""

_LARGE_PX: Final = 28
"""Size of the legend's letters below images, which are shown smaller than they are."""

RIG_REACH_M: Final = 20.0
"""How far the picture from above reaches where it shows cameras alone."""


@dataclass(frozen=True, kw_only=True)
class ShowRun:
    """Result of `show`: written files, and checks of lidar and boxes.

    Attributes:
        paths: paths of the PNG files: images (with the lidar's points, where there are any), occupancy on the images,
            bird's-eye view, occupancy; without the second and the last where nothing says what is occupied.
        occupancy_from: what was drawn as occupancy; None: nothing.
        num_lidar_points: in the sweep; 0 without lidar.
        ground_height_m: z of the ground about the ego in the ego frame, by lidar; 0 if the ego frame lies on it, NaN if
            there is no lidar.
        num_boxes: annotated in the key frame.
        num_boxes_stated: of which the data set says how many lidar points they hold.
        num_boxes_agreeing: of these, whose number of lidar points is within one of the data set's or 5 % of it.
        notes: what could not be drawn, as sentences.
    """

    paths: tuple[Path, ...]
    occupancy_from: str | None
    num_lidar_points: int
    ground_height_m: float
    num_boxes: int
    num_boxes_stated: int
    num_boxes_agreeing: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Occupancy:
    """What is drawn as occupancy, on which grid and in which colours, and where it is from."""

    semantics: UInt8[np.ndarray, "x y z"]
    space: LabelSpace
    source: str
    has_classes: bool


def show(
    data: DrivingDataset, token: str, out: Path, *, labels: Path | None = None, space: LabelSpace = OCC3D
) -> ShowRun:
    """Draws one key frame as PNG files into the folder `out`.

    Args:
        token: token of the key frame.
        out: made if missing; files of the same names are replaced.
        labels: a folder of labels or truth (`<scene>/<token>/labels.npz`) or of predictions (`<token>.npz`), or one
            such file, whose voxels are those of the key frame; without it the voxels that lidar hits are drawn as
            occupancy, if there is a lidar.
        space: grid and classes of the labels; voxels that lidar hits are drawn on this grid, too.

    Raises:
        DataError: the key frame, an image or the label is missing or broken.
    """
    key_frame = data.key_frame(token)
    images = read_images(key_frame)
    rigs = single_rigs(key_frame)
    names = [camera_caption(camera.camera) for camera in key_frame.cameras]
    points_ego, notes = read_lidar(key_frame)
    annotations, more = _read_boxes(data, token)
    notes += more
    boxes = [box_in_ego(annotation, key_frame, taxonomy=space.taxonomy) for annotation in annotations]
    occupancy = occupancy_of(key_frame, points_ego, labels, space)

    sizes = gallery_sizes([image.shape[:2] for image in images], column_px=PANEL_WIDTH)
    with_lidar: list[Image.Image] = []
    with_occupancy: list[Image.Image] = []
    flat = [size for row in sizes for size in row]
    for image, rig, name, size in zip(images, rigs, track(names, "drawing on images"), flat, strict=True):
        small, reduced = rig.resized(*size), resize(image, *size)
        drawn = draw_lidar(reduced, small, points_ego)
        with_lidar.append(add_caption(Image.fromarray(drawn), name))
        if occupancy is not None:
            drawn = draw_occupancy(reduced, small, occupancy.semantics, space=occupancy.space)
            with_occupancy.append(add_caption(Image.fromarray(drawn), name))

    counts = [len(row) for row in sizes]
    pictures = {"images.png": gallery(with_lidar, counts)}
    if len(points_ego):
        depths_m = np.geomspace(2.0, MAX_SHOWN_DEPTH_M, 256)
        scale = color_scale("distance", "2 m", f"{MAX_SHOWN_DEPTH_M:g} m", depth_colors(depths_m), size_px=_LARGE_PX)
        pictures = {"lidar_on_images.png": stack((pictures["images.png"], scale))}
    if occupancy is not None:
        on_images = gallery(with_occupancy, counts)
        pictures["occupancy_on_images.png"] = stack(
            (on_images, _meaning(occupancy, on_images.width, unknown=False, size_px=_LARGE_PX))
        )
    reach_m = BIRDS_EYE_REACH_M if len(points_ego) or boxes else RIG_REACH_M
    above = birds_eye_image(
        points_ego, boxes=boxes, cameras=rigs, camera_names=names, taxonomy=space.taxonomy, reach_m=reach_m
    )
    below = []
    if len(points_ego):
        below.append(color_scale("height of points", "-0.5 m", "4 m", height_colors(np.linspace(-0.5, 4.0, 256))))
    if boxes:
        below.append(legend(above.width, taxonomy=space.taxonomy, unknown=False))
    pictures["birds_eye.png"] = stack((above, *below))
    if occupancy is not None:
        both = beside(
            perspective_image(occupancy.semantics, space=occupancy.space, height=600, width=1066),
            top_view_with_ruler(occupancy.semantics, space=occupancy.space, size_px=600),
        )
        pictures["occupancy.png"] = stack((both, _meaning(occupancy, both.width)))
    for name, picture in pictures.items():
        with replacing(out / name) as file:
            picture.save(file, "PNG")
    numbers = [int(box.holds(points_ego).sum()) for box in boxes]
    agreeing = sum(
        abs(number - stated) <= max(1.0, 0.05 * stated)
        for number, annotation in zip(numbers, annotations, strict=True)
        if (stated := annotation.num_lidar_points) is not None
    )
    return ShowRun(
        paths=tuple(out / name for name in pictures),
        occupancy_from=None if occupancy is None else occupancy.source,
        num_lidar_points=len(points_ego),
        ground_height_m=ground_height_m(points_ego),
        num_boxes=len(boxes),
        num_boxes_stated=sum(annotation.num_lidar_points is not None for annotation in annotations),
        num_boxes_agreeing=agreeing,
        notes=notes,
    )


def _meaning(occupancy: Occupancy, width: int, *, unknown: bool = True, size_px: int = 14) -> Image.Image:
    """What the colours of the voxels mean: classes, or heights."""
    if occupancy.has_classes:
        return legend(width, taxonomy=occupancy.space.taxonomy, unknown=unknown, size_px=size_px)
    low_m, high_m = occupancy.space.grid.lower_m[2], occupancy.space.grid.upper_m[2]
    colors = np.asarray(occupancy.space.taxonomy.palette[:-1], np.uint8)
    return color_scale("height of voxels", f"{low_m:g} m", f"{high_m:g} m", colors, size_px=size_px)


def occupancy_of(
    key_frame: KeyFrame, points_ego: Float[np.ndarray, "n 3"], labels: Path | None, space: LabelSpace
) -> Occupancy | None:
    """The label or prediction of a key frame, or the voxels that lidar hits; None where there is neither.

    Raises:
        DataError: the label or prediction is missing or broken.
    """
    if labels is not None:
        path, source = _volume_of(labels, key_frame)
        semantics = read_truth(path, (), space=space).semantics
        return Occupancy(semantics=semantics, space=space, source=source, has_classes=True)
    if not len(points_ego):
        return None
    semantics, heights = height_levels(voxelise_lidar(points_ego, space.grid))
    return Occupancy(
        semantics=semantics, space=LabelSpace(grid=space.grid, taxonomy=heights),
        source="voxels that lidar hit, coloured by height", has_classes=False,
    )  # fmt: skip


def _volume_of(labels: Path, key_frame: KeyFrame) -> tuple[Path, str]:
    """The file of a key frame's label or prediction, and what to call it.

    Raises:
        DataError: there is none.
    """
    if labels.is_file():
        return labels, labels.name
    label, prediction = label_path(labels, key_frame.scene, key_frame.token), prediction_path(labels, key_frame.token)
    if label.is_file():
        return label, f"labels of {labels.name}"
    if prediction.is_file():
        return prediction, f"predictions of {labels.name}"
    if not labels.is_dir():
        raise DataError(f"{labels}: no such file or folder; expected labels, truth or predictions")
    raise DataError(
        f"{labels}: holds nothing of key frame {key_frame.token}; expected its label or truth, "
        f"{label.relative_to(labels)}, or its prediction, {prediction.name}"
    )


def read_lidar(key_frame: KeyFrame) -> tuple[Float[np.ndarray, "n 3"], tuple[str, ...]]:
    """`lidar_in_ego`, and a note where a sweep cannot be read, which leaves the images to be seen."""
    try:
        return lidar_in_ego(key_frame), ()
    except DataError as error:
        return np.zeros((0, 3)), (f"no lidar is drawn: {error}",)


def _read_boxes(data: DrivingDataset, token: str) -> tuple[tuple[BoxAnnotation, ...], tuple[str, ...]]:
    """The boxes of a key frame, if there are any, and a note where they cannot be read."""
    if not isinstance(data, HasBoxes):
        return (), ()
    try:
        return data.boxes(token), ()
    except DataError as error:
        return (), (f"no boxes are drawn: {error}",)


def beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures side by side, on paper."""
    both = Image.new("RGB", (left.width + right.width + 12, max(left.height, right.height)), PAPER)
    both.paste(left, (0, 0))
    both.paste(right, (left.width + 12, 0))
    return both


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
