"""Features by recipe: which cell says what, how alike two of them are, and that all of it is stated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from frames import key_frame
from truth import TRUTH

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.errors import ConfigError, DataError
from occlift.label_space import CAR, DRIVEABLE_SURFACE, FREE, MANMADE, UNKNOWN
from occlift.scenes.frames import CameraImage, KeyFrame
from occlift.scenes.sources import ImageFile
from occlift.scenes.truth_maps import TruthMaps, truth_maps_path, write_truth_maps
from occlift.teachers.oracle_features import OracleFeatures, OracleFeaturesConfig
from occlift.teachers.registry import feature_teacher
from occlift.teachers.teacher import FeatureMap

HEIGHT, WIDTH = 64, 96
CAMERA_HEIGHT_M = 1.5
FOCAL_PX = 64.0

# (rows, columns) of cells of 8 pixels.
SKY, WALL_LOW, WALL_HIGH = (0, 5), (3, 0), (2, 0)
LEFT_CAR, RIGHT_CAR, CAR_ROOF = (4, 3), (4, 9), (3, 3)
NOTHING = (7, 11)


def frame_of(folder: Path, *tokens: str, scene: str = "scene", height: int = HEIGHT, width: int = WIDTH) -> KeyFrame:
    """Images that look forward and level from 1.5 m above the ground."""
    ego_from_camera = np.array([[0, 0, 1.0, 1], [-1, 0, 0, 0], [0, -1, 0, CAMERA_HEIGHT_M], [0, 0, 0, 1]])
    cameras = tuple(
        CameraImage(
            camera=channel,
            key=token,
            source=ImageFile(folder / f"{token}.jpg"),
            timestamp_us=0,
            height=height,
            width=width,
            intrinsics_px=np.array([[FOCAL_PX, 0, width / 2], [0, FOCAL_PX, height / 2], [0, 0, 1]]),
            ego_at_image_from_camera=ego_from_camera,
            global_from_ego_at_image=np.eye(4),
        )
        for channel, token in zip(("CAM_FRONT", "CAM_BACK"), tokens, strict=False)
    )
    return key_frame(*cameras, scene=scene)


def truth(height: int = HEIGHT, width: int = WIDTH) -> TruthMaps:
    """Sky, a wall 12 m ahead, a road, two cars 8 m ahead that fill cells, and a corner about which nothing is known."""
    row = np.arange(height)[:, None] + 0.5
    semantics = np.full((height, width), DRIVEABLE_SURFACE, np.uint8)
    depth_m = np.broadcast_to(CAMERA_HEIGHT_M * FOCAL_PX / np.maximum(row - height / 2, 1), (height, width))
    depth_m = depth_m.astype(np.float32)
    instance = np.zeros((height, width), np.uint16)
    semantics[:40], depth_m[:40] = MANMADE, 12.0
    semantics[:16], depth_m[:16] = FREE, np.inf
    for number, left in ((1, 16), (2, 64)):
        area = np.s_[24:48, left : left + 16]
        semantics[area], depth_m[area], instance[area] = CAR, 8.0, number
    semantics[56:, 88:] = UNKNOWN
    return TruthMaps(semantics=semantics, depth_m=depth_m, instance=instance)


def write(frame: KeyFrame, maps: TruthMaps) -> None:
    for camera in frame.cameras:
        write_truth_maps(truth_maps_path(Path(camera.source.name)), maps)


def at(found: FeatureMap, cell: tuple[int, int]) -> np.ndarray:
    return found.features[:, cell[0], cell[1]]


def cosine(found: FeatureMap, one: tuple[int, int], other: tuple[int, int], beside: FeatureMap | None = None) -> float:
    a, b = at(found, one), at(beside or found, other)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def features(frame: KeyFrame, **options: float) -> list[FeatureMap]:
    return feature_teacher("oracle", TRUTH, options={name: str(value) for name, value in options.items()}).features(
        frame
    )


def test_cells_cover_the_image(tmp_path: Path) -> None:
    frame = frame_of(tmp_path, "a")
    write(frame, truth())
    (found,) = features(frame)
    assert found.features.shape == (64, 8, 12)
    assert found.features.dtype == np.float32
    assert found.stride_px == (8, 8)
    assert found.offset_px == (4, 4)
    # 64 / 9 rounds to 7 rows and 96 / 9 to 11 columns.
    (found,) = features(frame, stride_px=9, channels=5)
    assert found.features.shape == (5, 7, 11)
    assert found.stride_px == pytest.approx((96 / 11, 64 / 7))
    assert found.offset_px == pytest.approx((48 / 11, 32 / 7))
    (found,) = features(frame, stride_px=1000)
    assert found.features.shape == (64, 1, 1)


def test_classes_parts_and_objects_are_as_alike_as_the_module_says(tmp_path: Path) -> None:
    frame = frame_of(tmp_path, "a", "b")
    write(frame, truth())
    # Over many directions, as any two of 64 channels are at right angles only up to an eighth.
    names = ("wall and wall", "car and roof", "car and road", "one car twice", "two cars", "sky and wall")
    totals = dict.fromkeys(names, 0.0)
    seeds = 24
    for seed in range(seeds):
        front, back = features(frame, seed=seed)
        for name, value in zip(
            names,
            (
                cosine(front, WALL_LOW, (3, 11)),
                cosine(front, LEFT_CAR, CAR_ROOF),
                cosine(front, (5, 3), (5, 6)),
                cosine(front, LEFT_CAR, (4, 2), back),
                cosine(front, LEFT_CAR, RIGHT_CAR),
                cosine(front, SKY, WALL_HIGH),
            ),
            strict=True,
        ):
            totals[name] += value / seeds
    assert totals["wall and wall"] == pytest.approx(0.89, abs=0.04)
    assert 0.65 < totals["car and roof"] < 0.9
    assert 0.05 < totals["car and road"] < 0.35
    assert totals["one car twice"] == pytest.approx(0.91, abs=0.04)
    assert totals["two cars"] == pytest.approx(0.81, abs=0.04)
    assert abs(totals["sky and wall"]) < 0.1


def test_a_term_alone_is_what_it_says(tmp_path: Path) -> None:
    frame = frame_of(tmp_path, "a", "b")
    write(frame, truth())
    off = {"class_share": 0, "instance_share": 0, "height_share": 0, "image_share": 0, "noise_share": 0}

    def only(name: str) -> FeatureMap:
        return features(frame, **{**off, name: 3.0})[0]

    kinds = only("class_share")
    assert np.linalg.norm(at(kinds, SKY)) == pytest.approx(1)
    assert np.array_equal(at(kinds, LEFT_CAR), at(kinds, RIGHT_CAR))
    assert not at(kinds, NOTHING).any()
    # The first cell of 32 pixels: 16 rows of sky, then wall, but for 8 × 16 pixels of a car.
    mixed = features(frame, **{**off, "class_share": 1.0}, stride_px=32)[0]
    shares = ((SKY, 0.5), (WALL_HIGH, 0.375), (LEFT_CAR, 0.125))
    assert at(mixed, (0, 0)) == pytest.approx(sum(share * at(kinds, cell) for cell, share in shares), abs=1e-6)

    objects = only("instance_share")
    assert not at(objects, SKY).any()
    assert abs(cosine(objects, LEFT_CAR, RIGHT_CAR)) < 0.4
    assert cosine(objects, LEFT_CAR, CAR_ROOF) == pytest.approx(1)
    elsewhere = frame_of(tmp_path, "a", scene="another")
    other = features(elsewhere, **{**off, "instance_share": 1.0})[0]
    assert abs(cosine(objects, LEFT_CAR, LEFT_CAR, other)) < 0.4

    heights = only("height_share")
    assert not at(heights, SKY).any()
    # Cars 8 m and a wall 12 m away, at the rows where both are at the height of the camera.
    assert cosine(heights, (3, 3), (3, 0)) > 0.9
    assert cosine(heights, (5, 3), (3, 3)) < 0.6

    places = only("image_share")
    assert cosine(places, (2, 4), (2, 5)) > 0.85
    assert cosine(places, (0, 0), (7, 11)) < 0.6

    front, back = features(frame, **{**off, "noise_share": 1.0})
    assert np.linalg.norm(front.features, axis=0).mean() == pytest.approx(1, abs=0.05)
    assert abs(np.corrcoef(front.features.ravel(), back.features.ravel())[0, 1]) < 0.05


def test_heights_are_above_the_ground(tmp_path: Path) -> None:
    """Roads are level, however far away: the same vector all over."""
    frame = frame_of(tmp_path, "a")
    maps = truth()
    ground = replace(maps, semantics=np.full_like(maps.semantics, DRIVEABLE_SURFACE), instance=maps.instance * 0)
    write(frame, ground)
    (found,) = features(frame, class_share=0, instance_share=0, height_share=1, image_share=0, noise_share=0)
    for column in (0, 1, 10, 11):
        assert cosine(found, (6, column), (7, column)) == pytest.approx(1, abs=1e-6)


def test_same_bytes_whatever_was_asked_before(tmp_path: Path) -> None:
    frame = frame_of(tmp_path, "a", "b")
    write(frame, truth())
    front, back = features(frame)
    assert not np.array_equal(front.features, back.features)
    (again,) = features(replace(frame, cameras=frame.cameras[1:]))
    assert again.features.tobytes() == back.features.tobytes()
    assert not np.array_equal(features(frame, seed=1)[0].features, front.features)


def test_everything_is_stated(tmp_path: Path) -> None:
    settings = feature_teacher("oracle", TRUTH, options={"noise_share": "0.5", "channels": "16"}).settings
    assert settings["teacher"] == "oracle"
    assert settings["channels"] == 16
    assert settings["noise_share"] == 0.5
    assert set(OracleFeaturesConfig.__dataclass_fields__) < set(settings)


def test_towns_have_features(small_town: Path) -> None:
    data = NuScenes.open(small_town)
    frame = data.key_frame(data.key_frame_tokens(data.scenes()[0])[0])
    found = OracleFeatures(truth=TRUTH, config=OracleFeaturesConfig()).features(frame)
    assert [cell.features.shape for cell in found] == [(64, 6, 11)] * 6
    assert all(np.isfinite(cell.features).all() and cell.features.any(0).all() for cell in found)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no truth maps beside the image"):
        features(frame_of(tmp_path, "a"))
    for options, message in (
        ({"channels": "0"}, "0 channels and a stride of 8.0 pixels; expected one channel"),
        ({"stride_px": "0.5"}, "a stride of 0.5 pixels"),
        ({"stride_px": "nan"}, "a stride of nan pixels"),
        ({"noise_share": "-1"}, "expected none below 0"),
        ({"noise_share": "nan"}, "expected none below 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            feature_teacher("oracle", TRUTH, options=options)
    with pytest.raises(ConfigError, match="expected none below 0"):
        OracleFeaturesConfig(class_share=0.0, instance_share=0.0, height_share=0.0, image_share=0.0, noise_share=0.0)
