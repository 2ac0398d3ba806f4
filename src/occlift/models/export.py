"""An `EasyOcc` whose every step is an operation of ONNX, with the calibration among its inputs.

`occlift.models.lift` lists the (voxel, camera) pairs that see each other: a list whose length changes with the
calibration, summed by an `embedding_bag`. Neither has a form in ONNX. Here every camera is sampled at every voxel
(`grid_sample`) and what it does not see is masked: more work, the same answer.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from occlift.geometry.cameras import CameraRig
from occlift.models.easyocc import EasyOcc


def dense_lift(
    features: Float[Tensor, "batch cameras channels height width"],
    rig: CameraRig,
    points_ego: Float[Tensor, "points 3"],
) -> tuple[Float[Tensor, "batch points channels"], Int[Tensor, "batch points"]]:
    """`occlift.models.lift.lift`, camera by camera.

    Args:
        rig: batched, [batch, cameras, ...].
        points_ego: metres, the ego frame at the lidar's time.

    Returns:
        The mean over the cameras that see a point, zero where none does; and how many do.
    """
    pixels, _, visible = rig.project(points_ego)
    # [−1, 1] covers the image from edge to edge: grid_sample's convention without aligned corners.
    where = 2 * pixels / pixels.new_tensor([rig.width, rig.height]) - 1
    total = features.new_zeros(features.shape[0], features.shape[2], points_ego.shape[0])
    for camera in range(rig.num_cameras):
        samples = F.grid_sample(
            features[:, camera], where[:, camera, None], mode="bilinear", padding_mode="border", align_corners=False
        )[:, :, 0]
        total = total + samples * visible[:, camera, None]
    views = visible.sum(1)
    return (total / views.clamp(min=1)[:, None]).transpose(1, 2), views


class ExportableEasyOcc(nn.Module):
    """The same network as tensors in, tensor out.

    Args:
        model: shared, not copied; put it into evaluation mode.
    """

    def __init__(self, model: EasyOcc) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        images: Float[Tensor, "batch cameras 3 height width"],
        intrinsics_px: Float[Tensor, "batch cameras 3 3"],
        ego_from_camera: Float[Tensor, "batch cameras 4 4"],
    ) -> Float[Tensor, "batch classes x y z"]:
        """As `EasyOcc.forward`, with the fields of the `CameraRig` one by one."""
        config = self.model.config
        rig = CameraRig(
            intrinsics_px=intrinsics_px,
            ego_from_camera=ego_from_camera,
            height=config.image_height,
            width=config.image_width,
        )
        lifted, views = dense_lift(self.model.features(images, rig), rig, self.model.voxel_centers_ego)
        return self.model.logits(lifted, views)
