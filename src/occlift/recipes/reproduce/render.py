"""Tables as text and as Markdown, made of results alone.

Nothing here judges: what a claim's last column says follows from the numbers by the rules of `scores`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from occlift.recipes.reproduce.plan import Plan, Row, TablePlan
from occlift.recipes.reproduce.record import Result
from occlift.recipes.reproduce.scores import MEMORY, SCORES, STEP, Judged, Measured, Scoreboard

_DASH: Final = "–"

_READING: Final = (
    "±: sample standard deviation over the seeds; of a difference its standard error, for which a row of one seed "
    "borrows the pooled spread of rows of its kind with several. *Holds*: the difference exceeds twice its standard "
    "error (to reach a share of another row: the mean does). Ratios of costs say how many times less. A step: median, "
    "from a batch in memory to updated weights. Peak: of the training process, resident; on a GPU, of tensors there."
)


def reading(plan: Plan) -> str:
    """How to read every table of a plan."""
    return f"{plan.reading} {_READING}"


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """Cells of text.

    Attributes:
        columns: headings; the first one's cells are words, the others' numbers.
        emphasised: rows set in italics.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    emphasised: frozenset[int] = frozenset()

    def markdown(self) -> str:
        """As a Markdown table."""
        lines = ["| " + " | ".join(self.columns) + " |", "| --- |" + " ---: |" * (len(self.columns) - 1)]
        for number, row in enumerate(self.rows):
            cells = [f"*{cell}*" if number in self.emphasised and cell else cell for cell in row]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A table, its claims, and what is to be said about them.

    Attributes:
        letter: of the table.
        made_by: the command, the data, the code and the machine.
    """

    letter: str
    title: str
    made_by: str
    scores: TextTable
    claims: TextTable
    notes: tuple[str, ...]

    def markdown(self) -> str:
        """With the title in bold; headings are the document's."""
        parts = [f"**({self.letter}) {self.title}.** {self.made_by}", self.scores.markdown()]
        if self.claims.rows:
            parts.append(self.claims.markdown())
        return "\n\n".join([*parts, *self.notes]) + "\n"


def sections(
    plan: Plan, results: Mapping[str, Result], letters: Sequence[str], commands: Mapping[str, str]
) -> tuple[Section, ...]:
    """The tables asked for.

    Args:
        results: of the finished runs, by name; what is missing is a dash.
        letters: of the tables; all if there are none.
        commands: by letter, what makes a table again.
    """
    board = Scoreboard(results, plan.tables)
    return tuple(_section(plan, table, board, results, commands[table.letter]) for table in plan.tables_of(letters))


def _section(plan: Plan, table: TablePlan, board: Scoreboard, results: Mapping[str, Result], command: str) -> Section:
    measured = [[board.measured(row, score) for score in table.scores] for row in table.rows]
    rows = tuple(
        (_label(row, results), *(_cell(found, score) for found, score in zip(line, table.scores, strict=True)))
        for row, line in zip(table.rows, measured, strict=True)
    )
    names = [name for row in table.rows for name in row.runs]
    return Section(
        letter=table.letter,
        title=table.title,
        made_by=_made_by(plan, command, [results[name] for name in names if name in results]),
        scores=TextTable(
            columns=("", *(SCORES[score] for score in table.scores)),
            rows=rows,
            emphasised=frozenset(i for i, row in enumerate(table.rows) if row.context),
        ),
        claims=TextTable(
            columns=("claim", "score", "paper", "ratio, here", "difference", "here it"),
            rows=tuple(_claim_row(board.judge(table, claim)) for claim in table.claims),
        ),
        notes=table.notes,
    )


def _label(row: Row, results: Mapping[str, Result]) -> str:
    there = sum(name in results for name in row.runs)
    return row.label if there == len(row.runs) else f"{row.label} ({there} of {len(row.runs)} runs)"


def _claim_row(judged: Judged) -> tuple[str, ...]:
    claim = judged.claim
    digits = _digits(claim.score)
    text = claim.text if claim.share is None else f"{claim.text} (at least {100 * claim.share:g} %)"
    difference = _DASH if math.isnan(judged.gain) else f"{judged.gain:+.{digits}f}"
    if judged.standard_error is not None:
        difference += f" ± {judged.standard_error:.{digits}f}"
    return (
        text,
        SCORES[claim.score],
        claim.paper or _DASH,
        _DASH if math.isnan(judged.ratio) else f"{judged.ratio:.2f}",
        difference,
        judged.verdict,
    )


def _cell(measured: Measured, score: str) -> str:
    if not measured.values:
        return _DASH
    digits = _digits(score)
    spread = "" if measured.spread is None else f" ± {measured.spread:.{digits}f}"
    return f"{measured.mean:.{digits}f}{spread}"


def _digits(score: str) -> int:
    return {STEP: 3, MEMORY: 2}.get(score, 2)


def _made_by(plan: Plan, command: str, results: Sequence[Result]) -> str:
    """One sentence per thing that the numbers depend on."""
    seeds = sorted({result.seed for result in results if result.seed is not None})
    frames = sorted({result.frames for result in results if result.frames is not None})
    said = [f"`{command}`: {plan.data}"]
    if frames:
        said.append(f"scored on {_listed(frames)} key frames of its validation split")
    if seeds:
        said.append(f"{'seed' if len(seeds) == 1 else 'seeds'} {_listed(seeds)}")
    if commits := _distinct(result.commit for result in results):
        said.append(f"{'commit' if len(commits) == 1 else 'commits'} {_listed(commits)}")
    if machines := _distinct(_machine(result) for result in results):
        said.append(" or ".join(machines))
    return "; ".join(said) + "."


def _machine(result: Result) -> str:
    facts = result.facts
    return ", ".join(
        [facts[name] for name in ("accelerator", "processor") if name in facts]
        + [f"{name} {facts[name]}" for name in ("torch",) if name in facts]
    )


def _distinct(values: Iterable[str | None]) -> tuple[str, ...]:
    """In the order in which they first come."""
    return tuple(dict.fromkeys(value for value in values if value))


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
