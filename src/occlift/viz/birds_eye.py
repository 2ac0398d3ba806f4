"""A key frame from above: lidar points, box footprints with headings, camera fields of view, the ego, range rings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from occlift.geometry.cameras import CameraRig
from occlift.geometry.ego_vehicle import EGO_BOXES_M
from occlift.geometry.transforms import transform_points
from occlift.label_space import OCC3D, Taxonomy
from occlift.viz.canvas import INK, MUTED_INK, PAPER, font
from occlift.viz.occupancy import EGO_COLOR

ToPixel = Callable[[Sequence[float] | np.ndarray], tuple[float, float]]
"""From (x, y) of the ego frame, metres, to (u, v)."""

SUPERSAMPLING: Final = 2
BIRDS_EYE_REACH_M: Final = 50.0
CAMERA_WEDGE_M: Final = 11.0
"""Length of the drawn fields of view."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Box:
    """An oriented box of an object.

    Attributes:
        ego_from_box: 4×4, the origin at the centre, x along the length.
        size_lwh_m: length (x), width (y), height (z), metres.
        class_id: semantic class, for the colour; `None` for an object of no class.
    """

    ego_from_box: Float[np.ndarray, "4 4"]
    size_lwh_m: tuple[float, float, float]
    class_id: int | None = None

    def footprint(self) -> Float[np.ndarray, "4 2"]:
        """The bottom face's corners in the ego frame, metres: front left, front right, back right, back left."""
        length, width, height = (extent / 2 for extent in self.size_lwh_m)
        corners = np.array([(length, width), (length, -width), (-length, -width), (-length, width)], dtype=np.float64)
        below = np.full((4, 1), -height)
        return transform_points(self.ego_from_box, np.hstack((corners, below)))[:, :2]

    def holds(self, points_ego: Float[np.ndarray, "n 3"]) -> np.ndarray:
        """[n] which points (ego frame, metres) are inside or on the surface."""
        rotation, center = self.ego_from_box[:3, :3], self.ego_from_box[:3, 3]
        local = (points_ego - center) @ rotation
        return np.all(np.abs(local) <= np.asarray(self.size_lwh_m) / 2, axis=1)


def birds_eye_image(
    points_ego: Float[np.ndarray, "n 3"],
    colors: UInt8[np.ndarray, "n 3"] | None = None,
    *,
    boxes: Sequence[Box] = (),
    cameras: Sequence[CameraRig] = (),
    camera_names: Sequence[str] = (),
    taxonomy: Taxonomy = OCC3D.taxonomy,
    reach_m: float = BIRDS_EYE_REACH_M,
    size_px: int = 1000,
) -> Image.Image:
    """The ego's surroundings within ±`reach_m`, forward up and left to the left; a square of `size_px` pixels.

    Args:
        points_ego: lidar points, metres, ego frame.
        colors: of the points, sRGB; None: by their height from −0.5 to 4 m.
        boxes: drawn as footprints with a line from the centre through the front.
        cameras: rigs of one camera each; their fields of view are drawn as wedges about the cameras.
        camera_names: written at the wedges, one for each camera; may be empty.
        taxonomy: colours of the boxes.
    """
    size = size_px * SUPERSAMPLING
    scale = size / (2 * reach_m)

    def pixel(point: Sequence[float] | np.ndarray) -> tuple[float, float]:
        return (reach_m - float(point[1])) * scale, (reach_m - float(point[0])) * scale

    canvas = Image.new("RGB", (size, size), PAPER)
    draw = ImageDraw.Draw(canvas, "RGBA")
    _draw_rings(draw, pixel, reach_m, scale)
    for camera in cameras:
        wedge = [pixel(corner) for corner in _wedge(camera)]
        draw.polygon(wedge, fill=(70, 110, 190, 22), outline=(70, 110, 190, 150), width=SUPERSAMPLING)
    _paint_points(canvas, points_ego, height_colors(points_ego[:, 2]) if colors is None else colors, reach_m, scale)
    draw = ImageDraw.Draw(canvas, "RGBA")
    for box in boxes:
        _draw_box(draw, pixel, box, taxonomy)
    (back, right, _), (front, left, _) = EGO_BOXES_M[0]
    outline = [pixel(corner) for corner in ((back, right), (back, left), (front, left), (front, right))]
    draw.polygon(outline, fill=EGO_COLOR, outline=PAPER)
    draw.polygon(
        [pixel(corner) for corner in ((front - 0.3, 0.0), (front - 1.7, left * 0.7), (front - 1.7, right * 0.7))],
        fill=PAPER,
    )
    canvas = canvas.resize((size_px, size_px), Image.Resampling.BOX)
    _name_cameras(canvas, cameras, camera_names, reach_m)
    _name_rings(canvas, reach_m)
    return canvas


def pixel_in_birds_eye(
    x_m: float, y_m: float, *, reach_m: float = BIRDS_EYE_REACH_M, size_px: int = 1000
) -> tuple[float, float]:
    """Pixel (u, v) of a point (x, y) of the ego frame in `birds_eye_image`."""
    scale = size_px / (2 * reach_m)
    return (reach_m - y_m) * scale, (reach_m - x_m) * scale


def _draw_rings(draw: ImageDraw.ImageDraw, pixel: ToPixel, reach_m: float, scale: float) -> None:
    u, v = pixel((0.0, 0.0))
    for radius_m in np.arange(10.0, reach_m * 1.42, 10.0):
        radius = radius_m * scale
        draw.ellipse((u - radius, v - radius, u + radius, v + radius), outline=(222, 225, 231), width=SUPERSAMPLING)


def _wedge(camera: CameraRig) -> Float[np.ndarray, "corners 2"]:
    """The camera and an arc of its field of view at mid height, in the ego frame."""
    assert camera.num_cameras == 1, camera.num_cameras
    intrinsics_px = camera.intrinsics_px[0].double()
    columns = torch.linspace(0, camera.width, 13, dtype=torch.float64)
    pixels = torch.stack((columns, torch.full_like(columns, camera.height / 2), torch.ones_like(columns)), 0)
    ego_from_camera = camera.ego_from_camera[0].double()
    rays = ego_from_camera[:3, :3] @ torch.linalg.inv(intrinsics_px) @ pixels
    flat = (rays[:2] / rays[:2].norm(dim=0)).T.numpy()
    center = ego_from_camera[:2, 3].numpy()
    return np.vstack((center, center + CAMERA_WEDGE_M * flat))


def height_colors(z_m: Float[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3"]:
    """Colours of points by their height in the ego frame, from −0.5 to 4 m."""
    import matplotlib

    share = np.clip((z_m + 0.5) / 4.5, 0.0, 1.0)
    return np.round(255 * matplotlib.colormaps["viridis"](share * 0.85)[:, :3]).astype(np.uint8)


def _paint_points(
    canvas: Image.Image,
    points_ego: Float[np.ndarray, "n 3"],
    colors: UInt8[np.ndarray, "n 3"],
    reach_m: float,
    scale: float,
) -> None:
    """Higher points cover lower ones."""
    order = np.argsort(points_ego[:, 2], kind="stable")
    points, colors = points_ego[order], colors[order]
    row = np.floor((reach_m - points[:, 0]) * scale).astype(np.int64)
    column = np.floor((reach_m - points[:, 1]) * scale).astype(np.int64)
    pixels = np.asarray(canvas).copy()
    size = pixels.shape[0]
    # One drawn pixel after supersampling: a square as large as the factor, and one more to survive the averaging.
    for down in range(SUPERSAMPLING + 1):
        for right in range(SUPERSAMPLING + 1):
            rows, columns = row + down, column + right
            inside = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
            pixels[rows[inside], columns[inside]] = colors[inside]
    canvas.paste(Image.fromarray(pixels))


def _draw_box(draw: ImageDraw.ImageDraw, pixel: ToPixel, box: Box, taxonomy: Taxonomy) -> None:
    color = (90, 90, 90) if box.class_id is None else taxonomy.palette[box.class_id]
    # Pale classes (cones, bicycles) would vanish on paper.
    edge = tuple(int(channel * 0.72) for channel in color)
    corners = box.footprint()
    outline = [pixel(corner) for corner in corners]
    draw.polygon(outline, fill=(*color, 46))
    draw.line([*outline, outline[0]], fill=edge, width=SUPERSAMPLING + 1, joint="curve")
    center, front = corners.mean(axis=0), corners[:2].mean(axis=0)
    draw.line((pixel(center), pixel(front + 0.35 * (front - center))), fill=edge, width=SUPERSAMPLING + 1)


def _name_cameras(canvas: Image.Image, cameras: Sequence[CameraRig], names: Sequence[str], reach_m: float) -> None:
    draw = ImageDraw.Draw(canvas)
    for camera, name in zip(cameras, names, strict=False):
        arc = _wedge(camera)
        middle = arc[len(arc) // 2]
        outward = middle + 1.6 * (middle - arc[0]) / np.linalg.norm(middle - arc[0])
        position = pixel_in_birds_eye(*outward, reach_m=reach_m, size_px=canvas.width)
        draw.text(position, name, INK, font(12), anchor="mm", stroke_width=2, stroke_fill=PAPER)


def _name_rings(canvas: Image.Image, reach_m: float) -> None:
    draw = ImageDraw.Draw(canvas)
    for radius_m in np.arange(10.0, reach_m, 10.0):
        # On a diagonal, where neither the road ahead nor a camera's name is in the way.
        along_m = radius_m / np.sqrt(2)
        position = pixel_in_birds_eye(-along_m, -along_m, reach_m=reach_m, size_px=canvas.width)
        text = f"{radius_m:g} m"
        draw.text(position, text, MUTED_INK, font(12), anchor="mm", stroke_width=2, stroke_fill=PAPER)
