"""Camera images between key frames: written by a town, read from the tables of nuScenes."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.datasets.nuscenes.index_cache import SWEEPS_FILE_NAME
from occlift.datasets.rectified import Rectified
from occlift.errors import ConfigError
from occlift.scenes.dataset import HasSweeps, require
from occlift.town.config import TownConfig
from occlift.town.write import write_town

CONFIG = TownConfig(scenes=1, frames=2, seed=5, image_height=48, image_width=88)


def files_of(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for folder in ("samples", "gts", "maps")
        for path in sorted((root / folder).rglob("*"))
        if path.is_file()
    }


def test_sweeps_come_on_top_of_the_same_key_frames(tmp_path: Path, town_with_sweeps: Path) -> None:
    write_town(tmp_path, CONFIG, workers=1)
    plain, more = files_of(tmp_path), files_of(town_with_sweeps)
    assert plain
    assert all(more[name] == content for name, content in plain.items())
    assert not (tmp_path / "sweeps").exists()
    assert "sweeps" not in json.loads((tmp_path / "town.json").read_text())
    with pytest.raises(ConfigError, match="sweeps"):
        write_town(town_with_sweeps, TownConfig(scenes=2, frames=2, seed=5, image_height=48, image_width=88, maps=True))


def test_adjacent_images_are_those_of_the_same_camera_just_before_and_after(town_with_sweeps: Path) -> None:
    data = NuScenes.open(town_with_sweeps)
    assert isinstance(data, HasSweeps)
    first, last = (data.key_frame(token) for token in data.key_frame_tokens(data.scenes()[0]))
    before, after = data.adjacent_images(first.token)
    assert before == (None,) * 6
    (before_last, none) = data.adjacent_images(last.token)
    assert none == (None,) * 6
    for images, key_frame, lag_us in ((after, first, 83_333), (before_last, last, -83_333)):
        for image, own in zip(images, key_frame.cameras, strict=True):
            assert image is not None
            assert image.camera == own.camera
            assert image.timestamp_us - own.timestamp_us == lag_us
            assert image.key != own.key
            assert (image.intrinsics_px == own.intrinsics_px).all()
            assert image.read().shape == (48, 88, 3)
            moved_m = np.linalg.norm(image.global_from_camera[:3, 3] - own.global_from_camera[:3, 3])
            assert 0.01 < moved_m < 2
    # Key frames stay key frames.
    assert len(data.key_frame_tokens(data.scenes()[0])) == 2


def test_the_index_of_sweeps_is_cached_and_survives_pickling(town_with_sweeps: Path) -> None:
    data = NuScenes.open(town_with_sweeps)
    token = data.key_frame_tokens(data.scenes()[0])[0]
    _, after = data.adjacent_images(token)
    assert (town_with_sweeps / "v1.0-town" / SWEEPS_FILE_NAME).exists()
    for other in (NuScenes.open(town_with_sweeps), pickle.loads(pickle.dumps(data))):
        _, again = other.adjacent_images(token)
        assert [image.key for image in again] == [image.key for image in after]  # type: ignore[union-attr]


def test_cameras_that_are_read_are_those_whose_sweeps_are_read(town_with_sweeps: Path) -> None:
    data = NuScenes.open(town_with_sweeps, cameras="CAM_BACK,CAM_FRONT")
    _, after = data.adjacent_images(data.key_frame_tokens(data.scenes()[0])[0])
    assert [image.camera for image in after if image] == ["CAM_BACK", "CAM_FRONT"]


def test_virtual_cameras_have_adjacent_images_too(town_with_sweeps: Path) -> None:
    data = Rectified(NuScenes.open(town_with_sweeps))
    token = data.key_frame_tokens(data.scenes()[0])[0]
    before, after = data.adjacent_images(token)
    assert before == (None,) * 6
    assert [image.camera for image in after if image] == list(data.cameras)


def test_without_the_files_of_the_sweeps_there_are_none(
    small_town: Path, town_with_sweeps: Path, tmp_path: Path
) -> None:
    """They come in archives of their own, which many do without; the tables name them all the same."""
    copy = tmp_path / "town"
    shutil.copytree(town_with_sweeps, copy, ignore=shutil.ignore_patterns("sweeps", "gts", ".occlift*"))
    for root in (copy, small_town):
        data = NuScenes.open(root)
        assert not isinstance(data, HasSweeps)
        with pytest.raises(ConfigError, match="purpose: needs camera images between its key frames"):
            require(data, HasSweeps, "purpose")
