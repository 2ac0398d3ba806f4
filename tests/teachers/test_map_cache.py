"""Maps on the disk: read as they were made, asked for once, and never those of something else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.errors import DataError
from occlift.label_space import OCC3D, UNKNOWN, Taxonomy
from occlift.runtime.npz import write_npz
from occlift.scenes.frames import KeyFrame
from occlift.teachers.map_cache import DepthCache, SemanticsCache
from occlift.teachers.teacher import DepthMap, SemanticMap


class Asked:
    """A teacher of both that says what it was asked, and of whom it is asked together with the others."""

    def __init__(self, name: str = "asked") -> None:
        self.asked: list[tuple[str, ...]] = []
        self._name = name

    @property
    def settings(self) -> Mapping[str, object]:
        return {"teacher": self._name, "sizes": (3, 5)}

    def semantics(self, frame: KeyFrame) -> list[SemanticMap]:
        self.asked.append(tuple(camera.camera for camera in frame.cameras))
        random = np.random.default_rng(len(frame.cameras))
        maps = [random.choice(np.array([0, 4, 17, UNKNOWN], np.uint8), (3, 5)) for _ in frame.cameras]
        return [SemanticMap(class_id=class_id, score=np.full((3, 5), 0.7, np.float32)) for class_id in maps]

    def depth(self, frame: KeyFrame) -> list[DepthMap]:
        self.asked.append(tuple(camera.camera for camera in frame.cameras))
        random = np.random.default_rng(len(frame.cameras))
        maps = [random.uniform(0.1, 80, (3, 5)).astype(np.float32) for _ in frame.cameras]
        for depth_m in maps:
            depth_m[0, :3] = np.nan, np.inf, 0
        return [DepthMap(depth_m=depth_m, confidence=np.full((3, 5), 0.7, np.float32)) for depth_m in maps]


@pytest.fixture
def frame(small_town: Path) -> KeyFrame:
    data = NuScenes.open(small_town)
    return data.key_frame(data.key_frame_tokens(data.scenes()[0])[0])


def test_maps_are_made_once_and_read_as_made(frame: KeyFrame, tmp_path: Path) -> None:
    teacher = Asked()
    classes, depths = SemanticsCache(tmp_path, teacher, OCC3D.taxonomy), DepthCache(tmp_path, teacher)
    assert classes.settings == depths.settings == teacher.settings
    made, made_m = classes.semantics(frame), depths.depth(frame)
    assert len(teacher.asked) == 2
    again = SemanticsCache(tmp_path, teacher, OCC3D.taxonomy).semantics(frame)
    again_m = DepthCache(tmp_path, teacher).depth(frame)
    assert len(teacher.asked) == 2
    for said, first, second in zip(teacher.semantics(frame), made, again, strict=True):
        assert np.array_equal(said.class_id, first.class_id)
        assert np.array_equal(said.class_id, second.class_id)
        assert np.array_equal(first.score, said.class_id != UNKNOWN)
        assert np.array_equal(first.score, second.score)
    for said_m, first_m, second_m in zip(teacher.depth(frame), made_m, again_m, strict=True):
        assert said_m.depth_m.tobytes() == first_m.depth_m.tobytes() == second_m.depth_m.tobytes()
        assert first_m.confidence[0].tolist() == [0, 0, 0, 1, 1]
        assert np.array_equal(first_m.confidence, second_m.confidence)


def test_a_key_frame_is_asked_for_as_a_whole(frame: KeyFrame, tmp_path: Path) -> None:
    """What a network of several views says of an image depends on the others."""
    teacher = Asked()
    cache = DepthCache(tmp_path, teacher)
    whole = cache.depth(frame)
    cache.path(frame.cameras[2]).unlink()
    before = cache.path(frame.cameras[0]).stat()
    again = cache.depth(frame)
    assert teacher.asked == [tuple(camera.camera for camera in frame.cameras)] * 2
    assert [one.depth_m.tobytes() for one in again] == [one.depth_m.tobytes() for one in whole]
    assert cache.path(frame.cameras[0]).stat().st_ino == before.st_ino, "what was there is not written again"


def test_every_teacher_kind_and_class_list_has_a_folder_of_its_own(frame: KeyFrame, tmp_path: Path) -> None:
    others = Taxonomy(names=("road", "car"))
    caches = [
        SemanticsCache(tmp_path, Asked(), OCC3D.taxonomy),
        SemanticsCache(tmp_path, Asked(), others),
        SemanticsCache(tmp_path, Asked("another"), OCC3D.taxonomy),
        DepthCache(tmp_path, Asked()),
    ]
    assert len({cache.folder for cache in caches}) == 4
    for cache in caches:
        cache.fill(frame)
    assert len(list(tmp_path.glob("*/*/*.npz"))) == 4 * len(frame.cameras)
    caches[0].folder.rename(tmp_path / "aside")
    caches[2].folder.rename(caches[0].folder)
    with pytest.raises(DataError, match=r"should hold class maps by .*'asked'.*, but says .*'another'.* renamed\?"):
        SemanticsCache(tmp_path, Asked(), OCC3D.taxonomy)


def test_torn_and_foreign_files_are_named(frame: KeyFrame, tmp_path: Path) -> None:
    cache = DepthCache(tmp_path, Asked())
    made = cache.depth(frame)
    path = cache.path(frame.cameras[1])
    whole = path.read_bytes()
    for torn in (b"", whole[:-40]):
        path.write_bytes(torn)
        with pytest.raises(DataError, match=rf"{path}: .*; remove it, and its depth maps are made again"):
            cache.depth(frame)
    write_npz(path, {"depth_m": np.ones((3, 5)), "image": np.ones(3, np.int64)}, level=1)
    with pytest.raises(DataError, match=r"holds no depth maps as this version writes them .*float64.*; remove it"):
        cache.depth(frame)
    path.unlink()
    assert cache.depth(frame)[1].depth_m.tobytes() == made[1].depth_m.tobytes()
    assert path.read_bytes() == whole
