"""A rig as one picture: cameras from above and from the side, the path, and a ground grid drawn into every image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from occlift.geometry.ego_vehicle import EGO_BOXES_M
from occlift.geometry.transforms import inverse, transform_points
from occlift.runtime.files import replacing
from occlift.scenes.frames import BoxAnnotation, CameraImage, KeyFrame
from occlift.viz.canvas import PAPER, add_caption, font, panel, stack

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GRID_M: Final = (5.0, 30.0)
"""Distance of the lines of the ground grid, and how far it reaches."""

_NEAR_M: Final = 0.3
_AHEAD_COLOR: Final = (255, 140, 0)
_GRID_COLOR: Final = (0, 200, 255)
_BOX_COLOR: Final = (255, 230, 0)
_FRUSTUM_M: Final = 0.9
_ROW_PX: Final = (1560, 470)
_IMAGE_WIDTH: Final = 512

_Line = tuple[Float[np.ndarray, "points 3"], tuple[int, int, int], int]


def draw_rig(
    frame: KeyFrame, path_frames: Sequence[KeyFrame], path: Path, *, boxes: Sequence[BoxAnnotation] = ()
) -> None:
    """Draws a key frame so that wrong calibrations and poses are seen at a glance.

    If the ground grid lies on the road in every image, mounting and intrinsics are right; if the arrows along the path
    point where the car goes, its poses are.

    Args:
        path_frames: key frames of the scene, whose positions are drawn.
        path: PNG file.
        boxes: annotations of the key frame, drawn into the images as lidar points are, and what a mask leaves out.

    Raises:
        DataError: an image cannot be read.
    """
    images = [add_caption(draw_ground_grid(image, frame, boxes=boxes), image.camera) for image in frame.cameras]
    columns = min(len(images), 3)
    note = add_caption(
        Image.new("RGB", (_ROW_PX[0], 1), PAPER),
        f"key frame {frame.token}; the grid lies at z = 0 of the ego frame, 5 m apart, as far as 30 m; orange: x = 10, "
        "20, 30 m ahead" + ("; dots: lidar, near red" if frame.lidar else "") + ("; yellow: boxes" if boxes else ""),
    )
    picture = stack((_draw_rows(frame, path_frames), note, panel(images, columns)))
    with replacing(path) as file:
        picture.save(file, "PNG")


def draw_ground_grid(
    image: CameraImage, frame: KeyFrame, *, width: int = _IMAGE_WIDTH, boxes: Sequence[BoxAnnotation] = ()
) -> Image.Image:
    """The image, reduced, with the grid z = 0 of the ego frame of its key frame, and whatever else has a place in it:
    pixels that are not valid, lidar points, boxes."""
    pixels, valid = image.read(), image.valid()
    if valid is not None:
        pixels = np.where(valid[..., None], pixels, (0.4 * pixels + 0.6 * np.array([200, 0, 160])).astype(np.uint8))
    picture = Image.fromarray(pixels)
    scale = width / picture.width
    picture = picture.resize((width, max(1, round(picture.height * scale))), Image.Resampling.LANCZOS)
    camera_from_ego = inverse(frame.ego_from_camera(image))
    intrinsics_px = image.pinhole_intrinsics_px * np.array([[scale], [picture.height / image.height], [1.0]])
    if frame.lidar is not None:
        points_lidar = frame.lidar.source.read()[:, :3].astype(np.float64)
        points_camera = transform_points(camera_from_ego @ frame.ego_from_lidar(frame.lidar), points_lidar)
        picture = Image.fromarray(_paint_points(np.array(picture), points_camera, intrinsics_px))
    draw = ImageDraw.Draw(picture)
    spacing_m, reach_m = _GRID_M
    for line_m, color, thick in _grid_lines(spacing_m, reach_m):
        for start, end in _project_line(line_m, camera_from_ego, intrinsics_px):
            draw.line((start, end), color, thick)
    for box in boxes:
        ego_from_box = inverse(frame.global_from_ego) @ box.global_from_box
        for edge in _box_edges(box.size_lwh_m):
            for start, end in _project_line(transform_points(ego_from_box, edge), camera_from_ego, intrinsics_px):
                draw.line((start, end), _BOX_COLOR, 1)
    for ahead_m in (10, 20, 30):
        points_camera = transform_points(camera_from_ego, np.array([[ahead_m, 0.0, 0.0]]))
        if points_camera[0, 2] > _NEAR_M:
            u, v, w = intrinsics_px @ points_camera[0]
            if 0 <= u / w < picture.width and 0 <= v / w < picture.height:
                draw.text((u / w, v / w), f"{ahead_m} m", _AHEAD_COLOR, font(13), stroke_width=1, stroke_fill=(0, 0, 0))
    return picture


def _paint_points(
    pixels: UInt8[np.ndarray, "height width 3"],
    points_camera: Float[np.ndarray, "points 3"],
    intrinsics_px: Float[np.ndarray, "3 3"],
) -> UInt8[np.ndarray, "height width 3"]:
    """Points in front of the camera as dots, near ones red and far ones blue."""
    ahead = points_camera[points_camera[:, 2] > 1.0]
    ahead = ahead[np.argsort(-ahead[:, 2])]
    u, v, w = intrinsics_px @ ahead.T
    columns, rows = np.floor(u / w).astype(np.int64), np.floor(v / w).astype(np.int64)
    inside = (columns >= 0) & (columns < pixels.shape[1]) & (rows >= 0) & (rows < pixels.shape[0])
    near = np.clip(1 - ahead[inside, 2] / 40, 0, 1)
    pixels[rows[inside], columns[inside]] = np.stack((255 * near, 60 + 0 * near, 255 * (1 - near)), 1).astype(np.uint8)
    return pixels


def _box_edges(size_lwh_m: tuple[float, float, float]) -> Iterator[Float[np.ndarray, "points 3"]]:
    """Points along the twelve edges of a box in its own frame, metres."""
    corners = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * np.array(size_lwh_m) / 2
    for first in range(8):
        for second in range(first + 1, 8):
            if (corners[first] != corners[second]).sum() == 1:
                yield np.linspace(corners[first], corners[second], 13)


def _grid_lines(spacing_m: float, reach_m: float) -> Iterator[_Line]:
    """Points along every line, ego frame, and its colour and thickness."""
    along = np.linspace(-reach_m, reach_m, 241)
    for offset in np.arange(-reach_m, reach_m + 1e-6, spacing_m):
        across = np.full_like(along, offset)
        ahead = offset > 0 and offset % 10 == 0
        zero = np.zeros_like(along)
        yield np.stack((across, along, zero), 1), _AHEAD_COLOR if ahead else _GRID_COLOR, 2 if ahead else 1
        yield np.stack((along, across, zero), 1), _GRID_COLOR, 1


def _project_line(
    points_ego: Float[np.ndarray, "points 3"],
    camera_from_ego: Float[np.ndarray, "4 4"],
    intrinsics_px: Float[np.ndarray, "3 3"],
) -> Iterator[tuple[tuple[float, float], tuple[float, float]]]:
    """Short pieces of a line in pixels; those behind the camera are left out."""
    points = transform_points(camera_from_ego, points_ego)
    pixels = points @ intrinsics_px.T
    uv = pixels[:, :2] / np.maximum(points[:, 2:], 1e-6)
    seen = (points[:, 2] > _NEAR_M) & (np.abs(uv) < 1e5).all(axis=1)
    for first in np.flatnonzero(seen[:-1] & seen[1:]).tolist():
        yield (uv[first, 0], uv[first, 1]), (uv[first + 1, 0], uv[first + 1, 1])


def _draw_rows(frame: KeyFrame, path_frames: Sequence[KeyFrame]) -> Image.Image:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_ROW_PX[0] / 100, _ROW_PX[1] / 100), dpi=100, layout="constrained")
    above, side, route = figure.subplots(1, 3, width_ratios=(1, 1.15, 1.1))
    _draw_cameras(above, frame, (1, 0), names=True)
    above.set(title="rig from above", xlabel="y, left (m)", ylabel="x, forward (m)")
    above.invert_xaxis()
    _draw_cameras(side, frame, (0, 2), names=False)
    side.axhline(0, color="0.6", linewidth=1)
    side.set(title="from the right side", xlabel="x, forward (m)", ylabel="z, up (m)")
    _draw_path(route, frame, path_frames)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def _draw_cameras(axes: Axes, frame: KeyFrame, shown: tuple[int, int], *, names: bool) -> None:
    """Cameras as triangles with their names; `shown` are the ego axes across and upward."""
    from matplotlib.patches import Polygon, Rectangle

    across, upward = shown
    for lower, upper in EGO_BOXES_M:
        size = np.subtract(upper, lower)
        axes.add_patch(
            Rectangle((lower[across], lower[upward]), size[across], size[upward], facecolor="0.93", edgecolor="0.7")
        )
    axes.annotate("", (1.0 * (across == 0), 1.0 * (upward == 0)), (0, 0), arrowprops={"arrowstyle": "->", "color": "r"})
    for number, image in enumerate(frame.cameras):
        color = f"C{number % 10}"
        ego_from_camera = image.ego_at_image_from_camera
        center = ego_from_camera[:3, 3]
        half = np.array([image.width / 2 / image.intrinsics_px[0, 0], image.height / 2 / image.intrinsics_px[1, 1]])
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half
        rays = np.hstack((corners, np.ones((4, 1))))
        far = transform_points(ego_from_camera, rays / np.linalg.norm(rays, axis=1, keepdims=True) * _FRUSTUM_M)
        for corner in far:
            axes.plot(*zip(center[list(shown)], corner[list(shown)], strict=True), color=color, linewidth=1)
        axes.add_patch(Polygon(far[:, list(shown)], closed=True, facecolor=color, alpha=0.25, edgecolor=color))
        if names:
            tip = far.mean(axis=0) + 0.35 * (far.mean(axis=0) - center)
            axes.text(tip[across], tip[upward], image.camera, color=color, fontsize=8, ha="center", va="center")
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.15)
    axes.autoscale_view()
    axes.grid(color="0.92")
    axes.set_axisbelow(True)


def _draw_path(axes: Axes, frame: KeyFrame, path_frames: Sequence[KeyFrame]) -> None:
    """Positions of the key frames, seen from this one, with the x axis of the car at each."""
    ego_from_global = inverse(frame.global_from_ego)
    poses = np.stack([ego_from_global @ one.global_from_ego for one in path_frames])
    position, heading = poses[:, :3, 3], poses[:, :3, 0]
    extent = max(float(np.ptp(position[:, :2], axis=0).max()), 2.0)
    axes.plot(position[:, 1], position[:, 0], color="0.7", linewidth=1)
    axes.quiver(
        position[:, 1], position[:, 0], heading[:, 1], heading[:, 0], angles="xy", scale_units="xy",
        scale=15 / extent, color="C0", width=0.008,
    )  # fmt: skip
    axes.plot(0, 0, "o", color="r", markersize=5)
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.15)
    axes.invert_xaxis()
    axes.grid(color="0.92")
    axes.set(title=f"path of {frame.scene}, arrows: x axis of the car", xlabel="y, left (m)", ylabel="x, forward (m)")
