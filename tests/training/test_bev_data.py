"""Truth of bird's-eye views, batches of it, and which part of a split is labelled."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.datasets.nuscenes.lidar_file import LidarFile
from occlift.errors import ConfigError
from occlift.geometry.cameras import CameraRig
from occlift.geometry.grids import BEV_GRID, OCC3D_GRID
from occlift.geometry.transforms import rigid_transform, rotation_about_z
from occlift.label_space import DRIVEABLE_SURFACE, OTHER_FLAT, SIDEWALK, TERRAIN
from occlift.labels.files import label_path, read_label
from occlift.scenes.dataset import MAP_CLASSES, split_tokens
from occlift.scenes.frames import BoxAnnotation, KeyFrame, LidarSweep
from occlift.training.bev_frames import BevBatch, BevFrames, collate_bev
from occlift.training.bev_truth import BEV_CLASSES, BevTruth, bev_truth, object_centres, object_truth, vehicle_truth
from occlift.training.frames import FrameBatch
from occlift.training.label_share import LABEL_SHARES, labelled_tokens


def frame_at(global_from_ego: np.ndarray) -> KeyFrame:
    lidar = LidarSweep(
        key="lidar",
        source=LidarFile(Path("none")),
        timestamp_us=0,
        ego_from_lidar=np.eye(4),
        global_from_ego=global_from_ego,
    )
    return KeyFrame(
        token="sample",
        scene="scene",
        index=0,
        timestamp_us=0,
        cameras=(),
        lidar=lidar,
        global_from_ego=lidar.global_from_ego,
    )


def box(
    x: float,
    y: float,
    *,
    yaw: float = 0.0,
    category: str = "vehicle.car",
    visibility: float | None = 1.0,
    size_lwh_m: tuple[float, float, float] = (4.0, 2.0, 1.5),
    global_from_ego: np.ndarray | None = None,
) -> BoxAnnotation:
    """A box at (x, y, 0.75) of the ego frame."""
    ego_from_box = rigid_transform(rotation_about_z(yaw), (x, y, 0.75))
    return BoxAnnotation(
        instance="instance",
        category=category,
        size_lwh_m=size_lwh_m,
        global_from_box=ego_from_box if global_from_ego is None else global_from_ego @ ego_from_box,
        visibility=visibility,
        num_lidar_points=0,
    )


HERE = frame_at(np.eye(4))


def test_centres_and_offsets_by_hand() -> None:
    # Two cars that share x in [10, 12], a pedestrian within the second's reach, a hidden truck.
    boxes = [
        box(10.0, 5.0),
        box(12.0, 5.0),
        box(-20.0, 0.25, category="human.pedestrian.adult", size_lwh_m=(0.6, 0.6, 1.8)),
        box(30.0, 0.0, category="vehicle.truck", visibility=0.4),
        box(0.0, 30.0, category="animal"),
    ]
    centre, offset_m, inside_object = object_centres(HERE, boxes, ("vehicle", "pedestrian"))
    assert centre.dtype == offset_m.dtype == np.float32
    expected = np.zeros((200, 200), dtype=bool)
    expected[116:128, 108:112] = True  # x in [8, 14], y in [4, 6]
    expected[59:61, 100] = True  # centres at x = −20 ± 0.25, y = 0.25
    np.testing.assert_array_equal(inside_object, expected)
    x, y = BEV_GRID.axis_centers()
    for i, j in np.argwhere(expected).tolist():
        center = (-20.0, 0.25) if i < 100 else (10.0, 5.0) if x[i] < 11 else (12.0, 5.0)
        np.testing.assert_allclose(offset_m[:, i, j], (center[0] - x[i], center[1] - y[j]), atol=1e-6)
    assert not offset_m[:, ~expected].any()
    # σ = 1.5 m; the cell (120, 110) has its centre at (10.25, 5.25).
    assert centre[120, 110] == pytest.approx(math.exp(-(0.25**2 + 0.25**2) / 4.5))
    assert centre[120, 114] == pytest.approx(math.exp(-(0.25**2 + 2.25**2) / 4.5))
    assert centre[160, 100] < 1e-6, "a hidden object has no centre"
    assert centre[100, 160] < 1e-6
    only_pedestrians, _, inside = object_centres(HERE, boxes, ("pedestrian",))
    assert inside.sum() == 2
    assert only_pedestrians[120, 110] < 1e-6
    nothing = object_centres(HERE, boxes, ())
    assert not any(array.any() for array in nothing)


def test_of_equally_near_centres_the_first_box_counts_and_otherwise_order_does_not_matter() -> None:
    wide, long = box(10.25, 5.25, size_lwh_m=(2.0, 6.0, 1.0)), box(10.25, 5.25, size_lwh_m=(6.0, 2.0, 1.0))
    beside = box(12.0, 5.5, yaw=0.4)
    for boxes in ([wide, long, beside], [beside, long, wide]):
        results = [object_centres(HERE, order, ("vehicle",)) for order in (boxes, boxes[::-1])]
        for first, second in zip(*results, strict=True):
            np.testing.assert_array_equal(first, second)
    # Two centres at equal distances from the cell's centre (10.25, 5.25), exact in binary.
    left, right = box(9.25, 5.25), box(11.25, 5.25)
    assert object_centres(HERE, [left, right], ("vehicle",))[1][0, 120, 110] == -1.0
    assert object_centres(HERE, [right, left], ("vehicle",))[1][0, 120, 110] == 1.0


def test_pedestrians_are_a_class_of_their_own() -> None:
    boxes = [
        box(10.0, 5.0),
        box(5.0, 5.0, category="human.pedestrian.child"),
        box(-5.0, 5.0, category="human.pedestrian.adult", visibility=0.4),
        box(-9.0, 5.0, category="human.pedestrians_of_another_table"),
    ]
    truth, ignored = object_truth(HERE, boxes, "pedestrian")
    assert truth.sum() == 2 * 32
    assert ignored.sum() == 32
    vehicles, _ = object_truth(HERE, boxes, "vehicle")
    np.testing.assert_array_equal(vehicles, vehicle_truth(HERE, boxes)[0])
    assert not (vehicles & truth).any()


def random_boxes(seed: int, **common: Any) -> list[BoxAnnotation]:
    rng = np.random.default_rng(seed)
    return [
        box(
            *rng.uniform(-45, 45, 2),
            yaw=rng.uniform(-3, 3),
            category=str(rng.choice(["vehicle.car", "vehicle.bicycle", "human.pedestrian.adult"])),
            visibility=[None, 0.4, 0.6, 0.8, 1.0][int(rng.integers(0, 5))],
            size_lwh_m=(rng.uniform(2, 9), rng.uniform(1, 3), 2.0),
            **common,
        )
        for _ in range(40)
    ]


def truth_of(boxes: list[BoxAnnotation], frame: KeyFrame = HERE) -> BevTruth:
    pairs = [object_truth(frame, boxes, name) for name in ("vehicle", "pedestrian")]
    centre, offset_m, inside_object = object_centres(frame, boxes, ("vehicle", "pedestrian"))
    return BevTruth(
        classes=("vehicle", "pedestrian"),
        truth=np.stack([truth for truth, _ in pairs]),
        ignored=np.stack([ignored for _, ignored in pairs]),
        centre=centre,
        offset_m=offset_m,
        inside_object=inside_object,
    )


def test_the_truth_moves_with_the_ego() -> None:
    """The same boxes around an ego that stands and looks elsewhere: the same truth."""
    global_from_ego = rigid_transform(rotation_about_z(2.1), (612.0, 1530.0, 2.0))
    here = truth_of(random_boxes(3))
    there = truth_of(random_boxes(3, global_from_ego=global_from_ego), frame_at(global_from_ego))
    assert (here.truth != there.truth).mean() < 1e-4  # rounding, where a border runs through a cell's centre
    np.testing.assert_allclose(there.centre, here.centre, atol=1e-5)
    assert np.mean(np.abs(there.offset_m - here.offset_m) > 1e-4) < 1e-4
    assert here.inside_object.sum() > 500
    assert not (here.inside_object & ~here.truth.any(0)).any()
    visible = here.truth & ~here.ignored
    np.testing.assert_array_equal(here.inside_object, visible.any(0))


def batch_of(truth: BevTruth) -> BevBatch:
    generator = torch.Generator().manual_seed(0)
    intrinsics_px = torch.tensor([[30.0, 0.5, 16.0], [0.0, 31.0, 11.0], [0.0, 0.0, 1.0]]).expand(1, 6, 3, 3).clone()
    ego_from_camera = torch.linalg.qr(torch.randn(1, 6, 4, 4, generator=generator))[0]
    frame = FrameBatch(
        tokens=("sample",),
        images=torch.rand(1, 6, 3, 24, 32, generator=generator),
        rig=CameraRig(intrinsics_px=intrinsics_px, ego_from_camera=ego_from_camera, height=24, width=32),
        semantics=None,
        mask_camera=None,
    )
    return BevBatch(
        frame=frame,
        classes=truth.classes,
        truth=torch.from_numpy(truth.truth)[None],
        ignored=torch.from_numpy(truth.ignored)[None],
        centre=torch.from_numpy(truth.centre)[None, None],
        offset_m=torch.from_numpy(truth.offset_m)[None],
        inside_object=torch.from_numpy(truth.inside_object)[None, None],
    )


TARGETS = ("truth", "ignored", "centre", "offset_m", "inside_object")


@pytest.mark.parametrize("axis", ["x", "y"])
def test_the_mirrored_truth_is_that_of_the_mirrored_boxes(axis: str) -> None:
    boxes = random_boxes(7)
    sign = np.array([-1.0 if axis == name else 1.0 for name in "xy"])
    mirrored_boxes = []
    for original in boxes:
        x, y = original.global_from_box[:2, 3] * sign
        along = original.global_from_box[:2, 0] * sign
        mirrored_boxes.append(
            box(float(x), float(y), yaw=math.atan2(along[1], along[0]), category=original.category,
                visibility=original.visibility, size_lwh_m=original.size_lwh_m)
        )  # fmt: skip
    batch = batch_of(truth_of(boxes))
    mirrored = batch.mirrored(axis)  # type: ignore[arg-type]
    expected = batch_of(truth_of(mirrored_boxes))
    for name in TARGETS:
        difference = getattr(mirrored, name).float() - getattr(expected, name).float()
        assert (difference.abs() > 1e-4).float().mean() < 1e-4, name  # rounding at borders
    assert not torch.equal(mirrored.offset_m, batch.offset_m.flip(2 + "xy".index(axis)))
    again = mirrored.mirrored(axis)  # type: ignore[arg-type]
    for name in TARGETS:
        assert torch.equal(getattr(again, name), getattr(batch, name)), name
    assert torch.allclose(again.frame.rig.ego_from_camera, batch.frame.rig.ego_from_camera)
    assert torch.equal(again.frame.images, batch.frame.images)
    reference = batch.frame.mirrored(axis)  # type: ignore[arg-type]
    assert torch.equal(mirrored.frame.rig.ego_from_camera, reference.rig.ego_from_camera)


def test_batches_are_put_together_and_taken_apart() -> None:
    samples = [batch_of(truth_of(random_boxes(seed))) for seed in range(3)]
    whole = collate_bev(samples)
    assert whole.truth.shape == (3, 2, 200, 200)
    assert whole.frame.images.shape[0] == 3
    for sample, part in zip(samples, whole.frames(), strict=True):
        assert part.classes == sample.classes
        for name in TARGETS:
            assert torch.equal(getattr(part, name), getattr(sample, name)), name
    moved = whole.to("cpu")
    assert torch.equal(moved.truth, whole.truth)


def test_frames_of_a_town(small_town: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = NuScenes.open(small_town)
    tokens = split_tokens(data, "all")[2:5]
    frames = BevFrames(data, tokens, height=24, width=44, classes=BEV_CLASSES, cache_bytes=3_500_000)
    items = [frames[index] for index in range(len(frames))]
    for token, item in zip(tokens, items, strict=True):
        frame, boxes = data.key_frame(token), data.boxes(token)
        assert item.frame.tokens == (token,)
        assert item.frame.images.shape == (1, 6, 3, 24, 44)
        assert item.frame.semantics is None
        assert item.truth.shape == item.ignored.shape == (1, 5, 200, 200)
        truth, ignored = vehicle_truth(frame, boxes)
        np.testing.assert_array_equal(item.truth[0, 0], truth)
        np.testing.assert_array_equal(item.ignored[0, 0], ignored)
        for number, name in enumerate(BEV_CLASSES):
            if name in MAP_CLASSES:
                cells = data.scene_map(frame.scene).cells(cast(Any, name), frame.global_from_ego, BEV_GRID)
                np.testing.assert_array_equal(item.truth[0, number], cells)
                assert not item.ignored[0, number].any()
        # The ego stands on the road.
        assert item.truth[0, BEV_CLASSES.index("drivable_area"), 100, 100]
        assert 0.05 < item.truth[0, BEV_CLASSES.index("drivable_area")].float().mean() < 0.6
        alone = bev_truth(data, token, BEV_CLASSES)
        np.testing.assert_array_equal(item.offset_m[0], alone.offset_m)
        np.testing.assert_array_equal(item.centre[0, 0], alone.centre)
    assert any(item.inside_object.any() for item in items)

    # 24 × 44 pixels and five classes are about 0.94 MB a frame: three are kept, and come from memory.
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr("occlift.training.bev_frames.bev_truth", refuse)
    monkeypatch.setattr("occlift.scenes.sources.read_image", refuse)
    for index, item in enumerate(items):
        again = frames[index]
        for name in TARGETS:
            assert torch.equal(getattr(again, name), getattr(item, name)), name
    assert torch.equal(frames[1].mirrored().mirrored().truth, frames[1].truth), "a mirrored batch shares no memory"
    uncached = BevFrames(data, tokens, height=24, width=44, classes=("vehicle",))
    with pytest.raises(AssertionError, match="made again"):
        uncached[0]
    assert len(pickle.dumps(uncached)) < 5000


def test_roads_lie_where_the_occupancy_truth_has_them(small_town: Path) -> None:
    data = NuScenes.open(small_town)
    for scene in data.scenes():
        token = data.key_frame_tokens(scene)[1]
        semantics = read_label(label_path(small_town / "gts", scene, token)).semantics
        drivable = bev_truth(data, token, ("drivable_area",)).truth[0]
        road = (semantics == DRIVEABLE_SURFACE).any(axis=2)
        other = np.isin(semantics, (OTHER_FLAT, SIDEWALK, TERRAIN)).any(axis=2)
        for columns, expected in ((road & ~other, True), (other & ~road, False)):
            index, _ = BEV_GRID.indices(OCC3D_GRID.centers()[columns][:, 0, :2])
            assert len(index) > 2000
            # The rest: cells of half a metre that a kerb cuts.
            assert (drivable[tuple(index.T)] == expected).mean() > 0.98


@pytest.mark.parametrize("classes", [(), ("vehicle", "vehicle"), ("vehicles",)])
def test_classes_that_are_none(classes: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"expected one or more of vehicle, pedestrian, drivable_area"):
        bev_truth(cast(Any, None), "token", classes)


class Split:
    """As much of a data set as the choice of labels looks at."""

    def __init__(self, scenes: int, frames: int) -> None:
        self._frames = {f"s{scene}": tuple(f"s{scene}-{k}" for k in range(frames)) for scene in range(scenes)}

    def scenes(self, name: str = "all") -> tuple[str, ...]:
        assert name in ("train", "all")
        return tuple(self._frames)

    def key_frame_tokens(self, scene: str) -> tuple[str, ...]:
        return self._frames[scene]


def chosen(scenes: int, frames: int, share: float, seed: int) -> tuple[str, ...]:
    return labelled_tokens(cast(Any, Split(scenes, frames)), "train", share, seed)


@pytest.mark.parametrize(
    ("scenes", "frames", "counts"),
    [
        (700, 40, (28_000, 2_800, 280)),  # 70 and 7 whole scenes
        (50, 40, (2_000, 200, 20)),  # 5 scenes; 20 key frames of these
        (8, 40, (320, 32, 3)),  # key frames
        (15, 7, (105, 14, 1)),  # 1.5 scenes are 2
        (1, 5, (5, 1, 1)),
    ],
)
def test_smaller_shares_lie_within_larger_ones(scenes: int, frames: int, counts: tuple[int, ...]) -> None:
    everything = split_tokens(cast(Any, Split(scenes, frames)), "train")
    place = {token: number for number, token in enumerate(everything)}
    for seed in range(5):
        shares = [chosen(scenes, frames, share, seed) for share in LABEL_SHARES]
        assert tuple(map(len, shares)) == counts
        assert shares[0] == everything
        assert set(shares[2]) <= set(shares[1]) <= set(shares[0])
        for tokens in shares:
            assert len(set(tokens)) == len(tokens)
            assert list(tokens) == sorted(tokens, key=place.__getitem__)


def test_whole_scenes_where_there_are_enough_and_even_spacing_where_not() -> None:
    whole = {token.split("-")[0] for token in chosen(700, 10, 0.01, 1)}
    assert len(whole) == 7
    assert set(chosen(700, 10, 0.01, 1)) == {f"{scene}-{k}" for scene in whole for k in range(10)}
    # One key frame of each ten.
    tokens = chosen(8, 40, 0.1, 1)
    assert [split_tokens(cast(Any, Split(8, 40)), "train").index(token) // 10 for token in tokens] == list(range(32))
    assert chosen(8, 40, 0.1, 1) == tokens
    assert chosen(8, 40, 0.1, 2) != tokens
    assert chosen(700, 10, 0.01, 2) != chosen(700, 10, 0.01, 1)


def test_other_shares_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"0\.5; expected 100 %, 10 %, 1 %"):
        chosen(8, 40, 0.5, 0)
