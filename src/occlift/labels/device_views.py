"""Maps of images on any device, with the places of their cameras: which voxels they show, and where their pixels lie.

Double precision and the order of operations are those of `occlift.labels.surface_kernels`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, UInt8
from torch import Tensor

from occlift.geometry.transforms import inverse
from occlift.labels.surface_kernels import NEAREST_M
from occlift.labels.view import View

_VOXELS_AT_ONCE: Final = 1 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceView:
    """The maps of one image on a device, cleaned up as those of a `View`.

    Attributes:
        class_id: semantic classes; `Taxonomy.free` (17 for Occ3D) is sky, 255 unknown. Every `stride`-th pixel of every
            `stride`-th row, starting in the middle of the first stride.
        depth_m: of the same pixels: metres along the optical axis; NaN where nothing is known, and in the sky.
        intrinsics_px: for the whole map.
    """

    class_id: UInt8[Tensor, "height width"]
    depth_m: Float32[Tensor, "height width"]
    stride: int
    intrinsics_px: Float[np.ndarray, "3 3"]

    @classmethod
    def of(cls, view: View, device: torch.device | str) -> DeviceView:
        """A view, moved to a device."""
        class_id, depth_m = (torch.from_numpy(array).to(device) for array in (view.class_id, view.depth_m))
        return cls(class_id=class_id, depth_m=depth_m, stride=view.stride, intrinsics_px=view.intrinsics_px)


PosedDeviceView = tuple[DeviceView, Float[np.ndarray, "4 4"], bool]
"""A view, the transform from its camera to the grid's frame, and whether what may move by itself counts in it."""


class Lattice(NamedTuple):
    """Voxels whose centres are looked at: their number, lower corner and edges."""

    shape: tuple[int, ...]
    lower_m: Float64[np.ndarray, "3"]
    size_m: Float64[np.ndarray, "3"]

    def centers(self, axis: int, device: torch.device) -> Float64[Tensor, " n"]:
        steps = torch.arange(self.shape[axis], dtype=torch.float64, device=device) + 0.5
        return float(self.lower_m[axis]) + steps * float(self.size_m[axis])


class Camera(NamedTuple):
    """A view with its place: from the grid's frame to (u, v, 1) · depth and back, and the classes that count."""

    view: DeviceView
    pose: Float64[np.ndarray, "4 4"]
    pixel_from_grid: list[list[float]]
    counted: Bool[Tensor, "256"]

    @classmethod
    def of(cls, view: DeviceView, pose: Float[np.ndarray, "4 4"], counted: Bool[Tensor, "256"]) -> Camera:
        return cls(view, pose, (view.intrinsics_px @ inverse(pose)[:3]).tolist(), counted)

    def project(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Column and row on the map, in pixels of it, and depth of points, metres."""
        # Products before sums, none of them fused: as the compiled pass computes it.
        u, v, ahead = (p[0] * x + p[1] * y + p[2] * z + p[3] for p in self.pixel_from_grid)
        return u / (ahead * self.view.stride), v / (ahead * self.view.stride), ahead

    def look(
        self, column: Float64[Tensor, "*n"], row: Float64[Tensor, "*n"]
    ) -> tuple[Bool[Tensor, "*n"], Int[Tensor, "*n"], Float64[Tensor, "*n"]]:
        """(whether the places are on the map, class and depth of what it shows there)."""
        height, width = self.view.depth_m.shape
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        pixel = torch.where(inside, row, 0.0).long() * width + torch.where(inside, column, 0.0).long()
        return inside, self.view.class_id.reshape(-1)[pixel].long(), self.view.depth_m.reshape(-1)[pixel].double()

    def voxels(self, lattice: Lattice) -> Iterator[tuple[Int[Tensor, " n"], Tensor, Tensor, Tensor]]:
        """The voxels that are on the map: (their flat indices, depths of their centres, class and depth there)."""
        device = self.view.depth_m.device
        x, y, z = (lattice.centers(axis, device) for axis in range(3))
        column = self._columns_in_sight(x, y, z).nonzero().reshape(-1)
        number = max(1, _VOXELS_AT_ONCE // len(z))
        for start in range(0, len(column), number):
            some = column[start : start + number]
            u, v, ahead = self.project(x[some // len(y)][:, None], y[some % len(y)][:, None], z[None])
            seen, class_id, depth_m = self.look(u, v)
            seen &= ahead >= NEAREST_M
            voxel = some[:, None] * len(z) + torch.arange(len(z), device=device)
            yield voxel[seen], ahead[seen], class_id[seen], depth_m[seen]

    def _columns_in_sight(self, x: Tensor, y: Tensor, z: Tensor) -> Bool[Tensor, " columns"]:
        """Without columns of voxels that are behind the camera, or beside the image, at both ends."""
        height, width = (size * self.view.stride for size in self.view.depth_m.shape)
        u, v, ahead = (
            p[0] * x[:, None, None] + p[1] * y[:, None] + p[2] * z[[0, -1]] + p[3] for p in self.pixel_from_grid
        )
        beside = torch.stack([ahead < NEAREST_M, u < 0, u >= ahead * width, v < 0, v >= ahead * height])
        return ~beside.all(dim=-1).any(dim=0).reshape(-1)

    def rays(self, lattice: Lattice, rows: Tensor, columns: Tensor) -> Rays:
        """The rays of pixels, in voxels of the lattice."""
        rotation = (self.pose[:3, :3] @ np.linalg.inv(self.view.intrinsics_px)) / lattice.size_m[:, None]
        origin = (self.pose[:3, 3] - lattice.lower_m) / lattice.size_m
        v, u = (cells.double() * self.view.stride + self.view.stride // 2 + 0.5 for cells in (rows, columns))
        x, y, z = (r[0] * u + r[1] * v + r[2] for r in rotation.tolist())
        return Rays(lattice.shape, origin.tolist(), (x, y, z))


class Rays(NamedTuple):
    """Rays of pixels, in voxels."""

    shape: tuple[int, ...]
    origin: list[float]
    along: tuple[Tensor, Tensor, Tensor]

    def at(self, depth_m: Float64[Tensor, " n"]) -> tuple[tuple[Tensor, ...], Bool[Tensor, " n"]]:
        """Places on the rays, and whether they are in the grid."""
        place = tuple(start + depth_m * ray for start, ray in zip(self.origin, self.along, strict=True))
        inside = torch.ones_like(depth_m, dtype=torch.bool)
        for axis in range(3):
            inside &= (place[axis] >= 0) & (place[axis] < self.shape[axis])
        return place, inside

    def of(self, pixels: Bool[Tensor, " n"]) -> Rays:
        """The rays of some of the pixels."""
        x, y, z = (ray[pixels] for ray in self.along)
        return Rays(self.shape, self.origin, (x, y, z))

    def voxel(self, place: tuple[Tensor, ...], inside: Bool[Tensor, " n"]) -> Int[Tensor, " n"]:
        """Flat index of the voxel of each place; 0 outside of the grid."""
        i, j, k = (torch.where(inside, part, 0.0).long() for part in place)
        return (i * self.shape[1] + j) * self.shape[2] + k
