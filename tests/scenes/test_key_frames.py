"""Key frames whose cameras, intrinsics or images cannot be: what is refused, and by which name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from occlift.errors import DataError
from occlift.scenes import CameraImage, ImageArray, KeyFrame
from occlift.scenes.rigs import rig_of
from occlift.scenes.sources import ImageFile, read_image


def camera_image(name: str = "front", **changes: object) -> CameraImage:
    image = CameraImage(
        camera=name, key=name, timestamp_us=0, height=48, width=64,
        intrinsics_px=np.array([[40.0, 0, 32], [0, 40, 24], [0, 0, 1]]), ego_at_image_from_camera=np.eye(4),
        global_from_ego_at_image=np.eye(4), source=ImageArray(np.zeros((48, 64, 3), np.uint8), "a.png"),
    )  # fmt: skip
    return replace(image, **changes)  # type: ignore[arg-type]


def key_frame(*cameras: CameraImage) -> KeyFrame:
    return KeyFrame(token="t", scene="s", index=0, timestamp_us=0, global_from_ego=np.eye(4), cameras=cameras)


@pytest.mark.parametrize("names", [("",), ("front", ""), ("front", "left", "front")])
def test_cameras_have_names_each_once(names: tuple[str, ...]) -> None:
    with pytest.raises(
        DataError, match=r"key frame t \(s\): the cameras of its images are called '.*; expected names, e"
    ):
        key_frame(*map(camera_image, names))
    key_frame(camera_image("front"), camera_image("left"))
    key_frame()


@pytest.mark.parametrize(
    "intrinsics_px",
    [
        np.zeros((3, 3)),
        np.diag([0.0, 0.0, 1.0]),
        [[-40.0, 0, 32], [0, 40, 24], [0, 0, 1]],
        [[40.0, 0, 32], [0, np.nan, 24], [0, 0, 1]],
        [[40.0, 0, np.inf], [0, 40, 24], [0, 0, 1]],
        [[5.5, 0, 32], [0, 5.5, 24], [0, 0, 0.5]],
        [[0.6, 0, 0.5], [0, 0.8, 0.5], [0, 0, 1]],  # shares of the size
        [[4e4, 0, 32], [0, 4e4, 24], [0, 0, 1]],  # micrometres
    ],
)
def test_intrinsics_that_no_camera_has_are_refused(intrinsics_px: object) -> None:
    image = camera_image(intrinsics_px=np.array(intrinsics_px, np.float64))
    message = (
        r"a\.png: the intrinsics of camera front: expected a matrix .* from 3\.2 to 3200 for an image of 48×64 pixels"
    )
    with pytest.raises(DataError, match=message):
        rig_of(key_frame(image))
    assert rig_of(key_frame(camera_image())).num_cameras == 1


def test_exif_turns_no_pixels(tmp_path: Path) -> None:
    """Intrinsics are for pixels as they are stored; whoever turned an image by its EXIF has others."""
    path = tmp_path / "a.jpg"
    stored = Image.fromarray(np.arange(8 * 16, dtype=np.uint8).reshape(8, 16).repeat(3).reshape(8, 16, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees for the viewer
    stored.save(path, exif=exif, quality=100)
    assert read_image(path).shape == (8, 16, 3)
    assert ImageFile(path).size() == (8, 16)
    as_stored = np.asarray(stored, np.int16)
    assert np.abs(read_image(path).astype(np.int16) - as_stored).max() < 12
    camera = camera_image(height=8, width=16, source=ImageFile(path))
    assert camera.read().shape == (8, 16, 3)
    with pytest.raises(
        DataError, match=r"a\.jpg: the image has 8×16 pixels .* says 16×8, .* EXIF orientation, which turns no pixels"
    ):
        camera_image(height=16, width=8, source=ImageFile(path)).read()
