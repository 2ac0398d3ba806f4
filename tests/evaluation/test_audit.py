"""What is said about labels: numbers by hand, shifts, neighbours, and sweeps that equal labels made one by one."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.errors import ConfigError, DataError
from occlift.evaluation.audit import audit, write_shifted
from occlift.evaluation.audit_measures import (
    Levels,
    count_against_truth,
    ground_levels,
    ground_offsets,
    level_height_m,
    neighbour_agreement,
    precision,
    recall,
    shift,
)
from occlift.evaluation.label_sweep import label_config, sweep
from occlift.geometry.grids import OCC3D_GRID, VoxelGrid
from occlift.geometry.transforms import rigid_transform, rotation_about_z
from occlift.label_space import (
    CAR,
    DRIVEABLE_SURFACE,
    FREE,
    MANMADE,
    OCC3D,
    SIDEWALK,
    TERRAIN,
    TRUCK,
    UNKNOWN,
    VEGETATION,
    LabelSpace,
)
from occlift.labels.config import LabelConfig
from occlift.labels.decide import DecisionConfig
from occlift.labels.files import OccupancyLabel, label_path, read_confidence, read_label, write_label
from occlift.labels.generate import generate_labels
from occlift.labels.scene import SceneLabeller
from occlift.teachers.registry import depth_teacher, semantics_teacher
from occlift.town.config import TownConfig
from occlift.town.scene_writer import GTS
from occlift.town.write import write_town
from occlift.viz.curves import SERIES_COLORS, Curve, Series, write_curves_png

CONFIG = LabelConfig(
    frames=3, confidence=True, decision=DecisionConfig(fusion="votes", min_points=2, class_min_points={"car": 1})
)


def strict_json(text: str) -> Any:
    """Python reads NaN, other programs do not."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_what_is_unknown_counts_as_free_or_not_at_all() -> None:
    truth = np.array([CAR, CAR, FREE, CAR, FREE, FREE], np.uint8).reshape(3, 2, 1)
    label = np.array([CAR, UNKNOWN, FREE, DRIVEABLE_SURFACE, UNKNOWN, CAR], np.uint8).reshape(3, 2, 1)
    camera = np.array([1, 1, 1, 1, 0, 0], bool).reshape(3, 2, 1)
    counts = count_against_truth(label, truth, {"camera": camera, "none": None})
    # In the mask: hit, unknown for a car, free rightly, road for a car.
    assert counts.unknown_share("camera") == 25.0
    assert counts.unknown_share("none") == pytest.approx(100 * 2 / 6)
    whole, known = counts.unknown_as_free, counts.known
    assert whole.geometric_iou("camera") == pytest.approx(100 * 2 / 3)
    assert known.geometric_iou("camera") == pytest.approx(100 * 2 / 2)
    assert whole.mean_iou("camera") == pytest.approx((100 / 3 + 0) / 2)
    assert known.mean_iou("camera") == pytest.approx((100 / 2 + 0) / 2)
    assert whole.geometric_iou("none") == pytest.approx(100 * 2 / 4)
    h = whole.histograms["none"]
    assert precision(h)[CAR] == pytest.approx(100 * 1 / 2)
    assert recall(h)[CAR] == pytest.approx(100 * 1 / 3)
    assert precision(h)[FREE] == pytest.approx(100 * 2 / 3)
    assert precision(h)[DRIVEABLE_SURFACE] == 0
    assert math.isnan(recall(h)[DRIVEABLE_SURFACE])
    assert math.isnan(precision(h)[TRUCK])
    twice = counts + counts
    assert twice.unknown_as_free.histograms["none"].sum() == 12
    assert twice.unknown_share("camera") == 25.0


def test_the_median_of_levels() -> None:
    def median(*counts: int) -> float:
        return Levels(first=-1, counts=np.array(counts)).median

    assert median(3, 1, 1) == -1
    assert median(2, 1, 2) == 0
    assert median(2, 0, 2) == 0  # between −1 and 1
    assert median(1, 1, 0) == -0.5
    assert math.isnan(median(0, 0, 0))
    assert Levels(first=-1, counts=np.array([1, 0, 3])).shares() == {-1: 25.0, 1: 75.0}


def test_ground_is_the_highest_ground_voxel_of_a_column() -> None:
    grid = VoxelGrid(lower_m=(-2.0, -1.0, -1.0), voxel_size_m=(1.0, 1.0, 0.4), shape=(4, 2, 8))
    truth = np.full(grid.shape, FREE, np.uint8)
    truth[:, :, 2] = DRIVEABLE_SURFACE
    truth[3, 1] = FREE
    label = np.full(grid.shape, UNKNOWN, np.uint8)
    label[:, :, 3] = SIDEWALK
    label[:, :, 2] = DRIVEABLE_SURFACE  # thick ground: its top counts
    label[:, :, 5] = VEGETATION  # no ground
    label[0, 0, 7] = TERRAIN  # one error far off
    label[1, 0] = FREE
    label[0, 1, 3] = FREE
    # Columns with ground in both: 6 of 8.
    offsets = ground_offsets(label, truth)
    assert offsets.shares() == {0: pytest.approx(100 / 6), 1: pytest.approx(400 / 6), 5: pytest.approx(100 / 6)}
    assert offsets.median == 1
    # Centres within 1 m of the origin: x = ±0.5, y = ±0.5; one of these four columns has no ground.
    levels = ground_levels(label, space=LabelSpace(grid=grid, taxonomy=OCC3D.taxonomy), near_m=1.0)
    assert levels.counts.tolist() == [0, 0, 0, 3, 0, 0, 0, 0]
    assert level_height_m(levels.median, grid) == pytest.approx(-1.0 + 3.5 * 0.4)


def test_a_shift_brings_in_what_is_unknown() -> None:
    column = np.arange(4, dtype=np.uint8).reshape(1, 1, 4)
    expected = {
        0: [0, 1, 2, 3],
        1: [255, 0, 1, 2],
        -1: [1, 2, 3, 255],
        3: [255, 255, 255, 0],
        4: [255] * 4,
        -9: [255] * 4,
    }
    for voxels, values in expected.items():
        assert shift(column, voxels, fill=UNKNOWN).ravel().tolist() == values
    assert column.ravel().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("steps", "turn_rad"), [((4, -2, 0), 0.0), ((0, 0, 1), 0.0), ((0, 0, 0), np.pi / 2), ((3, 1, 0), -np.pi / 2)]
)
def test_labels_of_a_static_world_agree_along_motions_by_whole_voxels(
    steps: tuple[int, int, int], turn_rad: float
) -> None:
    grid = VoxelGrid(lower_m=(-4.0, -4.0, -1.0), voxel_size_m=(0.4, 0.4, 0.4), shape=(20, 20, 8))
    space = LabelSpace(grid=grid, taxonomy=OCC3D.taxonomy)
    rng = np.random.default_rng(5)
    world = rng.choice([FREE, MANMADE, TERRAIN, VEGETATION, CAR], (60, 60, 24)).astype(np.uint8)
    earlier_from_later = rigid_transform(rotation_about_z(turn_rad), np.array(steps) * 0.4)
    later_from_earlier = rigid_transform(rotation_about_z(-turn_rad), np.zeros(3))
    later_from_earlier[:3, 3] = -later_from_earlier[:3, :3] @ earlier_from_later[:3, 3]

    def seen(earlier_from_here: np.ndarray) -> np.ndarray:
        """What the world has at the voxel centres of a frame."""
        points = grid.centers() @ earlier_from_here[:3, :3].T + earlier_from_here[:3, 3]
        index = np.floor((points + np.array([12.0, 12.0, 4.2])) / 0.4 + 1e-6).astype(int)
        return world[tuple(np.moveaxis(index, -1, 0))]

    earlier, later = seen(np.eye(4)), seen(earlier_from_later)
    assert (earlier == later).mean() < 0.5
    found = neighbour_agreement(earlier, later, later_from_earlier, space=space)
    overlap = np.prod([n - abs(s) for n, s in zip(grid.shape, steps, strict=True)])
    assert (found.pairs, found.known) == (1, overlap)
    for kind in (found.static, found.dynamic):
        assert (kind.iou, kind.equal_share) == (100.0, 100.0)
    wrong = neighbour_agreement(earlier, later, np.linalg.inv(later_from_earlier), space=space)
    assert wrong.static.iou < 80


def test_neighbours_are_compared_where_both_know_and_by_kind() -> None:
    grid = VoxelGrid(lower_m=(0.0, 0.0, 0.0), voxel_size_m=(1.0, 1.0, 1.0), shape=(10, 1, 1))
    space = LabelSpace(grid=grid, taxonomy=OCC3D.taxonomy)
    #                     0        1        2     3     4      5     6        7     8        9
    earlier = np.array([MANMADE, MANMADE, FREE, FREE, CAR, CAR, UNKNOWN, MANMADE, MANMADE, FREE], np.uint8)
    later = np.array([MANMADE, TERRAIN, MANMADE, FREE, FREE, TRUCK, CAR, UNKNOWN, CAR, FREE], np.uint8)
    found = neighbour_agreement(earlier.reshape(10, 1, 1), later.reshape(10, 1, 1), np.eye(4), space=space)
    assert found.known == 8
    # Static at 0, 1 in both; at 0, 1, 2, 8 in either. Moving at 5 in both (car, truck); at 4, 5, 8 in either.
    assert (found.static.both, found.static.either, found.static.equal) == (2, 4, 1)
    assert (found.dynamic.both, found.dynamic.either, found.dynamic.equal) == (1, 3, 0)
    assert (found.static.iou, found.static.equal_share) == (50.0, 50.0)
    total = found + found
    assert (total.pairs, total.known, total.static.both, total.static.iou) == (2, 16, 4, 50.0)


def road(level: int) -> OccupancyLabel:
    """A road at this level with walls, seen everywhere but above 10."""
    semantics = np.full(OCC3D_GRID.shape, FREE, np.uint8)
    semantics[:, :, level] = DRIVEABLE_SURFACE
    semantics[:, :30, level : level + 5] = MANMADE
    seen = np.ones(OCC3D_GRID.shape, bool)
    seen[:, :, 11:] = False
    return OccupancyLabel(semantics=semantics, mask_lidar=seen, mask_camera=seen)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Labels and truth of two scenes; the truth's road is one voxel lower than the labels'."""
    for scene, token in (("a", "a0"), ("a", "a1"), ("b", "b0")):
        write_label(label_path(tmp_path / "gts", scene, token), road(1))
        label = replace(road(2), confidence=np.full(OCC3D_GRID.shape, 80, np.uint8))
        write_label(label_path(tmp_path / "labels", scene, token), label)
    return tmp_path / "labels", tmp_path / "gts"


def test_truth_whose_road_lies_lower_is_seen_and_mended(folders: tuple[Path, Path], tmp_path: Path) -> None:
    labels, truth = folders
    found = audit(labels, truth=truth)
    assert found.counts
    assert found.ground_offset
    assert found.ground_offset.shares() == {1: 100.0}
    assert found.ground_offset_m == pytest.approx(0.4)
    assert found.ground_height_m == pytest.approx(-1.0 + 2.5 * 0.4)
    assert found.recall("camera")["driveable_surface"] == 0.0
    moved = audit(labels, truth=truth, shift_voxels=-1)
    assert moved.counts
    assert moved.ground_offset
    assert moved.ground_offset.median == 0
    assert moved.counts.unknown_as_free.named()["miou_17_camera_absent_skipped"] == 100.0
    assert moved.counts.unknown_share("none") == pytest.approx(100 / 16)

    out = tmp_path / "shifted"
    assert write_shifted(labels, out, -1) == 3
    again = audit(out, truth=truth)
    assert again.to_json().replace("shifted", "labels") == moved.to_json().replace(
        '"shift_voxels": -1', '"shift_voxels": 0'
    )
    path = label_path(out, "b", "b0")
    label = read_label(path, allow_unknown=True)
    assert (label.semantics[..., 15] == UNKNOWN).all()
    assert not label.mask_camera[..., 10:].any()
    assert label.mask_camera[..., :10].all()
    assert (read_confidence(path)[..., 15] == 0).all()
    assert (read_confidence(path)[..., :15] == 80).all()
    # A folder holds labels of one shift, and shifts of shifts add up.
    with pytest.raises(ConfigError, match="shift_voxels: -1 there, -2 now"):
        write_shifted(labels, out, -2)
    with pytest.raises(ConfigError, match="folder of their own"):
        write_shifted(labels, labels, -1)
    write_shifted(out, tmp_path / "back", 1)
    assert json.loads((tmp_path / "back/manifest.json").read_text())["config"] == {"shift_voxels": 0}


def test_labels_without_truth_are_refused_or_left_out(folders: tuple[Path, Path]) -> None:
    labels, truth = folders
    label_path(truth, "a", "a1").unlink()
    label_path(labels, "b", "b0").unlink()
    write_label(label_path(labels, "b", "b1"), road(2))
    with pytest.raises(DataError, match=r"1 without a label in .*labels: b0; 2 without a truth in .*gts: a1, b1"):
        audit(labels, truth=truth)
    found = audit(labels, truth=truth, allow_missing=True)
    assert (found.tokens, found.without_label, found.without_truth) == (("a0",), ("b0",), ("a1", "b1"))
    assert audit(labels, truth=truth, tokens=["a0"]).without_truth == ()
    with pytest.raises(DataError, match=r"1 without a label in .*labels: nobody"):
        audit(labels, tokens=["a0", "nobody"])
    alone = audit(labels)
    assert (len(alone.tokens), alone.counts, alone.ground_offset) == (3, None, None)
    plain = strict_json(alone.to_json())
    assert strict_json(found.to_json())["class_precision_camera"]["bus"] is None
    assert plain["voxels"]["unknown"] == 0
    assert plain["truth"] is None
    with pytest.raises(DataError, match="no such folder"):
        audit(labels / "nowhere")
    with pytest.raises(DataError, match="no label"):
        audit(labels / "a")


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("audit") / "town"
    write_town(root, TownConfig(scenes=1, frames=5, seed=3, image_height=96, image_width=176, maps=True))
    return root


@pytest.fixture(scope="module")
def labels(town: Path) -> Path:
    out = town.parent / "labels"
    assert not generate_labels(NuScenes.open(town), out, CONFIG, keep_votes=True).failed
    return out


def test_votes_of_a_growing_window_are_those_of_each_window(town: Path, labels: Path) -> None:
    data = NuScenes.open(town)
    scene = data.scenes()[0]
    config = replace(CONFIG, still_frames=2)
    teachers = semantics_teacher(config.semantics, data), depth_teacher(config.depth, data)
    numbers, policies = (5, 1, 3), ("drop", "keep", "still", "boxes")
    swept = SceneLabeller(data, labels, config, *teachers).sweep(scene, 3, frames=numbers, moving=policies)
    different = set()
    for moving in policies:
        for frames in numbers:
            alone = SceneLabeller(data, labels, replace(config, frames=frames, moving=moving), *teachers)
            expected, found = alone.votes(scene, 3), swept[moving, frames]
            for name in ("voxel", "class_id", "count", "obstruction", "passed", "points_per_ray"):
                assert np.array_equal(getattr(found, name), getattr(expected, name)), (moving, frames, name)
            different.add((found.count.tobytes(), found.passed.tobytes()))
    # Of one frame there are no others: all policies agree.
    assert len(different) == 4 * 2 + 1


def test_a_sweep_scores_what_labels_made_so_would_score(town: Path, labels: Path, tmp_path: Path) -> None:
    data = NuScenes.open(town)
    swept = sweep(labels, town / GTS, data=data, frames=(1, 3), min_points=(2, 4), moving=("drop", "keep"))
    assert len(swept.points) == 8
    by_way = {(p.moving, p.frames, p.min_points): p.counts for p in swept.points}
    for moving, frames, min_points in (("drop", 3, 2), ("keep", 3, 4), ("drop", 1, 4)):
        config = replace(CONFIG, moving=moving, frames=frames, decision=replace(CONFIG.decision, min_points=min_points))
        out = tmp_path / f"{moving}-{frames}-{min_points}"
        generate_labels(data, out, config)
        expected, found = audit(out, truth=town / GTS).counts, by_way[moving, frames, min_points]
        assert expected
        for mask in ("camera", "lidar", "none"):
            assert np.array_equal(found.unknown_as_free.histograms[mask], expected.unknown_as_free.histograms[mask])
            assert np.array_equal(found.known.histograms[mask], expected.known.histograms[mask])
    assert label_config(labels) == CONFIG
    table = swept.table()
    assert table.rows[0] == "1 frame, 2 points, drop"
    assert [sum(column) for column in zip(*table.best, strict=True)] == [1, 1, 1, 1]
    assert len(strict_json(swept.to_json())["points"]) == 8
    pictures = swept.write_figures(tmp_path / "figures")
    assert [path.name for path in pictures] == ["frames.png", "min_points.png", "moving.png"]


def test_a_sweep_over_thresholds_needs_votes_only(town: Path, labels: Path, tmp_path: Path) -> None:
    swept = sweep(labels, town / GTS, min_points=(4, 2))
    again = sweep(labels, town / GTS, data=NuScenes.open(town), frames=(3,), min_points=(2, 4))
    assert [p.min_points for p in swept.points] == [2, 4]
    assert swept.to_json() == again.to_json()
    assert [path.name for path in swept.write_figures(tmp_path)] == ["min_points.png"]
    raised = sweep(labels, town / GTS, min_points=(2,), shift_voxels=1).points[0].counts.unknown_as_free
    assert raised.geometric_iou("camera") < swept.points[0].counts.unknown_as_free.geometric_iou("camera") - 10


def test_sweeps_that_cannot_be_made(town: Path, labels: Path, tmp_path: Path) -> None:
    truth, data = town / GTS, NuScenes.open(town)
    with pytest.raises(ConfigError, match="nothing to sweep over"):
        sweep(labels, truth, data=data)
    with pytest.raises(ConfigError, match="needs the data set"):
        sweep(labels, truth, frames=(1, 3))
    with pytest.raises(ConfigError, match="frames is 0"):
        sweep(labels, truth, data=data, frames=(0,))
    with pytest.raises(ConfigError, match="min_points is 300"):
        sweep(labels, truth, min_points=(300,))
    with pytest.raises(ConfigError, match="moving=fly: expected some of drop, keep, still, boxes"):
        sweep(labels, truth, data=data, moving=("fly",))  # type: ignore[arg-type]
    generate_labels(data, tmp_path / "bare", replace(CONFIG, frames=1))
    with pytest.raises(ConfigError, match=r"5 labels have no votes\.npz beside them; name the data set"):
        sweep(tmp_path / "bare", truth, min_points=(1, 2))
    assert sweep(tmp_path / "bare", truth, data=data, min_points=(1, 2)).points[0].frames == 1
    manifest = tmp_path / "bare/manifest.json"
    content = manifest.read_text()
    manifest.write_text(content.replace('"scale_sigma": 0.04', '"scale_sigma": 0.05'))
    with pytest.raises(ConfigError, match=r"depth_teacher.scale_sigma: 0.05 there, 0.04 now"):
        sweep(tmp_path / "bare", truth, data=data, frames=(1, 3))
    manifest.write_text(content.replace('"stride": 1,', ""))
    with pytest.raises(DataError, match="not of this version"):
        sweep(tmp_path / "bare", truth, data=data, frames=(1, 3))
    manifest.write_text(content.replace('"centred"', '"scene"'))
    with pytest.raises(ConfigError, match="fuse whole scenes"):
        sweep(tmp_path / "bare", truth, data=data, frames=(1, 3))


def test_neighbours_of_a_data_set(town: Path, labels: Path) -> None:
    data = NuScenes.open(town)
    found = audit(labels, truth=town / GTS, data=data)
    assert found.neighbours
    assert found.truth_neighbours
    assert found.neighbours.pairs == found.truth_neighbours.pairs == 4
    assert 60 < found.neighbours.static.iou < 100
    assert found.truth_neighbours.static.equal_share > 97
    tokens = data.key_frame_tokens(data.scenes()[0])
    # A gap is no neighbourhood.
    some = audit(labels, truth=town / GTS, data=data, tokens=[tokens[0], tokens[1], tokens[3]])
    assert some.neighbours
    assert some.neighbours.pairs == 1
    assert audit(labels).neighbours is None


def test_the_command(town: Path, labels: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "occlift", "audit", str(labels), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    done = run(
        "--truth", str(town / GTS), "--root", str(town), "--json", "audit.json", "--out", "figures", "--shift-voxels",
        "1", "--write-shifted", "moved", "--sweep", "frames=1,3", "--sweep", "min_points=2,3", "--against-depth",
        "lidar", "--depth-offset", "-1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    plain = strict_json((tmp_path / "audit.json").read_text())
    assert plain["frames"] == 5
    assert (plain["depth"]["name"], plain["depth"]["offset"], plain["depth"]["independent"]) == ("lidar", -1, True)
    assert set(plain["depth"]["labels"]["shares"]) == {"0-10", "10-20", "20-30", "30-40", "40-", "all"}
    assert "labels against lidar of the key frame -1" in done.stdout
    assert "a flat road" in done.stdout
    assert "try --shift-voxels 0" in done.stdout
    assert "moved: 5 labels, +1 voxels" in done.stdout
    assert "3 frames, 2 points, drop" in done.stdout
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "frames.png", "min_points.png", "sweep.json",
    ]  # fmt: skip
    for arguments, reason in (
        (("--sweep", "frames=1"), "--sweep needs --truth"),
        (("--sweep", "speed=1", "--truth", "x"), "--sweep speed: expected frames, min_points or moving"),
        (("--sweep", "frames=a", "--truth", "x"), "--sweep frames: 'a' is no whole number"),
        (("--split", "val"), "--split needs --root"),
        (("--write-shifted", "x"), "needs --shift-voxels"),
        (("--against-depth", "lidar"), "--against-depth needs --root"),
        (("--depth-offset", "1"), "--depth-offset needs --against-depth"),
    ):
        done = run(*arguments)
        assert done.returncode == 1
        assert reason in done.stderr, done.stderr


def test_curves_as_png(tmp_path: Path) -> None:
    def curve(title: str) -> Curve:
        series = tuple(Series(name=name, x=(1, 2, 16), y=y) for name, y in (("a", (1, 5, 2)), ("b", (2, 2, 3))))
        return Curve(title=title, x_label="points", y_label="%", series=series, x_ticks=(1, 2, 16), log_x=True)

    write_curves_png(tmp_path / "one.png", "title", "a note", [curve("left"), curve("right")])
    write_curves_png(tmp_path / "two.png", "title", "a note", [curve("left"), curve("right")])
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    picture = np.asarray(Image.open(tmp_path / "one.png").convert("RGB")).reshape(-1, 3)
    for color in SERIES_COLORS[:2]:
        rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (picture == rgb).all(axis=1).sum() > 500
    assert not (picture == [int(SERIES_COLORS[2][i : i + 2], 16) for i in (1, 3, 5)]).all(axis=1).any()
