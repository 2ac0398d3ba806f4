"""Folders of predictions against truth: what is refused, what is left out, how parts add up, how runs compare."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.errors import ConfigError, DataError
from occlift.evaluation.audit import audit
from occlift.evaluation.compare import compare
from occlift.evaluation.label_tokens import select_labels
from occlift.evaluation.occupancy import Evaluation, evaluate, merge, read_evaluation
from occlift.geometry.grids import OCC3D_GRID
from occlift.label_space import CAR, DRIVEABLE_SURFACE, FREE, MANMADE, OCC3D, TRUCK, UNKNOWN, LabelSpace, Taxonomy
from occlift.labels.files import OccupancyLabel, label_path, prediction_path, read_label, write_label, write_prediction
from occlift.labels.folder import count_classes
from occlift.labels.layouts import convert_labels, label_files
from occlift.runtime.npz import write_npz
from occlift.town.config import TownConfig
from occlift.town.scene_writer import GTS
from occlift.town.write import write_town
from occlift.viz.layers import open_layers

SCENES = {"scene-a": ("a0", "a1", "a2"), "scene-b": ("b0", "b1")}


def world(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    semantics = np.full(OCC3D_GRID.shape, FREE, np.uint8)
    semantics[:, :, 2] = DRIVEABLE_SURFACE
    for c in (CAR, TRUCK, MANMADE):
        x, y = rng.integers(0, 180, 2)
        semantics[x : x + 12, y : y + 8, 3:8] = c
    return semantics


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions that mix up cars and trucks here and there, and truth."""
    for number, (scene, token) in enumerate((s, t) for s, tokens in SCENES.items() for t in tokens):
        semantics = world(number)
        mask_lidar = np.random.default_rng(number).random(semantics.shape) < 0.6
        mask_camera = mask_lidar & (np.random.default_rng(number + 50).random(semantics.shape) < 0.5)
        label = OccupancyLabel(semantics=semantics, mask_lidar=mask_lidar, mask_camera=mask_camera)
        write_label(label_path(tmp_path / "gts", scene, token), label)
        prediction = np.where((semantics == CAR) & mask_lidar, TRUCK, semantics).astype(np.uint8)
        write_prediction(prediction_path(tmp_path / "predictions", token), prediction)
    return tmp_path / "predictions", tmp_path / "gts"


def damage(path: Path, **changes: np.ndarray | None) -> None:
    """Writes the arrays of an archive again, with some exchanged or (None) left out."""
    with np.load(path) as archive:
        arrays = {**archive, **changes}
    write_npz(path, {name: array for name, array in arrays.items() if array is not None}, level=6)


def test_the_order_of_samples_and_the_split_into_parts_change_nothing(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    whole = evaluate(predictions, truth)
    assert whole.frames == 5
    assert whole.complete
    tokens = [token for tokens in SCENES.values() for token in tokens]
    assert evaluate(predictions, truth, tokens=tokens[::-1]).to_json() == whole.to_json()
    for parts in (2, 3, 5):
        evaluated = [evaluate(predictions, truth, part=(i, parts)) for i in range(1, parts + 1)]
        assert sorted(t for e in evaluated for t in e.tokens) == sorted(tokens)
        assert merge(evaluated[::-1]).to_json() == whole.to_json()
    read = Evaluation.from_json(whole.to_json())
    assert read.to_json() == whole.to_json()
    # What was counted in which scene, of parts that cut a scene, too.
    assert set(read.scenes) == set(SCENES)
    for scene, tokens_of_scene in SCENES.items():
        alone = evaluate(predictions, truth, tokens=tokens_of_scene)
        (counts,) = read.scenes[scene]
        assert counts.named() == pytest.approx(alone.named(), nan_ok=True)
    assert not merge([replace(evaluate(predictions, truth, part=(i, 2)), scenes={}) for i in (1, 2)]).scenes


def test_parts_that_overlap_or_differ_are_not_merged(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    whole, part = evaluate(predictions, truth), evaluate(predictions, truth, tokens=["b0"])
    with pytest.raises(DataError, match=r"1 samples are in more than one part and would count twice: b0"):
        merge([whole, part])
    other = evaluate(predictions, truth, tokens=["b1"], masks=("none",))
    with pytest.raises(DataError, match=r"masks camera, lidar, near_surface, none; masks none"):
        merge([part, other])
    with pytest.raises(ConfigError, match="part 3/2"):
        evaluate(predictions, truth, part=(3, 2))


def test_what_is_missing_is_refused_listed_and_can_be_left_out(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    prediction_path(predictions, "b1").rename(prediction_path(predictions, "z9"))
    # b0 is predicted, so its scene must be whole.
    with pytest.raises(DataError, match=r"1 without a prediction .*: b1; 1 without a truth .*: z9.*--allow-missing"):
        evaluate(predictions, truth)
    rest = evaluate(predictions, truth, allow_missing=True)
    assert rest.tokens == ("a0", "a1", "a2", "b0")
    assert (rest.without_prediction, rest.without_truth, rest.complete) == (("b1",), ("z9",), False)
    only = evaluate(predictions, truth, tokens=rest.tokens)
    assert only.named() == rest.named()
    assert only.complete
    # Scenes of which nothing is predicted are not part of the split.
    for token in SCENES["scene-a"]:
        prediction_path(predictions, token).unlink()
    prediction_path(predictions, "z9").rename(prediction_path(predictions, "b1"))
    assert evaluate(predictions, truth).tokens == SCENES["scene-b"]
    with pytest.raises(DataError, match=r"3 without a prediction .*: a0, a1, a2"):
        evaluate(predictions, truth, tokens=[*SCENES["scene-a"], "b0"])


def test_what_cannot_be_scored_is_refused_by_name(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    path = prediction_path(predictions, "a1")
    good = path.read_bytes()
    for semantics, complaint in (
        (np.zeros((200, 200, 15), np.uint8), r"shape \(200, 200, 16\).*\(200, 200, 15\)"),
        (np.full(OCC3D_GRID.shape, 18, np.uint8), "class 18"),
        (np.full(OCC3D_GRID.shape, UNKNOWN, np.uint8), "class 255"),
        (np.zeros(OCC3D_GRID.shape, np.float32), "integers"),
    ):
        damage(path, semantics=semantics)
        with pytest.raises(DataError, match=f"a1.npz.*{complaint}"):
            evaluate(predictions, truth)
    path.write_bytes(good)

    label = label_path(truth, "scene-a", "a2")
    damage(label, mask_camera=None)
    with pytest.raises(DataError, match=r"a2.labels\.npz: has no array mask_camera.*only the mask `none`"):
        evaluate(predictions, truth)
    assert evaluate(predictions, truth, masks=("lidar", "none")).frames == 5
    damage(label, mask_lidar=None)
    assert evaluate(predictions, truth, masks=("none",)).frames == 5
    semantics = read_label(label_path(truth, "scene-a", "a1")).semantics.copy()
    semantics[0, 0, 0] = UNKNOWN
    damage(label_path(truth, "scene-a", "a1"), semantics=semantics)
    with pytest.raises(DataError, match=r"a1.labels\.npz: 1 of 640000 voxels are unknown .*mask none"):
        evaluate(predictions, truth, masks=("none",))


def test_truth_that_is_a_label_of_ours_is_scored_where_it_knows(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    path = label_path(truth, "scene-a", "a0")
    label = read_label(path)
    known = label.mask_camera | (np.arange(label.semantics.size).reshape(label.semantics.shape) % 2 == 0)
    damage(path, semantics=np.where(known, label.semantics, UNKNOWN).astype(np.uint8))
    with pytest.raises(
        DataError,
        match=r"labels.npz: 2\d{5} of 640000 .*unknown \(255\).*the mask lidar, the mask none .*--mask camera",
    ):
        evaluate(predictions, truth)
    assert evaluate(predictions, truth, masks=("camera",)).frames == 5
    damage(path, semantics=np.where(label.mask_camera, UNKNOWN, label.semantics).astype(np.uint8))
    with pytest.raises(DataError, match=r"the mask camera would score them: name truth that decides"):
        evaluate(predictions, truth, masks=("camera",))


def test_a_sample_with_truth_twice_is_not_scored(folders: tuple[Path, Path]) -> None:
    predictions, truth = folders
    # A backup beside it, with other content; which of the two comes first must not matter.
    for copy in ("scene-a-backup", "a-scene-a"):
        shutil.copytree(truth / "scene-a", truth / copy)
        with pytest.raises(DataError, match=rf"two files of a0, \S*(scene-a|{copy})/a0\S* and \S*({copy}|scene-a)/a0"):
            evaluate(predictions, truth)
        with pytest.raises(DataError, match="two files of a0"):
            evaluate(predictions, truth, tokens=["b0"])
        for selected in (truth, None):
            with pytest.raises(DataError, match="two files of a0"):
                select_labels(truth, selected)
        with pytest.raises(DataError, match="two files of a0"):
            list(label_files(truth, "occ3d"))
        with pytest.raises(DataError, match="two files of a0"):
            open_layers(truth)
        shutil.rmtree(truth / copy)
    assert evaluate(predictions, truth).frames == 5


@pytest.mark.parametrize("side", ["truth", "prediction"])
def test_what_calls_another_class_free_is_not_scored(folders: tuple[Path, Path], side: str) -> None:
    predictions, truth = folders
    path = label_path(truth, "scene-a", "a1") if side == "truth" else prediction_path(predictions, "a1")
    with np.load(path) as archive:
        semantics = archive["semantics"]
    # OpenOcc v2 has 16 classes on this grid.
    damage(path, semantics=np.where(semantics == FREE, np.uint8(16), semantics))
    message = (
        rf"{path.name}: no voxel is free \(class 17\), and 9\d% of all are vegetation \(class 16\)\. Is .* OpenOcc v2"
    )
    with pytest.raises(DataError, match=message):
        evaluate(predictions, truth)
    if side == "truth":
        for look in (
            lambda: audit(truth),
            lambda: audit(truth.parent / "copy", truth=truth, allow_missing=True),
            lambda: count_classes([path]),
            lambda: convert_labels(truth, truth.parent / "npz", source=OCC3D, target=OCC3D, layout="npz"),
        ):
            shutil.copytree(truth, truth.parent / "copy", dirs_exist_ok=True)
            damage(label_path(truth.parent / "copy", "scene-a", "a1"), semantics=semantics)
            with pytest.raises(DataError, match=message):
                look()
    # In the space that it is of, it is scored.
    sixteen = LabelSpace(grid=OCC3D_GRID, taxonomy=Taxonomy(names=OCC3D.taxonomy.names[:16]))
    for other in (path, label_path(truth, "scene-a", "a1"), prediction_path(predictions, "a1")):
        damage(other, semantics=np.where(semantics == FREE, np.uint8(16), semantics))
    assert evaluate(predictions, truth, tokens=["a1"], space=sixteen).frames == 1
    # A frame may be full of many things.
    full = (np.arange(semantics.size) % 16).astype(np.uint8).reshape(semantics.shape)
    damage(label_path(truth, "scene-a", "a1"), semantics=full)
    damage(prediction_path(predictions, "a1"), semantics=full)
    assert evaluate(predictions, truth, tokens=["a1"]).frames == 1


def test_a_file_that_is_no_evaluation_is_named(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    text = evaluate(*folders).to_json()
    for broken in (
        "",
        "{}",
        "[1]",
        text.replace("occlift evaluation", "other"),
        text.replace("[[", "[[-1", 1),
        text[:-9],
    ):
        (tmp_path / "scores.json").write_text(broken, encoding="utf-8")
        with pytest.raises(DataError, match=r"scores\.json: not an evaluation"):
            read_evaluation(tmp_path / "scores.json")
    with pytest.raises(DataError, match="no such file"):
        read_evaluation(tmp_path / "nothing.json")


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("town") / "town"
    write_town(root, TownConfig(scenes=2, frames=2, seed=3, image_height=48, image_width=88))
    return root


def test_rays_start_at_the_lidar_poses_of_the_scene(town: Path, tmp_path: Path) -> None:
    data = NuScenes.open(town)
    for scene in data.scenes():
        for token in data.key_frame_tokens(scene):
            truth = read_label(label_path(town / GTS, scene, token)).semantics
            write_prediction(prediction_path(tmp_path / "perfect", token), truth)
            raised = np.roll(truth, 1, axis=2)
            write_prediction(prediction_path(tmp_path / "raised", token), raised)
    perfect = evaluate(tmp_path / "perfect", town / GTS, rays=data)
    assert perfect.rays is not None
    assert {score for name, score in perfect.named().items() if "zero" not in name} == {100.0}
    # Two frames a scene: two origins for each of two scenes' two frames.
    assert 0 < int(perfect.rays.histogram.sum()) <= 2 * 2 * 2 * 14040
    raised = evaluate(tmp_path / "raised", town / GTS, rays=data)
    assert raised.rays is not None
    assert 0 < raised.named()["ray_iou_17"] < 100
    parts = [evaluate(tmp_path / "raised", town / GTS, rays=data, part=(i, 3)) for i in (1, 2, 3)]
    assert merge(parts).to_json() == raised.to_json()
    with_torch = evaluate(tmp_path / "raised", town / GTS, rays=data, device="cpu:0")
    assert with_torch.to_json() == raised.to_json()
    (tmp_path / "perfect.json").write_text(perfect.to_json(), encoding="utf-8")
    (tmp_path / "raised.json").write_text(raised.to_json(), encoding="utf-8")
    table = compare([tmp_path / "raised.json", tmp_path / "perfect.json"]).class_table("rays")
    assert table.columns == ("raised", "perfect")


def write_evaluation(path: Path, evaluation: Evaluation) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(evaluation.to_json(), encoding="utf-8")
    return path


def test_runs_are_compared_and_the_best_is_marked(folders: tuple[Path, Path], tmp_path: Path) -> None:
    predictions, truth = folders
    confused = write_evaluation(tmp_path / "one/scores.json", evaluate(predictions, truth))
    for scene, tokens in SCENES.items():
        for token in tokens:
            semantics = read_label(label_path(truth, scene, token)).semantics
            write_prediction(prediction_path(tmp_path / "perfect", token), semantics)
    perfect = write_evaluation(tmp_path / "two/scores.json", evaluate(tmp_path / "perfect", truth))
    comparison = compare([confused, perfect])
    assert comparison.names == ("one/scores", "two/scores")
    assert comparison.notes() == ()
    table = comparison.table()
    assert table.columns[:3] == ("IoU, camera mask", "mIoU 17, camera mask", "mIoU 15, camera mask")
    assert "RayIoU" not in table.columns
    # Where occupied is told from free both are right; the classes only the second.
    assert [row[0] for row in table.values] == [100, 100]
    assert [row[0] for row in table.best] == [True, True]
    assert [row[1] for row in table.best] == [False, True]
    per_class = comparison.class_table("camera")
    assert per_class.values[CAR][1] == 100
    assert per_class.values[CAR][0] == 0
    assert per_class.values[0] == (None, None)
    assert "| car | 0.00 | **100.00** |" in per_class.markdown()
    assert "| others | – | – |" in per_class.markdown()
    assert "| two/scores | **100.00** |" in table.markdown()
    zero = comparison.table(absent="zero")
    assert zero.values[1][1] == pytest.approx(100 * 4 / 17)
    with pytest.raises(ConfigError, match=r"one/scores holds no scores for 'rays'.*--rays"):
        comparison.class_table("rays")
    comparison.picture(tmp_path / "bars.png", "camera")
    assert (tmp_path / "bars.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ConfigError, match="1 names for 2 files"):
        compare([confused, perfect], ["a"])


def test_means_over_different_numbers_of_classes_are_said(folders: tuple[Path, Path], tmp_path: Path) -> None:
    predictions, truth = folders
    before = write_evaluation(tmp_path / "before.json", evaluate(predictions, truth))
    path = prediction_path(predictions, "a0")
    semantics = np.load(path)["semantics"]
    semantics[read_label(label_path(truth, "scene-a", "a0")).mask_camera] = 9
    write_prediction(path, semantics)
    after = write_evaluation(tmp_path / "after.json", evaluate(predictions, truth))
    numbers = [
        len([v for v in row if v is not None])
        for row in zip(*compare([before, after]).class_table("camera").values, strict=True)
    ]
    assert numbers[1] == numbers[0] + 1, "a class that the truth lacks"
    notes = " ".join(compare([before, after]).table().notes)
    assert (
        f"mIoU (camera mask) is a mean over different numbers of classes: {numbers[0]} of before, {numbers[1]} of"
        in notes
    )
    assert "different numbers" not in " ".join(compare([before, after]).table(absent="zero").notes)
    assert "different numbers" not in " ".join(compare([before, before], ["a", "b"]).table().notes)


def test_runs_that_cannot_be_compared_say_so(folders: tuple[Path, Path], tmp_path: Path) -> None:
    predictions, truth = folders
    whole = write_evaluation(tmp_path / "whole.json", evaluate(predictions, truth))
    some = write_evaluation(tmp_path / "some.json", evaluate(predictions, truth, tokens=SCENES["scene-b"]))
    (note,) = compare([whole, some]).notes()
    assert note == (
        "some was scored on other samples than whole (2 and 5, 2 in common): their scores cannot be compared."
    )
    damage(label_path(truth, "scene-a", "a0"), mask_camera=np.ones(OCC3D_GRID.shape, np.uint8))
    other = write_evaluation(tmp_path / "other.json", evaluate(predictions, truth))
    (note,) = compare([whole, other]).notes()
    assert "other was scored against other truth or other masks than whole (camera mask)" in note
    prediction_path(predictions, "b1").unlink()
    missing = write_evaluation(tmp_path / "missing.json", evaluate(predictions, truth, allow_missing=True))
    assert "missing leaves out 1 samples of its split" in compare([missing]).notes()[0]
    assert "missing leaves out 1" in compare([missing]).table().markdown()


def test_the_commands_print_what_a_number_is_and_say_loudly_what_is_missing(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    predictions, truth = folders

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "occlift", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    scored = ["evaluate", "--predictions", str(predictions), "--truth", str(truth)]
    for i in (1, 2):
        done = run(*scored, "--part", f"{i}/2", "--json", f"parts/{i}.json")
        assert done.returncode == 0, done.stderr
    done = run("merge", "parts/1.json", "parts/2.json", "--json", "whole.json")
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("mask", "camera", "lidar", "none", "mIoU 17", "mIoU 15", "absent = 0"))
    assert json.loads((tmp_path / "whole.json").read_text())["frames"] == 5
    prediction_path(predictions, "b1").unlink()
    done = run(*scored)
    assert done.returncode == 1
    assert "b1" in done.stderr
    done = run(*scored, "--allow-missing", "--json", "rest.json")
    assert done.returncode == 0, done.stderr
    assert "NOT THE SCORE OF THE SPLIT: 1 samples without a prediction were left out: b1" in done.stdout
    done = run("compare", "whole.json", "rest.json", "--per-class", "camera", "--markdown", "--picture", "bars.png")
    assert done.returncode == 0, done.stderr
    assert "| class | whole | rest |" in done.stdout
    assert "cannot be compared" in done.stdout
    assert (tmp_path / "bars.png").exists()
    done = run(*scored, "--rays")
    assert done.returncode == 1
    assert "--rays needs --root" in done.stderr
    # A reader that wants nothing (`| true`) does not cost the scores.
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "occlift", *scored, "--allow-missing", "--json", "kept.json"]
    subprocess.run(command, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, timeout=120, check=False)
    os.close(writing)
    assert (tmp_path / "kept.json").read_bytes() == (tmp_path / "rest.json").read_bytes()
