"""Pictures of a semantic volume: in perspective, drawn by the project's own ray caster, and from above.

Shading is for the eye only and keeps hue: a factor per face (top light, sides darker), the sun's shadow by a second
ray, ambient darkening near neighbouring voxels, a fade with distance, and hairlines at voxel edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8
from PIL import Image, ImageDraw

from occlift.geometry.ego_vehicle import EGO_BOXES_M
from occlift.geometry.grids import VoxelGrid
from occlift.geometry.raycast import first_hit
from occlift.label_space import OCC3D, UNKNOWN, LabelSpace, Taxonomy
from occlift.viz.canvas import INK, MUTED_INK, PAPER, UNKNOWN_COLOR, class_palette, font, hatch

SUN_DIRECTION: Final = (-0.42, 0.55, 0.72)
"""Towards the light, in the grid's axes: behind the viewer of `chase_view`, from the left."""

EGO_COLOR: Final = (36, 40, 48)

_FRAME_COLOR: Final = (205, 208, 214)
_HEIGHT_LEVELS: Final = 17


@dataclass(frozen=True, kw_only=True)
class ViewPoint:
    """A pinhole camera that looks at a point, upright.

    Attributes:
        eye_m: where it stands, in the grid's frame.
        target_m: what is in the middle of its picture.
        fov_rad: horizontal field of view.
    """

    eye_m: tuple[float, float, float]
    target_m: tuple[float, float, float]
    fov_rad: float

    def directions(self, height: int, width: int) -> Float[np.ndarray, "height width 3"]:
        """Unit vectors through the pixel centres, in the grid's axes."""
        forward, right, down = self._axes()
        focal_px = self.focal_px(width)
        u = (np.arange(width) + 0.5 - width / 2) / focal_px
        v = (np.arange(height) + 0.5 - height / 2) / focal_px
        rays = forward + u[None, :, None] * right + v[:, None, None] * down
        return rays / np.linalg.norm(rays, axis=-1, keepdims=True)

    def project(
        self, points: Float[np.ndarray, "n 3"], height: int, width: int
    ) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n"]]:
        """Pixels (u, v) in a `height` × `width` picture, and the depth along the axis, metres."""
        forward, right, down = self._axes()
        offset = points - np.asarray(self.eye_m)
        depth_m = offset @ forward
        scale = self.focal_px(width) / depth_m
        return np.stack((offset @ right * scale + width / 2, offset @ down * scale + height / 2), -1), depth_m

    def focal_px(self, width: int) -> float:
        return width / 2 / np.tan(self.fov_rad / 2)

    def _axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        forward = np.subtract(self.target_m, self.eye_m).astype(np.float64)
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        assert np.linalg.norm(right) > 1e-6, f"a view straight up or down has no upright: {self}"
        right /= np.linalg.norm(right)
        return forward, right, np.cross(forward, right)


def chase_view(grid: VoxelGrid) -> ViewPoint:
    """Behind and above the middle of a grid, looking forward: all of it but its rear corners.

    >>> view = chase_view(OCC3D.grid)
    >>> view.eye_m, view.target_m
    ((-54.0, 0.0, 38.0), (-3.0, 0.0, -2.0))
    """
    return place_view(grid, eye=(-1.35, 0.0, 0.975), target=(-0.075, 0.0, -0.025), fov_rad=np.deg2rad(62))


def place_view(
    grid: VoxelGrid, *, eye: tuple[float, float, float], target: tuple[float, float, float], fov_rad: float
) -> ViewPoint:
    """A view whose eye and target are given from the middle of a grid's floor, in halves of its longer horizontal edge
    (of tall grids, in four times its height)."""
    x_m, y_m, _ = np.add(grid.lower_m, grid.upper_m) / 2
    half_m = max(_half_edge_m(grid), 4 * (grid.upper_m[2] - grid.lower_m[2]))

    def place(point: tuple[float, float, float]) -> tuple[float, float, float]:
        return float(x_m + point[0] * half_m), float(y_m + point[1] * half_m), grid.lower_m[2] + point[2] * half_m

    return ViewPoint(eye_m=place(eye), target_m=place(target), fov_rad=fov_rad)


def perspective_image(
    semantics: UInt8[np.ndarray, "x y z"],
    *,
    space: LabelSpace = OCC3D,
    view: ViewPoint | None = None,
    height: int = 540,
    width: int = 960,
    supersampling: int = 2,
    shadows: bool = True,
    ego: bool = True,
) -> Image.Image:
    """A shaded picture of the occupied voxels in the colours of their classes; free and unknown ones are not drawn.

    Args:
        semantics: class ids and 255, on the space's grid.
        view: where the camera stands, in the grid's frame; by default `chase_view`.
        supersampling: rays per pixel along either side.
        shadows: cast a second ray towards the sun from what the first one hit.
        ego: mark the ego vehicle with a dark car about the frame's origin.
    """
    grid = space.grid
    view = chase_view(grid) if view is None else view
    grid.check_shape(semantics.shape, "the volume")
    occupied = semantics < space.taxonomy.free
    rows, columns = height * supersampling, width * supersampling
    directions = view.directions(rows, columns).reshape(-1, 3)
    reach_m = float(np.linalg.norm(np.subtract(grid.upper_m, grid.lower_m))) + float(
        np.linalg.norm(np.subtract(view.eye_m, view.target_m))
    )
    hit = first_hit(occupied, grid, np.broadcast_to(np.asarray(view.eye_m), directions.shape), directions, reach_m)
    # A ray that starts inside an occupied voxel has no face to shade; the camera stands in the open.
    rays = np.flatnonzero(np.isfinite(hit.entry_range_m) & (hit.entry_axis >= 0))
    voxel, axis, range_m = hit.voxel[rays], hit.entry_axis[rays].astype(np.int64), hit.entry_range_m[rays]
    towards = directions[rays]
    points = np.asarray(view.eye_m) + range_m[:, None] * towards
    sign = -np.sign(towards[np.arange(len(rays)), axis])
    normals = np.zeros_like(points)
    normals[np.arange(len(rays)), axis] = sign

    light = _face_light(axis, sign)
    light *= _ambient_light(occupied, grid, points, normals)
    if shadows:
        light *= _sun_light(occupied, grid, points, normals, ego=ego)
    pixel_m = range_m / view.focal_px(columns)
    light *= _edge_lines(grid, points, axis, pixel_m * supersampling)
    palette = class_palette(taxonomy=space.taxonomy)
    colors = palette[semantics[tuple(voxel.T)]].astype(np.float32) * light[:, None].astype(np.float32)
    haze = np.clip((range_m - 80.0) / 200.0, 0.0, 0.25)[:, None].astype(np.float32)
    colors += (np.float32(245) - colors) * haze

    picture = np.full((rows * columns, 3), PAPER, dtype=np.float32)
    picture[rays] = np.clip(colors, 0, 255)
    if ego:
        nearest_m = np.full(rows * columns, np.inf)
        nearest_m[rays] = range_m
        _draw_ego(picture, np.asarray(view.eye_m), directions, nearest_m)
    picture = picture.reshape(height, supersampling, width, supersampling, 3).mean(axis=(1, 3))
    return Image.fromarray(np.round(picture).astype(np.uint8))


def top_view(
    semantics: UInt8[np.ndarray, "x y z"],
    *,
    space: LabelSpace = OCC3D,
    pixels_per_voxel: int = 3,
    ego: bool = True,
) -> Image.Image:
    """The volume from above, forward (x) up and left (y) to the left: the class of the highest voxel.

    Brightness follows height, edges are lit from the upper left. A column without occupied voxels is paper where
    all of it is free, and hatched where it is unknown: the denser, the larger the unknown share of the column.
    A voxel has `pixels_per_voxel` pixels along its shorter horizontal edge, and as many more along the other as that
    is longer, rounded.
    """
    grid, palette = space.grid, class_palette(taxonomy=space.taxonomy)
    grid.check_shape(semantics.shape, "the volume")
    occupied = semantics < space.taxonomy.free
    any_occupied = occupied.any(axis=2)
    top = grid.shape[2] - 1 - np.argmax(occupied[:, :, ::-1], axis=2)
    class_map = np.take_along_axis(semantics, top[:, :, None], axis=2)[:, :, 0]
    top_m = np.where(any_occupied, top * grid.voxel_size_m[2], 0.0)

    light = 0.88 + 0.12 * np.clip(top_m / 4.0, 0.0, 1.0) + _hill_shade(top_m)
    colors = np.clip(palette[class_map].astype(np.float64) * light[..., None], 0, 255)
    colors[~any_occupied] = PAPER
    unknown_share = np.where(any_occupied, 0.0, (semantics == UNKNOWN).mean(axis=2))

    voxel_px = voxel_size_px(grid, pixels_per_voxel)
    enlarged = enlarge_from_above(colors, voxel_px)
    share = enlarge_from_above(unknown_share, voxel_px)
    lines = hatch(*share.shape)
    strength = np.clip(share * np.where(lines, 1.0, 0.35), 0.0, 1.0)[..., None]
    enlarged += (np.asarray(UNKNOWN_COLOR) - enlarged) * strength
    picture = Image.fromarray(np.round(enlarged).astype(np.uint8))
    if ego:
        draw_ego_from_above(picture, grid, pixels_per_voxel)
    ImageDraw.Draw(picture).rectangle((0, 0, picture.width - 1, picture.height - 1), outline=_FRAME_COLOR)
    return picture


def height_levels(occupied: Bool[np.ndarray, "x y z"]) -> tuple[UInt8[np.ndarray, "x y z"], Taxonomy]:
    """An occupied volume without classes as levels of height, unknown elsewhere, and those levels as classes."""
    import matplotlib

    layers = occupied.shape[2]
    level = np.arange(layers) * (_HEIGHT_LEVELS - 1) // max(layers - 1, 1)
    ids = np.where(occupied, level.astype(np.uint8), np.uint8(UNKNOWN))
    share = np.linspace(0.08, 0.98, _HEIGHT_LEVELS)
    colors = np.round(255 * matplotlib.colormaps["viridis"](share)[:, :3]).astype(int)
    return ids, colored_groups("height", colors)


def colored_groups(name: str, colors: Integer[np.ndarray, "groups 3"]) -> Taxonomy:
    """Numbered groups of voxels that are no semantic classes, to be drawn in these colours (sRGB)."""
    return Taxonomy(
        names=tuple(f"{name} {number}" for number in range(len(colors))),
        colors=(*((int(r), int(g), int(b)) for r, g, b in colors), PAPER),
    )


def top_view_with_ruler(
    semantics: UInt8[np.ndarray, "x y z"], *, space: LabelSpace = OCC3D, size_px: int = 600
) -> Image.Image:
    """`top_view` with a ruler; the longer side of the grid has about `size_px` pixels."""
    grid = space.grid
    shorter_edge_m = min(grid.voxel_size_m[:2])
    pixels_per_voxel = max(1, int(size_px * shorter_edge_m / (2 * _half_edge_m(grid))))
    picture = top_view(semantics, space=space, pixels_per_voxel=pixels_per_voxel)
    return scale_bar(picture, grid.voxel_size_m[1] / voxel_size_px(grid, pixels_per_voxel)[1])


def voxel_size_px(grid: VoxelGrid, pixels_per_voxel: int) -> tuple[int, int]:
    """Pixels per voxel of a picture from above along x and along y: `pixels_per_voxel` along the shorter edge."""
    x_m, y_m, _ = grid.voxel_size_m
    return round(pixels_per_voxel * x_m / min(x_m, y_m)), round(pixels_per_voxel * y_m / min(x_m, y_m))


def pixel_from_above(point: tuple[float, float], grid: VoxelGrid, pixels_per_voxel: int) -> tuple[float, float]:
    """Pixel (u, v) of a point (x, y), metres in the grid's frame, in `top_view`."""
    v, u = (
        (grid.upper_m[axis] - point[axis]) / grid.voxel_size_m[axis] * pixels
        for axis, pixels in enumerate(voxel_size_px(grid, pixels_per_voxel))
    )
    return u, v


def scale_bar(picture: Image.Image, metres_per_pixel: float) -> Image.Image:
    """A copy of a picture from above with a ruler in its lower left corner: 10 m, or less in a small picture."""
    result = picture.copy()
    draw = ImageDraw.Draw(result)
    length_m = next((m for m in (10, 5, 2) if 3 * m <= picture.width * metres_per_pixel), 1)
    length_px = length_m / metres_per_pixel
    left, bottom = 14, picture.height - 14
    draw.rectangle((left - 6, bottom - 24, left + length_px + 6, bottom + 6), fill=PAPER, outline=_FRAME_COLOR)
    draw.line((left, bottom, left + length_px, bottom), fill=INK, width=3)
    draw.text((left + length_px / 2, bottom - 4), f"{length_m:g} m", MUTED_INK, font(13), anchor="ms")
    return result


def _face_light(axis: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """Light per face: top 1, the sides that the sun sees above those that it does not, the under side darkest."""
    towards_sun = sign * np.asarray(SUN_DIRECTION)[axis]
    light = np.where(towards_sun > 0, 0.86, 0.66)
    light = np.where(axis == 1, light * 0.92, light)
    return np.where(axis == 2, np.where(sign > 0, 1.0, 0.5), light)


def _ambient_light(occupied: np.ndarray, grid: VoxelGrid, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Darkening where neighbours rise above a face: their blurred share in front of it; a flat floor has none."""
    from scipy.ndimage import map_coordinates, uniform_filter

    crowding = uniform_filter(occupied.astype(np.float32), size=3, mode="constant")
    size_m = np.asarray(grid.voxel_size_m)
    in_front = points + 0.5 * size_m * normals
    index = (in_front - np.asarray(grid.lower_m)) / size_m - 0.5
    share = map_coordinates(crowding, index.T.astype(np.float32), order=1, mode="grid-constant")
    return 1.0 - 0.55 * np.clip((share - 1 / 3) * 1.5, 0.0, 1.0)


def _sun_light(
    occupied: np.ndarray, grid: VoxelGrid, points: np.ndarray, normals: np.ndarray, *, ego: bool
) -> np.ndarray:
    """0.72 in the shadow of another voxel or of the ego marker, else 1."""
    sun = np.asarray(SUN_DIRECTION) / np.linalg.norm(SUN_DIRECTION)
    # Half a millimetre off the face, so that a face does not shade itself.
    starts = points + 5e-4 * normals
    directions = np.broadcast_to(sun, points.shape)
    reach_m = float(grid.upper_m[2] - grid.lower_m[2]) / sun[2]
    shaded = np.isfinite(first_hit(occupied, grid, starts, directions, reach_m).entry_range_m)
    if ego:
        for lower_m, upper_m in EGO_BOXES_M:
            shaded |= np.isfinite(_box_entry(starts, directions, lower_m, upper_m)[0])
    # Faces that look away from the sun are dark already.
    return np.where(shaded & (normals @ sun > 0), 0.72, 1.0)


def _edge_lines(grid: VoxelGrid, points: np.ndarray, axis: np.ndarray, pixel_m: np.ndarray) -> np.ndarray:
    """Hairlines one pixel wide along voxel edges; they fade out where a voxel is only a few pixels large."""
    size_m = np.asarray(grid.voxel_size_m)
    offset = (points - np.asarray(grid.lower_m)) % size_m
    to_edge_m = np.minimum(offset, size_m - offset)
    # Along the face's own normal the distance is zero everywhere: not an edge.
    to_edge_m[np.arange(len(points)), axis] = np.inf
    on_edge = to_edge_m.min(axis=1) < 0.5 * pixel_m
    visible_share = np.clip((float(size_m.min()) / pixel_m - 3.0) / 7.0, 0.0, 1.0)
    return 1.0 - 0.22 * on_edge * visible_share


def _box_entry(
    origins: np.ndarray, directions: np.ndarray, lower_m: tuple[float, ...], upper_m: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Range at which rays enter an axis-aligned box from outside (inf: not at all), and the axis they enter along."""
    with np.errstate(divide="ignore", invalid="ignore"):
        first = (np.asarray(lower_m) - origins) / directions
        second = (np.asarray(upper_m) - origins) / directions
    near = np.fmin(first, second)
    enter, leave = near.max(axis=1), np.fmax(first, second).min(axis=1)
    return np.where((enter < leave) & (enter > 0), enter, np.inf), near.argmax(axis=1)


def _draw_ego(picture: np.ndarray, eye_m: np.ndarray, directions: np.ndarray, nearest_m: np.ndarray) -> None:
    """Paints the ego marker into flat float pixels wherever it is nearer than what they show."""
    origins = np.broadcast_to(eye_m, directions.shape)
    for lower_m, upper_m in EGO_BOXES_M:
        range_m, axis = _box_entry(origins, directions, lower_m, upper_m)
        shown = range_m < nearest_m
        sign = -np.sign(directions[np.arange(len(axis)), axis])
        light = 0.45 + 1.15 * _face_light(axis, sign)[shown]
        picture[shown] = np.asarray(EGO_COLOR) * light[:, None]
        nearest_m[shown] = range_m[shown]


def _hill_shade(height_m: np.ndarray) -> np.ndarray:
    """Brighter where the surface rises away from the upper left corner of the view, darker behind; ±0.14."""
    padded = np.pad(height_m, 1, mode="edge")
    ahead, left = padded[2:, 1:-1], padded[1:-1, 2:]
    behind, right = padded[:-2, 1:-1], padded[1:-1, :-2]
    return np.clip(((behind - ahead) + (right - left)) * 0.05, -0.14, 0.14)


def _half_edge_m(grid: VoxelGrid) -> float:
    """Half of the longer horizontal edge of a grid."""
    return max(upper - lower for lower, upper in zip(grid.lower_m[:2], grid.upper_m[:2], strict=True)) / 2


def enlarge_from_above(columns: np.ndarray, voxel_px: tuple[int, int]) -> np.ndarray:
    """[x, y, ...] as image rows and columns: forward up, left to the left, every column enlarged."""
    image = columns[::-1, ::-1]
    return image.repeat(voxel_px[0], axis=0).repeat(voxel_px[1], axis=1).astype(np.float64)


def draw_ego_from_above(picture: Image.Image, grid: VoxelGrid, pixels_per_voxel: int) -> None:
    """The ego's outline with an arrow head forward."""
    draw = ImageDraw.Draw(picture)
    (back, right, _), (front, left, _) = EGO_BOXES_M[0]
    corners: list[tuple[float, float]] = [(back, right), (back, left), (front, left), (front, right)]
    draw.polygon([pixel_from_above(c, grid, pixels_per_voxel) for c in corners], fill=EGO_COLOR, outline=PAPER)
    arrow: list[tuple[float, float]] = [(front - 0.4, 0.0), (front - 1.8, left * 0.7), (front - 1.8, right * 0.7)]
    draw.polygon([pixel_from_above(p, grid, pixels_per_voxel) for p in arrow], fill=PAPER)
