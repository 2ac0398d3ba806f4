"""A town seen through lenses: the ray of every pixel is traced, so that the truth about each image is exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from occlift.geometry.lens_projection import unproject
from occlift.geometry.lenses import BrownConrady, FTheta, KannalaBrandt, Lens, Mei
from occlift.geometry.transforms import rigid_transform, rotation_about_z
from occlift.label_space import UNKNOWN
from occlift.scenes.dataset import KeyFrameList
from occlift.scenes.frames import CameraImage, KeyFrame
from occlift.scenes.sources import ImageArray, ImageFile
from occlift.scenes.truth_maps import TruthMaps
from occlift.town.config import TownConfig
from occlift.town.layout import TownScene
from occlift.town.scene_writer import scene_of_town
from occlift.town.trace import trace_rays

FORWARD: Final = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
"""From a camera that looks ahead to the ego frame."""

HEIGHT, WIDTH = 240, 384


def intrinsics(focal_px: float) -> np.ndarray:
    return np.array([[focal_px, 0.0, WIDTH / 2 + 3], [0.0, focal_px, HEIGHT / 2 - 4], [0.0, 0.0, 1.0]])


LENSES: Final[Mapping[str, tuple[Lens, np.ndarray]]] = {
    "brown_conrady": (BrownConrady(k1=-0.3, k2=0.09, p1=1e-3, p2=-5e-4), intrinsics(300.0)),
    "kannala_brandt": (KannalaBrandt(k1=0.05, k2=-0.01, k3=2e-3, k4=-3e-4), intrinsics(108.0)),
    "f_theta": (
        FTheta(reference_poly="PIXELDIST_TO_ANGLE", pixeldist_to_angle_poly=(0.0, 6.25e-3, 0.0, 1.9e-8), max_angle=1.3),
        intrinsics(1.0),
    ),
    "mei": (Mei(xi=1.1, k1=-0.08, k2=0.01, p1=5e-4, p2=-2e-4), intrinsics(260.0)),
}
"""One lens of each kind and its intrinsics, for images of `HEIGHT` × `WIDTH`: one normal, three wide ones."""


@dataclass(frozen=True, eq=False)
class TracedImage(ImageArray):
    """An image of the town, whose grey tells the class, and the truth about it."""

    truth: TruthMaps = field(kw_only=True)


@dataclass(frozen=True, kw_only=True)
class Town:
    """A scene in which nothing moves, seen by cameras that look ahead and back."""

    scene: TownScene

    @classmethod
    def small(cls) -> Town:
        return cls(scene=scene_of_town(TownConfig(scenes=1, frames=2, seed=5, static=True), 0))

    def data(self, lens: Lens, intrinsics_px: np.ndarray) -> TracedTown:
        """One key frame of the scene as two cameras with a lens see it."""
        pose = self.scene.drive.global_from_ego(0.0)
        images = tuple(
            CameraImage(
                camera=name, key=f"{name}-0", timestamp_us=0, height=HEIGHT, width=WIDTH, intrinsics_px=intrinsics_px,
                distortion=lens, source=ImageArray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)),
                global_from_ego_at_image=pose,
                ego_at_image_from_camera=rigid_transform(rotation_about_z(turn) @ FORWARD, np.array([0.8, 0.0, 1.6])),
            )
            for name, turn in (("front", 0.0), ("back", np.pi))
        )  # fmt: skip
        frame = KeyFrame(token="0", scene="town", index=0, timestamp_us=0, global_from_ego=pose, cameras=images)
        return TracedTown([self.traced(frame)])

    def traced(self, frame: KeyFrame) -> KeyFrame:
        """A key frame with images and truth as its cameras see the scene, through their lens or as pinholes."""
        return replace(frame, cameras=tuple(self._traced(image) for image in frame.cameras))

    def _traced(self, image: CameraImage) -> CameraImage:
        columns, rows = np.meshgrid(np.arange(image.width) + 0.5, np.arange(image.height) + 0.5)
        rays, valid = unproject(np.stack([columns, rows], -1), image.intrinsics_px, image.distortion or BrownConrady())
        directions = rays[valid] @ image.global_from_camera[:3, :3].T
        origins = np.broadcast_to(image.global_from_camera[:3, 3], directions.shape).copy()
        range_m, class_id, instance = trace_rays(
            self.scene.ground, self.scene.static, self.scene.moving(0.0), origins, directions
        )
        semantics = np.full(valid.shape, UNKNOWN, np.uint8)
        depth_m = np.full(valid.shape, np.inf, np.float32)
        instances = np.zeros(valid.shape, np.uint16)
        semantics[valid], instances[valid] = class_id, instance
        depth_m[valid] = np.where(np.isinf(range_m), np.inf, range_m * rays[valid][:, 2])
        truth = TruthMaps(semantics=semantics, depth_m=depth_m, instance=instances)
        return replace(image, source=TracedImage(np.repeat((semantics * 14)[..., None], 3, -1), truth=truth))


class HalfFile(ImageFile):
    """An image of which a lens covers the right half only."""

    def valid(self) -> np.ndarray:
        covered = np.zeros(self.read().shape[:2], bool)
        covered[:, covered.shape[1] // 2 :] = True
        return covered


def through_half_a_lens(frame: KeyFrame) -> KeyFrame:
    """A key frame of images in files, of which the right halves are valid."""
    return replace(
        frame, cameras=tuple(replace(image, source=HalfFile(Path(image.source.name))) for image in frame.cameras)
    )


class TracedTown(KeyFrameList):
    """Key frames of traced images."""

    def truth_maps(self, image: CameraImage) -> TruthMaps:
        assert isinstance(image.source, TracedImage)
        return image.source.truth
