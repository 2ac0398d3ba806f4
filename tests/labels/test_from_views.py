"""Labels from arrays alone: against slow counting, in other spaces, with pixels that show nothing of the world."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from occlift import PosedView, label_from_views
from occlift.errors import ConfigError
from occlift.geometry.grids import VoxelGrid
from occlift.label_space import UNKNOWN, LabelSpace, Taxonomy
from occlift.labels.decide import DecisionConfig

GROUND, WALL, CAR, WALKER, REST, FREE = range(6)
SPACE = LabelSpace(
    grid=VoxelGrid(lower_m=(0.0, -3.0, -0.6), voxel_size_m=(0.2, 0.2, 0.2), shape=(50, 32, 14)),
    taxonomy=Taxonomy(
        names=("ground", "wall", "car", "walker", "rest"),
        moving=("car", "walker"),
        thin=("walker",),
        ground=("ground",),
    ),
)
EGO_FROM_CAMERA = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0.04], [0, -1, 0, 1.53], [0, 0, 0, 1]])
ONE_POINT = DecisionConfig(fusion="votes", min_points=1)


def view(height: int = 60, width: int = 90, *, forward_m: float = 0.0, **fields: object) -> PosedView:
    """A floor, a wall 8 m ahead of the origin, and a car in front of its left half, all off the faces of voxels."""
    v, u = np.mgrid[:height, :width] + 0.5
    focal = 0.7 * width
    down, right = (v - height / 2) / focal, (u - width / 2) / focal
    wall_m = 8.07 - forward_m
    floor_m = np.where(down > 0, 1.5 / np.maximum(down, 1e-6), np.inf)
    depth_m = np.minimum(floor_m, wall_m)
    class_id = np.where(floor_m < wall_m, GROUND, WALL)
    car = (right < -0.1) & (right > -0.3) & (np.abs(down) < 0.15)
    depth_m, class_id = np.where(car, 5.07 - forward_m, depth_m), np.where(car, CAR, class_id)
    class_id = np.where(down < -0.3, FREE, class_id)
    pose = EGO_FROM_CAMERA.copy()
    pose[0, 3] = forward_m
    made = PosedView(
        class_id=class_id.astype(np.uint8),
        depth_m=depth_m.astype(np.float32),
        intrinsics_px=np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]),
        ego_from_camera=pose,
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def count_slowly(views: list[PosedView]) -> np.ndarray:
    """Votes per voxel and class, pixel by pixel."""
    counts = np.zeros((*SPACE.grid.shape, 5), int)
    for one in views:
        for row, column in np.ndindex(one.class_id.shape):
            found, depth = one.class_id[row, column], one.depth_m[row, column]
            if found >= FREE or not np.isfinite(depth) or (not one.current and found in (CAR, WALKER)):
                continue
            point = np.linalg.inv(one.intrinsics_px) @ (column + 0.5, row + 0.5, 1.0) * depth
            ego = one.ego_from_camera[:3, :3] @ point + one.ego_from_camera[:3, 3]
            index = np.floor((ego - SPACE.grid.lower_m) / SPACE.grid.voxel_size_m).astype(int)
            if (index >= 0).all() and (index < SPACE.grid.shape).all():
                counts[(*index, found)] += 1
    return counts


def test_five_classes_on_an_asymmetric_grid_are_counted_as_slowly() -> None:
    views = [view(), view(40, 70, forward_m=0.53, current=False), view(forward_m=1.07, current=False)]
    counts = count_slowly(views)
    label = label_from_views(views, space=SPACE, decision=DecisionConfig(fusion="votes", min_points=2))
    expected = counts.sum(-1) >= 2
    assert expected.sum() > 300
    np.testing.assert_array_equal(label.semantics < FREE, expected)
    np.testing.assert_array_equal(label.semantics[expected], counts.argmax(-1)[expected])
    assert set(np.unique(label.semantics)) == {GROUND, WALL, CAR, FREE, UNKNOWN}
    assert not (label.mask_camera & ~label.mask_lidar).any()
    assert label.mask_camera.any()


def test_moving_classes_are_of_the_current_views_only() -> None:
    now, then = view(), view(forward_m=0.53, current=False)
    only_then = label_from_views([then], space=SPACE, decision=ONE_POINT)
    assert not (only_then.semantics == CAR).any()
    assert not only_then.mask_camera.any()
    assert (label_from_views([now], space=SPACE, decision=ONE_POINT).semantics == CAR).any()


def test_invalid_pixels_neither_vote_nor_cast_a_ray() -> None:
    whole = view()
    right = np.zeros(whole.class_id.shape, bool)
    right[:, 45:] = True
    label = label_from_views([replace(whole, valid=right)], space=SPACE, decision=ONE_POINT, free_stride=1)
    left_half = SPACE.grid.centers()[..., 1] > 0.2
    assert (label.semantics[left_half] == UNKNOWN).all()
    assert (label.semantics[~left_half] != UNKNOWN).sum() > 1000
    # Unknown alone is not enough: such pixels still say that the way to their depth is free.
    unknown = np.where(right, whole.class_id, UNKNOWN).astype(np.uint8)
    label = label_from_views([replace(whole, class_id=unknown)], space=SPACE, decision=ONE_POINT, free_stride=1)
    assert (label.semantics[left_half] == FREE).any()


def test_the_camera_mask_counts_valid_pixels_only() -> None:
    """A voxel that another view made known is not seen by pixels that show the lens's rim."""
    whole = view()
    all_valid = np.ones(whole.class_id.shape, bool)
    right = all_valid.copy()
    right[:, :45] = False
    other = view(current=False)
    labels = [
        label_from_views([replace(whole, valid=valid), other], space=SPACE, decision=ONE_POINT)
        for valid in (None, all_valid, right)
    ]
    np.testing.assert_array_equal(labels[0].mask_camera, labels[1].mask_camera)
    seen, with_rim = labels[0].mask_camera, labels[2].mask_camera
    # Votes of the other view are the same; the camera looks straight ahead from y = 0.04 m.
    left_half = SPACE.grid.centers()[..., 1] > 0.2
    assert (labels[2].semantics[left_half] == WALL).sum() > 50
    assert seen[left_half].sum() > 1000
    assert not with_rim[left_half].any()
    right_half = SPACE.grid.centers()[..., 1] < -0.2
    np.testing.assert_array_equal(with_rim[right_half], seen[right_half] & (labels[2].semantics != UNKNOWN)[right_half])


def test_scores_and_confidences_decide_what_is_used() -> None:
    whole = view()
    unsure = replace(whole, score=np.full(whole.class_id.shape, 0.3), confidence=np.full(whole.class_id.shape, 0.3))
    assert (label_from_views([unsure], space=SPACE, decision=ONE_POINT).semantics < FREE).any()
    for limit in ({"min_score": 0.5}, {"min_confidence": 0.5}):
        assert not (label_from_views([unsure], space=SPACE, decision=ONE_POINT, **limit).semantics < FREE).any()


def test_thin_ground_and_thresholds_are_those_of_the_taxonomy() -> None:
    one = view(4, 4)
    class_id = np.full((4, 4), GROUND, np.uint8)
    class_id[0] = WALKER
    near = replace(one, class_id=class_id, depth_m=np.full((4, 4), 1.0, np.float32))
    pinhole = np.array([[1000.0, 0, 0], [0, 1000, 0], [0, 0, 1]])
    near = replace(near, intrinsics_px=pinhole)

    def winner(config: DecisionConfig) -> int:
        found = label_from_views([near], space=SPACE, decision=config).semantics
        return int(found[found < FREE].item())

    assert winner(DecisionConfig(fusion="votes", min_points=1)) == GROUND
    assert winner(DecisionConfig(fusion="votes", min_points=1, thin_share=0.2)) == WALKER
    with pytest.raises(ConfigError, match="no class sidewalk; expected some of ground, wall"):
        winner(DecisionConfig(fusion="votes", class_min_points={"sidewalk": 2}))


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"class_id": np.zeros((60, 90, 5), np.float32)}, r"class_id is float32 of shape \(60, 90, 5\).*argmax"),
        ({"depth_m": np.zeros((60, 80), np.float32)}, r"depth_m has the shape \(60, 80\) and class_id \(60, 90\)"),
        ({"valid": np.ones((60, 90), np.uint8)}, "valid is uint8; expected booleans"),
        ({"intrinsics_px": np.eye(4)}, "intrinsics_px should be a finite 3×3 matrix"),
        ({"ego_from_camera": np.diag([1.0, 1, -1, 1])}, "no rotation"),
        ({"ego_from_camera": np.diag([2.0, 2, 2, 1])}, "no rotation"),
        ({"intrinsics_px": np.diag([0.0, 1, 1])}, "focal lengths"),
    ],
)
def test_arrays_that_are_no_view_are_refused(fields: dict[str, np.ndarray], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        view(**fields)


def test_classes_of_another_list_are_refused() -> None:
    wrong = view(class_id=np.full((60, 90), 11, np.uint8))
    with pytest.raises(ConfigError, match=r"views\[0\].class_id holds values from 11 to 11; expected 0..4 .*5 for"):
        label_from_views([wrong], space=SPACE)
    with pytest.raises(ConfigError, match="no views"):
        label_from_views([], space=SPACE)
