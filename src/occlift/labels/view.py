"""What the teachers say about one image, cleaned up, in the form in which it waits for its labels.

A key frame is looked at once and then fused into the labels of all key frames around it, so a view keeps only what
voting needs: a class and a depth per pixel (5 bytes), and the depths of the few pixels that cast rays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from occlift.errors import DataError
from occlift.label_space import OCC3D, UNKNOWN, Taxonomy
from occlift.runtime.kernels import njit
from occlift.scenes.frames import CameraImage
from occlift.teachers.teacher import DepthMap, SemanticMap

_RAYS_PER_IMAGE: Final = 4096
"""Every 0.8° of a camera that sees 70°: at 40 m two rays are 0.6 m apart, and a dozen key frames fill in."""

_FREE_WINDOW_PX: Final = (5, 3)
"""Rows and columns of the window in which the nearest depth ends a ray that says what is free.

The surface between two neighbouring pixels lies somewhere between their depths, and on ground that is seen at a grazing
angle these are metres apart: rays that went all the way to their own depth would call ground voxels free in which no
pixel happens to end. Two rows up and down, because the ray of a pixel is still in the voxel above the ground when it
passes the place that the next row shows. On a street seen at 96 × 176 pixels, 13 frames fused, with the ground low in
its voxels, this took the share of seen occupied voxels that are called free from 6 % (3 % for every other pixel) to
0.1 %, for 1 to 2 % less of the volume known. It is also what keeps depth that bleeds over an edge from clearing the
object in front.
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """One image as its teachers saw it, with its camera.

    Attributes:
        class_id: semantic classes; `Taxonomy.free` (17 for Occ3D) is sky, 255 unknown. Every `stride`-th pixel of every
            `stride`-th row, starting in the middle of the first stride.
        depth_m: of the same pixels: metres along the optical axis, of the centre of the pixel; NaN where nothing is
            known, and in the sky.
        stride: of the pixels that show points.
        free_depth_m: of every `free_stride`-th pixel, the depth up to which its ray has certainly met nothing: the
            smallest depth in a small window around it. Infinite in the sky, NaN where nothing is known.
        free_class_id: of those pixels.
        free_stride: of the pixels that cast rays.
        intrinsics_px: 3×3, for the whole map.
        global_from_camera: 4×4, at the image's own time stamp.
    """

    class_id: UInt8[np.ndarray, "height width"]
    depth_m: Float32[np.ndarray, "height width"]
    stride: int
    free_depth_m: Float32[np.ndarray, "rows columns"]
    free_class_id: UInt8[np.ndarray, "rows columns"]
    free_stride: int
    intrinsics_px: Float[np.ndarray, "3 3"]
    global_from_camera: Float[np.ndarray, "4 4"]

    @property
    def num_bytes(self) -> int:
        """Memory that the maps take."""
        return self.class_id.nbytes + self.depth_m.nbytes + self.free_depth_m.nbytes + self.free_class_id.nbytes


def default_free_stride(height: int, width: int) -> int:
    """The stride of the pixels that cast rays with which maps of this size cast about 4,000."""
    return max(1, round((height * width / _RAYS_PER_IMAGE) ** 0.5))


def view_of(
    image: CameraImage,
    semantics: SemanticMap,
    depth: DepthMap,
    *,
    stride: int = 1,
    free_stride: int = 1,
    min_score: float = 0.0,
    min_confidence: float = 0.0,
    taxonomy: Taxonomy = OCC3D.taxonomy,
) -> View:
    """What the teachers say about an image, cleaned up (`clean_view`), without pixels that the image does not cover.

    Raises:
        ConfigError: the camera is distorted.
        DataError: the two maps differ in size, or have not the proportions of the image.
    """
    height, width = depth.depth_m.shape
    if semantics.class_id.shape != (height, width):
        raise DataError(
            f"{image.source.name}: the class map has {semantics.class_id.shape} pixels (height, width) and the depth "
            f"map {(height, width)}; both teachers must work at one resolution"
        )
    if abs(width * image.height - height * image.width) > max(image.height, image.width):
        raise DataError(
            f"{image.source.name}: maps of {(height, width)} pixels (height, width) cannot cover an image of "
            f"{(image.height, image.width)}; a map must show the whole image"
        )
    valid = image.valid()
    if valid is not None and valid.shape != (height, width):
        # The pixel of the image in which the centre of a pixel of the map lies.
        rows, columns = (np.arange(n) * 2 + 1 for n in (height, width))
        valid = valid[np.ix_(rows * valid.shape[0] // (2 * height), columns * valid.shape[1] // (2 * width))]
    return clean_view(
        semantics.class_id,
        depth.depth_m,
        image.pinhole_intrinsics_px * np.array([[width / image.width], [height / image.height], [1.0]]),
        image.global_from_camera,
        score=semantics.score,
        confidence=depth.confidence,
        valid=valid,
        stride=stride,
        free_stride=free_stride,
        min_score=min_score,
        min_confidence=min_confidence,
        taxonomy=taxonomy,
    )


def clean_view(
    class_id: UInt8[np.ndarray, "height width"],
    depth_m: Float[np.ndarray, "height width"],
    intrinsics_px: Float[np.ndarray, "3 3"],
    global_from_camera: Float[np.ndarray, "4 4"],
    *,
    score: Float[np.ndarray, "height width"],
    confidence: Float[np.ndarray, "height width"],
    valid: Bool[np.ndarray, "height width"] | None,
    stride: int,
    free_stride: int,
    min_score: float,
    min_confidence: float,
    taxonomy: Taxonomy,
) -> View:
    """The maps of an image, cleaned up.

    Pixels whose class has a lower score than `min_score` become unknown; pixels whose depth has a lower confidence
    than `min_confidence`, or is not finite and positive, have no depth. The sky has none either. Pixels that are not
    `valid` are unknown and have no depth, so that they neither vote nor cast a ray.
    """
    if valid is not None:
        class_id = np.where(valid, class_id, np.uint8(UNKNOWN))
        depth_m = np.where(valid, depth_m, np.nan)
    clean_class_id = np.empty(class_id.shape, np.uint8)
    clean_depth_m = np.empty(class_id.shape, np.float32)
    _clean(
        np.asarray(class_id, np.uint8),
        np.asarray(score, np.float32),
        np.asarray(depth_m, np.float32),
        np.asarray(confidence, np.float32),
        float(min_score),
        float(min_confidence),
        taxonomy.free,
        clean_class_id,
        clean_depth_m,
    )
    free_depth_m = np.empty(strided(clean_depth_m, free_stride).shape, np.float32)
    half_rows, half_columns = (size // 2 for size in _FREE_WINDOW_PX)
    _free_depth(clean_class_id, clean_depth_m, free_stride, half_rows, half_columns, taxonomy.free, free_depth_m)
    return View(
        class_id=np.ascontiguousarray(strided(clean_class_id, stride)),
        depth_m=np.ascontiguousarray(strided(clean_depth_m, stride)),
        stride=stride,
        free_depth_m=free_depth_m,
        free_class_id=np.ascontiguousarray(strided(clean_class_id, free_stride)),
        free_stride=free_stride,
        intrinsics_px=intrinsics_px,
        global_from_camera=global_from_camera,
    )


def strided(image: np.ndarray, stride: int) -> np.ndarray:
    """Every `stride`-th pixel of every `stride`-th row of an image [height, width], as a view into it."""
    return image[stride // 2 :: stride, stride // 2 :: stride]


@njit
def _clean(
    class_id: UInt8[np.ndarray, "rows columns"], score: Float32[np.ndarray, "rows columns"],
    depth_m: Float32[np.ndarray, "rows columns"], confidence: Float32[np.ndarray, "rows columns"], min_score: float,
    min_confidence: float, free: int, out_class: UInt8[np.ndarray, "rows columns"],
    out_depth_m: Float32[np.ndarray, "rows columns"],
) -> None:  # fmt: skip
    rows, columns = class_id.shape
    for row in range(rows):
        for column in range(columns):
            # Written so that a score or a depth that is NaN counts as unknown.
            known = score[row, column] >= min_score
            found = class_id[row, column] if known else np.uint8(UNKNOWN)
            out_class[row, column] = found
            depth = depth_m[row, column]
            has_depth = depth > 0.0 and np.isfinite(depth) and confidence[row, column] >= min_confidence
            out_depth_m[row, column] = depth if has_depth and found != free else np.float32(np.nan)


@njit
def _free_depth(
    class_id: UInt8[np.ndarray, "rows columns"], depth_m: Float32[np.ndarray, "rows columns"], stride: int,
    half_rows: int, half_columns: int, free: int, out_m: Float32[np.ndarray, "out_rows out_columns"],
) -> None:  # fmt: skip
    rows, columns = depth_m.shape
    for i in range(out_m.shape[0]):
        row = i * stride + stride // 2
        for j in range(out_m.shape[1]):
            column = j * stride + stride // 2
            if class_id[row, column] != free and np.isnan(depth_m[row, column]):
                out_m[i, j] = np.nan
                continue
            nearest = np.float32(np.inf)
            for r in range(max(0, row - half_rows), min(rows, row + half_rows + 1)):
                for c in range(max(0, column - half_columns), min(columns, column + half_columns + 1)):
                    if depth_m[r, c] < nearest:
                        nearest = depth_m[r, c]
            out_m[i, j] = nearest
