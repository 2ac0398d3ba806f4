"""Depth from the lidar sweep of the key frame: projected, filled in between, left open where nothing supports it.

1. The points are projected with both ego poses, that of the sweep and that of the image (`occlift.scenes.lidar_depth`).
2. The lidar stands higher than the cameras and sees over what hides the ground from them. A point with a much nearer
   one beside it in the image is taken for hidden and dropped.
3. Between the rest the inverse depth is interpolated linearly over the triangles of their Delaunay triangulation: that
   is exact for planes. A triangle is filled only if it is small, and if its corners lie on one surface: either at
   nearly the same depth, or so that its plane also goes through the far corners of its three neighbours. The second is
   how the road differs from a ramp between the roof of a car and the wall behind it: at 20 m two rings on the road are
   5 m apart, too.

On the six images of a real key frame, with 15 % of the points held out: 66 % of these fall on filled pixels,
whose depth is off by 0.1 % in the median and 0.5 % in the mean, and by more than 15 % at 0.4 % of them. Without the
second way to be one surface 40 % are filled. Without any test of surfaces 92 % are, with errors of more than 15 % at
3.8 %; without step 2 these are 0.7 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from occlift.errors import ConfigError
from occlift.runtime.kernels import njit
from occlift.scenes.frames import KeyFrame
from occlift.teachers.teacher import DepthMap

_MIN_AREA_PX2: Final = 1e-3
"""Triangles of less area are needles whose plane is not determined."""


@dataclass(frozen=True, kw_only=True)
class LidarDepthConfig:
    """How depth is filled in between lidar points. Angles are those at the camera: a pixel is 1 / (focal length).

    Attributes:
        window_rad: how far around a point a nearer one hides it. Half the distance between two rings of a
            lidar with 32 beams, which are 0.023 rad apart.
        hidden_ratio: a point is hidden by one that is nearer by more than this factor.
        max_gap_rad: triangles with a longer side are not filled: twice the distance between two rings.
        edge_ratio: corners whose depths differ by no more than this factor are on one surface.
        plane_tolerance: so are those where the plane of the triangle meets the far corners of its neighbours with no
            larger relative error in depth; 0: none.
        min_depth_m: nearer points are on the vehicle itself.
    """

    window_rad: float = 0.012
    hidden_ratio: float = 1.25
    max_gap_rad: float = 0.05
    edge_ratio: float = 1.1
    plane_tolerance: float = 0.05
    min_depth_m: float = 1.0


@dataclass(frozen=True, kw_only=True)
class LidarDepth:
    """A `DepthTeacher`: confidence is 1 where there is a depth and 0 elsewhere.

    Raises:
        ConfigError: an option is out of range.
    """

    config: LidarDepthConfig

    def __post_init__(self) -> None:
        config = self.config
        if min(config.window_rad, config.max_gap_rad, config.plane_tolerance) < 0 or config.min_depth_m <= 0:
            raise ConfigError(f"lidar: {config}: expected no angle or tolerance below 0, and min_depth_m above 0")
        if min(config.hidden_ratio, config.edge_ratio) <= 1:
            raise ConfigError(f"lidar: {config}: expected hidden_ratio and edge_ratio above 1")

    @property
    def settings(self) -> Mapping[str, object]:
        return {"teacher": "lidar", **asdict(self.config)}

    def depth(self, frame: KeyFrame) -> list[DepthMap]:
        """The depth that the sweep supports, at the size of the images; NaN elsewhere. Images are not opened.

        Raises:
            DataError: the sweep is missing or damaged.
        """
        # Imported here: it brings torch, which asking what is ready must not pay for.
        from occlift.scenes.lidar_depth import lidar_depth

        points_lidar = frame.lidar_sweep().source.read()[:, :3]
        maps = []
        for camera in frame.cameras:
            pixels_uv, point_depth_m = lidar_depth(frame, camera, points_lidar, min_depth_m=self.config.min_depth_m)
            depth_m = densified(
                pixels_uv,
                point_depth_m,
                height=camera.height,
                width=camera.width,
                focal_px=float(camera.pinhole_intrinsics_px[0, 0]),
                config=self.config,
            )
            maps.append(DepthMap(depth_m=depth_m, confidence=np.isfinite(depth_m).astype(np.float32)))
        return maps


def densified(
    pixels_uv: Float[np.ndarray, "points 2"],
    depth_m: Float[np.ndarray, "points"],
    *,
    height: int,
    width: int,
    focal_px: float,
    config: LidarDepthConfig,
) -> Float32[np.ndarray, "height width"]:
    """A depth map from the depths at some places of an image; NaN where they do not support any.

    Args:
        pixels_uv: continuous pixel coordinates; may lie outside of the image.
    """
    seen = ~hidden(pixels_uv, depth_m, window_px=config.window_rad * focal_px, ratio=config.hidden_ratio)
    pixels_uv, inverse = pixels_uv[seen], 1 / depth_m[seen]
    result = np.full((height, width), np.nan, np.float32)
    corners, neighbours = _triangles(pixels_uv)
    if len(corners):
        planes, supported = _surfaces(pixels_uv, inverse, corners, neighbours, config, focal_px)
        _fill(pixels_uv[corners[supported]], planes[supported], result)
    return result


def hidden(
    pixels_uv: Float[np.ndarray, "points 2"], depth_m: Float[np.ndarray, "points"], *, window_px: float, ratio: float
) -> Bool[np.ndarray, "points"]:
    """True for points within `window_px` of one that is nearer by more than the factor `ratio`."""
    from scipy.spatial import cKDTree

    result = np.zeros(len(depth_m), bool)
    if len(depth_m):
        first, second = cKDTree(pixels_uv).query_pairs(window_px, output_type="ndarray").T
        result[first[depth_m[first] > ratio * depth_m[second]]] = True
        result[second[depth_m[second] > ratio * depth_m[first]]] = True
    return result


def _triangles(
    pixels_uv: Float[np.ndarray, "points 2"],
) -> tuple[Int[np.ndarray, "triangles 3"], Int[np.ndarray, "triangles 3"]]:
    """Corners (points), and for each corner the triangle on the other side of the opposite edge (-1: none)."""
    from scipy.spatial import Delaunay, QhullError

    nothing = np.zeros((0, 3), np.intp)
    if len(pixels_uv) < 3:
        return nothing, nothing
    try:
        found = Delaunay(pixels_uv)
    except QhullError:
        # All points on one line.
        return nothing, nothing
    return found.simplices, found.neighbors


def _surfaces(
    pixels_uv: Float[np.ndarray, "points 2"],
    inverse: Float[np.ndarray, "points"],
    corners: Int[np.ndarray, "triangles 3"],
    neighbours: Int[np.ndarray, "triangles 3"],
    config: LidarDepthConfig,
    focal_px: float,
) -> tuple[Float[np.ndarray, "triangles 3"], Bool[np.ndarray, "triangles"]]:
    """For each triangle (a, b, c) of inverse depth = a·u + b·v + c, and whether it is filled.

    Args:
        inverse: 1/m, of the points.
    """
    places, at_corners = pixels_uv[corners], inverse[corners]
    sides_px = np.linalg.norm(places - np.roll(places, 1, axis=1), axis=2)
    equations = np.concatenate((places, np.ones((*corners.shape, 1))), axis=2)
    small = (sides_px.max(1) <= config.max_gap_rad * focal_px) & (np.abs(np.linalg.det(equations)) > 2 * _MIN_AREA_PX2)
    planes = np.zeros(corners.shape)
    planes[small] = np.linalg.solve(equations[small], at_corners[small][..., None])[..., 0]

    same_depth = at_corners.max(1) <= config.edge_ratio * at_corners.min(1)
    # The far corner of a neighbour is the one that is not shared.
    theirs = corners[neighbours]
    shared = (theirs[..., None] == corners[:, None, None, :]).any(-1)
    far = np.where(shared, -1, theirs).max(-1)
    predicted = (planes[:, None, :2] * pixels_uv[far]).sum(-1) + planes[:, None, 2]
    agrees = np.abs(predicted - inverse[far]) <= config.plane_tolerance * inverse[far]
    one_plane = (agrees & (neighbours >= 0) & small[neighbours]).all(1) & (config.plane_tolerance > 0)
    return planes, small & (same_depth | one_plane)


@njit
def _fill(
    triangles_uv: Float[np.ndarray, "triangles 3 2"],
    planes: Float[np.ndarray, "triangles 3"],
    result: Float32[np.ndarray, "height width"],
) -> None:
    """Writes the depth of every pixel whose centre lies in a triangle."""
    height, width = result.shape
    for index in range(len(triangles_uv)):
        (u0, v0), (u1, v1), (u2, v2) = triangles_uv[index]
        for row in range(max(0, int(min(v0, v1, v2) - 0.5)), min(height, int(max(v0, v1, v2)) + 1)):
            v = row + 0.5
            for column in range(max(0, int(min(u0, u1, u2) - 0.5)), min(width, int(max(u0, u1, u2)) + 1)):
                u = column + 0.5
                side0 = (u1 - u0) * (v - v0) - (v1 - v0) * (u - u0)
                side1 = (u2 - u1) * (v - v1) - (v2 - v1) * (u - u1)
                side2 = (u0 - u2) * (v - v2) - (v0 - v2) * (u - u2)
                if (side0 >= 0 and side1 >= 0 and side2 >= 0) or (side0 <= 0 and side1 <= 0 and side2 <= 0):
                    result[row, column] = 1 / (planes[index, 0] * u + planes[index, 1] * v + planes[index, 2])
