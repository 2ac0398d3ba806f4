"""Labels for whole scenes: unproject → fuse → vote → free by ray casting → files.

For every key frame `<out>/<scene>/<token>/labels.npz` in Occ3D's layout, and beside it `votes.npz`, what the label
rests on (`occlift.labels.vote`). `manifest.json` in `out` keeps the configuration.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from occlift.data.key_frame import KeyFrame
from occlift.data.nuscenes import NuScenes
from occlift.data.occ3d import label_path, write_label
from occlift.errors import ConfigError, DataError
from occlift.geometry.grids import OCC3D_GRID
from occlift.labels.fuse import fuse, window, without_moving
from occlift.labels.manifest import open_manifest
from occlift.labels.unproject import View, view_of
from occlift.labels.visibility import label_of
from occlift.labels.vote import cast_votes, check_min_points, semantics_from_votes, write_votes
from occlift.progress import track
from occlift.teachers.registry import depth_teacher, semantics_teacher
from occlift.teachers.teacher import DepthTeacher, SemanticsTeacher

VOTES_NAME: Final = "votes.npz"

# Part of every digest; goes up when the same configuration would give other labels.
_ALGORITHM: Final = 1


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """How labels are made.

    Attributes:
        semantics: the teacher of classes; see `occlift.teachers.registry`.
        depth: the teacher of depth.
        frames: how many key frames are fused, the current one in the middle (EasyOcc: 13).
        min_points: a voxel with fewer points is not occupied; 1 to 255. What is best grows with the number of pixels:
            3 gave the highest IoU for `foundation` on 13 frames of 6×96×176.
        drop_moving: fuse only the current frame's points of classes that move by themselves. Without it everything
            that drives leaves ghosts.
        stride: every so-many-th pixel of every so-many-th row shows a point.
        free_stride: the same for pixels that cast rays.
        min_score: pixels whose class is less sure are unknown.
        min_confidence: pixels whose depth is less sure have none.
        seed: of the teachers' errors.
    """

    semantics: str = "oracle:foundation"
    depth: str = "oracle:foundation"
    frames: int = 13
    min_points: int = 3
    drop_moving: bool = True
    stride: int = 1
    free_stride: int = 2
    min_score: float = 0.0
    min_confidence: float = 0.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class LabelRun:
    """What `generate_labels` did.

    Attributes:
        done: labels written.
        reused: labels that were there already.
        failed: sample token → why it has no label.
        incomplete: sample token → sample tokens that its label had to do without, because they failed.
        seconds_per_label: wall clock, over those written; 0 if none was.
    """

    out: Path
    done: int
    reused: int
    failed: Mapping[str, str] = field(default_factory=dict)
    incomplete: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seconds_per_label: float


def generate_labels(data: NuScenes, out: Path, config: LabelConfig, *, scenes: Sequence[str] | None = None) -> LabelRun:
    """Makes the labels of all key frames of some scenes, without those that `out` holds already.

    A key frame whose maps are missing or damaged has no label and is left out of its neighbours'; the manifest says
    so, the rest goes on, and a later run tries these labels again.

    Args:
        scenes: names; by default all.

    Raises:
        ConfigError: a setting is out of range or names no teacher, a scene does not exist, or `out` holds labels of
            another configuration.
        DataError: the manifest in `out` is damaged, or a table of the data set is.
    """
    _check(config)
    scenes = data.scenes if scenes is None else scenes
    if missing := [scene for scene in scenes if scene not in data.scenes]:
        raise ConfigError(f"{data.root}: has no scene {', '.join(missing)}; it has {', '.join(data.scenes)}")
    teachers = _Teachers(config)
    manifest = open_manifest(out, teachers.settings)
    manifest.write(out)

    todo: list[tuple[str, int]] = []
    reused = 0
    for scene in scenes:
        for position, token in enumerate(data.key_frame_tokens(scene)):
            path = label_path(out, scene, token)
            flawed = token in manifest.failed or token in manifest.incomplete
            if path.exists() and path.with_name(VOTES_NAME).exists() and not flawed:
                reused += 1
            else:
                todo.append((scene, position))

    started = time.monotonic()
    done = 0
    window_views = _WindowViews(data, teachers)
    for scene, position in track(todo, "labels"):
        token = data.key_frame_tokens(scene)[position]
        manifest.failed.pop(token, None)
        manifest.incomplete.pop(token, None)
        try:
            without = _make_label(data, out, config, window_views, scene, position)
        except DataError as error:
            manifest.failed[token] = str(error)
            manifest.write(out)
            continue
        done += 1
        if without:
            manifest.incomplete[token] = without
            manifest.write(out)
    manifest.write(out)
    return LabelRun(
        out=out,
        done=done,
        reused=reused,
        failed=dict(manifest.failed),
        incomplete=dict(manifest.incomplete),
        seconds_per_label=(time.monotonic() - started) / done if done else 0.0,
    )


class _Teachers:
    def __init__(self, config: LabelConfig) -> None:
        self._config = config
        self._semantics: SemanticsTeacher = semantics_teacher(config.semantics, seed=config.seed)
        self._depth: DepthTeacher = depth_teacher(config.depth, seed=config.seed)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that labels depend on, besides the data set."""
        return {
            "algorithm": _ALGORITHM,
            **asdict(self._config),
            "semantics_teacher": dict(self._semantics.settings),
            "depth_teacher": dict(self._depth.settings),
        }

    def views(self, frame: KeyFrame) -> _FrameViews:
        """All images of a key frame, as the teachers see them; DataError where one cannot be had."""
        views = tuple(
            view_of(
                image,
                self._semantics.semantics(image),
                self._depth.depth(image),
                min_score=self._config.min_score,
                min_confidence=self._config.min_confidence,
            )
            for image in frame.cameras
        )
        return _FrameViews(all=views, still=tuple(without_moving(view) for view in views))


@dataclass(frozen=True, kw_only=True, eq=False)
class _FrameViews:
    """The views of a key frame, and the same without what may move."""

    all: tuple[View, ...]
    still: tuple[View, ...]


class _WindowViews:
    """The views of the key frames around the current one: each key frame is looked at once as the window slides."""

    def __init__(self, data: NuScenes, teachers: _Teachers) -> None:
        self._data = data
        self._teachers = teachers
        self._scene = ""
        self._views: dict[int, _FrameViews | DataError] = {}

    def at(self, scene: str, positions: range) -> Iterator[tuple[int, _FrameViews | DataError]]:
        """(position, views or why there are none) for a window of a scene; forgets everything outside of it."""
        if scene != self._scene:
            self._scene, self._views = scene, {}
        self._views = {position: self._views[position] for position in positions if position in self._views}
        tokens = self._data.key_frame_tokens(scene)
        for position in positions:
            if position not in self._views:
                try:
                    self._views[position] = self._teachers.views(self._data.key_frame(tokens[position]))
                except DataError as error:
                    self._views[position] = error
            yield position, self._views[position]


def _make_label(
    data: NuScenes, out: Path, config: LabelConfig, window_views: _WindowViews, scene: str, current: int
) -> list[str]:
    """Writes a label; returns the tokens of the window's key frames that it had to do without."""
    tokens = data.key_frame_tokens(scene)
    frame = data.key_frame(tokens[current])
    path = label_path(out, scene, frame.token)
    views: list[View] = []
    without: list[str] = []
    for position, found in window_views.at(scene, window(current, len(tokens), config.frames)):
        if isinstance(found, DataError):
            if position == current:
                raise found
            without.append(tokens[position])
        else:
            views += found.all if position == current or not config.drop_moving else found.still
    fused = fuse(views, frame.global_from_ego, stride=config.stride, free_stride=config.free_stride)
    votes = cast_votes(fused, OCC3D_GRID)
    label = label_of(semantics_from_votes(votes, min_points=config.min_points), frame)
    # The label last: where it exists, everything does.
    write_votes(path.with_name(VOTES_NAME), votes)
    write_label(path, label)
    return without


def _check(config: LabelConfig) -> None:
    check_min_points(config.min_points)
    for name in ("frames", "stride", "free_stride"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} is {getattr(config, name)}; expected 1 or more")
