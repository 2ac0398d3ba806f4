"""Features on the disk: read as they were made, asked for once, and never those of something else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from truth import TRUTH

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.errors import DataError
from occlift.runtime.npz import write_npz
from occlift.scenes.frames import KeyFrame
from occlift.scenes.sources import ImageFile
from occlift.teachers.feature_cache import FeatureCache
from occlift.teachers.registry import feature_teacher
from occlift.teachers.teacher import FeatureMap


class Counting:
    """A teacher that says how often it was asked, and about which images."""

    def __init__(self, scale: float = 1.0) -> None:
        self.asked: list[str] = []
        self._scale = scale

    @property
    def settings(self) -> Mapping[str, object]:
        return {"teacher": "counting", "scale": self._scale, "sizes": (2, 3)}

    def features(self, frame: KeyFrame) -> list[FeatureMap]:
        maps = []
        for camera in frame.cameras:
            self.asked.append(camera.camera)
            values = np.random.default_rng(len(camera.camera)).standard_normal((4, 2, 3)).astype(np.float32)
            maps.append(FeatureMap(features=self._scale * values, stride_px=(29.3, 24.0), offset_px=(-1 / 3, 12.0)))
        return maps


@pytest.fixture
def frame(small_town: Path) -> KeyFrame:
    data = NuScenes.open(small_town)
    return data.key_frame(data.key_frame_tokens(data.scenes()[0])[0])


def same(some: list[FeatureMap], others: list[FeatureMap]) -> bool:
    return len(some) == len(others) and all(
        one.features.dtype == other.features.dtype == np.float16
        and np.array_equal(one.features, other.features)
        and (one.stride_px, one.offset_px) == (other.stride_px, other.offset_px)
        for one, other in zip(some, others, strict=True)
    )


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_made_once_and_read_as_made(frame: KeyFrame, tmp_path: Path) -> None:
    teacher = Counting()
    cache = FeatureCache(tmp_path, teacher)
    made = cache.features(frame)
    assert len(teacher.asked) == 6
    assert same(made, cache.features(frame))
    assert same(made, FeatureCache(tmp_path, teacher).features(frame))
    assert len(teacher.asked) == 6
    (truth, *_) = teacher.features(frame)
    assert np.array_equal(made[0].features, truth.features.astype(np.float16))
    assert made[0].stride_px == (29.3, 24.0)


def test_only_what_is_missing_is_asked_for(frame: KeyFrame, tmp_path: Path) -> None:
    teacher = Counting()
    cache = FeatureCache(tmp_path, teacher)
    cache.features(replace(frame, cameras=frame.cameras[1:3]))
    whole = cache.features(frame)
    assert sorted(teacher.asked) == sorted(camera.camera for camera in frame.cameras)
    assert same(whole, FeatureCache(tmp_path / "another", Counting()).features(frame))


def test_filling_asks_for_what_is_missing_and_reads_nothing(frame: KeyFrame, tmp_path: Path) -> None:
    teacher = Counting()
    cache = FeatureCache(tmp_path, teacher)
    cache.fill(replace(frame, cameras=frame.cameras[:2]))
    cache.path(frame.cameras[0]).write_bytes(b"damaged")
    cache.fill(frame)
    assert teacher.asked == [camera.camera for camera in frame.cameras]
    cache.path(frame.cameras[0]).unlink()
    assert same(cache.features(frame), FeatureCache(tmp_path / "another", Counting()).features(frame))


def test_same_bytes_every_time_and_a_folder_for_every_teacher(frame: KeyFrame, tmp_path: Path) -> None:
    for name in ("a", "b"):
        FeatureCache(tmp_path / name, feature_teacher("oracle", TRUTH)).features(frame)
    first = files(tmp_path / "a")
    assert len(first) == 7
    assert first == files(tmp_path / "b")
    other = FeatureCache(tmp_path / "a", feature_teacher("oracle", TRUTH, options={"seed": "1"}))
    other.features(frame)
    assert len(files(tmp_path / "a")) == 14
    manifest = json.loads((other.folder / "manifest.json").read_text())
    assert manifest["teacher"]["seed"] == 1
    assert other.settings == {**manifest["teacher"], "kept_as": "float16"}


def test_damage_is_an_error_that_says_what_to_do(frame: KeyFrame, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, Counting())
    made = cache.features(frame)
    path = cache.path(frame.cameras[2])
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 1
    for damaged in (b"", whole[:-40], bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"{path}: .*; remove it, and its features are made again"):
            cache.features(frame)
    foreign = {"features": np.zeros(3), "stride_px": np.ones(2), "offset_px": np.ones(2), "image": np.ones(3)}
    write_npz(path, foreign, level=0)
    with pytest.raises(DataError, match=r"holds no features as this version writes them .*float64.*; remove it"):
        cache.features(frame)
    path.unlink()
    assert same(made, cache.features(frame))
    assert path.read_bytes() == whole


def test_features_of_another_image_are_noticed(frame: KeyFrame, tmp_path: Path) -> None:
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(Path(frame.cameras[0].source.name).read_bytes())
    alone = replace(frame, cameras=(replace(frame.cameras[0], source=ImageFile(copy)),))
    cache = FeatureCache(tmp_path / "cache", Counting())
    made = cache.features(alone)
    assert same(made, cache.features(alone))
    copy.write_bytes(copy.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"but .*copy\.jpg is another; give every data set a cache folder"):
        cache.features(alone)
    copy.unlink()
    with pytest.raises(DataError, match=r"copy\.jpg: cannot be read"):
        cache.features(alone)


def test_manifests_are_believed_only_if_they_fit(frame: KeyFrame, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, Counting())
    cache.features(frame)
    manifest = cache.folder / "manifest.json"
    other = FeatureCache(tmp_path, Counting(2.0))
    cache.folder.rename(other.folder)
    with pytest.raises(DataError, match="was it renamed"):
        FeatureCache(tmp_path, Counting(2.0))
    (other.folder / manifest.name).write_text("{")
    with pytest.raises(DataError, match="not a readable manifest"):
        FeatureCache(tmp_path, Counting(2.0))


def test_what_half_precision_cannot_hold_is_not_kept(frame: KeyFrame, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, Counting(1e6))
    with pytest.raises(DataError, match="which half precision cannot hold"):
        cache.features(frame)
    assert not files(tmp_path)
