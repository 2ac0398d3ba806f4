"""A user's own cameras, of different sizes and without lidar, made of arrays: a data set of a few lines gets labels,
a network and scores.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import tiny_bev, tiny_easyocc

from occlift import (
    OCC3D,
    CameraImage,
    KeyFrame,
    LabelConfig,
    LabelFolder,
    LabelSpace,
    PosedView,
    Taxonomy,
    VoxelGrid,
    generate_labels,
    label_from_views,
    read_label,
)
from occlift.errors import ConfigError, DataError
from occlift.evaluation.occupancy import evaluate
from occlift.geometry.lenses import KannalaBrandt
from occlift.label_space import DRIVEABLE_SURFACE, FREE, MANMADE, UNKNOWN
from occlift.labels.decide import DecisionConfig, Fusion
from occlift.labels.files import label_path, read_prediction
from occlift.losses.occfeat import OccFeatLossConfig
from occlift.losses.occupancy import OccupancyLossConfig
from occlift.models.occfeat import OccFeatHeadConfig
from occlift.models.rendering import RenderingConfig
from occlift.runtime.progress import shown_progress
from occlift.scenes import DatasetSpec, ImageArray
from occlift.scenes.rigs import single_rigs
from occlift.teachers.images import inscribed
from occlift.teachers.teacher import DepthMap, SemanticMap
from occlift.training.callbacks import read_scalars
from occlift.training.checkpoint import checkpoint_parts
from occlift.training.frames import OccupancyFrames
from occlift.training.occfeat import OccFeatPretraining, PretrainConfig
from occlift.training.occupancy import OccupancyTraining, TrainConfig
from occlift.training.optimizer import OptimizerConfig
from occlift.training.predict import predict
from occlift.training.rendering import RenderingTrainConfig, RenderingTraining
from occlift.training.run import run_training
from occlift.training.volume_targets import seen_voxels

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


@pytest.mark.parametrize("fusion", ["votes", "surface"])
def test_a_label_of_a_data_set_is_the_label_of_its_views(tmp_path: Path, fusion: Fusion) -> None:
    config = LabelConfig(frames=3, decision=DecisionConfig(fusion=fusion))
    generate_labels(Hall(), tmp_path / "labels", config, semantics=Eyes(), depth=Eyes())
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
    from_views = label_from_views(views, decision=config.decision)
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
    assert label.mask_camera.any()
    assert not label.mask_camera[OCC3D.grid.centers()[..., 1] > 0.9].any()


class SmallMask(HalfImage):
    def valid(self) -> np.ndarray:
        return super().valid()[:20]


def test_a_mask_of_another_size_than_its_image_is_told_about() -> None:
    image = replace(camera_image("left", 0), source=SmallMask(np.zeros((48, 64, 3), np.uint8)))
    with pytest.raises(DataError, match=r"the mask of valid pixels has 20×64 pixels .* the data set says 48×64"):
        image.valid()


class DistortedHall(Hall):
    """The hall, seen through lenses that nobody has made pinholes of."""

    def key_frame(self, token: str) -> KeyFrame:
        frame = super().key_frame(token)
        lens = KannalaBrandt(k1=0.01)
        return replace(frame, cameras=tuple(replace(image, distortion=lens) for image in frame.cameras))


def test_whoever_needs_pinholes_says_what_to_do_with_lenses(tmp_path: Path) -> None:
    frame = DistortedHall().key_frame("0")
    config = LabelConfig(frames=1)
    uses: list[Callable[[], object]] = [
        lambda: single_rigs(frame),
        lambda: generate_labels(DistortedHall(), tmp_path, config, semantics=Eyes(), depth=Eyes()),
        lambda: OccupancyFrames(DistortedHall(), ("0",), height=32, width=64, labels=None)[0],
        lambda: seen_voxels(np.zeros(SPACE.grid.shape, bool), SPACE.grid, frame),
        lambda: inscribed(frame.cameras[0], 32, 64),
    ]
    for use in uses:
        with pytest.raises(ConfigError, match=r"is distorted \(kannala_brandt\), .*rectified\.Rectified\(data\)"):
            use()


def test_a_folder_keeps_to_its_label_space(tmp_path: Path) -> None:
    generate_labels(Hall(), tmp_path, LabelConfig(frames=1), semantics=Eyes(), depth=Eyes())
    names = tuple(f"class {i}" for i in range(17))
    other = LabelSpace(grid=OCC3D.grid, taxonomy=Taxonomy(names=names))
    with pytest.raises(ConfigError, match=r"the labels in .* and what is asked for are not about the same"):
        generate_labels(Hall(), tmp_path, LabelConfig(frames=1), semantics=Eyes(), depth=Eyes(), space=other)
    with pytest.raises(ConfigError, match="not about the same grid and classes"):
        LabelFolder(tmp_path, space=other)
    assert len(LabelFolder(tmp_path)) == 3


SPACE = LabelSpace(
    grid=VoxelGrid(lower_m=(-2.0, -3.0, -0.7), voxel_size_m=(0.2, 0.2, 0.2), shape=(64, 32, 16)),
    taxonomy=Taxonomy(
        names=("floor", "wall", "shelf", "forklift", "rest"), moving=("forklift",), ground=("floor",), vague=("rest",)
    ),
)
"""Five classes on a grid that is no mirror image of itself."""


class OtherEyes(Eyes):
    """The same teacher with the classes of `SPACE`."""

    def maps(self, image: CameraImage) -> tuple[np.ndarray, np.ndarray]:
        class_id, depth_m = super().maps(image)
        return np.select([class_id == DRIVEABLE_SURFACE, class_id == MANMADE], [0, 1], 5).astype(np.uint8), depth_m


class TurnedHall(Hall):
    cameras = ("right", "left")


def test_from_arrays_to_scores_in_a_space_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Label, train, predict and evaluate: two cameras of different sizes, no lidar, five classes, voxels of 0.2 m."""
    labels, run_folder = tmp_path / "labels", tmp_path / "run"
    made = generate_labels(
        Hall(), labels, LabelConfig(frames=3), semantics=OtherEyes(), depth=OtherEyes(), space=SPACE
    )  # fmt: skip
    assert (made.done, dict(made.failed)) == (3, {})
    config = TrainConfig(
        model=tiny_easyocc(space=SPACE), loss=OccupancyLossConfig(max_voxels=500, max_lovasz_voxels=100),
        optimizer=OptimizerConfig(steps=2), precision="fp32", split="all", validation_split="all", validation_every=2,
        mirror_front_back=True,
    )  # fmt: skip
    spec = OccupancyTraining(data=Hall(), labels=labels, config=config, validation_labels=labels)
    with shown_progress():
        run = run_training(spec, run_folder)
    assert "mirror is off: along y the grid reaches from -3 m to 3.4 m" in " ".join(capsys.readouterr().err.split())
    assert run.steps == 2
    record = json.loads((run_folder / "run.json").read_text(encoding="utf-8"))
    assert (record["config"]["mirror"], record["config"]["mirror_front_back"]) == (False, False)
    assert record["cameras"] == ["left", "right"]
    assert LabelSpace.from_dict(record["config"]["model"]["space"]) == SPACE
    logged = {name: value for _, name, value in read_scalars(run.losses)}
    assert {"val_miou_5_camera", "val_miou_4_camera", "val_iou_camera"} <= logged.keys()

    predict(Hall(), tmp_path / "predictions", checkpoint=run.checkpoint, split="all", precision="fp32")
    semantics = read_prediction(tmp_path / "predictions/1.npz", space=SPACE)
    assert semantics.shape == SPACE.grid.shape
    truth = read_label(label_path(labels, "walk", "1"), allow_unknown=True, space=SPACE).semantics
    scores = evaluate(tmp_path / "predictions", labels, masks=("camera",), space=SPACE).counts
    assert scores.geometric_iou("camera") == pytest.approx(logged["val_iou_camera"])
    assert set(np.unique(truth)) == {0, 1, 5, UNKNOWN}

    with pytest.raises(ConfigError, match=r"trained on 2 cameras \(left, right\), and test:hall has 2 \(right, left\)"):
        predict(TurnedHall(), tmp_path / "others", checkpoint=run.checkpoint, split="all")
    with pytest.raises(ConfigError, match="cameras"):
        run_training(replace(spec, data=TurnedHall()), run_folder, resume=run.checkpoint)
    occ3d = replace(config, model=tiny_easyocc())
    with pytest.raises(ConfigError, match=r"the labels in .*labels and what is asked for are not about the same grid"):
        run_training(replace(spec, config=occ3d), tmp_path / "occ3d")
    assert not (tmp_path / "occ3d").exists()


def test_rendering_and_pretraining_take_the_classes_of_the_space(tmp_path: Path) -> None:
    labels, maps = tmp_path / "labels", tmp_path / "maps"
    generate_labels(
        Hall(), labels, LabelConfig(frames=3), semantics=OtherEyes(), depth=OtherEyes(), space=SPACE, keep_maps=maps
    )  # fmt: skip
    one_step: dict[str, Any] = {"optimizer": OptimizerConfig(steps=1), "precision": "fp32", "split": "all"}
    rendering = RenderingTrainConfig(
        model=RenderingConfig(network=tiny_easyocc(space=SPACE), ray_height=8, ray_width=16, samples=16, reach_m=12.0),
        pseudo=OccupancyLossConfig(max_voxels=500, max_lovasz_voxels=100), semantics=f"files:{maps}/semantics",
        **one_step,
    )  # fmt: skip
    spec = RenderingTraining(data=Hall(), config=rendering, labels=labels)
    ray_counts, label_counts = spec.counts(spec.frames())
    assert len(ray_counts) == 6
    assert label_counts is not None
    assert len(label_counts) == 6
    assert min(ray_counts[0], ray_counts[1], ray_counts[5]) > 0
    assert ray_counts[2:5] == [0, 0, 0]
    run = run_training(spec, tmp_path / "rendering")
    assert {"loss_semantic", "loss_pseudo_lovasz"} <= {name for _, name, _ in read_scalars(run.losses)}

    pretraining = PretrainConfig(
        model=tiny_bev("simple_bev"), head=OccFeatHeadConfig(channels=4, blocks=1, horizontal_stride=4),
        loss=OccFeatLossConfig(features=0.0, classes=1.0), occupancy="labels", space=SPACE, **one_step,
    )  # fmt: skip
    run = run_training(OccFeatPretraining(data=Hall(), config=pretraining, labels=labels), tmp_path / "occfeat")
    assert checkpoint_parts(run.checkpoint)["hyper_parameters"]["head"]["num_classes"] == 5
    assert "loss_classes" in {name for _, name, _ in read_scalars(run.losses)}
    assert "space" not in replace(pretraining, space=OCC3D).to_dict(), "runs from before there was a choice"
    with pytest.raises(ConfigError, match="needs lidar sweeps"):
        run_training(
            OccFeatPretraining(
                data=Hall(), config=replace(pretraining, occupancy="lidar", loss=OccFeatLossConfig())
            ),
            tmp_path / "lidar",
        )  # fmt: skip
    fine = replace(pretraining, head=OccFeatHeadConfig(heights=64))
    with pytest.raises(ConfigError, match="do not fill a pretraining head's voxels"):
        run_training(OccFeatPretraining(data=Hall(), config=fine, labels=labels), tmp_path / "fine")


def test_what_the_data_set_does_not_have_is_said_before_any_work(tmp_path: Path) -> None:
    config = LabelConfig(frames=3, moving="boxes")
    with pytest.raises(ConfigError, match=r"annotated boxes.*test:hall does not have"):
        generate_labels(Hall(), tmp_path / "labels", config, semantics=Eyes(), depth=Eyes())
    with pytest.raises(ConfigError, match=r"truth maps.*test:hall does not have"):
        generate_labels(Hall(), tmp_path / "labels", LabelConfig())
    assert not (tmp_path / "labels").exists()
