"""Images into networks and maps back out, without losing where a pixel lies.

A `Placement` says where an image ends up in the input of a network: resized, and padded to a fixed size. The same
object brings the network's map back to the size of the image. Resizing keeps the convention of `docs/conventions.md`:
pixel centres at +0.5, so intrinsics scale by the factor of the resize and shift by the padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Float, Float32, Shaped, UInt8

from occlift.scenes.frames import CameraImage

Upsampling = Literal["nearest", "bilinear"]

_DEFINITELY_FAR: Final = 1e-12
"""Inverse depth, 1/m, that stands for +inf while depths are interpolated."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where an image lies in the input of a network.

    Attributes:
        image_height, image_width: of the image as it is on disk, pixels.
        height, width: of the resized image, pixels of the input.
        top, left: the padding before it, pixels of the input.
        input_height, input_width: of the whole input, pixels.
    """

    image_height: int
    image_width: int
    height: int
    width: int
    top: int
    left: int
    input_height: int
    input_width: int

    def __post_init__(self) -> None:
        assert 0 < self.height <= self.input_height - self.top, self
        assert 0 < self.width <= self.input_width - self.left, self
        assert min(self.top, self.left) >= 0, self

    @property
    def scale_x(self) -> float:
        """Input pixels per image pixel to the right: what `f_x` is multiplied by."""
        return self.width / self.image_width

    @property
    def scale_y(self) -> float:
        """Input pixels per image pixel downwards: what `f_y` is multiplied by."""
        return self.height / self.image_height

    def intrinsics_px(self, image_intrinsics_px: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
        """The intrinsics of the network's input from those of the image."""
        scaled = image_intrinsics_px * np.array([[self.scale_x], [self.scale_y], [1.0]])
        scaled[0, 2] += self.left
        scaled[1, 2] += self.top
        return scaled

    def into_input(
        self, image: UInt8[np.ndarray, "height width 3"], fill: tuple[float, float, float], *, antialias: bool = False
    ) -> Float32[np.ndarray, "3 input_height input_width"]:
        """The input of the network: values 0..255, `fill` (RGB) around the image.

        Args:
            antialias: smooth before the image is made smaller; by default not, as many published networks do.
        """
        import torch
        from torch.nn import functional as F

        assert image.shape[:2] == (self.image_height, self.image_width), (image.shape, self)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
        if (self.height, self.width) != (self.image_height, self.image_width):
            size = (self.height, self.width)
            pixels = F.interpolate(pixels[None], size, mode="bilinear", align_corners=False, antialias=antialias)[0]
        padded = np.empty((3, self.input_height, self.input_width), np.float32)
        padded[:] = np.asarray(fill, np.float32)[:, None, None]
        padded[:, self.top : self.top + self.height, self.left : self.left + self.width] = pixels.numpy()
        return padded

    def onto_image(self, values: Shaped[np.ndarray, "rows columns"]) -> Shaped[np.ndarray, "image_height image_width"]:
        """A map that covers the whole input, as a map of the image: each pixel takes the value that lies nearest.

        Args:
            values: of any resolution; padding included.
        """
        v, u = self.positions(values.shape)
        return values[np.floor(v + 0.5).astype(np.intp)[:, None], np.floor(u + 0.5).astype(np.intp)]

    def depth_onto_image(
        self, depth: Float32[np.ndarray, "rows columns"], upsampling: Upsampling, *, edge_ratio: float
    ) -> Float32[np.ndarray, "image_height image_width"]:
        """A depth map that covers the whole input, as a depth map of the image.

        Args:
            depth: of any resolution, padding included; in any unit.
            upsampling: `nearest` invents no depth. `bilinear` interpolates the inverse depth, which changes linearly
                over the image of a plane, so planes stay planes.
            edge_ratio: where the four depths that `bilinear` mixes differ by more than this factor there is an edge
                between two surfaces, and the result is NaN: a mixture would hang in the air between them.
        """
        if upsampling == "nearest":
            return self.onto_image(depth)
        v, u = self.positions(depth.shape)
        row, column = np.floor(v).astype(np.intp), np.floor(u).astype(np.intp)
        down = (v - row).astype(np.float32)[:, None]
        right = (u - column).astype(np.float32)
        next_row, next_column = np.minimum(row + 1, depth.shape[0] - 1), np.minimum(column + 1, depth.shape[1] - 1)
        # Where the weight of a neighbour is zero it must not decide about an edge.
        next_row, next_column = np.where(v > row, next_row, row), np.where(u > column, next_column, column)
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = np.maximum(1 / depth, np.float32(_DEFINITELY_FAR))
            corners = [inverse[i[:, None], j] for i in (row, next_row) for j in (column, next_column)]
            upper = corners[0] + (corners[1] - corners[0]) * right
            lower = corners[2] + (corners[3] - corners[2]) * right
            result = 1 / (upper + (lower - upper) * down)
            edge = np.max(corners, axis=0) > edge_ratio * np.min(corners, axis=0)
        result[edge] = np.nan
        return result.astype(np.float32)

    def positions(self, shape: tuple[int, ...]) -> tuple[Float[np.ndarray, "h"], Float[np.ndarray, "w"]]:
        """Where the centres of the image's pixels lie in a map of the input, in its index coordinates (row, column).

        Kept within the centres of the outermost cells that belong to the image: padding is never mixed in.
        """
        axes = []
        for cells, whole, image, size, start in (
            (shape[0], self.input_height, self.image_height, self.height, self.top),
            (shape[1], self.input_width, self.image_width, self.width, self.left),
        ):
            per_input_pixel = cells / whole
            centres = ((np.arange(image) + 0.5) * (size / image) + start) * per_input_pixel - 0.5
            first = np.ceil(start * per_input_pixel)
            last = np.floor((start + size) * per_input_pixel) - 1
            axes.append(np.clip(centres, min(first, last), max(first, last)))
        return axes[0], axes[1]


def stretched(camera: CameraImage, height: int, width: int) -> Placement:
    """The whole image, resized to fill an input; its proportions may change."""
    return Placement(
        image_height=camera.height,
        image_width=camera.width,
        height=height,
        width=width,
        top=0,
        left=0,
        input_height=height,
        input_width=width,
    )


def inscribed(camera: CameraImage, input_height: int, input_width: int) -> Placement:
    """The image as large as fits into the input, in its middle.

    An image whose pixels are not square (f_x ≠ f_y) is resized so that they become square, by factors in the ratio
    f_y : f_x: networks know no other. For square pixels the proportions are kept.
    """
    f_x, f_y = float(camera.pinhole_intrinsics_px[0, 0]), float(camera.pinhole_intrinsics_px[1, 1])
    focal_px = min(f_x * input_width / camera.width, f_y * input_height / camera.height)
    height = min(input_height, max(1, round(camera.height * focal_px / f_y)))
    width = min(input_width, max(1, round(camera.width * focal_px / f_x)))
    return Placement(
        image_height=camera.height,
        image_width=camera.width,
        height=height,
        width=width,
        top=(input_height - height) // 2,
        left=(input_width - width) // 2,
        input_height=input_height,
        input_width=input_width,
    )


def within(camera: CameraImage, height: int, width: int, *, multiple: int) -> Placement:
    """The whole image without padding, in an input of its proportions that is as large as height and width allow.

    Args:
        multiple: both sides of the input are rounded to multiples of it, and the image is stretched to them.
    """
    scale = min(height / camera.height, width / camera.width)
    sides = [max(1, round(side * scale / multiple)) * multiple for side in (camera.height, camera.width)]
    return stretched(camera, *sides)
