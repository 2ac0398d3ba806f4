"""Numbers of several runs in rows and columns, the best marked; as text, Markdown or whatever a caller makes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from occlift.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """Numbers of several runs; higher is better everywhere.

    Attributes:
        title: what all numbers have in common.
        corner: the heading of the column of row names.
        values: [row][column], per cent; None where there is no number.
        best: [row][column], which numbers are the best of those they compete with.
        notes: what a reader must know before believing a difference.
    """

    title: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    best: tuple[tuple[bool, ...], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """As a Markdown table, best numbers in bold, notes below."""
        lines = [
            f"{self.title}:",
            "",
            "| " + " | ".join((self.corner, *self.columns)) + " |",
            "| --- |" + " ---: |" * len(self.columns),
        ]
        for name, values, marks in zip(self.rows, self.values, self.best, strict=True):
            cells = [
                f"**{value:.2f}**" if mark else format_score(value) for value, mark in zip(values, marks, strict=True)
            ]
            lines.append("| " + " | ".join((name, *cells)) + " |")
        lines += [f"\n{note}" for note in self.notes]
        return "\n".join(lines) + "\n"


def best_of(values: Sequence[float | None]) -> tuple[bool, ...]:
    """Which values are the largest; none where there is only one, or all are 0.

    >>> best_of([1.0, None, 3.0, 3.0])
    (False, False, True, True)
    """
    numbers = [value for value in values if value is not None]
    if len(values) < 2 or not numbers or max(numbers) == 0:
        return (False,) * len(values)
    return tuple(value == max(numbers) for value in values)


def format_score(value: float | None) -> str:
    """A score with two decimals; a dash for none."""
    return "–" if value is None or math.isnan(value) else f"{value:.2f}"


def run_names(paths: Sequence[Path], names: Sequence[str]) -> tuple[str, ...]:
    """Names of the runs whose files are compared: those given, or the shortest ends of the paths that tell them apart.

    Raises:
        ConfigError: there is no file, or not one name for each.
    """
    if not paths:
        raise ConfigError(
            "nothing to compare: name the JSON files that `occlift evaluate --json` or `occlift evaluate-bev --json` "
            "wrote"
        )
    if names and len(names) != len(paths):
        raise ConfigError(f"{len(names)} names for {len(paths)} files; expected one for each")
    return tuple(names) or _short_names(paths)


def _short_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """The shortest ends of the paths, without suffix, that tell them apart."""
    parts = [path.with_suffix("").absolute().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = tuple("/".join(p[-length:]) for p in parts)
        if len(set(names)) == len(names):
            return names
    return tuple(str(path) for path in paths)
