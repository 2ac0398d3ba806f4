"""The labels of one scene, one after the other, with a window of views that slides along.

Maps are made once per key frame, fused into the labels of its neighbours, and thrown away. What is held at a time are
the views of one window (5 bytes per pixel, and a quarter of that for the rays of every other pixel) and a table of
votes (44 MB for Occ3D's grid): 13 key frames of six images of 900×1600 take 0.6 GB.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from jaxtyping import Float, UInt8

from occlift.errors import DataError
from occlift.geometry.transforms import inverse, transform_points
from occlift.label_space import OCC3D, LabelSpace, Taxonomy
from occlift.labels.config import LabelConfig
from occlift.labels.decide import Decision, decide
from occlift.labels.depth_check import DepthCheck, check_depth, check_track, write_check
from occlift.labels.files import OccupancyLabel, label_path, write_label
from occlift.labels.from_views import add_views, decide_by_surface, points_per_ray
from occlift.labels.fuse import (
    Moving,
    carried_by_boxes,
    moving_points,
    standing_still,
    window,
)
from occlift.labels.outliers import without_outliers
from occlift.labels.view import View, view_of
from occlift.labels.visibility import label_of
from occlift.labels.vote import Tally, Votes, write_votes
from occlift.runtime.files import replacing
from occlift.scenes.dataset import DrivingDataset, HasBoxes, require
from occlift.scenes.frames import BoxAnnotation, KeyFrame
from occlift.teachers.teacher import DepthMap, DepthTeacher, SemanticMap, SemanticsTeacher

VOTES_NAME: Final = "votes.npz"

INCOMPLETE_NAME: Final = "incomplete.json"
"""Beside a label that had to do without some key frames of its window: their sample tokens."""


_Points = tuple[Float[np.ndarray, "_ 3"], UInt8[np.ndarray, " _"]]
"""Points, metres, NaN for none, and their classes."""


class MapSink(Protocol):
    """Where maps go that are to be kept."""

    def keep(self, frame: KeyFrame, semantics: Sequence[SemanticMap], depth: Sequence[DepthMap]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one label.

    Attributes:
        failed: why there is none; empty if there is.
        without: sample tokens of its window that it had to do without.
        teacher_s: wall clock of making maps for it: those of its window that were not there yet.
        fuse_s: of fusing, voting and deciding.
        write_s: of writing files.
    """

    scene: str
    token: str
    failed: str = ""
    without: tuple[str, ...] = ()
    teacher_s: float = 0.0
    fuse_s: float = 0.0
    write_s: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class _FrameViews:
    """The cleaned maps of one key frame."""

    views: tuple[View, ...]
    taxonomy: Taxonomy

    @cached_property
    def moving_global(self) -> tuple[Float[np.ndarray, "n 3"], UInt8[np.ndarray, " n"]]:
        """Points of classes that may move, metres, and their classes; only some policies ask for them."""
        found = [moving_points(view, view.global_from_camera, self.taxonomy) for view in self.views]
        return np.concatenate([points for points, _ in found]), np.concatenate([ids for _, ids in found])


class SceneLabeller:
    """Makes the labels of a scene.

    Attributes:
        keep_votes: write the votes beside every label.
        keep_maps: where the teachers' maps go; None: nowhere.
        space: grid and classes of the labels; the teachers answer in its classes.
    """

    def __init__(
        self,
        data: DrivingDataset,
        out: Path,
        config: LabelConfig,
        semantics: SemanticsTeacher,
        depth: DepthTeacher,
        *,
        keep_votes: bool = False,
        keep_maps: MapSink | None = None,
        space: LabelSpace = OCC3D,
    ) -> None:
        self._data, self._out, self._config = data, out, config
        self._semantics, self._depth = semantics, depth
        self._keep_votes, self._keep_maps = keep_votes, keep_maps
        self._space = space
        self._scene = ""
        self._made: dict[int, _FrameViews | DataError] = {}

    @cached_property
    def _tally(self) -> Tally:
        clamp = self._config.outside == "clamp"
        return Tally(self._space.grid, classes=self._space.taxonomy.free, clamp=clamp)

    def votes(self, scene: str, position: int) -> Votes:
        """The votes of one label, without writing anything.

        Raises:
            DataError: there are no maps of this key frame.
        """
        made, _, _, tokens = self._window(scene, position)
        return self._vote(made, position, tokens)

    def sweep(
        self, scene: str, position: int, *, frames: Collection[int], moving: Collection[Moving]
    ) -> dict[tuple[Moving, int], Votes]:
        """The votes of one label under other policies and numbers of frames, without writing anything.

        The teachers look once at the widest window; the narrower ones are fused on the way to it. Every entry equals
        what `votes` gives where the configuration has these `frames` and this `moving`.

        Raises:
            DataError: there are no maps of this key frame.
        """
        tokens = self._data.key_frame_tokens(scene)
        windows = {n: window(position, len(tokens), n, self._config.window) for n in sorted(set(frames))}
        made = self._views_at(scene, windows[max(windows)])
        if isinstance(own := made[position], DataError):
            raise own
        swept = {}
        for policy in moving:
            # What stands still, and what boxes carry, is fused anew: it is a matter of the whole window.
            grows = policy in ("drop", "keep")
            fused = range(0)
            for number, positions in windows.items():
                new = [p for p in positions if not (grows and p in fused)]
                usable = {p: views for p in new if not isinstance(views := made[p], DataError)}
                self._fuse(usable, position, tokens, policy)
                fused = positions
                keep = grows and number < max(windows)
                swept[policy, number] = self._tally.votes(points_per_ray=points_per_ray(own.views), keep=keep)
        return swept

    def label(self, scene: str, position: int) -> Outcome:
        """Writes the label of one key frame; quickest after that of the key frame before it.

        A key frame of which the teachers cannot make maps has no label, and is left out of its neighbours'.

        Raises:
            OSError: a file cannot be written.
        """
        token = self._data.key_frame_tokens(scene)[position]
        path = label_path(self._out, scene, token)
        started = time.perf_counter()
        try:
            made, without, teacher_s, tokens = self._window(scene, position)
            decision, votes = self._decide(made, position, tokens)
            check = self._check(made, position, tokens, decision)
        except DataError as error:
            return Outcome(scene=scene, token=token, failed=str(error), teacher_s=time.perf_counter() - started)
        frame = self._data.key_frame(token)
        cameras = [
            (image.pinhole_intrinsics_px, frame.ego_from_camera(image), image.height, image.width, image.valid())
            for image in frame.cameras
        ]
        label = label_of(decision, cameras, confidence=self._config.confidence, space=self._space)
        fused = time.perf_counter()
        self._write(path, label, votes, check, without)
        return Outcome(
            scene=scene,
            token=token,
            without=without,
            teacher_s=teacher_s,
            fuse_s=fused - started - teacher_s,
            write_s=time.perf_counter() - fused,
        )

    def _write(
        self, path: Path, label: OccupancyLabel, votes: Votes | None, check: DepthCheck, without: tuple[str, ...]
    ) -> None:
        """The label last: where it exists, everything does. A note that says it is flawed comes before it, and goes
        after it: whatever moment this is killed at, a flawed label never looks whole."""
        note = path.with_name(INCOMPLETE_NAME)
        if without:
            with replacing(note) as file:
                file.write((json.dumps(list(without)) + "\n").encode())
        if self._keep_votes and votes:
            write_votes(path.with_name(VOTES_NAME), votes)
        write_check(path, check)
        write_label(path, label, space=self._space)
        if not without:
            note.unlink(missing_ok=True)

    def _decide(
        self, made: dict[int, _FrameViews], current: int, tokens: Sequence[str]
    ) -> tuple[Decision, Votes | None]:
        """(decision, votes if it rests on votes)."""
        config = self._config
        if config.decision.fusion == "votes":
            votes = self._vote(made, current, tokens)
            return decide(votes, config.decision, self._space.taxonomy), votes
        posed, carried = self._posed(made, current, tokens, config.moving)
        return decide_by_surface(posed, self._space, carried=carried), None

    def _check(
        self, made: dict[int, _FrameViews], current: int, tokens: Sequence[str], decision: Decision
    ) -> DepthCheck:
        """What tells whether depth can be trusted: the moments just before and after, and where the car drives."""
        cars = {position: self._data.key_frame(tokens[position]).global_from_ego for position in made}
        before = max((p for p in made if p < current), default=current)
        after = min((p for p in made if p > current), default=current)
        others = [(cars[p], made[p].views) for p in (before, after) if p != current]
        check = check_depth((cars[current], made[current].views), others, list(cars.values()), self._space.taxonomy)
        ego_from_global = inverse(cars[current])
        track, blocked = check_track(decision.semantics, [ego_from_global @ car for car in cars.values()], self._space)
        return replace(check, track=track, blocked=blocked)

    def _window(self, scene: str, current: int) -> tuple[dict[int, _FrameViews], tuple[str, ...], float, Sequence[str]]:
        """(views by position, tokens that were left out, seconds that the teachers took, tokens of the scene)."""
        tokens = self._data.key_frame_tokens(scene)
        positions = window(current, len(tokens), self._config.frames, self._config.window)
        started = time.perf_counter()
        made = self._views_at(scene, positions)
        teacher_s = time.perf_counter() - started
        if isinstance(own := made[current], DataError):
            raise own
        without = tuple(tokens[p] for p in positions if isinstance(made[p], DataError))
        usable = {position: views for position, views in made.items() if not isinstance(views, DataError)}
        return usable, without, teacher_s, tokens

    def _vote(self, made: dict[int, _FrameViews], current: int, tokens: Sequence[str]) -> Votes:
        self._fuse(made, current, tokens, self._config.moving)
        return self._tally.votes(points_per_ray=points_per_ray(made[current].views))

    def _fuse(self, made: dict[int, _FrameViews], current: int, tokens: Sequence[str], moving: Moving) -> None:
        """Counts the votes of these views, by position, in the grid of the current key frame."""
        posed, others = self._posed(made, current, tokens, moving)
        add_views(self._tally, posed, self._space.taxonomy)
        for points_ego, class_id in others:
            self._tally.add_points(points_ego, class_id)

    def _posed(
        self, made: dict[int, _FrameViews], current: int, tokens: Sequence[str], moving: Moving
    ) -> tuple[Iterator[tuple[View, Float[np.ndarray, "4 4"], bool]], list[_Points]]:
        """The views with their places in the current ego frame and whether what may move counts in them; and points of
        other key frames that count besides."""
        ego_from_global = inverse(self._data.key_frame(tokens[current]).global_from_ego)
        others = self._moving(ego_from_global, made, current, tokens, moving)
        posed = (
            (view, ego_from_global @ view.global_from_camera, position == current or moving == "keep")
            for position, frame_views in made.items()
            for view in frame_views.views
        )
        return posed, others

    def _moving(
        self,
        ego_from_global: Float[np.ndarray, "4 4"],
        made: dict[int, _FrameViews],
        current: int,
        tokens: Sequence[str],
        moving: Moving,
    ) -> list[_Points]:
        """What may move, seen in other key frames, as far as the policy has a use for it: points (metres, the current
        ego frame; NaN: none) and their classes."""
        if moving in ("drop", "keep"):
            return []
        points, classes = {}, {}
        grid, taxonomy = self._space.grid, self._space.taxonomy
        for position, views in made.items():
            points_global, classes[position] = views.moving_global
            if moving == "boxes" and position != current:
                then, now = self._boxes(tokens[position]), self._boxes(tokens[current])
                points_global = carried_by_boxes(points_global, then, now, taxonomy)
            points[position] = transform_points(ego_from_global, points_global)
        if moving == "still":
            still = standing_still(grid, list(points.values()), frames=self._config.still_frames)
            for position, points_ego in points.items():
                index, inside_grid = grid.indices(points_ego)
                stays = inside_grid & still[tuple(np.where(inside_grid[:, None], index, 0).T)]
                points[position] = np.where(stays[:, None], points_ego, np.nan)
        return [(points[position], classes[position]) for position in points if position != current]

    def _boxes(self, token: str) -> tuple[BoxAnnotation, ...]:
        return require(self._data, HasBoxes, "moving objects carried by boxes").boxes(token)

    def _views_at(self, scene: str, positions: range) -> dict[int, _FrameViews | DataError]:
        """The views at these positions, or why there are none; forgets everything outside of them."""
        if scene != self._scene:
            self._scene, self._made = scene, {}
        self._made = {position: self._made[position] for position in positions if position in self._made}
        tokens = self._data.key_frame_tokens(scene)
        for position in positions:
            if position not in self._made:
                try:
                    self._made[position] = self._make_views(tokens[position])
                except DataError as error:
                    self._made[position] = error
        return {position: self._made[position] for position in positions}

    def _make_views(self, token: str) -> _FrameViews:
        frame, config = self._data.key_frame(token), self._config
        semantics, depth = self._semantics.semantics(frame), self._depth.depth(frame)
        for image, depth_map in zip(frame.cameras, depth, strict=True):
            # A network that broke down, or a file of the wrong unit: nothing of it must look like empty space.
            if not (np.isfinite(depth_map.depth_m) & (depth_map.depth_m > 0)).any():
                raise DataError(
                    f"{image.source.name}: the depth map ({config.depth}) has no pixel that is finite and above 0 m"
                )
        views = self._clean(frame, semantics, depth)
        if config.outliers == "drop":
            views = self._clean(frame, semantics, without_outliers(depth, views))
        if self._keep_maps:
            self._keep_maps.keep(frame, semantics, depth)
        return _FrameViews(views=views, taxonomy=self._space.taxonomy)

    def _clean(self, frame: KeyFrame, semantics: Sequence[SemanticMap], depth: Sequence[DepthMap]) -> tuple[View, ...]:
        config = self._config
        return tuple(
            view_of(
                image,
                class_map,
                depth_map,
                stride=config.stride,
                free_stride=config.free_stride_of(*depth_map.depth_m.shape),
                min_score=config.min_score,
                min_confidence=config.min_confidence,
                taxonomy=self._space.taxonomy,
            )
            for image, class_map, depth_map in zip(frame.cameras, semantics, depth, strict=True)
        )
