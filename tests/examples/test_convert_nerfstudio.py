"""The example that turns a `transforms.json` into a `frames:` folder."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from occlift import open_dataset
from occlift.datasets.frames.dataset import FramesFolder
from occlift.errors import DataError
from occlift.geometry.lenses import BrownConrady, KannalaBrandt
from occlift.geometry.transforms import inverse, transform_points

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def example() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "examples")
        return importlib.import_module("convert_nerfstudio")


def look_along_y(x: float, y: float, z: float) -> list[list[float]]:
    """OpenGL camera to world: it looks along the world's y axis."""
    return [[1, 0, 0, x], [0, 0, -1, y], [0, 1, 0, z], [0, 0, 0, 1.0]]


def write_capture(folder: Path, **changes: Any) -> Path:
    (folder / "images").mkdir(parents=True)
    for number in range(3):
        pixels = np.full((48, 64, 3), 40 * number, np.uint8)
        Image.fromarray(pixels).save(folder / f"images/frame_{number}.png")
    told = {
        "camera_model": "OPENCV", "fl_x": 50.0, "fl_y": 52.0, "cx": 31.0, "cy": 25.0, "w": 64, "h": 48,
        "frames": [
            {"file_path": f"images/frame_{number}.png", "transform_matrix": look_along_y(5, number, 0.75)}
            for number in (2, 0, 1)
        ],
    }  # fmt: skip
    path = folder / "transforms.json"
    path.write_text(json.dumps({**told, **changes}))
    return path


def test_a_capture_becomes_a_folder(example: ModuleType, tmp_path: Path) -> None:
    path = write_capture(tmp_path / "walk")
    example.convert(
        path, tmp_path / "out", ego_from_camera=example.mounting(1.5), metres_per_unit=2.0, fps=4.0
    )  # fmt: skip
    data = open_dataset(f"frames:{tmp_path / 'out'}")
    assert isinstance(data, FramesFolder)
    tokens = data.key_frame_tokens("walk")
    assert tokens == ("walk-000000", "walk-000001", "walk-000002")
    frame = data.key_frame(tokens[2])
    (image,) = frame.cameras
    assert (frame.timestamp_us, image.read()[0, 0, 0]) == (500_000, 80)
    # On the road, 1.5 m below the camera; x ahead, which is along the world's y.
    np.testing.assert_allclose(frame.global_from_ego[:3, 3], [10, 4, 0], atol=1e-12)
    np.testing.assert_allclose(frame.global_from_ego[:3, :3], [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12)
    # A point of the world, by OpenGL's own rule.
    point = np.array([11.0, 12.0, 1.0])
    right, up, back = np.array(look_along_y(0, 0, 0))[:3, :3].T @ (point - [10, 4, 1.5])
    ours = image.intrinsics_px @ transform_points(inverse(image.global_from_camera), point)
    np.testing.assert_allclose(ours[:2] / ours[2], [31 + 50 * right / -back, 25 - 52 * up / -back])


def test_a_camera_that_looks_down(example: ModuleType) -> None:
    ego_from_camera = example.mounting(2.0, 30.0)
    np.testing.assert_allclose(ego_from_camera[:3, :3] @ ego_from_camera[:3, :3].T, np.eye(3), atol=1e-12)
    ahead = ego_from_camera[:3, 2]
    np.testing.assert_allclose(ahead, [math.cos(math.pi / 6), 0, -0.5], atol=1e-12)
    assert np.linalg.det(ego_from_camera[:3, :3]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "lens"),
    [
        ({"k1": -0.1, "p2": 0.01, "k4": 0.0}, BrownConrady(k1=-0.1, p2=0.01)),
        ({"camera_model": "OPENCV_FISHEYE", "k1": 0.02, "k4": 0.001}, KannalaBrandt(k1=0.02, k4=0.001)),
        ({"camera_model": "OPENCV_FISHEYE"}, KannalaBrandt()),
    ],
)
def test_lenses(example: ModuleType, tmp_path: Path, changes: dict[str, Any], lens: object) -> None:
    path = write_capture(tmp_path / "walk", **changes)
    example.convert(path, tmp_path / "out", ego_from_camera=example.mounting(1.5))
    data = FramesFolder.open(tmp_path / "out")
    assert data.key_frame("walk-000000").cameras[0].distortion == lens


def test_as_a_command(example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_capture(tmp_path / "walk")
    monkeypatch.setattr("sys.argv", ["x", str(path), str(tmp_path / "out"), "--camera-height-m", "0.75"])
    example.main()
    frame = open_dataset(f"frames:{tmp_path / 'out'}").key_frame("walk-000001")
    np.testing.assert_allclose(frame.global_from_ego[:3, 3], [5, 1, 0], atol=1e-12)
    with pytest.raises(SystemExit, match=r"^convert_nerfstudio: .*out: is not empty"):
        example.main()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": []}, r"transforms\.json: field frames: has no frame"),
        ({"frames": [{}]}, r"expected JSON with a list 'frames' that have a 'file_path' \('file_path'\)"),
        ({"fl_x": None}, r"field frames\[images/frame_0\.png\]\.fl_x: Expected `float`, got `null`"),
        ({"w": 60}, r"field frames\[images/frame_0\.png\]\.w: the image has 64 × 48 pixels, the file says 60 × 48"),
        ({"camera_model": "EQUIRECTANGULAR"}, r"camera_model: is 'EQUIRECTANGULAR' with \{\}; expected OPENCV"),
        ({"k4": 0.1}, r"camera_model: is 'OPENCV' with \{'k4': 0\.1\}; expected OPENCV"),
        (
            {"frames": [{"file_path": "images/frame_0.png", "transform_matrix": [[1, 0], [0, 1]]}]},
            r"transform_matrix: Expected `array` of length >= 4",
        ),
        (
            {"frames": [{"file_path": "images/frame_0.png", "transform_matrix": (2 * np.eye(4)).tolist()}]},
            r"transform_matrix: the last row of a 4×4 transform",
        ),
        (
            {"frames": [{"file_path": "images/none.png", "transform_matrix": look_along_y(0, 0, 0)}]},
            r"file_path: there is no image .*none\.png",
        ),
    ],
)
def test_what_is_wrong_with_a_capture_is_said(
    example: ModuleType, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write_capture(tmp_path / "walk", **changes)
    with pytest.raises(DataError, match=message):
        example.convert(path, tmp_path / "out", ego_from_camera=example.mounting(1.5))


Break = Callable[[Path], object]


@pytest.mark.parametrize(
    ("damage", "message"),
    [(Path.unlink, "transforms.json: no such file"), (lambda path: path.write_text("{"), "expected JSON")],
)
def test_a_file_that_is_none_is_said(example: ModuleType, tmp_path: Path, damage: Break, message: str) -> None:
    path = write_capture(tmp_path / "walk")
    damage(path)
    with pytest.raises(DataError, match=message):
        example.convert(path, tmp_path / "out", ego_from_camera=np.eye(4))
