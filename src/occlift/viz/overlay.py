"""Drawings on camera images: lidar points by depth, occupancy as the camera sees it, class maps, depth maps."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from occlift.geometry.cameras import CameraRig
from occlift.geometry.raycast import first_hit
from occlift.label_space import OCC3D, LabelSpace, Taxonomy
from occlift.viz.canvas import class_palette

MAX_SHOWN_DEPTH_M: Final = 60.0
"""Depth at which the colour scale ends."""

SKY_COLOR: Final = (120, 170, 235)
"""Free in a class map: free along the whole ray."""


def depth_colors(
    depth_m: Float[np.ndarray, "*n"], *, max_depth_m: float = MAX_SHOWN_DEPTH_M
) -> UInt8[np.ndarray, "*n 3"]:
    """Colours from near (red) to far (blue), even in the logarithm of depth from 2 m to `max_depth_m`."""
    import matplotlib

    share = np.log(np.clip(depth_m, 2.0, max_depth_m) / 2.0) / np.log(max_depth_m / 2.0)
    colors = matplotlib.colormaps["turbo_r"](0.04 + 0.92 * share)[..., :3]
    return np.round(255 * colors).astype(np.uint8)


def draw_points(
    image: UInt8[np.ndarray, "height width 3"],
    pixels: Float[np.ndarray, "n 2"],
    depth_m: Float[np.ndarray, "n"],
    *,
    radius_px: int = 1,
) -> UInt8[np.ndarray, "height width 3"]:
    """A copy of an image with squares of 2·radius + 1 pixels at (u, v), coloured by depth; nearer ones on top.

    Points outside the image are left out; the pixel of a point is (⌊u⌋, ⌊v⌋).
    """
    height, width = image.shape[:2]
    canvas = image.copy()
    order = np.argsort(-depth_m, kind="stable")
    column, row = np.floor(pixels[order]).astype(np.int64).T
    colors = depth_colors(depth_m[order])
    # Whole squares far to near: painting one offset after another would put a far square's centre on a near rim.
    span = np.arange(-radius_px, radius_px + 1)
    down, right = (offset.reshape(-1) for offset in np.meshgrid(span, span, indexing="ij"))
    rows, columns = row[:, None] + down, column[:, None] + right
    inside_image = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    inside_image &= ((row >= 0) & (row < height) & (column >= 0) & (column < width))[:, None]
    painted = np.broadcast_to(colors[:, None], (*rows.shape, 3))
    # With repeated indices numpy keeps the last value, which here is the nearest point's.
    canvas[rows[inside_image], columns[inside_image]] = painted[inside_image]
    return canvas


def draw_lidar(
    image: UInt8[np.ndarray, "height width 3"],
    camera: CameraRig,
    points_ego: Float[np.ndarray, "n 3"],
    *,
    radius_px: int = 1,
    min_depth_m: float = 1.0,
) -> UInt8[np.ndarray, "height width 3"]:
    """A copy of a camera's image with the lidar points that fall into it.

    Args:
        camera: a rig of this one camera, for images of this size. Its transform holds the ego motion between key frame
            and image, so that points land where the camera saw them at its own time.
        points_ego: metres, in the ego frame of the key frame.
        min_depth_m: leaves out points nearer than this, which hit the ego itself.
    """
    _check_camera(image, camera)
    pixels, depth_m, visible = camera.project(
        torch.as_tensor(points_ego, dtype=camera.intrinsics_px.dtype), min_depth_m=min_depth_m
    )
    seen = visible[0].numpy()
    return draw_points(image, pixels[0].numpy()[seen], depth_m[0].numpy()[seen], radius_px=radius_px)


def draw_occupancy(
    image: UInt8[np.ndarray, "height width 3"],
    camera: CameraRig,
    semantics: UInt8[np.ndarray, "x y z"],
    *,
    space: LabelSpace = OCC3D,
    opacity: float = 0.6,
    max_range_m: float = 80.0,
) -> UInt8[np.ndarray, "height width 3"]:
    """A copy of a camera's image, blended with the first occupied voxel along every pixel's ray.

    Args:
        camera: a rig of this one camera, for images of this size (reduce both first: one ray is cast per pixel).
        semantics: class ids and 255 on the space's grid, in the ego frame of the key frame.
        opacity: opacity of the class colours.
    """
    _check_camera(image, camera)
    grid = space.grid
    grid.check_shape(semantics.shape, "the volume")
    ego_from_camera = camera.ego_from_camera[0].double().numpy()
    directions = pixel_rays(camera).reshape(-1, 3) @ ego_from_camera[:3, :3].T
    occupied = semantics < space.taxonomy.free
    # A voxel about the camera would cover the whole picture.
    at_camera, inside_grid = grid.indices(ego_from_camera[None, :3, 3])
    if inside_grid[0]:
        occupied[tuple(at_camera[0])] = False
    origins = np.broadcast_to(ego_from_camera[:3, 3], directions.shape)
    hit = first_hit(occupied, grid, origins, directions, max_range_m)
    rays = np.flatnonzero(np.isfinite(hit.entry_range_m))
    axis = hit.entry_axis[rays]
    light = np.choose(np.maximum(axis, 0), (0.86, 0.74, 1.0))
    colors = class_palette(taxonomy=space.taxonomy)[semantics[tuple(hit.voxel[rays].T)]] * light[:, None]
    flat = image.reshape(-1, 3).astype(np.float64)
    flat[rays] += (colors - flat[rays]) * opacity
    return np.round(flat).astype(np.uint8).reshape(image.shape)


def pixel_rays(camera: CameraRig) -> Float[np.ndarray, "height width 3"]:
    """Rays through the pixel centres in the frame of one camera, with z = 1 (so a range along them is a depth)."""
    intrinsics_px = camera.intrinsics_px[0].double().numpy()
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    pixels = np.stack((u, v, np.ones_like(u)), axis=-1)
    return pixels @ np.linalg.inv(intrinsics_px).T


def draw_classes(
    image: UInt8[np.ndarray, "height width 3"],
    class_map: UInt8[np.ndarray, "height width"],
    *,
    taxonomy: Taxonomy = OCC3D.taxonomy,
    opacity: float = 0.6,
) -> UInt8[np.ndarray, "height width 3"]:
    """A copy of an image blended with its class map; free is the sky, and what is unknown (255) is left as it is."""
    assert class_map.shape == image.shape[:2], (class_map.shape, image.shape)
    palette = class_palette(taxonomy=taxonomy)
    palette[taxonomy.free] = SKY_COLOR
    labelled: Bool[np.ndarray, "height width"] = class_map <= taxonomy.free
    result = image.astype(np.float64)
    result[labelled] += (palette[class_map[labelled]] - result[labelled]) * opacity
    return np.round(result).astype(np.uint8)


def draw_depth(depth_m: Float[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """A depth map (metres along the axis) in colours; where nothing was measured (not finite or ≤ 0) it is dark."""
    measured = np.isfinite(depth_m) & (depth_m > 0)
    picture = np.full((*depth_m.shape, 3), 24, dtype=np.uint8)
    picture[measured] = depth_colors(depth_m[measured])
    return picture


def resize(image: UInt8[np.ndarray, "h w 3"], height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """An image at another size, filtered against aliasing; pairs with `CameraRig.resized`."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def _check_camera(image: UInt8[np.ndarray, "height width 3"], camera: CameraRig) -> None:
    assert camera.num_cameras == 1, camera.num_cameras
    camera.check_image_size(image.shape[0], image.shape[1])
