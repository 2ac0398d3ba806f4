"""Evaluations, audits, baselines and comparisons of five classes on an asymmetric grid of 0.2 m."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from other_space import FLOOR, FLOOR_LEVEL, FREE, ROBOT, SPACE, WALL, HallDataset, hall, key_frame, write_truth
from PIL import Image

from occlift import KeyFrameList
from occlift.cli.tables import print_audit, print_comparison, print_evaluation
from occlift.errors import ConfigError, DataError
from occlift.evaluation.audit import audit, write_shifted
from occlift.evaluation.baselines import write_labels_as_predictions, write_prior
from occlift.evaluation.compare import compare
from occlift.evaluation.label_sweep import sweep
from occlift.evaluation.occupancy import Evaluation, evaluate, merge
from occlift.label_space import OCC3D, UNKNOWN
from occlift.labels.config import LabelConfig
from occlift.labels.decide import DecisionConfig, decide
from occlift.labels.files import (
    OccupancyLabel,
    label_path,
    prediction_path,
    read_label,
    read_prediction,
    write_label,
    write_prediction,
)
from occlift.labels.manifest import open_manifest
from occlift.labels.scene import VOTES_NAME
from occlift.labels.vote import Tally, write_votes
from occlift.metrics.occupancy import OccupancyCounts

EVENING = tuple(f"evening-{number}" for number in range(3))


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_truth(tmp_path_factory.mktemp("hall") / "gts")


def write_predictions(folder: Path, wall_offset: int = 0) -> Path:
    """Predictions whose wall stands some voxels too far away."""
    folder.mkdir()
    for number, token in enumerate(EVENING):
        semantics = hall(number)
        wall = semantics == WALL
        semantics[wall] = FREE
        semantics[np.roll(wall, wall_offset, axis=0)] = WALL
        write_prediction(prediction_path(folder, token), semantics, space=SPACE)
    return folder


def test_predictions_are_scored_over_the_classes_and_along_rays_of_the_space(truth: Path, tmp_path: Path) -> None:
    data = HallDataset()
    right = evaluate(write_predictions(tmp_path / "right"), truth, tokens=EVENING, rays=data, space=SPACE)
    scores = right.named()
    for name in ("iou_camera", "miou_5_camera_absent_skipped", "miou_4_none_absent_skipped", "ray_iou_5", "ray_iou_4"):
        assert scores[name] == 100.0, name
    assert not [name for name in scores if "_17_" in name or "_15_" in name]
    assert scores["miou_5_none_absent_zero"] == pytest.approx(60), "no shelf, no rest"
    assert list(right.class_iou()["none"]) == ["wall", "robot", "floor", "shelf", "rest", "free"]
    assert list(right.class_iou()["rays"]) == ["wall", "robot", "floor", "shelf", "rest"]
    # 1.4 m too far: along flat rays the wall is found within 2 m, and never within 1 m.
    far = evaluate(write_predictions(tmp_path / "far", wall_offset=7), truth, tokens=EVENING, rays=data, space=SPACE)
    assert far.class_iou()["none"]["wall"] == 0.0
    assert far.class_iou()["none"]["robot"] == 100.0
    assert far.rays is not None
    assert far.rays.named()["ray_iou_5_1m"] < far.rays.named()["ray_iou_5_2m"]
    assert 20 < far.class_iou()["rays"]["wall"] < 70
    assert far.rays.class_iou()["robot"] == 100.0


def test_rays_start_inside_the_grid_of_the_space(truth: Path, tmp_path: Path) -> None:
    predictions = write_predictions(tmp_path / "far", wall_offset=7)
    found = []
    for last_x_m in (0.8, 20.0):
        frames = [key_frame("evening", number) for number in range(3)]
        pose = np.eye(4)
        pose[0, 3] = last_x_m
        assert frames[2].lidar is not None
        frames[2] = replace(frames[2], global_from_ego=pose, lidar=replace(frames[2].lidar, global_from_ego=pose))
        data = KeyFrameList(frames)
        scored = evaluate(predictions, truth, tokens=EVENING[:1], rays=data, space=SPACE)
        assert scored.rays is not None
        found.append(int(scored.rays.histogram.sum()))
    # A third of the rays start where the lidar is 20 m away, which is outside of this grid, but inside of Occ3D's.
    assert found[1] == pytest.approx(found[0] * 2 / 3, rel=0.1)


def test_an_evaluation_says_its_space_unless_it_is_that_of_occ3d(
    truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = write_predictions(tmp_path / "right")
    parts = [evaluate(predictions, truth, tokens=EVENING, part=(i, 2), space=SPACE) for i in (1, 2)]
    whole = evaluate(predictions, truth, tokens=EVENING, space=SPACE)
    assert merge(parts).to_json() == whole.to_json()
    again = Evaluation.from_json(whole.to_json())
    assert again.space == SPACE
    assert again.to_json() == whole.to_json()
    print_evaluation(again)
    assert "IoU ┃ mIoU 5 ┃ mIoU 4 ┃" in " ".join(capsys.readouterr().out.split())
    occ3d = Evaluation(predictions="p", truth="t", tokens=EVENING, counts=OccupancyCounts.zero())
    assert "space" not in json.loads(occ3d.to_json())
    with pytest.raises(ConfigError, match="part 1 and part 2 are not about the same grid and classes"):
        merge([whole, occ3d])
    plain = json.loads(whole.to_json())
    del plain["space"]
    with pytest.raises(DataError, match=r"expected counts of shape \(18, 18\)"):
        Evaluation.from_json(json.dumps(plain))


def test_runs_of_one_space_are_compared_and_others_refused(
    truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, offset in (("right", 0), ("far", 7)):
        scored = evaluate(write_predictions(tmp_path / name, offset), truth, tokens=EVENING, space=SPACE)
        (tmp_path / f"{name}.json").write_text(scored.to_json())
    comparison = compare([tmp_path / "right.json", tmp_path / "far.json"])
    table = comparison.table(masks=("none",))
    assert table.columns == ("IoU, no mask", "mIoU 5, no mask", "mIoU 4, no mask")
    assert table.best[0] == (True, True, True)
    classes = comparison.class_table("camera")
    assert classes.rows == SPACE.taxonomy.names
    assert classes.values[3] == (None, None), "no shelf anywhere"
    print_comparison(table)
    assert "mIoU 5" in capsys.readouterr().out
    comparison.picture(tmp_path / "bars.png", "camera")
    drawn = {tuple(color) for color in np.asarray(Image.open(tmp_path / "bars.png").convert("RGB")).reshape(-1, 3)}
    assert set(SPACE.taxonomy.palette[:-1]) <= drawn
    assert (60, 60, 60) not in drawn, "the first colour of Occ3D"
    occ3d = Evaluation(predictions="p", truth="t", tokens=EVENING, counts=OccupancyCounts.zero())
    (tmp_path / "occ3d.json").write_text(occ3d.to_json())
    with pytest.raises(ConfigError, match=r"right\.json and the evaluation .*occ3d\.json are not about the same grid"):
        compare([tmp_path / "right.json", tmp_path / "occ3d.json"])


def test_rays_without_lidar_are_refused_before_anything_is_read(truth: Path, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    for token in EVENING:
        prediction_path(folder, token).touch()
    with pytest.raises(ConfigError, match=r"RayIoU.*needs lidar sweeps, and key frame evening-0"):
        evaluate(folder, truth, tokens=EVENING, rays=HallDataset(lidar=False), space=SPACE)


def write_labels(folder: Path) -> Path:
    """Labels one voxel above the truth (the top level wraps to the bottom) that do not know a corner of the grid."""
    for number, token in enumerate(EVENING):
        semantics = np.roll(hall(number), 1, axis=2)
        semantics[:10, :, :FLOOR_LEVEL] = UNKNOWN
        mask = semantics != UNKNOWN
        label = OccupancyLabel(semantics=semantics, mask_lidar=mask, mask_camera=mask)
        write_label(label_path(folder, "evening", token), label, space=SPACE)
    return folder


def test_labels_are_audited_in_the_classes_and_metres_of_the_space(
    truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, data = write_labels(tmp_path / "labels"), HallDataset()
    found = audit(labels, truth=truth, data=data, tokens=EVENING, space=SPACE)
    x, y, z = SPACE.grid.shape
    plain = json.loads(found.to_json())
    assert list(plain["voxels"]) == ["wall", "robot", "floor", "shelf", "rest", "free", "unknown"]
    assert plain["voxels"]["unknown"] == 3 * 10 * y * FLOOR_LEVEL
    assert found.unknown_share_of_grid == pytest.approx(100 * 10 * FLOOR_LEVEL / (x * z))
    assert plain["space"] == SPACE.to_dict()
    # Floor at level 2 of 0.2 m from −0.5 m; the labels' one level higher, within 10 m everywhere.
    assert found.ground_height_m == pytest.approx(-0.5 + 3.5 * 0.2)
    assert found.truth_ground is not None
    assert found.truth_ground.total == sum(int((hall(n)[:, :, FLOOR_LEVEL] == FLOOR).sum()) for n in range(3))
    assert found.ground_offset_m == pytest.approx(0.2)
    assert found.recall("none")["floor"] == 0.0
    assert found.recall("none")["robot"] == pytest.approx(100 * 2 / 3)
    assert found.precision("none")["wall"] == pytest.approx(100 * 6 / 7)
    # The hall stands still; the robot keeps its place before the ego, which moves by two of the robot's three voxels.
    for neighbours in (found.neighbours, found.truth_neighbours):
        assert neighbours is not None
        assert neighbours.static.equal_share == 100.0
        assert 1000 < neighbours.static.both < 5000, "free voxels are no class that stands still"
        assert neighbours.dynamic.iou == pytest.approx(100 / 5)
    print_audit(found)
    assert "mIoU 4" in capsys.readouterr().out
    moved = audit(labels, truth=truth, tokens=EVENING, shift_voxels=-1, space=SPACE)
    assert moved.ground_offset_m == 0.0
    assert write_shifted(labels, tmp_path / "shifted", -1, space=SPACE) == 3
    again = read_label(label_path(tmp_path / "shifted", "evening", EVENING[1]), allow_unknown=True, space=SPACE)
    np.testing.assert_array_equal(again.semantics[20:, :, 1:-1], hall(1)[20:, :, 1:-1])
    with pytest.raises(ConfigError, match="not about the same grid and classes"):
        audit(tmp_path / "shifted", space=OCC3D)


def test_baselines_are_written_in_the_space(truth: Path, tmp_path: Path) -> None:
    data, labels = HallDataset(), tmp_path / "labels"
    for number in range(3):
        semantics = hall(number)
        semantics[:5] = UNKNOWN
        mask = semantics != UNKNOWN
        for scene in ("morning", "evening"):
            label = OccupancyLabel(semantics=semantics, mask_lidar=mask, mask_camera=mask)
            write_label(label_path(labels, scene, f"{scene}-{number}"), label, space=SPACE)
    assert write_prior(data, labels, tmp_path / "prior", space=SPACE) == 3
    prior = read_prediction(prediction_path(tmp_path / "prior", EVENING[0]), space=SPACE)
    expected = hall(0)
    expected[expected == WALL] = FREE
    expected[:5] = FREE
    # The wall is at another place in every key frame: free is what its voxels hold most often; its columns have floor.
    np.testing.assert_array_equal(prior, expected)
    assert write_labels_as_predictions(data, labels, tmp_path / "decided", space=SPACE) == 3
    decided = read_prediction(prediction_path(tmp_path / "decided", EVENING[2]), space=SPACE)
    expected = hall(2)
    expected[:5] = FREE
    np.testing.assert_array_equal(decided, expected)
    scored = evaluate(tmp_path / "prior", truth, tokens=EVENING, space=SPACE)
    assert scored.class_iou()["none"]["wall"] == 0.0
    assert scored.class_iou()["none"]["robot"] == 100.0


def test_a_sweep_decides_kept_votes_in_the_space_of_the_manifest(truth: Path, tmp_path: Path) -> None:
    labels, config = tmp_path / "labels", LabelConfig(frames=1, decision=DecisionConfig(fusion="votes", min_points=1))
    manifest = open_manifest(labels, config.identity({}, {}), SPACE)
    centers, taxonomy = SPACE.grid.centers(), SPACE.taxonomy
    for number, token in enumerate(EVENING):
        semantics, tally = hall(number), Tally(SPACE.grid, classes=taxonomy.free)
        for class_id, points in ((FLOOR, 3), (WALL, 3), (ROBOT, 1)):
            where = centers[semantics == class_id].repeat(points, axis=0)
            tally.add_points(where, np.full(len(where), class_id, np.uint8))
        # Rays have passed every free voxel.
        votes = tally.votes(points_per_ray=1.0)
        votes = replace(votes, obstruction=np.where(semantics == FREE, 0, 255).astype(np.uint8))
        path = label_path(labels, "evening", token)
        semantics = decide(votes, config.decision, taxonomy).semantics
        mask = semantics != UNKNOWN
        label = OccupancyLabel(semantics=semantics, mask_lidar=mask, mask_camera=mask)
        write_label(path, label, space=SPACE)
        write_votes(path.with_name(VOTES_NAME), votes)
        manifest.labels[token] = {"state": "done"}
    manifest.write(labels)
    found = sweep(labels, truth, tokens=EVENING, min_points=(1, 2))
    every, more = found.points
    assert every.counts.unknown_as_free.class_iou("none")["robot"] == 100.0
    assert more.counts.unknown_as_free.class_iou("none")["robot"] == 0.0
    assert more.counts.unknown_as_free.class_iou("none")["wall"] == 100.0
    assert found.table().columns[1] == "mIoU 5, camera mask"
    assert json.loads(found.to_json())["space"] == SPACE.to_dict()
    assert [path.name for path in found.write_figures(tmp_path)]
