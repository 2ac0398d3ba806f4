"""Depth errors against numbers worked out by hand; the lidar as depth of an image against a chain through the globe."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.datasets.nuscenes.lidar_file import LidarFile
from occlift.errors import DataError
from occlift.geometry.transforms import inverse, rigid_transform, rotation_about_z, transform_points
from occlift.metrics.depth import MEASURES, depth_sums
from occlift.scenes.frames import CameraImage, KeyFrame, LidarSweep
from occlift.scenes.lidar_depth import lidar_depth, lidar_depth_map, sparse_depth_map
from occlift.scenes.sources import ImageFile
from occlift.scenes.truth_maps import read_truth_maps, truth_maps_path

NAN = math.nan

# Two images of one row, and one in which nothing was measured.
TRUTH = np.array([[[10.0, 20.0, 50.0]], [[4.0, NAN, NAN]], [[NAN, NAN, NAN]]])
PREDICTION = np.array([[[11.0, 20.0, 25.0]], [[8.0, 1.0, NAN]], [[NAN, -1.0, 0.0]]])


def test_a_case_by_hand() -> None:
    sums = depth_sums(prediction_m=PREDICTION, truth_m=TRUTH)
    assert (sums.images, sums.pixels) == (2, 4)
    assert sums.within["metric"].tolist() == [2, 2, 2]
    named = sums.named()
    assert len(named) == 2 * 2 * len(MEASURES)
    expected = {
        # 10→11, 20→20, 50→25 and 4→8: relative errors 0.1, 0, 0.5 and 1.
        "per_image_abs_rel_metric": (0.6 / 3 + 1) / 2,
        "pooled_abs_rel_metric": 1.6 / 4,
        "per_image_sq_rel_metric": ((0.1 + 12.5) / 3 + 4) / 2,
        "pooled_sq_rel_metric": 16.6 / 4,
        "per_image_rmse_metric": (math.sqrt(626 / 3) + 4) / 2,
        "pooled_rmse_metric": math.sqrt(642 / 4),
        "per_image_rmse_log_metric": (math.sqrt((math.log(1.1) ** 2 + math.log(2) ** 2) / 3) + math.log(2)) / 2,
        "pooled_rmse_log_metric": math.sqrt((math.log(1.1) ** 2 + 2 * math.log(2) ** 2) / 4),
        "per_image_a1_metric": (100 * 2 / 3 + 0) / 2,
        "pooled_a1_metric": 50.0,
        # A factor of two is more than 1.25³ = 1.953.
        "per_image_a3_metric": (100 * 2 / 3 + 0) / 2,
        "pooled_a3_metric": 50.0,
    }
    assert {name: named[name] for name in expected} == pytest.approx(expected)


def test_the_three_ratios() -> None:
    truth = np.full((1, 4), 10.0)
    # 1.25 itself is not within.
    sums = depth_sums(prediction_m=np.array([[12.4, 12.5, 10 / 1.6, 19.6]]), truth_m=truth)
    assert sums.within["metric"].tolist() == [1, 2, 3]


def test_a_perfect_prediction() -> None:
    truth = np.random.default_rng(0).uniform(0.2, 79, (2, 3, 20, 30)).astype(np.float32)
    for name, value in depth_sums(prediction_m=truth, truth_m=truth).named().items():
        assert value == (100 if name.split("_")[-2] in ("a1", "a2", "a3") else 0), name


def test_median_scaling_is_per_image_and_a_ratio_of_medians() -> None:
    truth = np.random.default_rng(1).uniform(1, 60, (2, 10, 11))
    sums = depth_sums(prediction_m=truth * np.array([0.3, 7.0])[:, None, None], truth_m=truth)
    assert sums.measures("pooled", "median")["abs_rel"] == pytest.approx(0)
    assert sums.measures("pooled", "metric")["a1"] < 10
    # Medians 15 and 2, so the prediction becomes 7.5 and 22.5; the median of 10/1 and 20/3 would be another factor.
    few = depth_sums(prediction_m=np.array([[1.0, 3.0]]), truth_m=np.array([[10.0, 20.0]]))
    assert few.measures("per_image", "median")["abs_rel"] == pytest.approx((0.25 + 0.125) / 2)


def test_predictions_are_clamped_after_scaling() -> None:
    far = depth_sums(prediction_m=np.array([[500.0, 0.01]]), truth_m=np.array([[79.0, 0.2]]))
    assert far.errors["metric"][0] == pytest.approx(1 / 79 + 0.1 / 0.2)
    # Scaled by 60/6, the last is 10 km: clamped to 80 m.
    scaled = depth_sums(prediction_m=np.array([[4.0, 6.0, 1000.0]]), truth_m=np.array([[40.0, 60.0, 70.0]]))
    assert scaled.errors["median"][0] == pytest.approx(10 / 70)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_only_truth_within_the_range_is_evaluated(dtype: type) -> None:
    truth = np.array([[0.1, 80.0, NAN, 0.0, math.inf, -5.0, 0.2, 79.9]], dtype)
    prediction = np.array([[NAN, math.inf, -1, 0, NAN, NAN, 0.2, 79.9]], dtype)
    sums = depth_sums(prediction_m=prediction, truth_m=truth)
    assert sums.pixels == 2
    assert sums.measures("pooled", "metric")["abs_rel"] == 0


@pytest.mark.parametrize("value", [NAN, math.inf, 0.0, -2.0])
def test_a_prediction_must_decide_where_it_is_evaluated(value: float) -> None:
    prediction = np.ones((2, 3, 4))
    prediction[1, 2, 3] = value
    with pytest.raises(DataError, match=rf"image 1: .* {value} at 1 of 12 pixels"):
        depth_sums(prediction_m=prediction, truth_m=np.ones((2, 3, 4)))


@pytest.mark.usefixtures("without_shape_checks")
def test_sizes_must_agree() -> None:
    with pytest.raises(DataError, match=r"\(2, 3, 4\) and \(2, 6, 8\); resize"):
        depth_sums(prediction_m=np.ones((2, 3, 4)), truth_m=np.ones((2, 6, 8)))
    with pytest.raises(DataError, match=r"\(5,\)"):
        depth_sums(prediction_m=np.ones(5), truth_m=np.ones(5))


def test_without_truth_everything_is_nan() -> None:
    for truth in (np.full((2, 3, 4), NAN), np.ones((0, 3, 4))):
        sums = depth_sums(prediction_m=np.ones_like(truth), truth_m=truth)
        assert (sums.images, sums.pixels) == (0, 0)
        assert all(math.isnan(value) for value in sums.named().values())


def test_sums_of_parts_add_up_in_any_order() -> None:
    rng = np.random.default_rng(2)
    truth = rng.uniform(-10, 90, (9, 12, 13))
    prediction = truth.clip(1) * rng.uniform(0.5, 2, truth.shape)
    whole = depth_sums(prediction_m=prediction, truth_m=truth)
    parts = [depth_sums(prediction_m=p, truth_m=t) for p, t in zip(prediction, truth, strict=True)]
    for order in (range(9), rng.permutation(9)):
        total = depth_sums(prediction_m=prediction[:0], truth_m=truth[:0])
        for number in order:
            total += parts[number]
        assert (total.images, total.pixels) == (whole.images, whole.pixels)
        for scaling, within in whole.within.items():
            assert total.within[scaling].tolist() == within.tolist()
        assert total.named() == pytest.approx(whole.named(), rel=1e-12)


# --- the lidar as depth ---------------------------------------------------------------------------------------------

# Camera axes (x right, y down, z forward) of a camera that looks along the ego's x.
EGO_FROM_FORWARD_CAMERA = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])


def _frame(global_from_ego: np.ndarray, global_from_ego_at_image: np.ndarray) -> KeyFrame:
    camera = CameraImage(
        camera="CAM_FRONT",
        key="image",
        source=ImageFile(Path("none")),
        timestamp_us=0,
        height=90,
        width=160,
        intrinsics_px=np.array([[100.0, 0, 80], [0, 100.0, 45], [0, 0, 1]]),
        ego_at_image_from_camera=rigid_transform(EGO_FROM_FORWARD_CAMERA, (1.0, 0.0, 1.5)),
        global_from_ego_at_image=global_from_ego_at_image,
    )
    lidar = LidarSweep(
        key="lidar",
        source=LidarFile(Path("none")),
        timestamp_us=0,
        # nuScenes: x right, y forward, z up.
        ego_from_lidar=rigid_transform(rotation_about_z(-math.pi / 2), (0.5, 0.0, 2.0)),
        global_from_ego=global_from_ego,
    )
    return KeyFrame(
        token="sample",
        scene="scene",
        index=0,
        timestamp_us=0,
        cameras=(camera,),
        lidar=lidar,
        global_from_ego=lidar.global_from_ego,
    )


def test_the_ego_moves_between_the_sweep_and_the_image() -> None:
    # The ego drives along the global y axis; the image is older by two metres.
    turned = rotation_about_z(math.pi / 2)
    frame = _frame(rigid_transform(turned, (5.0, 12.0, 0.0)), rigid_transform(turned, (5.0, 10.0, 0.0)))
    # In the ego frame (11, 1, 1.5), 13 m ahead of where the ego was, 12 m ahead of where the camera was.
    points_lidar = np.array([[-1.0, 10.5, -0.5], [0.0, -10.0, 0.0]])
    pixels_uv, depth_m = lidar_depth(frame, frame.cameras[0], points_lidar)
    np.testing.assert_allclose(depth_m, [12.0])
    np.testing.assert_allclose(pixels_uv, [[80 - 100 / 12, 45.0]])


def test_points_nearer_than_the_minimum_are_left_out() -> None:
    frame = _frame(np.eye(4), np.eye(4))
    # Depth 0.8 m and 1.2 m.
    points_lidar = np.array([[0.0, 1.3, -0.5], [0.0, 1.7, -0.5]])
    assert lidar_depth(frame, frame.cameras[0], points_lidar)[1] == pytest.approx([1.2])
    assert lidar_depth(frame, frame.cameras[0], points_lidar, min_depth_m=0.1)[1] == pytest.approx([0.8, 1.2])


def test_the_nearest_point_of_a_pixel_wins() -> None:
    pixels_uv = np.array([[2.9, 1.1], [2.0, 1.9], [2.5, 1.5], [0.0, 0.0], [4.0, 1.0], [-0.1, 1.0], [1.0, 3.0]])
    depth_m = np.array([7.0, 5.0, 6.0, 3.0, 1.0, 1.0, 1.0])
    depth_map = sparse_depth_map(pixels_uv, depth_m, height=3, width=4)
    expected = np.full((3, 4), NAN, np.float32)
    expected[1, 2], expected[0, 0] = 5.0, 3.0
    assert depth_map.dtype == np.float32
    np.testing.assert_array_equal(depth_map, expected)
    assert np.isnan(sparse_depth_map(pixels_uv[:0], depth_m[:0], height=3, width=4)).all()


def test_the_real_sweep_through_the_global_frame(real_frame: Path) -> None:
    data = NuScenes.open(real_frame)
    frame = data.key_frame(data.key_frame_tokens(data.scenes()[0])[0])
    points_lidar = frame.lidar_sweep().source.read()[:, :3]
    for camera in frame.cameras:
        pixels_uv, depth_m = lidar_depth(frame, camera, points_lidar)
        # The plain twin: one matrix after the other, with general inverses.
        points = np.c_[points_lidar.astype(np.float64), np.ones(len(points_lidar))].T
        points = frame.lidar.global_from_ego @ (frame.lidar.ego_from_lidar @ points)
        points = np.linalg.inv(camera.global_from_ego_at_image) @ points
        x, y, z, _ = np.linalg.inv(camera.ego_at_image_from_camera) @ points
        u = camera.intrinsics_px[0, 0] * x / z + camera.intrinsics_px[0, 2]
        v = camera.intrinsics_px[1, 1] * y / z + camera.intrinsics_px[1, 2]
        seen = (z > 1) & (u >= 0) & (u < 1600) & (v >= 0) & (v < 900)
        assert seen.sum() > 2000
        np.testing.assert_allclose(depth_m, z[seen], atol=1e-6)
        np.testing.assert_allclose(pixels_uv, np.stack((u, v), -1)[seen], atol=1e-4)
        depth_map = lidar_depth_map(frame, camera, points_lidar)
        assert depth_map.shape == (900, 1600)
        # Nearly every point has a pixel of its own, and none of them is lost or doubled.
        assert 0.99 * seen.sum() < np.isfinite(depth_map).sum() <= seen.sum()
        sums = depth_sums(prediction_m=depth_map, truth_m=depth_map)
        assert sums.measures("pooled", "metric")["a1"] == 100


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> NuScenes:
    from occlift.town.config import TownConfig
    from occlift.town.write import write_town

    root = tmp_path_factory.mktemp("town") / "data"
    write_town(root, TownConfig(scenes=1, frames=2, seed=7, image_height=96, image_width=176, maps=True), workers=1)
    return NuScenes.open(root)


def _relative_errors(town: NuScenes, *, at_image: bool) -> np.ndarray:
    """|map − lidar| / lidar at all returns that lie at no outline, of all images."""
    errors = []
    for token in town.key_frame_tokens(town.scenes()[0]):
        frame = town.key_frame(token)
        points_lidar = frame.lidar_sweep().source.read()[:, :3]
        for camera in frame.cameras:
            depth_m = read_truth_maps(truth_maps_path(Path(camera.source.name))).depth_m
            if not at_image:
                camera = replace(camera, global_from_ego_at_image=frame.global_from_ego)
            lidar_m = lidar_depth_map(frame, camera, points_lidar)
            at_outline = ndimage.maximum_filter(depth_m, 3) > 1.1 * ndimage.minimum_filter(depth_m, 3)
            counted = np.isfinite(lidar_m) & ~at_outline
            errors.append(np.abs(depth_m - lidar_m)[counted] / lidar_m[counted])
    return np.concatenate(errors)


def test_true_depth_maps_of_a_town_agree_with_its_lidar(town: NuScenes) -> None:
    errors = _relative_errors(town, at_image=True)
    assert len(errors) > 10_000
    # The lidar's noise is 15 mm, and a pixel of 176 × 96 covers decimetres of ground.
    assert np.median(errors) < 0.005
    assert np.quantile(errors, 0.9) < 0.03
    # Images that are up to 43 ms older than the sweep: to forget it doubles the error.
    assert np.median(_relative_errors(town, at_image=False)) > 1.5 * np.median(errors)


def test_a_town_scored_by_its_lidar(town: NuScenes) -> None:
    frame = town.key_frame(town.key_frame_tokens(town.scenes()[0])[0])
    points_lidar = frame.lidar_sweep().source.read()[:, :3]
    truth_m = np.stack([lidar_depth_map(frame, camera, points_lidar) for camera in frame.cameras])
    maps_m = np.stack([read_truth_maps(truth_maps_path(Path(camera.source.name))).depth_m for camera in frame.cameras])
    # A lidar that looks over an object into the sky behind it: infinite depth is no prediction.
    sums = depth_sums(prediction_m=np.minimum(maps_m, 200), truth_m=truth_m)
    assert sums.images == 6
    assert sums.measures("per_image", "metric")["a1"] > 95
    assert sums.measures("per_image", "metric")["abs_rel"] < 0.06
    halved = depth_sums(prediction_m=np.minimum(maps_m, 200) / 2, truth_m=truth_m)
    assert halved.measures("pooled", "metric")["a1"] < 5
    assert halved.measures("pooled", "median")["a1"] > 95


def test_ego_poses_differ_between_sensors(town: NuScenes) -> None:
    """Else the tests above would prove nothing."""
    frame = town.key_frame(town.key_frame_tokens(town.scenes()[0])[1])
    ego_from_global = inverse(frame.global_from_ego)
    moved_m = [
        np.linalg.norm(transform_points(ego_from_global, camera.global_from_ego_at_image[:3, 3]))
        for camera in frame.cameras
    ]
    assert max(moved_m) > 0.1
