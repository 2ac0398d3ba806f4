"""Pinhole cameras and rigs of them.

Camera frame: x right, y down, z along the optical axis. `depth_m` is the z coordinate there, not the length of the
ray. Pixels: continuous image coordinates (u to the right, v down) in which pixel (column i, row j) covers
[i, i+1) × [j, j+1), so its centre is (i + 0.5, j + 0.5). With this convention resizing an image by a factor
scales the intrinsics by the same factor, and `grid_sample(align_corners=False)` needs u' = 2u/width − 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from occlift.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraRig:
    """The cameras of one or several key frames, all with images of one size.

    Its products are computed in the precision of its tensors, under autocast too: in bf16 a pixel coordinate of some
    hundreds is off by a pixel.

    Attributes:
        intrinsics_px: [batch, cameras, 3, 3] or [cameras, 3, 3], for images of `height` × `width` pixels.
        ego_from_camera: same leading shape, 4×4. `ego` is the ego frame at the *lidar's* time stamp; a camera that
            fired earlier has the ego motion in between folded into this transform.
        height: of the images, pixels.
        width: of the images, pixels.
    """

    intrinsics_px: Float[Tensor, "*batch cameras 3 3"]
    ego_from_camera: Float[Tensor, "*batch cameras 4 4"]
    height: int
    width: int

    @property
    def num_cameras(self) -> int:
        return self.intrinsics_px.shape[-3]

    def check_image_size(self, height: int, width: int) -> None:
        """Raises DataError unless images have the size that the intrinsics are for."""
        if (height, width) != (self.height, self.width):
            raise DataError(
                f"images of {height}×{width} pixels (height × width), and cameras whose intrinsics are for "
                f"{self.height}×{self.width}: resize or crop both (CameraRig.resized, CameraRig.cropped)"
            )

    def to(self, device: torch.device | str) -> CameraRig:
        return replace(
            self,
            intrinsics_px=self.intrinsics_px.to(device),
            ego_from_camera=self.ego_from_camera.to(device),
        )

    def resized(self, height: int, width: int) -> CameraRig:
        """The rig after its images were resized; the aspect ratio may change."""
        scale = self.intrinsics_px.new_tensor([width / self.width, height / self.height, 1.0])
        return replace(self, intrinsics_px=self.intrinsics_px * scale[:, None], height=height, width=width)

    def cropped(self, *, top: int, left: int, height: int, width: int) -> CameraRig:
        """The rig after the window [top, top+height) × [left, left+width) was cut out of its images."""
        shift = self.intrinsics_px.new_zeros(3, 3)
        shift[0, 2], shift[1, 2] = left, top
        return replace(self, intrinsics_px=self.intrinsics_px - shift, height=height, width=width)

    def camera_from_ego(self) -> Float[Tensor, "*batch cameras 4 4"]:
        """The inverse transforms, by transposing the rotations."""
        rotation = self.ego_from_camera[..., :3, :3].transpose(-1, -2)
        with self._full_precision():
            translation = -rotation @ self.ego_from_camera[..., :3, 3:]
        bottom = self.ego_from_camera[..., 3:, :]
        return torch.cat((torch.cat((rotation, translation), -1), bottom), -2)

    def project(
        self, points_ego: Float[Tensor, "points 3"], *, min_depth_m: float = 0.1
    ) -> tuple[
        Float[Tensor, "*batch cameras points 2"],
        Float[Tensor, "*batch cameras points"],
        Bool[Tensor, "*batch cameras points"],
    ]:
        """Projects ego points (metres) into every camera.

        Returns:
            pixels (u, v); depth along the optical axis, metres; and `visible`: in front of the camera by more than
            `min_depth_m` and inside the image. Occlusion is not considered. Pixels of points that are not visible
            are finite but meaningless.
        """
        camera_from_ego = self.camera_from_ego()
        rotation, translation = camera_from_ego[..., :3, :3], camera_from_ego[..., :3, 3]
        with self._full_precision():
            # One product K·(R·p + t), kept as [.., 3, points]: three long rows instead of many short ones.
            pixel_from_ego = self.intrinsics_px @ rotation
            offset = (self.intrinsics_px @ translation[..., None])[..., 0]
            homogeneous = pixel_from_ego @ points_ego.T + offset[..., None]
        depth_m = homogeneous[..., 2, :]
        u, v = (homogeneous[..., :2, :] / depth_m.clamp(min=min_depth_m)[..., None, :]).unbind(-2)
        inside_image = (u >= 0) & (u < self.width) & (v >= 0) & (v < self.height)
        return torch.stack((u, v), -1), depth_m, inside_image & (depth_m > min_depth_m)

    def rays(
        self, rows: int, columns: int
    ) -> tuple[Float[Tensor, "*batch cameras 3"], Float[Tensor, "*batch cameras rows columns 3"]]:
        """Rays through the centres of `rows` × `columns` equal cells that cover the whole image.

        Returns:
            origins, metres, ego frame; and directions in the ego frame, one metre long *in depth*: the surface that a
            pixel shows lies at origin + depth_m · direction.
        """
        cells = self.resized(rows, columns)
        u = torch.arange(columns, device=self.intrinsics_px.device, dtype=self.intrinsics_px.dtype) + 0.5
        v = torch.arange(rows, device=u.device, dtype=u.dtype) + 0.5
        pixels = torch.stack((u.repeat(rows), v.repeat_interleave(columns), u.new_ones(rows * columns)))
        with self._full_precision():
            directions = self.ego_from_camera[..., :3, :3] @ (cells.intrinsics_px.inverse() @ pixels)
        per_cell = directions.transpose(-1, -2).reshape(*directions.shape[:-2], rows, columns, 3)
        return self.ego_from_camera[..., :3, 3], per_cell

    def _full_precision(self) -> torch.autocast:
        return torch.autocast(self.intrinsics_px.device.type, enabled=False)
