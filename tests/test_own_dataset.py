"""A user's own cameras, of different sizes and without lidar, made of arrays: a data set of a few lines gets labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from occlift import (
    OCC3D,
    CameraImage,
    KeyFrame,
    LabelConfig,
    LabelFolder,
    LabelSpace,
    PosedView,
    Taxonomy,
    generate_labels,
    label_from_views,
    read_label,
)
from occlift.errors import ConfigError
from occlift.label_space import DRIVEABLE_SURFACE, FREE, MANMADE, UNKNOWN
from occlift.labels.files import label_path
from occlift.scenes import DatasetSpec, ImageArray
from occlift.teachers.teacher import DepthMap, SemanticMap

WALL_M = 8.0
SIZES = {"left": (48, 64), "right": (40, 80)}
EGO_FROM_CAMERA = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])


def camera_image(name: str, number: int) -> CameraImage:
    height, width = SIZES[name]
    mounting, pose = EGO_FROM_CAMERA.copy(), np.eye(4)
    mounting[1, 3] = 0.5 if name == "left" else -0.5
    pose[0, 3] = 0.5 * number
    pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)
    return CameraImage(
        camera=name, key=f"{name}-{number}", timestamp_us=number, height=height, width=width,
        intrinsics_px=np.array([[40.0, 0, width / 2], [0, 40, height / 2], [0, 0, 1]]), source=ImageArray(pixels),
        ego_at_image_from_camera=mounting, global_from_ego_at_image=pose,
    )  # fmt: skip


class Hall:
    spec, cameras = DatasetSpec("test", "hall"), ("left", "right")

    def scenes(self, split: str = "all") -> tuple[str, ...]:
        return ("walk",)

    def key_frame_tokens(self, scene: str) -> tuple[str, ...]:
        return ("0", "1", "2")

    def key_frame(self, token: str) -> KeyFrame:
        images = tuple(camera_image(name, int(token)) for name in self.cameras)
        pose = images[0].global_from_ego_at_image
        return KeyFrame(
            token=token, scene="walk", index=int(token), timestamp_us=0, global_from_ego=pose, cameras=images
        )


class Eyes:
    """A teacher of classes and of depth that knows the hall: a floor, and a wall that stands still."""

    settings: Mapping[str, object] = {"teacher": "eyes"}

    def maps(self, image: CameraImage) -> tuple[np.ndarray, np.ndarray]:
        v, _ = np.mgrid[: image.height, : image.width] + 0.5
        down = (v - image.height / 2) / 40.0
        wall_m = WALL_M - image.global_from_camera[0, 3]
        floor_m = np.where(down > 0, 1.5 / np.maximum(down, 1e-6), np.inf)
        class_id = np.where(floor_m < wall_m, DRIVEABLE_SURFACE, np.where(down < -0.3, FREE, MANMADE))
        return class_id.astype(np.uint8), np.minimum(floor_m, wall_m).astype(np.float32)

    def semantics(self, frame: KeyFrame) -> list[SemanticMap]:
        maps = [self.maps(image)[0] for image in frame.cameras]
        return [SemanticMap(class_id=m, score=np.ones(m.shape, np.float32)) for m in maps]

    def depth(self, frame: KeyFrame) -> list[DepthMap]:
        maps = [self.maps(image)[1] for image in frame.cameras]
        return [DepthMap(depth_m=m, confidence=np.ones(m.shape, np.float32)) for m in maps]


def test_cameras_of_different_sizes_without_lidar_get_labels(tmp_path: Path) -> None:
    run = generate_labels(Hall(), tmp_path / "labels", LabelConfig(frames=3), semantics=Eyes(), depth=Eyes())
    assert (run.done, dict(run.failed)) == (3, {})
    label = read_label(label_path(tmp_path / "labels", "walk", "1"), allow_unknown=True)
    centers = OCC3D.grid.centers()
    floor, wall = (centers[label.semantics == class_id] for class_id in (DRIVEABLE_SURFACE, MANMADE))
    assert len(floor) > 50
    assert len(wall) > 50
    assert np.abs(floor[:, 2]).max() <= 0.4
    assert np.abs(wall[:, 0] - (WALL_M - 0.5)).max() <= 0.4
    assert set(np.unique(label.semantics)) == {DRIVEABLE_SURFACE, MANMADE, FREE, UNKNOWN}


def test_a_label_of_a_data_set_is_the_label_of_its_views(tmp_path: Path) -> None:
    generate_labels(Hall(), tmp_path / "labels", LabelConfig(frames=3), semantics=Eyes(), depth=Eyes())
    label = read_label(label_path(tmp_path / "labels", "walk", "1"), allow_unknown=True)
    current, views = Hall().key_frame("1"), []
    for token in ("0", "1", "2"):
        for image in Hall().key_frame(token).cameras:
            class_id, depth_m = Eyes().maps(image)
            views.append(
                PosedView(
                    class_id=class_id, depth_m=depth_m, intrinsics_px=image.intrinsics_px, current=token == "1",
                    ego_from_camera=np.linalg.inv(current.global_from_ego) @ image.global_from_camera,
                )
            )  # fmt: skip
    from_views = label_from_views(views)
    np.testing.assert_array_equal(from_views.semantics, label.semantics)
    np.testing.assert_array_equal(from_views.mask_camera, label.mask_camera)
    np.testing.assert_array_equal(from_views.mask_lidar, label.mask_lidar)


class HalfHall(Hall):
    """The hall, seen through lenses that cover the right half of their images."""

    def key_frame(self, token: str) -> KeyFrame:
        frame = super().key_frame(token)
        return replace(
            frame, cameras=tuple(replace(image, source=HalfImage(image.source.read())) for image in frame.cameras)
        )


class HalfImage(ImageArray):
    def valid(self) -> np.ndarray:
        covered = np.zeros(self.read().shape[:2], bool)
        covered[:, covered.shape[1] // 2 :] = True
        return covered


def test_pixels_that_a_lens_does_not_cover_say_nothing(tmp_path: Path) -> None:
    generate_labels(HalfHall(), tmp_path / "labels", LabelConfig(frames=3), semantics=Eyes(), depth=Eyes())
    label = read_label(label_path(tmp_path / "labels", "walk", "1"), allow_unknown=True)
    # The left camera looks straight ahead from y = 0.5 m.
    assert (label.semantics[OCC3D.grid.centers()[..., 1] > 0.9] == UNKNOWN).all()
    assert (label.semantics < FREE).any()


def test_a_folder_keeps_to_its_label_space(tmp_path: Path) -> None:
    generate_labels(Hall(), tmp_path, LabelConfig(frames=1), semantics=Eyes(), depth=Eyes())
    names = tuple(f"class {i}" for i in range(17))
    other = LabelSpace(grid=OCC3D.grid, taxonomy=Taxonomy(names=names))
    with pytest.raises(ConfigError, match=r"the labels in .* and what is asked for are not about the same"):
        generate_labels(Hall(), tmp_path, LabelConfig(frames=1), semantics=Eyes(), depth=Eyes(), space=other)
    with pytest.raises(ConfigError, match="not about the same grid and classes"):
        LabelFolder(tmp_path, space=other)
    assert len(LabelFolder(tmp_path)) == 3


def test_what_the_data_set_does_not_have_is_said_before_any_work(tmp_path: Path) -> None:
    config = LabelConfig(frames=3, moving="boxes")
    with pytest.raises(ConfigError, match=r"annotated boxes.*test:hall does not have"):
        generate_labels(Hall(), tmp_path / "labels", config, semantics=Eyes(), depth=Eyes())
    with pytest.raises(ConfigError, match=r"truth maps.*test:hall does not have"):
        generate_labels(Hall(), tmp_path / "labels", LabelConfig())
    assert not (tmp_path / "labels").exists()
