"""Runs side by side: which is better, by which score, on which classes.

Scores can be compared only if they were counted on the same frames against the same truth; what differs is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from occlift.errors import ConfigError
from occlift.evaluation.occupancy import Evaluation, read_evaluation
from occlift.evaluation.score_table import ScoreTable, best_of, run_names
from occlift.label_space import Taxonomy
from occlift.metrics.occupancy import MASK_WORDS, AbsentClass, Mask, class_sets, score_name
from occlift.metrics.rays import ray_score_name

PerClass = Literal["camera", "near_surface", "lidar", "none", "rays"]
"""Which IoU per class: over the voxels of a mask, or RayIoU."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Evaluations of one label space, with names that tell them apart."""

    names: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]

    @property
    def taxonomy(self) -> Taxonomy:
        """Classes of all evaluations."""
        return self.evaluations[0].space.taxonomy

    def table(self, *, masks: Sequence[Mask] = ("camera", "none"), absent: AbsentClass = "skipped") -> ScoreTable:
        """A row per run: masked mIoU, unmasked mIoU and RayIoU, with the geometric IoUs; best per column.

        Args:
            masks: masks of the columns.
            absent: how classes count that occur neither in truth nor in prediction.
        """
        columns: dict[str, str] = {}
        for mask in masks:
            columns[f"iou_{mask}"] = f"IoU, {MASK_WORDS[mask]}"
            for classes in class_sets(self.taxonomy):
                columns[score_name(mask, classes, absent)] = f"mIoU {classes}, {MASK_WORDS[mask]}"
        # RayIoU has one rule for absent classes, that of its public code: skipped.
        columns |= {ray_score_name(classes): f"RayIoU {classes}" for classes in class_sets(self.taxonomy)}
        scores = [evaluation.named() for evaluation in self.evaluations]
        columns = {key: title for key, title in columns.items() if any(key in named for named in scores)}
        values = tuple(tuple(_number(named.get(key)) for key in columns) for named in scores)
        by_column = [best_of([row[i] for row in values]) for i in range(len(columns))]
        return ScoreTable(
            title=f"{self._frames()}, per cent, classes absent from truth and prediction "
            + ("skipped" if absent == "skipped" else "counted as 0 (in RayIoU: skipped)"),
            corner="run",
            columns=tuple(columns.values()),
            rows=self.names,
            values=values,
            best=tuple(tuple(column[i] for column in by_column) for i in range(len(self.names))),
            notes=(*self.notes(), *(self._numbers_of_classes(masks) if absent == "skipped" else ())),
        )

    def class_table(self, which: PerClass) -> ScoreTable:
        """A row per semantic class, a column per run; best per class.

        Raises:
            ConfigError: a run was not scored in this way.
        """
        per_run = [self._class_iou(name, e, which) for name, e in zip(self.names, self.evaluations, strict=True)]
        values = tuple(tuple(_number(scores[name]) for scores in per_run) for name in self.taxonomy.names)
        return ScoreTable(
            title=f"{self._frames()}, {_what(which)} per class, per cent",
            corner="class",
            columns=self.names,
            rows=self.taxonomy.names,
            values=values,
            best=tuple(best_of(row) for row in values),
            notes=self.notes(),
        )

    def picture(self, path: Path, which: PerClass) -> None:
        """Writes bars per class as PNG.

        Raises:
            ConfigError: a run was not scored in this way.
        """
        from occlift.viz.bars import write_class_bars

        table = self.class_table(which)
        write_class_bars(
            path,
            title=table.title,
            runs=self.names,
            classes=self.taxonomy.names,
            values=tuple(zip(*table.values, strict=True)),
            colors=self.taxonomy.palette[:-1],
        )

    def notes(self) -> tuple[str, ...]:
        """Why differences between the runs may mean nothing; empty if they were scored alike."""
        found = []
        for name, evaluation in zip(self.names, self.evaluations, strict=True):
            if not evaluation.complete:
                left_out = len(evaluation.without_prediction) + len(evaluation.without_truth)
                found.append(
                    f"{name} leaves out {left_out} samples of its split: its scores are not those of the split."
                )
        first = self.evaluations[0]
        for name, evaluation in zip(self.names[1:], self.evaluations[1:], strict=True):
            if evaluation.tokens != first.tokens:
                common = len(set(evaluation.tokens) & set(first.tokens))
                found.append(
                    f"{name} was scored on other samples than {self.names[0]} ({evaluation.frames} and "
                    f"{first.frames}, {common} in common): their scores cannot be compared."
                )
            for mask, h in evaluation.counts.histograms.items():
                mine = first.counts.histograms.get(mask)
                # How often each class occurs in the truth follows from the histogram.
                if evaluation.tokens == first.tokens and mine is not None and (h.sum(1) != mine.sum(1)).any():
                    found.append(
                        f"{name} was scored against other truth or other masks than {self.names[0]} "
                        f"({MASK_WORDS[mask]}): their scores cannot be compared."
                    )
                    break
            if first.rays and evaluation.rays and first.rays.walk != evaluation.rays.walk:
                found.append(
                    f"The rays of {name} walked in {evaluation.rays.walk}, those of {self.names[0]} in "
                    f"{first.rays.walk}: their RayIoUs differ by that, too."
                )
        return tuple(found)

    def _numbers_of_classes(self, masks: Sequence[Mask]) -> list[str]:
        """Where means are over different numbers of classes: one that a run predicts and the truth lacks counts as 0
        for this run, and is skipped for others."""
        found = []
        for mask in masks:
            if any(mask not in evaluation.counts.histograms for evaluation in self.evaluations):
                continue
            counts = []
            for evaluation in self.evaluations:
                scores = evaluation.counts.class_iou(mask)
                counts.append(sum(not math.isnan(scores[name]) for name in self.taxonomy.names))
            if len(set(counts)) > 1:
                said = ", ".join(f"{number} of {name}" for number, name in zip(counts, self.names, strict=True))
                found.append(
                    f"mIoU ({MASK_WORDS[mask]}) is a mean over different numbers of classes: {said}; --absent zero "
                    "divides by all."
                )
        return found

    def _frames(self) -> str:
        counts = sorted({evaluation.frames for evaluation in self.evaluations})
        return f"{' and '.join(map(str, counts))} key frames"

    @staticmethod
    def _class_iou(name: str, evaluation: Evaluation, which: PerClass) -> dict[str, float]:
        per_class = evaluation.class_iou()
        if which not in per_class:
            again = "--rays" if which == "rays" else f"--mask {which}"
            raise ConfigError(
                f"{name} holds no scores for {which!r}, only {', '.join(per_class)}; evaluate with {again}"
            )
        return per_class[which]


def compare(paths: Sequence[Path], names: Sequence[str] = ()) -> Comparison:
    """Reads evaluations to compare, best baseline first or in any order.

    Args:
        paths: JSON files of `occlift evaluate`; for those of `occlift evaluate-bev` there is `compare_bev`.
        names: names of the runs; by default those of the files, with their folders where those are equal.

    Raises:
        ConfigError: there is no file, not one name for each, or their grids or classes differ.
        DataError: a file is missing or something else.
    """
    names = run_names(paths, names)
    evaluations = tuple(read_evaluation(path) for path in paths)
    for path, evaluation in zip(paths[1:], evaluations[1:], strict=True):
        evaluations[0].space.check_same(evaluation.space, f"the evaluation {paths[0]}", f"the evaluation {path}")
    return Comparison(names=names, evaluations=evaluations)


def _what(which: PerClass) -> str:
    return "RayIoU (mean of 1, 2 and 4 m)" if which == "rays" else f"IoU, {MASK_WORDS[which]},"


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
