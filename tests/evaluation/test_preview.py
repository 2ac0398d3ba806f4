"""A preview against what is known of the town: depth that is k times too large, holes, and clocks that somebody set."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from occlift.cli import call
from occlift.errors import DataError
from occlift.evaluation import timed_teachers
from occlift.evaluation.preview import preview
from occlift.evaluation.timed_teachers import TimedDepth
from occlift.labels.config import LabelConfig
from occlift.labels.generate import generate_labels
from occlift.scenes import open_dataset
from occlift.scenes.dataset import DrivingDataset
from occlift.scenes.frames import KeyFrame
from occlift.teachers.registry import depth_teacher
from occlift.teachers.teacher import DepthMap, DepthTeacher

PERFECT = LabelConfig(semantics="oracle:perfect", depth="oracle:perfect", frames=1)


@dataclass(frozen=True)
class Wrong:
    """The depth of another teacher: the front camera's times a factor, those of others with holes in every other row;
    nothing at all of some key frames."""

    right: DepthTeacher
    factor: float = 1.0
    holes: bool = False
    without: tuple[str, ...] = ()

    @property
    def settings(self) -> Mapping[str, object]:
        return {}

    def depth(self, frame: KeyFrame) -> list[DepthMap]:
        if frame.token in self.without:
            raise DataError(f"there is nothing of {frame.token}")
        maps = []
        for camera, found in zip(frame.cameras, self.right.depth(frame), strict=True):
            depth_m = found.depth_m.copy()
            if camera.camera == "CAM_FRONT":
                depth_m *= np.float32(self.factor)
            elif self.holes:
                depth_m[::2] = np.nan
            maps.append(replace(found, depth_m=depth_m))
        return maps


@pytest.fixture(scope="module")
def town(small_town: Path) -> DrivingDataset:
    return open_dataset(str(small_town))


def test_true_depth_agrees_with_lidar_and_the_label_is_that_of_one_key_frame(
    town: DrivingDataset, tmp_path: Path
) -> None:
    seen = preview(town, PERFECT)
    assert seen.frame.token == town.key_frame_tokens(town.scenes()[0])[0]
    cameras, spans, whole = seen.against_lidar[:6], seen.against_lidar[6:-1], seen.against_lidar[-1]
    assert whole.points == sum(row.points for row in cameras) == sum(row.points for row in spans) > 1000
    assert whole.covered > 0.98
    assert whole.scale == pytest.approx(1.0, abs=0.01)
    generate_labels(town, tmp_path, PERFECT, scenes=[seen.frame.scene])
    label = np.load(tmp_path / seen.frame.scene / seen.frame.token / "labels.npz")["semantics"]
    assert np.array_equal(seen.label, label)


def test_depth_too_large_shows_as_scale_of_its_camera_and_holes_as_what_is_not_covered(town: DrivingDataset) -> None:
    right = depth_teacher("oracle:perfect", town)
    before = {row.name: row for row in preview(town, PERFECT).against_lidar}
    seen = {row.name: row for row in preview(town, PERFECT, depth=Wrong(right, 1.3, holes=True)).against_lidar}
    assert seen["front"].scale == pytest.approx(1.3 * before["front"].scale)
    assert seen["front"].abs_rel == pytest.approx(0.3, abs=0.1)
    assert seen["front"].abs_rel_scaled == pytest.approx(before["front"].abs_rel_scaled, abs=1e-3)
    assert seen["front"].covered == before["front"].covered
    assert 0.3 < seen["back"].covered < 0.7 < before["back"].covered


def test_key_frames_without_maps_are_passed_over_unless_they_are_named(town: DrivingDataset) -> None:
    first, second, *_ = town.key_frame_tokens(town.scenes()[0])
    depth = Wrong(depth_teacher("oracle:perfect", town), without=(first,))
    seen = preview(town, PERFECT, depth=depth)
    assert seen.frame.token == second
    assert seen.notes == (f"key frame {first} was passed over: there is nothing of {first}",)
    with pytest.raises(DataError, match=f"nothing of {first}"):
        preview(town, PERFECT, token=first, depth=depth)
    everything = tuple(token for scene in town.scenes() for token in town.key_frame_tokens(scene))
    with pytest.raises(DataError, match="of the first 8 key frames of the split 'all' none can be looked at"):
        preview(town, PERFECT, depth=replace(depth, without=everything))


def test_what_is_loaded_in_the_first_call_is_not_what_an_image_costs(
    town: DrivingDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clock() -> Iterator[float]:
        yield from (0.0, 100.0, 200.0, 203.0)

    ticks = clock()
    monkeypatch.setattr(timed_teachers.time, "perf_counter", lambda: next(ticks))
    teacher = TimedDepth(depth_teacher("oracle:perfect", town))
    frame = town.key_frame(town.key_frame_tokens(town.scenes()[0])[0])
    teacher.depth(replace(frame, cameras=frame.cameras[:1]))
    assert (teacher.time.per_image_s, teacher.time.only_first) == (100.0, True)
    teacher.depth(frame)
    assert (teacher.time.first_s, teacher.time.per_image_s, teacher.time.images) == (100.0, 0.5, 6)
    assert not teacher.time.only_first


def test_the_command_writes_one_page_that_loads_nothing(
    small_town: Path, town: DrivingDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = town.key_frame_tokens(town.scenes()[1])[2]
    call("preview", [str(small_town), token, "--depth", "oracle:perfect", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert re.search(r"oracle:foundation \(classes\): \d+\.\d\d s per image", printed)
    assert re.search(r"oracle:perfect \(depth\): \d+\.\d\d s per image", printed)
    assert re.search(r"all +\d+ +\d+\.\d % +1\.00\d", printed)
    page = (tmp_path / "preview.html").read_text(encoding="utf-8")
    # Image, classes, depth and lidar of six cameras; points and label from above, and the label in perspective.
    assert page.count('src="data:image/') == page.count("<img ") == 4 * 6 + 3
    assert not re.search(r'(src|href)="(?!data:image/)', page)
    assert token in page
    assert "abs_rel" in page
    assert "driveable surface" in page
