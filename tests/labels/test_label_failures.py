"""What is broken costs its own label and no other, is said, and is made good by running again; so is a full disk."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_runs import QUICK, contents, labels_in

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.errors import ConfigError, OccliftError
from occlift.labels.engine import LabelJob, LabelTask
from occlift.labels.files import label_path
from occlift.labels.generate import LabelRun, generate_labels
from occlift.labels.manifest import read_manifest
from occlift.labels.scene import Outcome
from occlift.runtime import files
from occlift.runtime.npz import write_npz
from occlift.scenes.frames import CameraImage, KeyFrame
from occlift.scenes.truth_maps import read_truth_maps, truth_maps_path, write_truth_maps
from occlift.teachers.teacher import DepthMap

SCENE = "town-0005-0000"
Damage = Callable[[Path, CameraImage], None]
"""Damages what belongs to an image, in the data set at a root."""


@pytest.fixture
def root(small_town: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_town, tmp_path / "town")


@pytest.fixture(scope="module")
def whole(small_town: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The labels of the first scene, made without disturbance."""
    out = tmp_path_factory.mktemp("whole")
    generate_labels(NuScenes.open(small_town), out, QUICK, scenes=[SCENE])
    return contents(out)


def _rows(root: Path, table: str, change: Callable[[list[dict[str, Any]]], object]) -> None:
    path = next(root.glob(f"v1.0-*/{table}.json"))
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))


def _row(rows: list[dict[str, Any]], token: str) -> dict[str, Any]:
    return next(row for row in rows if row["token"] == token)


def _cut_off(root: Path, image: CameraImage) -> None:
    path = truth_maps_path(Path(image.source.name))
    path.write_bytes(path.read_bytes()[:2000])


def _scribbled_over(root: Path, image: CameraImage) -> None:
    content = bytearray(truth_maps_path(Path(image.source.name)).read_bytes())
    content[500:600] = bytes(100)
    truth_maps_path(Path(image.source.name)).write_bytes(content)


def _depth(value: float) -> Damage:
    def change(root: Path, image: CameraImage) -> None:
        path = truth_maps_path(Path(image.source.name))
        maps = read_truth_maps(path)
        maps.depth_m[10, 20] = value
        write_truth_maps(path, maps)

    return change


def _without_pose(root: Path, image: CameraImage) -> None:
    path = next(root.glob("v1.0-*/sample_data.json"))
    token = _row(json.loads(path.read_text()), image.key)["ego_pose_token"]
    _rows(root, "ego_pose", lambda rows: rows.remove(_row(rows, token)))


def _without_calibration(root: Path, image: CameraImage) -> None:
    _rows(root, "sample_data", lambda rows: _row(rows, image.key).update(calibrated_sensor_token="lost"))


@pytest.mark.parametrize(
    ("damage", "reason", "workers"),
    [
        (_cut_off, r"truth\.npz: not a readable", 1),
        (_scribbled_over, r"truth\.npz: not a readable", 1),
        (lambda root, image: truth_maps_path(Path(image.source.name)).unlink(), r"truth\.npz: no truth maps", 1),
        (_depth(np.nan), r"truth\.npz: depth_m holds nan", 1),
        (_depth(0.0), r"truth\.npz: depth_m holds 0\.0", 1),
        (_without_pose, r"field ego_pose_token is '\w+', but ego_pose\.json has no such row", 1),
        (_without_calibration, r"calibrated_sensor_token is 'lost', but calibrated_sensor\.json has no such row", 1),
        (_without_pose, r"field ego_pose_token is '\w+', but ego_pose\.json has no such row", 2),
    ],
)
def test_what_is_broken_costs_one_label_until_it_is_repaired(
    root: Path, tmp_path: Path, whole: dict[str, bytes], damage: Damage, reason: str, workers: int
) -> None:
    tokens = NuScenes.open(root).key_frame_tokens(SCENE)
    shutil.copytree(root, tmp_path / "spare")
    damage(root, NuScenes.open(root).key_frame(tokens[1]).cameras[3])
    out = tmp_path / "labels"
    run = generate_labels(NuScenes.open(root), out, QUICK, scenes=[SCENE], workers=workers)
    assert run.done == 3
    assert list(run.failed) == [tokens[1]]
    assert re.search(reason, run.failed[tokens[1]])
    assert run.incomplete == {tokens[0]: [tokens[1]], tokens[2]: [tokens[1]]}
    assert read_manifest(out).failed == run.failed
    assert not label_path(out, SCENE, tokens[1]).exists()
    assert label_path(out, SCENE, tokens[3]).read_bytes() == whole[f"{SCENE}/{tokens[3]}/labels.npz"]

    shutil.rmtree(root)
    shutil.move(tmp_path / "spare", root)
    run = generate_labels(NuScenes.open(root), out, QUICK, scenes=[SCENE], workers=workers)
    assert (run.done, run.reused, run.failed, run.incomplete) == (3, 1, {}, {})
    assert contents(out) == whole


class Brightness:
    """A teacher of depth that reads the images, as networks do."""

    settings: Mapping[str, object] = {"teacher": "brightness"}

    def depth(self, frame: KeyFrame) -> list[DepthMap]:
        grey = [image.read().mean(axis=2, dtype=np.float32) for image in frame.cameras]
        return [DepthMap(depth_m=2 + pixels / 10, confidence=np.ones_like(pixels)) for pixels in grey]


def test_a_cut_off_image_costs_one_label(root: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(QUICK, frames=1)
    data = NuScenes.open(root)
    token = data.key_frame_tokens(SCENE)[2]
    path = Path(data.key_frame(token).cameras[5].source.name)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    run = generate_labels(data, tmp_path / "labels", config, scenes=[SCENE], depth=Brightness())
    assert run.done == 3
    assert list(run.failed) == [token]
    assert run.failed[token].startswith(f"{path}: not a readable image")
    path.write_bytes(content)
    assert generate_labels(data, tmp_path / "labels", config, scenes=[SCENE], depth=Brightness()).done == 1


@pytest.mark.parametrize("value", [np.nan, 0.0, -1.0, np.inf])
def test_a_depth_map_that_holds_nothing_costs_one_label(small_town: Path, tmp_path: Path, value: float) -> None:
    data = NuScenes.open(small_town)
    generate_labels(data, tmp_path / "first", QUICK, scenes=[SCENE], keep_maps=tmp_path / "maps")
    config = dataclasses.replace(QUICK, depth=f"files:{tmp_path / 'maps/depth'}")
    token = data.key_frame_tokens(SCENE)[0]
    image = data.key_frame(token).cameras[0]
    path = tmp_path / "maps/depth" / SCENE / image.camera / f"{image.stem}.npz"
    content = path.read_bytes()
    write_npz(path, {"depth_m": np.full((image.height, image.width), value, np.float32)}, level=0)
    run = generate_labels(data, tmp_path / "labels", config, scenes=[SCENE])
    assert list(run.failed) == [token]
    assert re.search(r"no pixel that is finite and above 0 m", run.failed[token])
    path.write_bytes(content)
    assert not generate_labels(data, tmp_path / "labels", config, scenes=[SCENE]).failed


def test_another_spelling_of_a_folder_of_maps_is_the_same_folder(
    small_town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = NuScenes.open(small_town), tmp_path / "labels"
    generate_labels(data, tmp_path / "first", QUICK, scenes=[SCENE], keep_maps=tmp_path / "maps")
    absolute = dataclasses.replace(QUICK, depth=f"files:{tmp_path / 'maps/depth'}")
    made = generate_labels(data, out, absolute, scenes=[SCENE])
    before = contents(out)
    monkeypatch.chdir(tmp_path)
    again = generate_labels(data, out, dataclasses.replace(QUICK, depth="files:maps/depth"), scenes=[SCENE])
    assert (again.done, again.reused) == (0, made.done)
    assert contents(out) == before, "the manifest too"
    shutil.copytree("maps", "other")
    with pytest.raises(ConfigError, match=r"depth: files:.*maps/depth there, files:other/depth now"):
        generate_labels(data, out, dataclasses.replace(QUICK, depth="files:other/depth"), scenes=[SCENE])


def test_the_command_ends_with_a_count_and_status_1(root: Path, tmp_path: Path) -> None:
    data = NuScenes.open(root)
    tokens = [data.key_frame_tokens(scene)[0] for scene in data.scenes()]
    for token in tokens:
        _cut_off(root, data.key_frame(token).cameras[0])
    command = [sys.executable, "-m", "occlift", "label", str(root), "--out", str(tmp_path / "labels"), "--frames", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "6 labels made" in done.stdout
    assert "2 labels could not be made" in done.stderr
    assert f"no label for 2 key frames ({tokens[0]}, {tokens[1]}): " in done.stderr, "one reason, said once"
    assert "Traceback" not in done.stderr
    done = subprocess.run([*command, "--split", "val"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "1 label could not be made" in done.stderr, "only what was asked for counts"


def test_the_rest_is_not_tried_where_several_scenes_fail_for_one_reason(
    small_town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("occlift.labels.generate._LABELS_TRIED", 4)
    monkeypatch.setattr("occlift.labels.generate._SCENES_TRIED", 2)
    data = NuScenes.open(small_town)
    tokens = [token for scene in data.scenes() for token in data.key_frame_tokens(scene)]
    missing = {token: f"maps/{token}.npy: no such file" for token in tokens}

    def run(name: str, reasons: Mapping[str, str]) -> LabelRun:
        def engine(job: LabelJob, todo: Sequence[Sequence[LabelTask]]) -> Generator[Outcome, None, None]:
            tasks = (task for scene in todo for task in scene)
            yield from (Outcome(scene=task.scene, token=task.token, failed=reasons[task.token]) for task in tasks)

        return generate_labels(data, tmp_path / name, QUICK, engine=engine)

    stopped = run("missing", missing)
    assert (len(tokens), len(stopped.failed), stopped.untried) == (8, 5, 3), "the second scene's first is the fifth"
    assert run("several", {**missing, tokens[1]: "maps/x.npy: the file is damaged"}).untried == 0
    assert run("some", {**missing, tokens[0]: ""}).untried == 0


# A full disk


def test_a_full_disk_is_said_and_nothing_is_lost(
    small_town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]
) -> None:
    data, room = NuScenes.open(small_town), 6

    def fsync(number: int) -> None:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room -= 1

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(
        OccliftError, match=r"labels: the disk is full \(No space left on device\); what is finished is"
    ):
        generate_labels(data, tmp_path / "labels", QUICK, scenes=[SCENE])
    left = contents(tmp_path / "labels")
    finished = {name: content for name, content in left.items() if name.endswith("labels.npz")}
    # The name of the run, the manifest, and then two files for each label.
    assert len(finished) == 2
    assert finished.items() <= whole.items()
    assert not [name for name in left if name.endswith(".tmp")]
    with pytest.raises(OccliftError, match="the disk is full"):
        generate_labels(data, tmp_path / "labels", QUICK, scenes=[SCENE])
    room = 100
    assert generate_labels(data, tmp_path / "labels", QUICK, scenes=[SCENE]).done == 2
    assert contents(tmp_path / "labels") == whole


def test_a_folder_that_holds_something_else_is_left_alone(root: Path) -> None:
    data = NuScenes.open(root)
    before = contents(root).keys()
    with pytest.raises(ConfigError, match=r"town: holds something else \(gts, maps, samples, \.\.\.\) and no labels"):
        generate_labels(data, root, QUICK)
    assert contents(root).keys() == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for three of the eight labels: more than two processes write at a time."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], check=False).returncode
    if made != 0:
        pytest.skip("a small file system can be mounted only by root")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_is_really_full(small_town: Path, tmp_path: Path, small_disk: Path, workers: int) -> None:
    data, out = NuScenes.open(small_town), small_disk / "labels"
    generate_labels(data, tmp_path / "whole", QUICK)
    for _ in range(2):
        with pytest.raises(OccliftError, match=r"labels: the disk is full"):
            generate_labels(data, out, QUICK, workers=workers)
    finished = len(labels_in(out))
    assert 0 < finished < 8
    subprocess.run(["mount", "-o", "remount,size=10m", small_disk], check=True)
    run = generate_labels(data, out, QUICK, workers=workers)
    assert (run.done, run.reused) == (8 - finished, finished)
    assert contents(out) == contents(tmp_path / "whole")
