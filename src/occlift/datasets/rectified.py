"""A data set around a data set whose lenses distort: virtual pinhole cameras in the place of the real ones.

A lens that sees up to 100° from left to right becomes one virtual camera of the same name and image size. A wider one
would be stretched at the rim beyond use, so it becomes two cameras (up to 150°), `front-left` and `front-right`, or
three, with `front-center` between them: left and right as in its image. They stand side by side without overlap, turned
about the vertical axis of the real camera, with the resolution that the lens has at its axis, and show up to 45° above
and below.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, cos, degrees, inf, radians, sin, tan
from typing import Final, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from occlift.errors import ConfigError, DataError
from occlift.geometry.lens_projection import max_angle_rad, project, unproject
from occlift.geometry.lenses import BrownConrady, Lens
from occlift.geometry.transforms import rigid_transform
from occlift.label_space import UNKNOWN
from occlift.runtime.kernels import njit
from occlift.scenes.dataset import (
    AdjacentImages,
    DatasetSpec,
    DrivingDataset,
    HasBoxes,
    HasMap,
    HasSweeps,
    HasTruthMaps,
)
from occlift.scenes.frames import CameraImage, KeyFrame
from occlift.scenes.sources import ImageSource
from occlift.scenes.truth_maps import TruthMaps

_DATA = TypeVar("_DATA", bound=DrivingDataset)

_WIDEST_DEG: Final = (100.0, 150.0, 270.0)
"""Field of view from left to right up to which one, two and three virtual cameras are used."""

_SUFFIXES: Final = (("",), ("-left", "-right"), ("-left", "-center", "-right"))

_STEEPEST_DEG: Final = 45.0
"""How far above and below the axis several virtual cameras show what the lens sees."""

_MAX_SAMPLES: Final = 4
"""Samples along each side of a pixel at most."""


@dataclass(frozen=True)
class VirtualCamera:
    """A pinhole camera that looks through a lens.

    Attributes:
        lens, lens_intrinsics_px, lens_height, lens_width: of the real camera.
        yaw_rad: how far it is turned to the right about the vertical (y) axis of the real camera.
        focal_px, center_u_px, center_v_px, height, width: of its own images.
    """

    lens: Lens
    lens_intrinsics_px: tuple[tuple[float, ...], ...]
    lens_height: int
    lens_width: int
    yaw_rad: float
    focal_px: float
    center_u_px: float
    center_v_px: float
    height: int
    width: int

    @property
    def intrinsics_px(self) -> Float[np.ndarray, "3 3"]:
        return np.array([[self.focal_px, 0, self.center_u_px], [0, self.focal_px, self.center_v_px], [0, 0, 1.0]])

    @property
    def camera_from_virtual(self) -> Float[np.ndarray, "4 4"]:
        s, c = sin(self.yaw_rad), cos(self.yaw_rad)
        return rigid_transform(np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]]), np.zeros(3))

    def lens_pixels(self, samples: int) -> Float[np.ndarray, "rows columns 2"]:
        """Where the lens shows the pixels of this camera, `samples` × `samples` in each; NaN where it does not.

        Returns:
            (u, v) in the image of the real camera; `samples` times as many rows and columns as this camera's image.
        """
        columns = (np.arange(self.width * samples) + 0.5) / samples
        rows = (np.arange(self.height * samples) + 0.5) / samples
        pixels = np.stack([*np.meshgrid(columns, rows), np.ones((len(rows), len(columns)))], -1)
        rays = pixels @ np.linalg.inv(self.intrinsics_px).T @ self.camera_from_virtual[:3, :3].T
        lens_px, seen = project(rays, np.array(self.lens_intrinsics_px), self.lens)
        inside = seen & (lens_px >= 0).all(-1) & (lens_px < (self.lens_width, self.lens_height)).all(-1)
        return np.where(inside[..., None], lens_px, np.nan)


@dataclass(frozen=True, eq=False)
class RectifiedImage(ImageSource):
    """The image of a virtual camera, resampled when it is read: bilinear, and the mean over a pixel that covers many.

    What the lens does not show is black and not valid.

    Attributes:
        image: of the real camera.
        camera: the virtual one.
        suffix: what the name of the virtual camera adds to that of the real one.
    """

    image: CameraImage
    camera: VirtualCamera
    suffix: str

    @property
    def name(self) -> str:
        return self.image.source.name

    @property
    def stem(self) -> str:
        return self.image.stem + self.suffix

    def read(self) -> UInt8[np.ndarray, "height width 3"]:
        table = _table(self.camera)
        resampled = np.empty((self.camera.height, self.camera.width, 3), np.uint8)
        _resample(np.ascontiguousarray(self.image.read()), table.samples_px, table.samples, resampled)
        return resampled

    def valid(self) -> Bool[np.ndarray, "height width"]:
        """False for what the lens does not show, and for what is not valid in the image of the real camera."""
        table = _table(self.camera)
        valid = self.image.source.valid()
        return table.inside.copy() if valid is None else table.inside & valid[table.row, table.column]

    def fingerprint(self) -> int:
        return zlib.crc32(f"{self.image.source.fingerprint()} {self.camera}".encode())


class Rectified:
    """The data set with virtual pinhole cameras in the place of those whose lens distorts; others are passed through.

    Boxes, map, lidar and poses are those of the data set. Truth maps are resampled: the nearest pixel counts, and its
    depth is given along the axis of the virtual camera. It opens nothing before images are read, and can be pickled.

    How many virtual cameras there are for a real one follows from its first image in the data set.

    Args:
        data: the data set.
        field_of_view_deg: what all virtual cameras of a lens show together, from left to right, around the middle of
            what the lens sees; by default, and at most, all of that (270° at most).
        size: height and width of the images of virtual cameras, pixels; by default see above.

    Raises:
        ConfigError: the field of view or the size is out of range, or the axis of a lens is outside of its image.
        DataError: the name of a virtual camera is that of another camera.

    >>> from occlift.geometry.lenses import KannalaBrandt
    >>> from occlift.scenes import ImageArray, KeyFrameList
    >>> image = CameraImage(
    ...     camera="front", key="front-0", timestamp_us=0, height=64, width=160,
    ...     intrinsics_px=np.array([[50.0, 0, 80], [0, 50, 32], [0, 0, 1]]), distortion=KannalaBrandt(),
    ...     ego_at_image_from_camera=np.eye(4), global_from_ego_at_image=np.eye(4),
    ...     source=ImageArray(np.zeros((64, 160, 3), np.uint8)),
    ... )
    >>> frame = KeyFrame(token="0", scene="s", index=0, timestamp_us=0, global_from_ego=np.eye(4), cameras=(image,))
    >>> data = Rectified(KeyFrameList([frame]))
    >>> data.cameras
    ('front-left', 'front-center', 'front-right')
    >>> data.key_frame("0").cameras[1].read().shape
    (75, 60, 3)
    """

    def __init__(
        self,
        data: DrivingDataset,
        *,
        field_of_view_deg: float | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        if field_of_view_deg is not None and not 0 < field_of_view_deg <= _WIDEST_DEG[-1]:
            raise ConfigError(f"field_of_view_deg is {field_of_view_deg}; expected more than 0 and up to 270 degrees")
        if size is not None and min(size) < 1:
            raise ConfigError(f"size is {size}; expected a height and a width of at least one pixel")
        self._data, self._size = data, size
        self._field_of_view_rad = inf if field_of_view_deg is None else radians(field_of_view_deg)
        self._counts: dict[str, int] = {}
        for frame in _first_frames(data):
            for image in frame.cameras:
                if image.camera not in self._counts:
                    self._counts[image.camera] = self._count(image)
            if set(self._counts) >= set(data.cameras):
                break
        names = [name + suffix for name in data.cameras for suffix in self._suffixes(name)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(
                f"{data.spec}: virtual cameras would have the names of others ({', '.join(twice)}); rename a camera"
            )
        self.cameras: tuple[str, ...] = tuple(names)
        if isinstance(data, HasBoxes):
            self.boxes = data.boxes
        if isinstance(data, HasMap):
            self.scene_map = data.scene_map
        if isinstance(data, HasSweeps):
            self._real_sweeps = data
            self.adjacent_images = self._adjacent_images
        if isinstance(data, HasTruthMaps):
            self._real_truth = data
            self.truth_maps = self._truth_maps

    @property
    def spec(self) -> DatasetSpec:
        return self._data.spec

    def scenes(self, split: str = "all") -> tuple[str, ...]:
        return self._data.scenes(split)

    def key_frame_tokens(self, scene: str) -> tuple[str, ...]:
        return self._data.key_frame_tokens(scene)

    def key_frame(self, token: str) -> KeyFrame:
        frame = self._data.key_frame(token)
        return replace(frame, cameras=tuple(virtual for image in frame.cameras for virtual in self._virtual(image)))

    def _suffixes(self, camera: str) -> tuple[str, ...]:
        return _SUFFIXES[self._counts.get(camera, 1) - 1]

    def _count(self, image: CameraImage) -> int:
        if image.distortion is None:
            return 1
        try:
            left_rad, right_rad, _, _ = _lens_extent(image.distortion, *_calibration(image))
        except ConfigError as error:
            raise ConfigError(f"{self._data.spec}: camera {image.camera}: {error}") from error
        seen_deg = degrees(min(right_rad - left_rad, self._field_of_view_rad))
        return 1 + sum(seen_deg > widest for widest in _WIDEST_DEG[:-1])

    def _virtual(self, image: CameraImage) -> Iterator[CameraImage]:
        suffixes = self._suffixes(image.camera)
        if image.distortion is None and len(suffixes) == 1:
            yield image
            return
        lens = image.distortion or BrownConrady()
        cameras = _virtual_cameras(lens, *_calibration(image), len(suffixes), self._field_of_view_rad, self._size)
        for camera, suffix in zip(cameras, suffixes, strict=True):
            yield replace(
                image,
                camera=image.camera + suffix,
                key=image.key + suffix,
                height=camera.height,
                width=camera.width,
                intrinsics_px=camera.intrinsics_px,
                ego_at_image_from_camera=image.ego_at_image_from_camera @ camera.camera_from_virtual,
                source=RectifiedImage(image, camera, suffix),
                distortion=None,
            )

    def _adjacent_images(self, token: str) -> AdjacentImages:
        cameras = [image.camera for image in self._data.key_frame(token).cameras]
        before, after = (
            tuple(
                virtual
                for camera, image in zip(cameras, images, strict=True)
                for virtual in (self._virtual(image) if image is not None else [None] * len(self._suffixes(camera)))
            )
            for images in self._real_sweeps.adjacent_images(token)
        )
        return before, after

    def _truth_maps(self, image: CameraImage) -> TruthMaps:
        source = image.source
        if not isinstance(source, RectifiedImage):
            return self._real_truth.truth_maps(image)
        maps, table = self._real_truth.truth_maps(source.image), _table(source.camera)
        at = table.row, table.column
        # The axis of a wide lens is perpendicular to some rays, whose depth then says nothing.
        with np.errstate(all="ignore"):
            depth_m = (maps.depth_m[at] * _depth_ratio(source.camera)).astype(np.float32)
        depth_m[np.isposinf(maps.depth_m[at])] = np.inf
        known = table.inside & (depth_m > 0)
        return TruthMaps(
            semantics=np.where(known, maps.semantics[at], np.uint8(UNKNOWN)),
            depth_m=np.where(known, depth_m, np.float32(np.inf)),
            instance=np.where(known, maps.instance[at], np.uint16(0)),
        )


def rectify_if_distorted(data: _DATA) -> _DATA | Rectified:
    """`Rectified(data)` if a camera of the first readable key frame of any scene is distorted, else the data set."""
    distorted = any(image.distortion is not None for frame in _first_frames(data) for image in frame.cameras)
    return Rectified(data) if distorted else data


def _first_frames(data: DrivingDataset) -> Iterator[KeyFrame]:
    """The first key frame of every scene that is not damaged."""
    for scene in data.scenes():
        for token in data.key_frame_tokens(scene):
            try:
                frame = data.key_frame(token)
            except DataError:
                continue
            yield frame
            break


_Calibration = tuple[tuple[tuple[float, ...], ...], int, int]


def _calibration(image: CameraImage) -> _Calibration:
    rows: list[list[float]] = image.intrinsics_px.tolist()
    return tuple(tuple(row) for row in rows), image.height, image.width


@lru_cache(maxsize=256)
def _lens_extent(
    lens: Lens, intrinsics_px: tuple[tuple[float, ...], ...], height: int, width: int
) -> tuple[float, float, float, float]:
    """How far the lens sees in its image to the left, right, up and down of its axis: azimuths and elevations, rad.

    Raises:
        ConfigError: its axis is not in the image.
    """
    matrix = np.array(intrinsics_px)
    center_u, center_v = matrix[:2, 2]
    angles = []
    for points, axis in (
        (np.stack(np.broadcast_arrays(np.linspace(0, width, 4 * width + 1), center_v), -1), 0),
        (np.stack(np.broadcast_arrays(center_u, np.linspace(0, height, 4 * height + 1)), -1), 1),
    ):
        rays, valid = unproject(points, matrix, lens)
        angle = np.arctan2(rays[valid, axis], rays[valid, 2])
        if not len(angle) or not angle.min() < 0 < angle.max():
            raise ConfigError(
                f"{lens.model}: the axis of the lens is at ({center_u:g}, {center_v:g}), outside of the image of "
                f"{height}×{width} pixels (height × width); the intrinsics are not of this image"
            )
        angles += [float(angle.min()), float(angle.max())]
    return angles[0], angles[1], angles[2], angles[3]


@lru_cache(maxsize=256)
def _virtual_cameras(
    lens: Lens,
    intrinsics_px: tuple[tuple[float, ...], ...],
    height: int,
    width: int,
    count: int,
    field_of_view_rad: float,
    size: tuple[int, int] | None,
) -> tuple[VirtualCamera, ...]:
    """The virtual cameras of a lens, from left to right."""
    left_rad, right_rad, up_rad, down_rad = _lens_extent(lens, intrinsics_px, height, width)
    middle_rad = (left_rad + right_rad) / 2
    half_rad = min(right_rad - left_rad, field_of_view_rad, radians(_WIDEST_DEG[count - 1])) / 2
    left_rad, right_rad = middle_rad - half_rad, middle_rad + half_rad
    if count == 1:
        yaws_rad = [0.0]
        across = (tan(left_rad), tan(right_rad))
    else:
        share_rad = (right_rad - left_rad) / count
        yaws_rad = [left_rad + (i + 0.5) * share_rad for i in range(count)]
        across = (-tan(share_rad / 2), tan(share_rad / 2))
    steepest_rad = radians(_STEEPEST_DEG)
    down = (tan(max(up_rad, -steepest_rad)), tan(min(down_rad, steepest_rad)))
    if size is None and count == 1:
        size = height, width
    if size is None:
        focal_px = _focal_at_axis_px(lens, intrinsics_px)
        size = (ceil(focal_px * (down[1] - down[0])), ceil(focal_px * (across[1] - across[0])))
    focal_px = size[1] / (across[1] - across[0])
    if count == 1:
        center_v_px = intrinsics_px[1][2] * size[0] / height
    else:
        center_v_px = size[0] / 2 - focal_px * (down[0] + down[1]) / 2
    return tuple(
        VirtualCamera(
            lens=lens,
            lens_intrinsics_px=intrinsics_px,
            lens_height=height,
            lens_width=width,
            yaw_rad=yaw_rad,
            focal_px=focal_px,
            center_u_px=-across[0] * focal_px,
            center_v_px=center_v_px,
            height=size[0],
            width=size[1],
        )
        for yaw_rad in yaws_rad
    )


def _focal_at_axis_px(lens: Lens, intrinsics_px: tuple[tuple[float, ...], ...]) -> float:
    """Pixels of the image of a lens per radian at its axis, from left to right."""
    angle = min(1e-3, max_angle_rad(lens) / 2)
    rays = np.array([[sin(angle), 0.0, cos(angle)], [-sin(angle), 0.0, cos(angle)]])
    pixels, _ = project(rays, np.array(intrinsics_px), lens)
    return float(np.linalg.norm(pixels[0] - pixels[1])) / (2 * angle)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Table:
    """Where the pixels of a virtual camera lie in the image of the lens.

    Attributes:
        inside: which the lens shows.
        row, column: the pixel of the lens that shows their centre; 0 where none does.
        samples: number of samples along each side of a pixel.
        samples_px: (u, v) of the samples; NaN where the lens shows nothing.
    """

    inside: Bool[np.ndarray, "height width"]
    row: Int[np.ndarray, "height width"]
    column: Int[np.ndarray, "height width"]
    samples: int
    samples_px: Float32[np.ndarray, "rows columns 2"]


@lru_cache(maxsize=32)
def _table(camera: VirtualCamera) -> _Table:
    lens_px = camera.lens_pixels(1)
    inside = np.isfinite(lens_px[..., 0])
    column, row = np.moveaxis(np.where(inside[..., None], lens_px, 0.0).astype(np.int32), -1, 0)
    # Pixels of the lens per pixel of the virtual camera, from row to row and from column to column.
    steps = [np.linalg.norm(np.diff(lens_px, axis=axis), axis=-1) for axis in (0, 1)]
    step_px = max((float(np.nanpercentile(step, 90)) for step in steps if np.isfinite(step).any()), default=1.0)
    samples = min(max(round(step_px), 1), _MAX_SAMPLES)
    samples_px = lens_px if samples == 1 else camera.lens_pixels(samples)
    return _Table(
        inside=inside,
        row=row,
        column=column,
        samples=samples,
        samples_px=samples_px.astype(np.float32),
    )


@lru_cache(maxsize=32)
def _depth_ratio(camera: VirtualCamera) -> Float[np.ndarray, "height width"]:
    """Depth along the axis of the virtual camera per depth along that of the lens, on the rays of the lens's pixels."""
    table = _table(camera)
    centers = np.stack([table.column, table.row], -1) + 0.5
    rays, _ = unproject(centers, np.array(camera.lens_intrinsics_px), camera.lens)
    with np.errstate(all="ignore"):
        return (rays @ camera.camera_from_virtual[:3, 2]) / rays[..., 2]


@njit
def _resample(
    image: UInt8[np.ndarray, "rows columns 3"], samples_px: Float32[np.ndarray, "sample_rows sample_columns 2"],
    samples: int, out: UInt8[np.ndarray, "out_rows out_columns 3"],
) -> None:  # fmt: skip
    """The mean of the bilinear samples of every pixel that lie in the image; black where none does."""
    rows, columns, _ = image.shape
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            red, green, blue, count = 0.0, 0.0, 0.0, 0
            for a in range(i * samples, (i + 1) * samples):
                for b in range(j * samples, (j + 1) * samples):
                    u, v = samples_px[a, b, 0] - 0.5, samples_px[a, b, 1] - 0.5
                    if np.isnan(u):
                        continue
                    left, top = int(np.floor(u)), int(np.floor(v))
                    x, y = u - left, v - top
                    right, bottom = min(left + 1, columns - 1), min(top + 1, rows - 1)
                    left, top = max(left, 0), max(top, 0)
                    p, q = (1.0 - x) * (1.0 - y), x * (1.0 - y)
                    r, s = (1.0 - x) * y, x * y
                    red += p * image[top, left, 0] + q * image[top, right, 0]
                    red += r * image[bottom, left, 0] + s * image[bottom, right, 0]
                    green += p * image[top, left, 1] + q * image[top, right, 1]
                    green += r * image[bottom, left, 1] + s * image[bottom, right, 1]
                    blue += p * image[top, left, 2] + q * image[top, right, 2]
                    blue += r * image[bottom, left, 2] + s * image[bottom, right, 2]
                    count += 1
            if count == 0:
                out[i, j, 0], out[i, j, 1], out[i, j, 2] = 0, 0, 0
            else:
                out[i, j, 0] = np.uint8(red / count + 0.5)
                out[i, j, 1] = np.uint8(green / count + 0.5)
                out[i, j, 2] = np.uint8(blue / count + 0.5)
