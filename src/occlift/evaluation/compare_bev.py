"""Bird's-eye-view networks side by side, from the files of `occlift evaluate-bev`.

A file holds one evaluation per corruption of the images. Only those under the same corruption compete, and only if they
were scored on the same key frames.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from occlift.errors import DataError
from occlift.evaluation.score_table import ScoreTable, best_of, run_names


@dataclass(frozen=True, kw_only=True)
class BevScored:
    """What a file of `occlift evaluate-bev` says about one corruption of the images.

    Attributes:
        frames: number of key frames.
        tokens: the key frames, sorted; None in files that do not say.
        images: what was done to the images, such as `fog 3`.
        scores: IoU by full name, per cent; None where there is none.
    """

    frames: int
    tokens: tuple[str, ...] | None
    images: str
    scores: Mapping[str, float | None]

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> BevScored:
        """From what `BevEvaluation.to_dict` gives.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        corruption = plain["corruption"]
        scores = {name: None if score is None else float(score) for name, score in plain["scores"].items()}
        if not scores or not all(name.startswith("bev_iou_") for name in scores):
            raise ValueError(f"its scores are {', '.join(scores) or 'none'}")
        return cls(
            frames=int(plain["frames"]),
            tokens=None if plain.get("tokens") is None else tuple(plain["tokens"]),
            images="images as they are" if corruption is None else f"{corruption['name']} {corruption['strength']}",
            scores=scores,
        )


@dataclass(frozen=True, kw_only=True)
class BevComparison:
    """Evaluations of bird's-eye-view networks, with names that tell them apart."""

    names: tuple[str, ...]
    evaluations: tuple[tuple[BevScored, ...], ...]

    def table(self) -> ScoreTable:
        """A row per run and corruption, a column per IoU; best per column among rows of one corruption."""
        scored = [(name, one) for name, found in zip(self.names, self.evaluations, strict=True) for one in found]
        images = tuple(dict.fromkeys(one.images for _, one in scored))
        # Runs that compete stand together.
        scored.sort(key=lambda pair: images.index(pair[1].images))
        columns = tuple(dict.fromkeys(column for _, one in scored for column in one.scores))
        values = tuple(tuple(one.scores.get(column) for column in columns) for _, one in scored)
        best = [[False] * len(columns) for _ in scored]
        for kind in images:
            rows = [row for row, (_, one) in enumerate(scored) if one.images == kind]
            for column in range(len(columns)):
                for row, mark in zip(rows, best_of([values[row][column] for row in rows]), strict=True):
                    best[row][column] = mark
        frames = sorted({one.frames for _, one in scored})
        alike = "" if len(images) > 1 else f", {images[0]}"
        return ScoreTable(
            title=f"Bird's-eye-view IoU, {' and '.join(map(str, frames))} key frames{alike}, per cent",
            corner="run",
            columns=tuple(column.removeprefix("bev_iou_").replace("_", " ") for column in columns),
            rows=tuple(name if len(images) == 1 else f"{name}, {one.images}" for name, one in scored),
            values=values,
            best=tuple(map(tuple, best)),
            notes=self.notes(),
        )

    def notes(self) -> tuple[str, ...]:
        """Why differences between the runs may mean nothing; empty if they were scored alike."""
        found = []
        first = self.evaluations[0][0]
        for name, (scored, *_) in zip(self.names[1:], self.evaluations[1:], strict=True):
            if scored.frames != first.frames or (scored.tokens and first.tokens and scored.tokens != first.tokens):
                common = set(scored.tokens or ()) & set(first.tokens or ())
                what = f", {len(common)} in common" if scored.tokens and first.tokens else ""
                found.append(
                    f"{name} was scored on other samples than {self.names[0]} ({scored.frames} and {first.frames}"
                    f"{what}): their scores cannot be compared."
                )
        return tuple(found)


def compare_bev(paths: Sequence[Path], names: Sequence[str] = ()) -> BevComparison:
    """Reads evaluations of bird's-eye-view networks to compare.

    Args:
        paths: JSON files of `occlift evaluate-bev`.
        names: names of the runs; by default those of the files, with their folders where those are equal.

    Raises:
        ConfigError: there is no file, or not one name for each.
        DataError: a file is missing or something else.
    """
    return BevComparison(names=run_names(paths, names), evaluations=tuple(map(_read, paths)))


def is_of_bev(path: Path) -> bool:
    """Whether a file looks as `occlift evaluate-bev --json` writes it: a list. `occlift evaluate` writes no list."""
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), list)
    except (OSError, ValueError):
        return False


def _read(path: Path) -> tuple[BevScored, ...]:
    try:
        found = tuple(map(BevScored.from_dict, json.loads(path.read_text(encoding="utf-8"))))
        if not found:
            raise ValueError("it is empty")
        return found
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: not an evaluation as `occlift evaluate-bev --json` writes it ({type(error).__name__}: {error})"
        ) from error
