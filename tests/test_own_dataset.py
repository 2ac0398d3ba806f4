"""A user's own cameras, grid and classes, made of arrays: from a data set of eight lines to labels and scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from occlift import (
    CameraImage,
    KeyFrame,
    LabelConfig,
    LabelSpace,
    Taxonomy,
    VoxelGrid,
    generate_labels,
    read_label,
)
from occlift.errors import ConfigError
from occlift.labels.files import label_path
from occlift.scenes import DatasetSpec, ImageArray
from occlift.teachers.teacher import DepthMap, SemanticMap

SPACE = LabelSpace(
    grid=VoxelGrid(lower_m=(-2.0, -5.4, -1.0), voxel_size_m=(0.2, 0.2, 0.2), shape=(64, 48, 16)),
    taxonomy=Taxonomy(
        names=("floor", "wall", "car", "person", "plant"), moving=("car", "person"), thin=("person",), ground=("floor",)
    ),
)
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
        class_id = np.where(floor_m < wall_m, 0, np.where(down < -0.3, SPACE.taxonomy.free, 1))
        return class_id.astype(np.uint8), np.minimum(floor_m, wall_m).astype(np.float32)

    def semantics(self, frame: KeyFrame) -> list[SemanticMap]:
        maps = [self.maps(image)[0] for image in frame.cameras]
        return [SemanticMap(class_id=m, score=np.ones(m.shape, np.float32)) for m in maps]

    def depth(self, frame: KeyFrame) -> list[DepthMap]:
        maps = [self.maps(image)[1] for image in frame.cameras]
        return [DepthMap(depth_m=m, confidence=np.ones(m.shape, np.float32)) for m in maps]


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hall") / "labels"
    run = generate_labels(Hall(), out, LabelConfig(frames=3), space=SPACE, semantics=Eyes(), depth=Eyes())
    assert (run.done, dict(run.failed)) == (3, {})
    return out


def test_labels_show_the_floor_and_the_wall_where_they_are(labels: Path) -> None:
    label = read_label(label_path(labels, "walk", "1"), allow_unknown=True, space=SPACE)
    assert label.semantics.shape == SPACE.grid.shape
    centers = SPACE.grid.centers()
    found = {name: centers[label.semantics == SPACE.taxonomy.id_of(name)] for name in ("floor", "wall")}
    assert len(found["floor"]) > 100
    assert len(found["wall"]) > 100
    assert np.abs(found["floor"][:, 2]).max() < 0.2
    assert np.abs(found["wall"][:, 0] - (WALL_M - 0.5)).max() < 0.2
    assert set(np.unique(label.semantics)) == {0, 1, SPACE.taxonomy.free, 255}


def test_labels_of_another_space_are_refused(labels: Path) -> None:
    with pytest.raises(ConfigError, match="grid"):
        generate_labels(Hall(), labels, LabelConfig(frames=3), semantics=Eyes(), depth=Eyes())
