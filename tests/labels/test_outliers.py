"""EasyOcc's recipe, part by part: outliers, points on the border, and labels of both as the command makes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_from_views import FREE, SPACE, view
from test_surface import cleaned

from occlift import OCC3D, open_dataset
from occlift.errors import ConfigError
from occlift.evaluation.label_sweep import label_config
from occlift.label_space import UNKNOWN
from occlift.labels.config import LabelConfig
from occlift.labels.decide import DecisionConfig
from occlift.labels.files import label_path, read_label
from occlift.labels.fuse import EVERYTHING
from occlift.labels.generate import generate_labels
from occlift.labels.outliers import are_outliers, without_outliers
from occlift.labels.vote import Tally
from occlift.teachers.teacher import DepthMap

GRID = SPACE.grid


def test_outliers_are_found_as_slowly() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(400, 3)), rng.uniform(-9, 9, (20, 3))])
    between = np.sort(np.linalg.norm(points[:, None] - points[None], axis=-1), axis=1)
    mean = between[:, :20].mean(axis=1)
    expected = mean > mean.mean() + 2 * np.sqrt(((mean - mean.mean()) ** 2).sum() / (len(mean) - 1))
    assert 5 < expected.sum() < 30
    np.testing.assert_array_equal(are_outliers(points), expected)
    assert not are_outliers(points[-20:]).any()


@pytest.mark.parametrize("stride", [1, 2])
def test_a_pixel_that_floats_has_no_depth(stride: int) -> None:
    images = [view(), view()]
    # In the left image the pixel floats; in the right one nobody knows what it is.
    for one in images:
        one.depth_m[31, 41] = 1.0
    images[1].class_id[31, 41] = UNKNOWN
    maps = [DepthMap(depth_m=one.depth_m, confidence=np.ones_like(one.depth_m)) for one in images]
    views = [found for found, _, _ in cleaned(images, stride)]
    left, right = without_outliers(maps, views)
    assert np.isnan(left.depth_m[31, 41])
    assert right.depth_m[31, 41] == 1
    gone = np.isnan(left.depth_m)
    assert 1 <= gone.sum() < 0.1 * gone.size / stride**2
    np.testing.assert_array_equal(left.depth_m[~gone], images[0].depth_m[~gone])


def test_points_outside_of_the_grid_stand_on_its_border() -> None:
    ((one, pose, _),) = cleaned([view(forward_m=3.0)])
    pose = pose.copy()
    pose[0, 3] = 6.0
    one.depth_m[0, 0] = np.nan
    points, class_id = [], []
    for row, column in np.ndindex(one.class_id.shape):
        if one.class_id[row, column] < FREE and not np.isnan(one.depth_m[row, column]):
            ray = np.linalg.inv(one.intrinsics_px) @ (column + 0.5, row + 0.5, 1.0)
            points.append(pose[:3, :3] @ ray * float(one.depth_m[row, column]) + pose[:3, 3])
            class_id.append(one.class_id[row, column])
    index = np.floor((np.array(points) - GRID.lower_m) / GRID.voxel_size_m).astype(int)
    outside = ((index < 0) | (index >= GRID.shape)).any(axis=1)
    assert 0.1 < outside.mean() < 0.9
    expected = np.zeros((*GRID.shape, FREE), int)
    np.add.at(expected, (*np.clip(index, 0, np.array(GRID.shape) - 1).T, class_id), 1)
    tally = Tally(GRID, classes=FREE, clamp=True)
    tally.add_view(one, pose, EVERYTHING)
    np.testing.assert_array_equal(tally.votes().points, expected.sum(-1))
    # The same of points that come by themselves, of which some are nowhere.
    tally.add_points(np.array([*points, [np.nan] * 3]), np.array([*class_id, 0], np.uint8))
    votes = tally.votes()
    np.testing.assert_array_equal(votes.points, expected.sum(-1))
    np.testing.assert_array_equal(votes.count, expected[expected > 0])


def test_easyocc_is_votes_with_every_part(small_town: Path, tmp_path: Path) -> None:
    data, recipe = open_dataset(small_town), LabelConfig.easyocc()
    (scene, *_), frames = data.scenes("val"), {}
    token = data.key_frame_tokens(scene)[-1]
    for name, config in {
        "easyocc": recipe,
        "without outlier removal": replace(recipe, outliers="keep"),
        "without clamping": replace(recipe, outside="drop"),
    }.items():
        generate_labels(data, tmp_path / name, config, scenes=[scene])
        assert label_config(tmp_path / name) == config
        frames[name] = (
            read_label(label_path(tmp_path / name, scene, token), allow_unknown=True).semantics < OCC3D.taxonomy.free
        )
    walls = {name: np.mean([found[0], found[-1]]) for name, found in frames.items()}
    assert walls["easyocc"] > 3 * walls["without clamping"]
    inner = (slice(1, -1), slice(1, -1), slice(1, -1))
    np.testing.assert_array_equal(frames["easyocc"][inner], frames["without clamping"][inner])
    assert frames["easyocc"].sum() < frames["without outlier removal"].sum()


def test_parts_that_are_off_are_not_recorded_and_those_without_effect_refused() -> None:
    recorded = LabelConfig().identity({}, {})
    assert not {"outside", "outliers"} & recorded.keys()
    assert recorded["free_stride"] is None
    recorded = LabelConfig.easyocc().identity({}, {})
    assert (recorded["outside"], recorded["outliers"]) == ("clamp", "drop")
    surface = DecisionConfig(fusion="surface")
    with pytest.raises(ConfigError, match=r"outside=clamp .* without effect on fusion=surface; choose fusion=votes"):
        LabelConfig(outside="clamp", decision=surface).check(OCC3D.taxonomy)
    LabelConfig(outliers="drop", decision=surface).check(OCC3D.taxonomy)
