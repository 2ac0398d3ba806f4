"""Depth that cannot be trusted is said to be so, and why; depth of good teachers is not."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from occlift import LabelConfig, generate_labels, open_dataset
from occlift.errors import DataError
from occlift.label_space import OCC3D
from occlift.labels.depth_check import (
    CHECK_NAME,
    DepthCheck,
    Disagreement,
    FrameViews,
    check_depth,
    check_track,
    read_checks,
    write_check,
)
from occlift.labels.summary import depth_report
from occlift.labels.view import View, view_of
from occlift.teachers.registry import depth_teacher, semantics_teacher

Breaking = Callable[[View], View]


@pytest.fixture(scope="module")
def frames(small_town: Path) -> list[list[FrameViews]]:
    """Scene by scene the views of a town's foundation models."""
    data = open_dataset(small_town)
    semantics, depth = semantics_teacher("oracle:foundation", data), depth_teacher("oracle:foundation", data)
    found = []
    for scene in data.scenes():
        key_frames = [data.key_frame(token) for token in data.key_frame_tokens(scene)]
        found.append(
            [
                (
                    frame.global_from_ego,
                    [
                        view_of(image, class_map, depth_map, free_stride=4)
                        for image, class_map, depth_map in zip(
                            frame.cameras, semantics.semantics(frame), depth.depth(frame), strict=True
                        )
                    ],
                )
                for frame in key_frames
            ]
        )
    return found


def scaled(factor: float) -> Breaking:
    return lambda view: replace(view, depth_m=view.depth_m * np.float32(factor))


def other_focal_length(factor: float) -> Breaking:
    return lambda view: replace(view, intrinsics_px=view.intrinsics_px @ np.diag([factor, factor, 1]))


def mirrored(view: View) -> View:
    class_id, depth_m = (np.ascontiguousarray(a[:, ::-1]) for a in (view.class_id, view.depth_m))
    return replace(view, class_id=class_id, depth_m=depth_m)


def checked(frames: Sequence[Sequence[FrameViews]], broken: Breaking = lambda view: view) -> DepthCheck:
    total = DepthCheck()
    for scene in frames:
        seen = [(pose, [broken(view) for view in views]) for pose, views in scene]
        cars = [pose for pose, _ in scene]
        for now in range(len(seen)):
            others = [seen[other] for other in (now - 1, now + 1) if 0 <= other < len(seen)]
            total += check_depth(seen[now], others, cars)
    return total


def test_a_good_teacher_is_trusted_and_its_errors_are_measured(frames: list[list[FrameViews]]) -> None:
    found = checked(frames)
    assert found.doubts == ()
    assert all(0.03 < row.error < 0.15 for row in found.by_distance[1:4])
    assert all(abs(row.bias) < 0.05 for row in found.by_region)
    assert abs(found.ground_m) < 0.1
    assert found.through_share < 0.3
    assert "bottom third: error" in str(found)


@pytest.mark.parametrize(
    ("broken", "doubt"),
    [
        (scaled(1.3), r"below its wheels: depth is about [23]\d % too large"),
        (scaled(0.7), r"above its wheels: depth is about [23]\d % too small"),
        (other_focal_length(1.25), "above its wheels: .* or focal length"),
        (other_focal_length(0.8), "below its wheels: .* or focal length"),
        (mirrored, "of what stands within 15 m is seen through by other views"),
    ],
    ids=["×1.3", "×0.7", "focal ×1.25", "focal ×0.8", "mirrored"],
)
def test_broken_depth_is_doubted(frames: list[list[FrameViews]], broken: Breaking, doubt: str) -> None:
    assert any(re.search(doubt, said) for said in checked(frames, broken).doubts)


def test_nothing_is_said_of_what_was_not_compared() -> None:
    assert DepthCheck().doubts == ()
    assert DepthCheck(ground=10, ground_m=-3, camera_m=1.5, agree=1, through=9, track=5, blocked=5).doubts == ()
    assert str(DepthCheck()) == "no two views show the same place"


def test_what_stands_or_hangs_where_the_car_drives_blocks_it() -> None:
    grid = OCC3D.grid
    semantics = np.full(grid.shape, 17, np.uint8)
    semantics[:, :, 2] = 11
    cars = [np.eye(4) + np.eye(4, k=3) * 2.0 * n for n in range(8)]
    known, blocked = check_track(semantics, cars)
    assert known > 100
    assert blocked == 0
    manmade, car = OCC3D.taxonomy.id_of("manmade"), OCC3D.taxonomy.id_of("car")
    for height, class_id, share in (
        (0.2, manmade, 0),
        (1.2, car, 0),
        (2.0, manmade, 1),
        (3.4, manmade, 1),
        (4.4, manmade, 0),
    ):
        hanging = semantics.copy()
        hanging[:, :, int((height - grid.lower_m[2]) / grid.voxel_size_m[2])] = class_id
        assert check_track(hanging, cars) == (known, share * known), (height, class_id)
    assert "something stands in its way or hangs lower than a lorry" in DepthCheck(track=known, blocked=known).doubts[0]


def test_checks_add_up_and_are_read_again(tmp_path: Path) -> None:
    one = DepthCheck(
        by_region=(Disagreement(samples=10, error=0.1, bias=-0.1), *DepthCheck().by_region[1:]),
        agree=3, through=1, ground=100, ground_m=-0.4, camera_m=1.5, track=8, blocked=2,
    )  # fmt: skip
    two = replace(one, by_region=(Disagreement(samples=30, error=0.2, bias=0.1), *one.by_region[1:]), ground_m=0.0)
    paths = [tmp_path / name / "labels.npz" for name in ("a", "b", "c")]
    for path, check in zip(paths, (one, two), strict=False):
        write_check(path, check)
    both = read_checks(paths)
    assert both == one + two
    assert (both.by_region[0].samples, both.through, both.ground) == (40, 2, 200)
    assert both.by_region[0].error == pytest.approx(0.175)
    assert both.ground_m == pytest.approx(-0.2)
    (tmp_path / "a" / CHECK_NAME).write_text("{")
    with pytest.raises(DataError, match=r"a/depth\.json: not readable"):
        read_checks(paths)


@pytest.mark.parametrize("fusion", ["surface", "votes"])
def test_labels_keep_what_was_measured(small_town: Path, tmp_path: Path, fusion: str) -> None:
    data = open_dataset(small_town)
    config = LabelConfig(frames=3)
    config = replace(config, decision=replace(config.decision, fusion=fusion))  # type: ignore[arg-type]
    generate_labels(data, tmp_path, config, scenes=data.scenes("val"))
    lines = depth_report(tmp_path, sorted(tmp_path.glob("*/*/labels.npz")))
    assert lines[0].startswith("depth (oracle:foundation)")
    assert any("ground beside the car" in line for line in lines)
    assert any("where the car drives" in line for line in lines)
    assert not any(line.startswith("!") for line in lines)
    assert depth_report(tmp_path, []) == ()
