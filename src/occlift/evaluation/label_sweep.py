"""Scores of labels under other numbers of frames, thresholds and policies for moving classes.

Figures 3 and 4 of EasyOcc (arXiv 2509.26087): IoU and mIoU of labels against truth over the number of fused frames, and
over the points that make a voxel occupied. Teachers look at every key frame once. The window grows outwards from the
current frame, votes are taken at every number of frames, and every threshold is decided from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final, get_args

from occlift.errors import ConfigError, DataError
from occlift.evaluation.audit import json_by_line
from occlift.evaluation.audit_measures import LabelCounts, count_against_truth, shift
from occlift.evaluation.label_tokens import LabelSample, in_time_order, select_labels
from occlift.evaluation.occupancy import space_field
from occlift.evaluation.score_table import ScoreTable
from occlift.label_space import OCC3D, UNKNOWN, LabelSpace, Taxonomy
from occlift.labels.config import UNRECORDED, LabelConfig
from occlift.labels.decide import DecisionConfig, decide
from occlift.labels.files import check_some_free, read_truth
from occlift.labels.fuse import Moving
from occlift.labels.manifest import MANIFEST_NAME, open_manifest, read_manifest
from occlift.labels.scene import VOTES_NAME, SceneLabeller
from occlift.labels.vote import Votes, read_votes
from occlift.metrics.occupancy import MASK_WORDS, MASKS, Mask, evaluated_voxels, stored_masks
from occlift.runtime.progress import track
from occlift.runtime.words import counted
from occlift.scenes.dataset import DrivingDataset
from occlift.teachers.registry import depth_teacher, semantics_teacher

FORMAT: Final = "occlift label sweep"


@dataclass(frozen=True, kw_only=True, eq=False)
class SweepPoint:
    """Labels made with one combination of settings, against truth.

    Attributes:
        frames: number of key frames fused.
        min_points: number of points that make a voxel occupied.
        moving: policy for moving classes in other frames.
        counts: histograms against truth.
    """

    frames: int
    min_points: int
    moving: Moving
    counts: LabelCounts


@dataclass(frozen=True, kw_only=True, eq=False)
class Sweep:
    """Labels made with several combinations of settings, against truth.

    Attributes:
        labels: folder of the labels whose configuration was varied.
        truth: folder of the truth.
        tokens: the samples, sorted.
        config: configuration of `labels`; everything that was not varied is as there.
        shift_voxels: number of voxels by which the labels were moved up before they were scored.
        points: every combination, by policy, then frames, then threshold.
        without_label, without_truth: samples that were left out.
        space: grid and classes of labels and truth.
    """

    labels: str
    truth: str
    tokens: tuple[str, ...]
    config: LabelConfig
    shift_voxels: int
    points: tuple[SweepPoint, ...]
    without_label: tuple[str, ...] = ()
    without_truth: tuple[str, ...] = ()
    space: LabelSpace = OCC3D

    @property
    def masks(self) -> tuple[Mask, ...]:
        """Masks over which was counted."""
        return tuple(self.points[0].counts.unknown_as_free.histograms)

    def table(self) -> ScoreTable:
        """A row per combination of settings: IoU and mIoU with the camera mask and without, unknown taken as free.

        Other masks are shown where neither was counted. The best of every column is marked.
        """
        whats = ("IoU", f"mIoU {self.space.taxonomy.free}")
        shown = [mask for mask in self.masks if mask in ("camera", "none")] or self.masks
        columns = [(mask, what) for mask in shown for what in whats]
        values = [[_score(point, mask, what) for mask, what in columns] for point in self.points]
        best = [max((row[i] for row in values if not math.isnan(row[i])), default=None) for i in range(len(columns))]
        return ScoreTable(
            title=f"{counted(len(self.tokens), 'label')}, unknown as free, absent classes skipped, per cent",
            corner="label",
            columns=tuple(f"{what}, {MASK_WORDS[mask]}" for mask, what in columns),
            rows=tuple(
                f"{counted(p.frames, 'frame')}, {counted(p.min_points, 'point')}, {p.moving}" for p in self.points
            ),
            values=tuple(tuple(None if math.isnan(value) else value for value in row) for row in values),
            best=tuple(tuple(value == top for value, top in zip(row, best, strict=True)) for row in values),
        )

    def to_json(self) -> str:
        """Every point with its histograms and scores; NaN as null."""
        points = [
            {
                "frames": point.frames,
                "min_points": point.min_points,
                "moving": point.moving,
                "scores_unknown_as_free": point.counts.unknown_as_free.named(),
                "scores_known": point.counts.known.named(),
                "unknown_share": {mask: point.counts.unknown_share(mask) for mask in self.masks},
                "histograms_unknown_as_free": {
                    mask: h.tolist() for mask, h in point.counts.unknown_as_free.histograms.items()
                },
                "histograms_known": {mask: h.tolist() for mask, h in point.counts.known.histograms.items()},
            }
            for point in self.points
        ]
        return json_by_line(
            {
                "format": FORMAT,
                **space_field(self.space),
                "labels": self.labels,
                "truth": self.truth,
                "config": self.config.identity({}, {}),
                "shift_voxels": self.shift_voxels,
                "without_label": list(self.without_label),
                "without_truth": list(self.without_truth),
                "tokens": list(self.tokens),
                "points": points,
            }
        )

    def write_figures(self, out: Path) -> list[Path]:
        """Draws what was varied, as PNG in the folder `out`; returns the files.

        `frames.png`: over the number of frames, a line per threshold. `min_points.png`: over the threshold, a line per
        number of frames. `moving.png`: over the frames (or the threshold, if only that was varied), a line per policy.
        What is neither axis nor line is as in the labels' own configuration.
        """
        return [
            self._write_figure(out / f"{name}.png", axis, line)
            for name, axis, line in (
                ("frames", "frames", "min_points"),
                ("min_points", "min_points", "frames"),
                ("moving", "frames" if len(self._values("frames")) > 1 else "min_points", "moving"),
            )
            if len(self._values(axis)) > 1 and len(self._values(name)) > 1
        ]

    def _write_figure(self, path: Path, axis: str, line: str) -> Path:
        from occlift.viz.curves import Curve, Series, write_curves_png

        own = {
            "frames": self.config.frames,
            "min_points": self.config.decision.min_points,
            "moving": self.config.moving,
        }
        fixed = {
            name: own[name] if own[name] in self._values(name) else self._values(name)[-1]
            for name in own
            if name not in (axis, line)
        }
        shown = [p for p in self.points if all(getattr(p, name) == value for name, value in fixed.items())]
        mask = self.masks[0]
        ticks = tuple(float(value) for value in self._values(axis))

        def curve(title: str, y_label: str, score: Callable[[SweepPoint], float]) -> Curve:
            series = []
            for value in self._values(line):
                points = [p for p in shown if getattr(p, line) == value]
                series.append(
                    Series(
                        name=_words(line, value),
                        x=tuple(float(getattr(p, axis)) for p in points),
                        y=tuple(map(score, points)),
                    )
                )
            return Curve(
                title=title, x_label=_AXES[axis], y_label=y_label, series=tuple(series), x_ticks=ticks,
                log_x=axis == "min_points",
            )  # fmt: skip

        said = [_words(name, value) for name, value in fixed.items()]
        said += [_words(line, self._values(line)[0])] if len(self._values(line)) == 1 else []
        if others := self.config.decision.class_min_points:
            said.append("other thresholds: " + ", ".join(f"{name} {number}" for name, number in others.items()))
        note = (
            f"{counted(len(self.tokens), 'label')}, {', '.join(said)}; classes by {self.config.semantics}, depth by "
            f"{self.config.depth}; scored with {MASK_WORDS[mask]}, unknown as free"
        )
        write_curves_png(
            path,
            f"Labels against truth, by {_AXES[axis]}",
            note,
            (
                curve("geometric IoU", "per cent", lambda p: _score(p, mask, "IoU")),
                curve(
                    f"mIoU, {self.space.taxonomy.free} classes, absent skipped",
                    "per cent",
                    lambda p: _score(p, mask, "mIoU"),
                ),
                curve("unknown in the label", "per cent of the mask", lambda p: p.counts.unknown_share(mask)),
            ),
        )
        return path

    def _values(self, name: str) -> list[Any]:
        """Values of a setting, in the order of the points."""
        return list(dict.fromkeys(getattr(point, name) for point in self.points))


_MOVING_WORDS: Final[Mapping[Moving, str]] = {
    "drop": "moving dropped",
    "keep": "moving kept",
    "still": "kept where still",
    "boxes": "carried by boxes",
}

_AXES: Final = {"frames": "key frames fused", "min_points": "points that make a voxel occupied"}
"""Labels of the x axis."""


def sweep(
    labels: Path,
    truth: Path,
    *,
    data: DrivingDataset | None = None,
    frames: Sequence[int] = (),
    min_points: Sequence[int] = (),
    moving: Sequence[Moving] = (),
    tokens: Collection[str] | None = None,
    masks: Sequence[Mask] = MASKS,
    shift_voxels: int = 0,
    allow_missing: bool = False,
) -> Sweep:
    """Scores the labels of a folder as they would be under every combination of some settings.

    Teachers, grid, classes and all other settings are those in the folder's manifest. If only the threshold is varied
    and the folder holds votes (`occlift label --keep-votes`), neither data set nor teachers are needed. Otherwise
    teachers look at every image once; what is held in memory are the views of the widest window.

    Args:
        data: the data set that the labels were made from.
        frames: how many key frames are fused; empty: as many as in the labels.
        min_points: how many points make a voxel occupied; empty: as many as in the labels. Thresholds of single classes
            stay as they are.
        moving: policies; empty: that of the labels. `still` and `boxes` are fused anew for every number of frames.
        tokens, masks, shift_voxels, allow_missing: as in `occlift.evaluation.audit.audit`.

    Raises:
        ConfigError: nothing is varied, a value is out of range, the data set is needed and missing, or teachers or
            settings have changed since the labels were made (says what differs).
        DataError: there is no manifest, a sample lacks its label or its truth, or maps or files are missing or damaged.
    """
    config, space = label_config(labels), read_manifest(labels).space
    _check(config, space.taxonomy, frames, min_points, moving)
    selection = select_labels(labels, truth, tokens=tokens, allow_missing=allow_missing)
    thresholds = sorted(set(min_points)) or [config.decision.min_points]
    total: dict[tuple[Moving, int, int], LabelCounts] = {}
    votes = _votes(labels, selection.samples, config, space, data, frames, moving)
    for sample, ways in track(votes, "sweep", total=len(selection.samples)):
        assert sample.truth, "selected with truth"
        frame = read_truth(sample.truth, stored_masks(masks), space=space)
        check_some_free(sample.truth, frame.semantics, space)
        evaluated = evaluated_voxels(
            masks, truth=frame.semantics, stored=frame.masks, num_classes=space.taxonomy.num_classes
        )
        for (policy, number), found in ways.items():
            for threshold in thresholds:
                decision = replace(config.decision, min_points=threshold)
                semantics = decide(found, decision, space.taxonomy).semantics
                semantics = shift(semantics, shift_voxels, fill=UNKNOWN)
                try:
                    counts = count_against_truth(semantics, frame.semantics, evaluated, taxonomy=space.taxonomy)
                except DataError as error:
                    raise DataError(f"{sample.truth}: {error}") from error
                way = policy, number, threshold
                total[way] = total[way] + counts if way in total else counts
    return Sweep(
        labels=str(labels),
        truth=str(truth),
        tokens=selection.tokens,
        config=config,
        shift_voxels=shift_voxels,
        points=tuple(
            SweepPoint(moving=policy, frames=number, min_points=threshold, counts=counts)
            for (policy, number, threshold), counts in total.items()
        ),
        without_label=selection.without_label,
        without_truth=selection.without_truth,
        space=space,
    )


def label_config(labels: Path) -> LabelConfig:
    """The configuration with which the labels of a folder were made, out of its manifest.

    Raises:
        DataError: there is no manifest, or it is that of another version of this program.
    """
    plain = {**UNRECORDED, **read_manifest(labels).config}
    try:
        decision = dict(plain["decision"])
        decision["carve"] = float("inf") if decision["carve"] is None else decision["carve"]
        settings = {field.name: plain[field.name] for field in fields(LabelConfig)}
        return LabelConfig(**{**settings, "decision": DecisionConfig(**decision)})
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{labels / MANIFEST_NAME}: its configuration is not of this version ({type(error).__name__}: {error}); "
            "make the labels again"
        ) from error


def _check(
    config: LabelConfig,
    taxonomy: Taxonomy,
    frames: Sequence[int],
    min_points: Sequence[int],
    moving: Sequence[Moving],
) -> None:
    if not (frames or min_points or moving):
        raise ConfigError("nothing to sweep over: name values of frames, min_points or moving")
    if config.decision.fusion != "votes":
        raise ConfigError(
            f"these labels were made by fusion={config.decision.fusion}, which counts no points and has no threshold: "
            "only labels of fusion=votes can be swept"
        )
    if frames and config.window == "scene":
        raise ConfigError("these labels fuse whole scenes (window scene): the number of frames has no effect on them")
    for policy in moving:
        if policy not in get_args(Moving):
            raise ConfigError(f"moving={policy}: expected some of {', '.join(get_args(Moving))}")
    for number in frames or (config.frames,):
        replace(config, frames=number).check(taxonomy)
    for number in min_points:
        replace(config.decision, min_points=number).check(taxonomy)


def _votes(
    labels: Path,
    samples: Sequence[LabelSample],
    config: LabelConfig,
    space: LabelSpace,
    data: DrivingDataset | None,
    frames: Sequence[int],
    moving: Sequence[Moving],
) -> Iterator[tuple[LabelSample, dict[tuple[Moving, int], Votes]]]:
    """Per sample the votes by policy and number of frames: those that were kept, if they are all that is needed."""
    without_votes = [sample for sample in samples if not sample.label.with_name(VOTES_NAME).exists()]
    if not (frames or moving or without_votes):
        for sample in samples:
            found = read_votes(sample.label.with_name(VOTES_NAME), space=space)
            yield sample, {(config.moving, config.frames): found}
        return
    if data is None:
        raise ConfigError(
            "a sweep over frames or moving needs the data set (--root)"
            if frames or moving
            else f"{labels}: {len(without_votes)} labels have no {VOTES_NAME} beside them; name the data set (--root), "
            "or make labels with --keep-votes"
        )
    semantics = semantics_teacher(
        config.semantics, data, seed=config.seed, options=config.semantics_options, taxonomy=space.taxonomy
    )
    depth = depth_teacher(config.depth, data, seed=config.seed, options=config.depth_options)
    # Refuses if the teachers that these names stand for have changed since.
    open_manifest(labels, config.identity(semantics.settings, depth.settings), space)
    labeller = SceneLabeller(data, labels, config, semantics, depth, space=space)
    for scene, placed in groupby(in_time_order(samples, data), key=lambda entry: entry[1].scene):
        for position, sample in placed:
            yield (
                sample,
                labeller.sweep(
                    scene,
                    position,
                    frames=frames or (config.frames,),
                    moving=tuple(dict.fromkeys(moving)) or (config.moving,),
                ),
            )


def _score(point: SweepPoint, mask: Mask, what: str) -> float:
    counts = point.counts.unknown_as_free
    return counts.geometric_iou(mask) if what == "IoU" else counts.mean_iou(mask)


def _words(name: str, value: Any) -> str:
    if name == "frames":
        return counted(value, "frame")
    return counted(value, "point") if name == "min_points" else _MOVING_WORDS[value]
