"""The oracle teacher: the truth as it is, and errors of the amounts that were stated."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from frames import key_frame
from scipy import ndimage
from truth import TRUTH

from occlift.errors import ConfigError, DataError
from occlift.label_space import (
    CAR,
    CONSTRUCTION_VEHICLE,
    DRIVEABLE_SURFACE,
    FREE,
    MANMADE,
    OCC3D,
    PEDESTRIAN,
    SIDEWALK,
    TRUCK,
    UNKNOWN,
)
from occlift.runtime.noise import smooth_noise
from occlift.scenes.frames import CameraImage
from occlift.scenes.sources import ImageFile
from occlift.scenes.truth_maps import TruthMaps, read_truth_maps, truth_maps_path, write_truth_maps
from occlift.teachers.corruption import CONFUSED_OBJECTS, DepthCorruption, SemanticsCorruption
from occlift.teachers.oracle import FOUNDATION_DEPTH, FOUNDATION_SEMANTICS, MEASURED_DEPTH, OracleDepth
from occlift.teachers.registry import DEPTH_TEACHERS, SEMANTICS_TEACHERS, depth_teacher, semantics_teacher

HEIGHT, WIDTH = 224, 400


def image_at(folder: Path, token: str = "image", *, height: int = HEIGHT, width: int = WIDTH) -> CameraImage:
    return CameraImage(
        camera="CAM_FRONT",
        key=token,
        source=ImageFile(folder / f"{token}.jpg"),
        timestamp_us=0,
        height=height,
        width=width,
        intrinsics_px=np.array([[280.0, 0.0, 200.0], [0.0, 280.0, 112.0], [0.0, 0.0, 1.0]]),
        ego_at_image_from_camera=np.eye(4),
        global_from_ego_at_image=np.eye(4),
    )


def scene() -> TruthMaps:
    """Sky, a wall, a road; a car, a truck before the wall, and a far pedestrian of 5×3 pixels."""
    semantics = np.full((HEIGHT, WIDTH), DRIVEABLE_SURFACE, np.uint8)
    row = np.arange(HEIGHT)[:, None] + 0.5
    depth_m = np.broadcast_to(1.5 * 280 / np.maximum(row - 112, 5), (HEIGHT, WIDTH)).astype(np.float32)
    semantics[:130], depth_m[:130] = MANMADE, 22.0
    semantics[:60], depth_m[:60] = FREE, np.inf
    instance = np.zeros((HEIGHT, WIDTH), np.uint16)
    for number, (area, class_id, distance_m) in enumerate(
        (
            (np.s_[100:160, 40:120], CAR, 9.0),
            (np.s_[70:150, 200:300], TRUCK, 12.0),
            (np.s_[118:123, 150:153], PEDESTRIAN, 21.0),
        ),
        start=1,
    ):
        semantics[area], depth_m[area], instance[area] = class_id, distance_m, number
    return TruthMaps(semantics=semantics, depth_m=depth_m, instance=instance)


def log_error(corruption: DepthCorruption, depth_m: np.ndarray, seed: int) -> np.ndarray:
    return np.log(corruption.apply(depth_m, np.random.default_rng(seed)).astype(float) / depth_m)


def test_perfect_is_the_truth(tmp_path: Path) -> None:
    image, truth = image_at(tmp_path), scene()
    write_truth_maps(truth_maps_path(Path(image.source.name)), truth)
    (semantics,) = semantics_teacher("oracle:perfect", TRUTH).semantics(key_frame(image))
    (depth,) = depth_teacher("oracle:perfect", TRUTH).depth(key_frame(image))
    assert np.array_equal(semantics.class_id, truth.semantics)
    assert np.array_equal(depth.depth_m, truth.depth_m)
    assert depth.depth_m.dtype == np.float32
    assert (semantics.score == 1).all()
    assert (depth.confidence == 1).all()


def test_errors_depend_on_seed_and_token_alone(tmp_path: Path) -> None:
    images = [replace(image_at(tmp_path, token), camera=token) for token in ("a", "b")]
    for image in images:
        write_truth_maps(truth_maps_path(Path(image.source.name)), scene())

    def maps(seed: int, order: list[CameraImage]) -> dict[str, bytes]:
        semantics, depth = (
            semantics_teacher("oracle:foundation", TRUTH, seed=seed),
            depth_teacher("oracle:foundation", TRUTH, seed=seed),
        )
        class_maps, depth_maps = semantics.semantics(key_frame(*order)), depth.depth(key_frame(*order))
        return {
            image.key: class_map.class_id.tobytes() + depth_map.depth_m.tobytes()
            for image, class_map, depth_map in zip(order, class_maps, depth_maps, strict=True)
        }

    first = maps(0, images)
    assert first == maps(0, images[::-1])
    assert first["a"] != first["b"]
    assert first["a"] != maps(1, images)["a"]


def test_smooth_noise_has_unit_variance_and_the_stated_scale() -> None:
    rng = np.random.default_rng(0)
    noise = np.stack([smooth_noise(rng, (40, 60), 10.0) for _ in range(1500)])
    assert np.abs(noise.mean(0)).max() < 0.15
    assert np.abs(noise.std(0) - 1).max() < 0.12
    correlation = [(noise[:, 20, 5] * noise[:, 20, 5 + lag]).mean() for lag in (1, 10, 40)]
    assert correlation[0] > 0.95
    assert 0.2 < correlation[1] < 0.7
    assert abs(correlation[2]) < 0.1


def test_depth_scale_is_one_factor_per_image() -> None:
    depth_m = scene().depth_m
    depth_m = np.where(np.isinf(depth_m), np.float32(60), depth_m)
    errors = np.stack([log_error(DepthCorruption(scale_sigma=0.1), depth_m, seed) for seed in range(400)])
    assert errors.std(axis=(1, 2)).max() < 1e-6
    assert errors[:, 0, 0].std() == pytest.approx(0.1, rel=0.1)
    assert abs(errors[:, 0, 0].mean()) < 0.015


def test_depth_noise_has_the_stated_amounts_and_grows_with_range() -> None:
    depth_m = np.full((HEIGHT, WIDTH), 10.0, np.float32)
    depth_m[:, WIDTH // 2 :] = 40.0
    near, far = np.s_[..., : WIDTH // 2], np.s_[..., WIDTH // 2 :]

    pixel = np.stack([log_error(DepthCorruption(pixel_sigma=0.03), depth_m, seed) for seed in range(10)])
    assert pixel.std() == pytest.approx(0.03, rel=0.02)
    neighbours = np.corrcoef(pixel[0, :, :-1].ravel(), pixel[0, :, 1:].ravel())[0, 1]
    assert abs(neighbours) < 0.02

    smooth = np.stack([log_error(DepthCorruption(smooth_sigma=0.05), depth_m, seed) for seed in range(100)])
    assert smooth.std() == pytest.approx(0.05, rel=0.1)
    assert np.corrcoef(smooth[0, :, :-1].ravel(), smooth[0, :, 1:].ravel())[0, 1] > 0.98

    growing = np.stack(
        [log_error(DepthCorruption(pixel_sigma=0.02, growth_per_m=0.05), depth_m, seed) for seed in range(10)]
    )
    assert growing[near].std() == pytest.approx(0.02 * 1.5, rel=0.03)
    assert growing[far].std() == pytest.approx(0.02 * 3.0, rel=0.03)


def test_depth_bleeds_at_edges_only_and_in_between() -> None:
    truth = scene()
    result = DepthCorruption(bleed_px=3.0).apply(truth.depth_m, np.random.default_rng(0))
    changed = ~np.isclose(result, truth.depth_m)
    finite = np.isfinite(truth.depth_m)
    log_depth = np.log(np.where(finite, truth.depth_m, 1e4))
    low, high = ndimage.minimum_filter(log_depth, 3), ndimage.maximum_filter(log_depth, 3)
    to_edge_px = ndimage.distance_transform_cdt(high - low <= np.log(1.15), metric="chessboard")
    assert to_edge_px[changed].max() <= 2
    assert not changed[~finite].any()
    assert np.isinf(result[~finite]).all()
    # Left of the truck, before the wall: depths that are neither of both.
    band = result[80:98, 197:203]
    assert ((band > 12.3) & (band < 21.7)).all()
    assert np.array_equal(result[80:98, 190:197], truth.depth_m[80:98, 190:197])
    # The amount scales with the size of the image.
    small = DepthCorruption(bleed_px=3.0).apply(truth.depth_m[::2, ::2], np.random.default_rng(0))
    assert (~np.isclose(small[40:49, 92:108], truth.depth_m[80:98:2, 184:216:2])).sum() == 9 * 4


def test_the_sky_gets_a_depth() -> None:
    truth = scene()
    result = DepthCorruption(sky_depth_m=200.0).apply(truth.depth_m, np.random.default_rng(0))
    sky = np.isinf(truth.depth_m)
    assert (result[sky] == 200).all()
    assert np.array_equal(result[~sky], truth.depth_m[~sky])


def test_objects_are_confused_as_a_whole() -> None:
    semantics = np.full((HEIGHT, WIDTH), DRIVEABLE_SURFACE, np.uint8)
    instance = np.zeros((HEIGHT, WIDTH), np.uint16)
    for number in range(400):
        area = np.s_[10 * (number // 20) : 10 * (number // 20) + 8, 20 * (number % 20) : 20 * (number % 20) + 15]
        instance[area] = number + 1
        semantics[area] = (CAR, TRUCK, CONSTRUCTION_VEHICLE)[number % 3]
    result = SemanticsCorruption(confused_objects=0.25).apply(semantics, instance, np.random.default_rng(1))
    changed = result != semantics
    whole = ndimage.minimum(changed, instance, range(1, 401)) == ndimage.maximum(changed, instance, range(1, 401))
    assert whole.all()
    share = ndimage.minimum(changed, instance, range(1, 401)).mean()
    assert share == pytest.approx(0.25, abs=0.06)
    assert not changed[instance == 0].any()
    for before, after in {(int(a), int(b)) for a, b in zip(semantics[changed], result[changed], strict=True)}:
        assert OCC3D.taxonomy.name_of(after) in CONFUSED_OBJECTS[OCC3D.taxonomy.name_of(before)]
    unlabelled = SemanticsCorruption(confused_objects=1.0).apply(
        np.full_like(semantics, UNKNOWN), instance, np.random.default_rng(1)
    )
    assert (unlabelled == UNKNOWN).all()


def test_ground_is_confused_in_patches() -> None:
    semantics = np.full((HEIGHT, WIDTH), SIDEWALK, np.uint8)
    semantics[:50] = MANMADE
    nothing = np.zeros((HEIGHT, WIDTH), np.uint16)
    corruption = SemanticsCorruption(confused_ground=0.1)
    results = [corruption.apply(semantics, nothing, np.random.default_rng(seed)) for seed in range(60)]
    changed = np.stack([result != semantics for result in results])
    assert changed[:, 50:].mean() == pytest.approx(0.1, abs=0.015)
    assert not changed[:, :50].any()
    # Patches, not pixels: far fewer of them than pixels.
    assert ndimage.label(changed[0])[1] < changed[0].sum() / 100


def test_small_objects_are_missed() -> None:
    truth = scene()
    result = SemanticsCorruption(missed_below_px=16).apply(truth.semantics, truth.instance, np.random.default_rng(0))
    assert (result[truth.instance == 3] == MANMADE).all()
    assert np.array_equal(result[truth.instance != 3], truth.semantics[truth.instance != 3])
    kept = SemanticsCorruption(missed_below_px=15).apply(truth.semantics, truth.instance, np.random.default_rng(0))
    assert np.array_equal(kept, truth.semantics)


def test_outlines_are_off_by_the_stated_amount() -> None:
    semantics = np.full((HEIGHT, WIDTH), MANMADE, np.uint8)
    semantics[:, WIDTH // 2 :] = CAR
    nothing = np.zeros((HEIGHT, WIDTH), np.uint16)
    corruption = SemanticsCorruption(outline_px=2.0)
    results = [corruption.apply(semantics, nothing, np.random.default_rng(seed)) for seed in range(40)]
    offsets_px = np.concatenate([(result == MANMADE).sum(axis=1) - WIDTH // 2 for result in results])
    assert offsets_px.std() == pytest.approx(2.0, rel=0.2)
    assert abs(offsets_px.mean()) < 0.4
    assert all((result[:, : WIDTH // 2 - 15] == MANMADE).all() for result in results)


def test_the_sky_bleeds_both_ways() -> None:
    truth = scene()
    corruption = SemanticsCorruption(sky_bleed_px=2.0)
    results = np.stack(
        [corruption.apply(truth.semantics, truth.instance, np.random.default_rng(seed)) for seed in range(30)]
    )
    grown, lost = (results == FREE) & (truth.semantics != FREE), (results != FREE) & (truth.semantics == FREE)
    # Half of a normal distribution: 0.4 sigma per column and direction.
    assert grown.sum() / (30 * WIDTH) == pytest.approx(0.8, abs=0.4)
    assert lost.sum() / (30 * WIDTH) == pytest.approx(0.8, abs=0.4)
    assert not grown[:, 72:].any()
    assert np.isin(results[lost], (MANMADE,)).all()


@pytest.mark.parametrize("semantics", [FREE, UNKNOWN, DRIVEABLE_SURFACE])
def test_an_image_with_nothing_in_it(semantics: int) -> None:
    empty = np.full((HEIGHT, WIDTH), semantics, np.uint8)
    nothing = np.zeros((HEIGHT, WIDTH), np.uint16)
    result = FOUNDATION_SEMANTICS.apply(empty, nothing, np.random.default_rng(0))
    if semantics != DRIVEABLE_SURFACE:
        assert np.array_equal(result, empty)
    depth_m = FOUNDATION_DEPTH.apply(np.full((HEIGHT, WIDTH), np.inf, np.float32), np.random.default_rng(0))
    assert np.isfinite(depth_m).all()
    full = FOUNDATION_SEMANTICS.apply(np.full_like(empty, CAR), np.ones_like(nothing), np.random.default_rng(3))
    assert len(np.unique(full)) == 1


def test_foundation_is_as_wrong_as_it_says() -> None:
    truth = scene()
    finite = np.isfinite(truth.depth_m)
    errors, right = [], []
    for seed in range(40):
        depth_m = FOUNDATION_DEPTH.apply(truth.depth_m, np.random.default_rng(seed))
        errors.append(np.abs(depth_m[finite] / truth.depth_m[finite] - 1).mean())
        class_id = FOUNDATION_SEMANTICS.apply(truth.semantics, truth.instance, np.random.default_rng(seed))
        right.append((class_id == truth.semantics).mean())
    assert 0.04 < np.mean(errors) < 0.1
    assert 0.88 < np.mean(right) < 0.99


def test_measured_depth_is_worse_the_farther_away() -> None:
    depth = depth_teacher("oracle:measured", TRUTH, seed=3)
    assert depth == OracleDepth(truth=TRUTH, corruption=MEASURED_DEPTH, seed=3)
    spread = {}
    for distance_m in (7.5, 35.0):
        depth_m = np.full((HEIGHT, WIDTH), distance_m, np.float32)
        errors = np.stack([log_error(MEASURED_DEPTH, depth_m, seed) for seed in range(40)])
        spread[distance_m] = 1.4826 * np.median(np.abs(errors))
    # √(0.041² + (0.01 · (1 + 0.72 d))²): 0.076 and 0.265.
    assert 0.05 < spread[7.5] < 0.09
    assert 0.2 < spread[35.0] < 0.3


@pytest.mark.usefixtures("without_shape_checks")
def test_missing_and_damaged_maps_are_named(tmp_path: Path) -> None:
    image, truth = image_at(tmp_path), scene()
    path = truth_maps_path(Path(image.source.name))
    assert path.name == "image.truth.npz"
    with pytest.raises(DataError, match=r"image\.truth\.npz.*make the town with --maps"):
        depth_teacher("oracle:perfect", TRUTH).depth(key_frame(image))
    write_truth_maps(path, truth)
    with pytest.raises(DataError, match=r"\(224, 400\).*\(100, 400\)"):
        semantics_teacher("oracle:perfect", TRUTH).semantics(key_frame(image_at(tmp_path, height=100)))
    wrong = {
        "class 99": dataclasses.replace(truth, semantics=np.full((HEIGHT, WIDTH), 99, np.uint8)),
        "nan": dataclasses.replace(truth, depth_m=np.full((HEIGHT, WIDTH), np.nan, np.float32)),
        "uint16": dataclasses.replace(truth, instance=truth.instance.astype(np.int64)),
    }
    for message, maps in wrong.items():
        write_truth_maps(path, maps)
        with pytest.raises(DataError, match=message):
            read_truth_maps(path)


def test_truth_maps_come_back_as_written(tmp_path: Path) -> None:
    truth = scene()
    write_truth_maps(tmp_path / "a.truth.npz", truth)
    write_truth_maps(tmp_path / "b.truth.npz", truth)
    assert (tmp_path / "a.truth.npz").read_bytes() == (tmp_path / "b.truth.npz").read_bytes()
    back = read_truth_maps(tmp_path / "a.truth.npz")
    for field in dataclasses.fields(TruthMaps):
        assert np.array_equal(getattr(back, field.name), getattr(truth, field.name))


def test_an_unknown_teacher_lists_what_exists() -> None:
    assert set(SEMANTICS_TEACHERS) >= {"oracle:perfect", "oracle:foundation"}
    assert set(DEPTH_TEACHERS) >= {"oracle:perfect", "oracle:foundation"}
    with pytest.raises(ConfigError, match=r"classes called 'oracle'.*choose one of oracle:perfect, oracle:foundation"):
        semantics_teacher("oracle", TRUTH)


def test_amounts_of_error_are_options() -> None:
    depth = depth_teacher("oracle:foundation", TRUTH, seed=3, options={"bleed_px": "0", "sky_depth_m": "none"})
    assert depth == OracleDepth(
        truth=TRUTH, corruption=dataclasses.replace(FOUNDATION_DEPTH, bleed_px=0.0, sky_depth_m=None), seed=3
    )
    assert depth_teacher("oracle:perfect", TRUTH) == OracleDepth(truth=TRUTH, corruption=DepthCorruption())
