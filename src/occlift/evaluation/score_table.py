"""Numbers of several runs in rows and columns, the best marked; as text, Markdown or whatever a caller makes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass


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


def format_score(value: float | None) -> str:
    """A score with two decimals; a dash for none."""
    return "–" if value is None or math.isnan(value) else f"{value:.2f}"
