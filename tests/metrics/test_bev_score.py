"""Bird's-eye-view grid, footprints, vehicle truth, and IoU against numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from frames import key_frame

from occlift.errors import DataError
from occlift.geometry.footprints import box_footprints
from occlift.geometry.grids import BEV_GRID, BevGrid
from occlift.geometry.transforms import inverse, rigid_transform, rotation_about_z, transform_points
from occlift.metrics.bev import BevCounts, bev_counts
from occlift.scenes.frames import BoxAnnotation
from occlift.training.bev_truth import vehicle_truth

SMALL = BevGrid(lower_m=(-4.0, -2.0), cell_size_m=(1.0, 0.5), shape=(8, 6))


def test_cells_and_their_centres() -> None:
    assert BEV_GRID.centers().shape == (200, 200, 2)
    np.testing.assert_allclose(BEV_GRID.centers()[0, 199], (-49.75, 49.75))
    index, inside_grid = BEV_GRID.indices(np.array([[0.0, 0.0], [-50.0, 49.99], [50.0, 0.0], [np.nan, 0.0]]))
    assert inside_grid.tolist() == [True, True, False, False]
    assert index[:2].tolist() == [[100, 100], [0, 199]]
    # Cells that are not square, and a grid that is not either: x comes first.
    index, inside_grid = SMALL.indices(SMALL.centers())
    assert inside_grid.all()
    np.testing.assert_array_equal(index, np.stack(np.mgrid[:8, :6], -1))


def test_a_box_covers_the_cells_whose_centres_it_holds() -> None:
    # 3 m long, 1 m wide at (0.4, 0.3), bottom face on z = 1: centres in [-1.1, 1.9] × [-0.2, 0.8].
    box = rigid_transform(np.eye(3), (0.4, 0.3, 2.0))
    covered = box_footprints(box[None], np.array([[3.0, 1.0, 2.0]]), SMALL)
    assert covered.shape == (1, 8, 6)
    # x: -0.5, 0.5, 1.5; y: 0.25, 0.75.
    assert np.argwhere(covered[0]).tolist() == [[x, y] for x in (3, 4, 5) for y in (4, 5)]
    # A quarter turn swaps length and width: centres in [-0.1, 0.9] × [-1.2, 1.8], which the grid ends at y = 1.
    turned = rigid_transform(rotation_about_z(math.pi / 2), (0.4, 0.3, 2.0))
    covered = box_footprints(turned[None], np.array([[3.0, 1.0, 2.0]]), SMALL)
    assert np.argwhere(covered[0]).tolist() == [[4, y] for y in (2, 3, 4, 5)]


def test_a_centre_on_the_edge_is_covered() -> None:
    box = rigid_transform(np.eye(3), (0.5, 0.25, 0.0))
    covered = box_footprints(box[None], np.array([[2.0, 1.0, 1.0]]), SMALL)
    assert np.argwhere(covered[0]).tolist() == [[x, y] for x in (3, 4, 5) for y in (3, 4, 5)]


def _inside_polygon(point: np.ndarray, corners: np.ndarray) -> bool:
    """The slow twin: on the same side of all edges of a convex polygon."""
    sides = []
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        sides.append((b[0] - a[0]) * (point[1] - a[1]) - (b[1] - a[1]) * (point[0] - a[0]))
    return min(sides) >= 0 or max(sides) <= 0


def test_footprints_of_tilted_boxes_are_their_projected_bottom_faces() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        roll, pitch = rng.uniform(-0.3, 0.3, 2)
        about_x = np.array([[1, 0, 0], [0, np.cos(roll), -np.sin(roll)], [0, np.sin(roll), np.cos(roll)]])
        about_y = np.array([[np.cos(pitch), 0, np.sin(pitch)], [0, 1, 0], [-np.sin(pitch), 0, np.cos(pitch)]])
        rotation = rotation_about_z(rng.uniform(0, 6)) @ about_y @ about_x
        box = rigid_transform(rotation, rng.uniform(-2, 2, 3))
        length, width, height = size = rng.uniform(1, 4, 3)
        bottom = np.array(
            [[s * length / 2, t * width / 2, -height / 2] for s, t in ((1, 1), (1, -1), (-1, -1), (-1, 1))]
        )
        corners = (bottom @ rotation.T + box[:3, 3])[:, :2]
        expected = [[_inside_polygon(center, corners) for center in row] for row in SMALL.centers()]
        np.testing.assert_array_equal(box_footprints(box[None], size[None], SMALL)[0], expected)


def test_a_box_covers_its_own_area_on_average() -> None:
    rng = np.random.default_rng(1)
    boxes = np.stack(
        [rigid_transform(rotation_about_z(rng.uniform(0, 6)), (*rng.uniform(-20, 20, 2), 0)) for _ in range(300)]
    )
    covered = box_footprints(boxes, np.tile([4.0, 2.0, 1.5], (300, 1)), BEV_GRID)
    assert covered.sum() * 0.25 / 300 == pytest.approx(8.0, rel=0.01)


def _box(category: str, global_from_box: np.ndarray, visibility: float | None) -> BoxAnnotation:
    return BoxAnnotation(
        instance="instance",
        category=category,
        size_lwh_m=(4.0, 2.0, 1.5),
        global_from_box=global_from_box,
        visibility=visibility,
        num_lidar_points=0,
    )


def test_vehicles_of_a_frame_and_what_the_filter_leaves_out() -> None:
    # The ego stands at (100, 200) and looks along the global y axis.
    global_from_ego = rigid_transform(rotation_about_z(math.pi / 2), (100.0, 200.0, 0.5))

    def ahead(x: float, y: float) -> np.ndarray:
        return global_from_ego @ rigid_transform(np.eye(3), (x, y, 0.75))

    boxes = [
        _box("vehicle.car", ahead(10.0, 5.0), 1.0),
        # Shares x in [10, 12] with the car: these cells stay, the other half is ignored.
        _box("vehicle.truck", ahead(12.0, 5.0), 0.4),
        _box("human.pedestrian.adult", ahead(-20.0, 0.0), 0.4),
        # The table says nothing about visibility.
        _box("vehicle.bicycle", ahead(-10.0, -5.0), None),
        _box("static_object.bicycle_rack", ahead(-30.0, 0.0), 1.0),
    ]
    truth, ignored = vehicle_truth(key_frame(global_from_ego=global_from_ego), boxes)
    expected = np.zeros((200, 200), dtype=bool)
    # Ego (x, y) → cell 2 · (x + 50), 2 · (y + 50).
    expected[116:128, 108:112] = True  # x in [8, 14], y in [4, 6]
    expected[76:84, 88:92] = True  # x in [-12, -8], y in [-6, -4]
    np.testing.assert_array_equal(truth, expected)
    expected[:] = False
    expected[124:128, 108:112] = True  # x in [12, 14]
    np.testing.assert_array_equal(ignored, expected)


def test_a_frame_without_vehicles() -> None:
    truth, ignored = vehicle_truth(key_frame(global_from_ego=np.eye(4)), [_box("animal", np.eye(4), 0.4)])
    assert truth.shape == ignored.shape == (200, 200)
    assert not truth.any()
    assert not ignored.any()


def test_vehicles_of_the_real_frame(real_frame: Path) -> None:
    from occlift.datasets.nuscenes.dataset import NuScenes

    data = NuScenes.open(real_frame)
    token = data.key_frame_tokens(data.scenes()[0])[0]
    frame, boxes = data.key_frame(token), data.boxes(token)
    ego_from_global = inverse(frame.global_from_ego)
    inner = [
        box
        for box in boxes
        if box.category.startswith("vehicle.")
        and np.abs(transform_points(ego_from_global, box.global_from_box[:3, 3])[:2]).max() < 50 - box.size_lwh_m[0]
    ]
    assert len(inner) >= 5
    # Vehicles do not overlap.
    area_m2 = sum(box.size_lwh_m[0] * box.size_lwh_m[1] for box in inner)
    truth, _ = vehicle_truth(frame, inner)
    assert truth.sum() * 0.25 == pytest.approx(area_m2, rel=0.1)
    all_vehicles, ignored = vehicle_truth(frame, boxes)
    assert not (truth & ~all_vehicles).any()
    assert not ignored.any(), "every vehicle of this frame has visibility token 4"


# Two rows of three cells. The hidden object covers the last column.
PROBABILITY = np.array([[0.6, 0.5, 0.9], [0.51, 0.2, 0.1]], np.float32)
TRUTH = np.array([[True, True, True], [False, False, True]])
IGNORED = np.array([[False, False, True], [False, False, True]])


def test_a_case_by_hand() -> None:
    counts = bev_counts(prediction=PROBABILITY[None], truth=TRUTH[None], ignored=IGNORED[None])
    # Exactly 0.5 claims nothing. Predicted: (0,0), (0,2), (1,0); true: (0,0), (0,1), (0,2), (1,2).
    assert counts.cells["unfiltered"].tolist() == [[2, 3, 4]]
    assert counts.cells["filtered"].tolist() == [[1, 2, 2]]
    assert counts.named() == pytest.approx(
        {"bev_iou_vehicle_filtered": 100 / 3, "bev_iou_vehicle_unfiltered": 100 * 2 / 5}
    )
    lower = bev_counts(prediction=PROBABILITY[None], truth=TRUTH[None], ignored=IGNORED[None], threshold=0.4)
    assert lower.cells["unfiltered"].tolist() == [[3, 4, 4]]


def test_a_perfect_prediction_scores_100() -> None:
    counts = bev_counts(prediction=TRUTH[None], truth=TRUTH[None], ignored=IGNORED[None])
    assert set(counts.named().values()) == {100.0}
    assert set(
        bev_counts(prediction=TRUTH[None].astype(float), truth=TRUTH[None], ignored=IGNORED[None]).named().values()
    ) == {100.0}


def test_the_filter_leaves_out_ignored_cells_and_nothing_else() -> None:
    rng = np.random.default_rng(2)
    truth = rng.random((3, 1, 20, 20)) < 0.3
    ignored = truth & (rng.random(truth.shape) < 0.5)
    prediction = rng.random(truth.shape) < 0.3
    before = bev_counts(prediction=prediction, truth=truth, ignored=ignored)
    for cell in np.ndindex(truth.shape):
        flipped = prediction.copy()
        flipped[cell] ^= True
        after = bev_counts(prediction=flipped, truth=truth, ignored=ignored)
        assert (after.cells["unfiltered"] != before.cells["unfiltered"]).any()
        changed = (after.cells["filtered"] != before.cells["filtered"]).any()
        assert changed == (not ignored[cell])


def test_classes_are_counted_apart() -> None:
    classes = ("road", "crossing", "divider")
    truth = np.zeros((2, 3, 4, 5), dtype=bool)
    prediction = np.zeros_like(truth)
    truth[:, 0] = True
    prediction[0, 0] = True  # one of two frames
    prediction[1, 1, :2, :2] = True  # 4 false alarms
    counts = bev_counts(prediction=prediction, truth=truth, ignored=None, classes=classes)
    named = counts.named()
    # Without visibility there is no filtered score.
    assert named.keys() == {f"bev_iou_{name}_unfiltered" for name in classes}
    assert named["bev_iou_road_unfiltered"] == 50
    assert named["bev_iou_crossing_unfiltered"] == 0
    assert math.isnan(named["bev_iou_divider_unfiltered"])


def test_counts_of_parts_add_up_in_any_order() -> None:
    rng = np.random.default_rng(3)
    truth = rng.random((7, 1, 30, 40)) < 0.2
    ignored = truth & (rng.random(truth.shape) < 0.3)
    prediction = rng.random(truth.shape).astype(np.float32)
    whole = bev_counts(prediction=prediction, truth=truth, ignored=ignored)
    # The IoU of the split is not the mean of those of its frames.
    parts = [bev_counts(prediction=p, truth=t, ignored=i) for p, t, i in zip(prediction, truth, ignored, strict=True)]
    for order in (range(7), rng.permutation(7)):
        total = BevCounts(classes=whole.classes, cells={name: np.zeros((1, 3), np.int64) for name in whole.cells})
        for number in order:
            total += parts[number]
        assert {name: cells.tolist() for name, cells in total.cells.items()} == {
            name: cells.tolist() for name, cells in whole.cells.items()
        }
    sizes = bev_counts(prediction=truth[:, :, :3], truth=truth[:, :, :3], ignored=None) + bev_counts(
        prediction=np.zeros_like(truth), truth=truth, ignored=None
    )
    expected = 100 * truth[:, :, :3].sum() / (truth[:, :, :3].sum() + truth.sum())
    assert sizes.named()["bev_iou_vehicle_unfiltered"] == pytest.approx(expected)


@pytest.mark.parametrize("value", [-3.2, 1.5, math.nan])
def test_logits_and_nan_are_no_probabilities(value: float) -> None:
    prediction = PROBABILITY[None].copy()
    prediction[0, 0, 0] = value
    with pytest.raises(DataError, match=r"0\.\.1.*sigmoid"):
        bev_counts(prediction=prediction, truth=TRUTH[None], ignored=IGNORED[None])


@pytest.mark.usefixtures("without_shape_checks")
def test_shapes_and_types_are_checked() -> None:
    with pytest.raises(DataError, match=r"\[\.\.\., 1, x, y\].*has an axis too"):
        bev_counts(prediction=PROBABILITY, truth=TRUTH, ignored=IGNORED)
    with pytest.raises(DataError, match=r"truth .* is bool of shape \(1, 3, 2\)"):
        bev_counts(prediction=PROBABILITY[None], truth=TRUTH.T[None], ignored=IGNORED[None])
    with pytest.raises(DataError, match=r"ignored .* is int64"):
        bev_counts(prediction=PROBABILITY[None], truth=TRUTH[None], ignored=IGNORED[None].astype(np.int64))


def test_false_alarms_cannot_be_ignored() -> None:
    with pytest.raises(DataError, match="hardly visible ones too"):
        bev_counts(prediction=PROBABILITY[None], truth=TRUTH[None], ignored=~TRUTH[None])
