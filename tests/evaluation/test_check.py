"""`occlift check` finds what is wrong with calibration and poses by what the images show."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frames_folder import complete, write
from PIL import Image

from occlift import open_dataset
from occlift.datasets.frames.writer import write_frames
from occlift.errors import DataError
from occlift.evaluation.check import DatasetCheck, check_dataset
from occlift.geometry.matches import epipolar_errors_px, match_corners
from occlift.geometry.transforms import inverse
from occlift.town.config import TownConfig
from occlift.town.write import write_town

Change = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A town's scene with images large enough for corners, as a `frames:` folder."""
    root = tmp_path_factory.mktemp("check")
    write_town(root / "town", TownConfig(scenes=1, frames=4, seed=3, image_height=144, image_width=264))
    write_frames(open_dataset(root / "town"), root / "frames")
    return root / "frames"


def changed(
    frames: Path, out: Path, *, ego: Change | None = None, camera: Change | None = None, time: float = 1.0
) -> DatasetCheck:
    """The check of a copy whose poses or mountings were changed."""
    (scene,) = frames.iterdir()
    copy = out / "frames" / scene.name
    copy.mkdir(parents=True)
    for name in ("images", "lidar"):
        (copy / name).symlink_to(scene / name)
    calibration = json.loads((scene / "calibration.json").read_text())
    lines = [json.loads(line) for line in (scene / "frames.jsonl").read_text().splitlines()]

    def apply(owner: dict[str, Any], field: str, change: Change | None) -> None:
        if change is not None:
            owner[field] = change(np.array(owner[field])).tolist()

    for described in calibration["cameras"].values():
        apply(described, "ego_from_camera", camera)
    for line in lines:
        for owner in (line, *line["images"].values(), line["lidar"]):
            apply(owner, "global_from_ego", ego)
            owner["timestamp_us"] = int(owner["timestamp_us"] * time)
    (copy / "calibration.json").write_text(json.dumps(calibration))
    (copy / "frames.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return check_dataset(open_dataset(f"frames:{out / 'frames'}"), out)


def test_a_sound_data_set_has_no_problem(frames: Path, tmp_path: Path) -> None:
    check = changed(frames, tmp_path)
    assert check.problems == ()
    assert check.frames == 4
    assert len(check.poses) == 6
    for camera in check.poses:
        assert camera.matches >= 20, camera
        assert camera.agreeing > 0.6, camera
        assert camera.median_error_px < 1.5, camera
    assert check.picture == tmp_path / "check.png"
    with Image.open(check.picture) as picture:
        assert picture.width > 1000
    with pytest.raises(DataError, match="cannot be drawn"):
        check_dataset(open_dataset(f"frames:{frames}"), tmp_path, token="no-such-token")


BODY = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def reorder(pose: np.ndarray) -> np.ndarray:
    """A pose whose quaternion [w, x, y, z] is read as if it were [x, y, z, w] was written."""
    from occlift.geometry.transforms import quaternion_from_rotation, rigid_transform, rotation_from_quaternion

    w, x, y, z = quaternion_from_rotation(pose[:3, :3])
    return rigid_transform(rotation_from_quaternion([x, y, z, w]), pose[:3, 3])


@pytest.mark.parametrize(
    ("ego", "camera", "expected"),
    [
        (inverse, None, "if global_from_ego is inverted"),
        (None, inverse, "if ego_from_camera is inverted"),
        (inverse, inverse, "if global_from_ego and ego_from_camera are both inverted"),
        (None, lambda pose: pose @ inverse(BODY), "x forward, y left, z up"),
        (None, lambda pose: pose @ np.diag([1.0, -1, -1, 1]), "OpenGL"),
        (None, reorder, r"the quaternions of ego_from_camera are \[x, y, z, w\]"),
    ],
)
def test_wrong_poses_are_told_apart(
    ego: Change | None, camera: Change | None, expected: str, frames: Path, tmp_path: Path
) -> None:
    import re

    problems = changed(frames, tmp_path, ego=ego, camera=camera).problems
    assert re.search(expected, problems[-1]), problems


def test_millimetres_and_milliseconds_are_found(frames: Path, tmp_path: Path) -> None:
    def in_millimetres(pose: np.ndarray) -> np.ndarray:
        return np.concatenate((np.concatenate((pose[:3, :3], 1000 * pose[:3, 3:]), 1), pose[3:]))

    problems = changed(frames, tmp_path / "mm", ego=in_millimetres, camera=in_millimetres).problems
    assert any("m/s; expected metres in poses and microseconds" in problem for problem in problems), problems
    assert any("is mounted at" in problem for problem in problems), problems
    problems = changed(frames, tmp_path / "ms", time=1e-3).problems
    assert any("m/s; expected metres in poses and microseconds" in problem for problem in problems), problems


def test_a_car_that_drives_sideways_is_found(frames: Path, tmp_path: Path) -> None:
    quarter = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    problems = changed(frames, tmp_path, ego=lambda pose: pose @ quarter, camera=lambda pose: inverse(quarter) @ pose)
    assert any("m along its y axis; expected an ego frame with x forward" in text for text in problems.problems)


def test_matches_of_a_shifted_image_are_exact() -> None:
    rng = np.random.default_rng(0)
    texture = np.kron(rng.random((20, 30)), np.ones((8, 8)))
    first, second = texture[:, 12:200], texture[:, 7:195]
    pixels1, pixels2 = match_corners(first, second)
    assert len(pixels1) > 50
    np.testing.assert_allclose(np.median(pixels2 - pixels1, axis=0), [5.0, 0.0])
    blank = np.zeros((100, 100))
    assert len(match_corners(blank, blank)[0]) == 0


def test_epipolar_errors_by_their_definition() -> None:
    """Projections of random points into two cameras lie on each other's lines, and in front; of the opposite not."""
    rng = np.random.default_rng(1)
    points = rng.uniform([-5, -2, 5], [5, 2, 30], (200, 3))
    intrinsics = np.array([[400.0, 0, 320], [0, 420, 200], [0, 0, 1]])
    from scipy.spatial.transform import Rotation

    second_from_first = np.eye(4)
    second_from_first[:3, :3] = Rotation.from_rotvec([0.02, -0.1, 0.03]).as_matrix()
    second_from_first[:3, 3] = [0.3, -0.1, -1.0]

    def project(points: np.ndarray) -> np.ndarray:
        uvw = points @ intrinsics.T
        return uvw[:, :2] / uvw[:, 2:]

    moved = points @ second_from_first[:3, :3].T + second_from_first[:3, 3]
    errors, ahead = epipolar_errors_px(project(points), project(moved), intrinsics, intrinsics, second_from_first)
    assert errors.max() < 1e-9
    assert ahead.all()
    back = second_from_first.copy()
    back[:3, 3] *= -1
    errors, ahead = epipolar_errors_px(project(points), project(moved), intrinsics, intrinsics, back)
    assert errors.max() < 1e-9
    assert not ahead.any()


def edited(root: Path, files: dict[str, Any]) -> tuple[str, ...]:
    """What is wrong with a `frames:` folder of random images, poses aside."""
    return check_dataset(open_dataset(f"frames:{write(root / 'rig', files)}"), root / "out", pairs=0).problems


def test_times_masks_boxes_and_lidars_that_mean_something_else(tmp_path: Path) -> None:
    def sweeps(rig: Path, change: Change) -> None:
        for path in rig.glob("rig/*/lidar/*.npy"):
            np.save(path, change(np.load(path)))

    assert edited(tmp_path / "sound", complete()) == ()
    files = complete()
    for line in files["monday/frames.jsonl"]:
        line["timestamp_us"] *= 100_000
        line["lidar"]["timestamp_us"] = line["timestamp_us"]
        line["images"] = {"front": line["images"]["front"]}
    assert any("s after the one before" in text for text in edited(tmp_path / "time", files))

    files = complete()
    for scene in ("monday", "tuesday"):
        for line in files[f"{scene}/frames.jsonl"]:
            line["boxes"][0]["category"] = "car"
    data = open_dataset(f"frames:{write(tmp_path / 'category', files)}")
    check = check_dataset(data, tmp_path / "category", pairs=0)
    # Names of one's own are no mistake: Argoverse 2 has them.
    assert check.problems == ()
    assert "no category belongs to a class (they are car)" in check.notes[0]

    files = complete()
    for line in files["monday/frames.jsonl"] + files["tuesday/frames.jsonl"]:
        line["boxes"][0]["ego_from_box"]["translation_m"] = [4000.0, 7000.0, 0.0]
    (problem,) = edited(tmp_path / "boxes", files)
    assert "6 of 6 are more than 250 m from the car" in problem

    root = tmp_path / "lidar"
    data = open_dataset(f"frames:{write(root / 'rig', complete())}")
    sweeps(root, lambda points: points * 1000)
    problems = check_dataset(data, root, pairs=0).problems
    assert [("expected metres" in text, "lidar" in text) for text in problems] == [(True, True)] * 2
    ground = np.random.default_rng(0).uniform([-14, -14, 1.0], [14, 14, 1.2], (2000, 3)).astype(np.float32)
    sweeps(root, lambda points: ground)
    problems = check_dataset(data, root, pairs=0).problems
    assert ["lie at z = +2.9 m" in text for text in problems] == [True, True], problems

    root = tmp_path / "mask"
    data = open_dataset(f"frames:{write(root / 'rig', complete())}")
    path = root / "rig" / "monday" / "masks" / "front.png"
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    problems = check_dataset(data, root, pairs=0).problems
    assert len(problems) == 1, "one mistake is one problem, however many images it spoils"
    assert "its mask leaves 12% of the pixels" in problems[0]
    assert "(3 key frames)" in problems[0]
