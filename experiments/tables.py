"""Tables of results over several seeds: means and spreads, whether claims hold, Markdown.

*Spread*: sample standard deviation over the seeds, s = √(Σ(x − mean)² / (n − 1)).

*A claim that A is better than B holds* if the difference of the means exceeds twice its standard error,
√(s_A²/n_A + s_B²/n_B). A row with a single seed borrows the spread of the rows of its own kind (EasyOcc, rendering, …)
that have several seeds, pooled over all tables: √(Σ(n_i − 1)s_i² / Σ(n_i − 1)). Of its own kind, because kinds
differ by up to ten times in how much they vary. Where no row of its kind has several seeds nothing is decided.

Where the runs of A and B are pairs (the same seed draws the same labels for both), the error is that of the mean of the
seeds' own differences, s_(A−B)/√n: what the choice of labels does to both alike is no doubt about which is better.

*A claim that A reaches a share of B holds* if the mean of A is at least that share of the mean of B.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Final, NamedTuple

from occlift.errors import DataError
from runs import Result, write_whole

IOU: Final = "iou_camera"
MASKED: Final = "miou_17_camera_absent_skipped"
UNMASKED_IOU: Final = "iou_none"
UNMASKED: Final = "miou_17_none_absent_skipped"
RAYS: Final = "ray_iou_17"
VEHICLE: Final = "bev_iou_vehicle_filtered"
ALL_VEHICLES: Final = "bev_iou_vehicle_unfiltered"
STEP: Final = "step_seconds"
MEMORY: Final = "peak_memory"

_HEADINGS: Final = {
    IOU: "IoU, camera mask",
    MASKED: "mIoU 17, camera mask",
    UNMASKED_IOU: "IoU, no mask",
    UNMASKED: "mIoU 17, no mask",
    RAYS: "RayIoU",
    VEHICLE: "vehicle IoU, filtered",
    ALL_VEHICLES: "vehicle IoU, all",
    STEP: "s per step",
    MEMORY: "peak GB",
}
_COSTS: Final = (STEP, MEMORY)
"""Scores of which less is better."""

_STANDARD_ERRORS: Final = 2.0
_DASH: Final = "–"

READING: Final = (
    "±: sample standard deviation over the seeds; of a difference its standard error, for which a row of one seed "
    "borrows the pooled spread of rows of its kind with several. *Holds*: the difference exceeds twice its standard "
    "error (to reach a share of another row: the mean does). Ratios of costs say how many times less. A step: median, "
    "from a batch in memory to updated weights. Peak: of the training process, resident; on a GPU, of tensors there."
)
"""How to read the tables."""


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        label: text of the first cell.
        runs: names of runs that differ in the seed only; the row shows their mean.
        context: whether the row is there to read the others by, and set in italics.
    """

    label: str
    runs: tuple[str, ...]
    context: bool = False


@dataclass(frozen=True)
class Claim:
    """A statement about two rows that the table checks.

    Attributes:
        text: the claim, a short sentence.
        score: name of the score compared.
        row: label of the row that is said to be better.
        than: label of the row it is compared with.
        paper: the paper's figure, as the table prints it; empty: none.
        over: labels of two other rows: the *gain* of `row` over `than` is said to exceed the gain of the first of
            these over the second; empty: `row` and `than` themselves are compared.
        share: None: `row` is better. Otherwise `row` reaches at least this share of `than`.
        paired: whether the runs of these rows differ, seed by seed, in what is compared and in nothing else.
    """

    text: str
    score: str
    row: str
    than: str
    paper: str = ""
    over: tuple[str, str] | tuple[()] = ()
    share: float | None = None
    paired: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table.

    Attributes:
        letter: name by which it is asked for.
        scores: names of the scores in its columns.
        notes: sentences below it.
    """

    letter: str
    title: str
    scores: tuple[str, ...]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()


class Judgement(NamedTuple):
    """The numbers of a claim.

    Attributes:
        ratio: row over what it is compared with; of costs the other way round. NaN where one of them is missing or 0,
            or gains are compared.
        gain: difference of the means, positive if the row is better, or of two such differences; NaN: one is missing.
        error: standard error of the gain; None where no spread is known.
        verdict: `holds`, `does not hold`, `undecided` or `not run`.
    """

    ratio: float
    gain: float
    error: float | None
    verdict: str


class Scoreboard:
    """The numbers of all rows.

    Args:
        results: finished runs by name.
        tables: tables whose rows lend their spread to rows with a single seed.
    """

    def __init__(self, results: Mapping[str, Result], tables: Iterable[Table]) -> None:
        self._results = results
        # A row that several tables show counts once.
        self._rows = {row.runs: row for table in tables for row in table.rows if not row.context}.values()

    def values(self, row: Row, score: str) -> list[float]:
        """A score of every finished run of a row that has it."""
        found = [self._results[name].scores for name in row.runs if name in self._results]
        return [scores[score] for scores in found if score in scores]

    def pooled_spread(self, score: str, kind: str | None) -> float | None:
        """Spread of all rows of a kind that have several seeds, together; None if there are none."""
        rows = [self.values(row, score) for row in self._rows if self._kind(row) == kind]
        squares = sum((len(values) - 1) * stdev(values) ** 2 for values in rows if len(values) > 1)
        freedom = sum(len(values) - 1 for values in rows if len(values) > 1)
        return math.sqrt(squares / freedom) if freedom else None

    def judge(self, table: Table, claim: Claim) -> Judgement:
        """Checks a claim of a table."""
        by_label = {row.label: row for row in table.rows}
        rows = [by_label[label] for label in (claim.row, claim.than, *claim.over)]
        sign = -1.0 if claim.score in _COSTS else 1.0
        means = [_mean(self.values(row, claim.score)) for row in rows]
        above, below = means[:2] if sign > 0 else means[1::-1]
        if claim.paired:
            gains = [_gain(values, sign) for values in self._by_seed(rows, claim.score)]
            gain, error = _mean(gains), stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else None
        else:
            gain, error = _gain(means, sign), self._standard_error(rows, claim.score)
        if claim.share is not None:
            holds = above >= claim.share * below
        else:
            holds = error is not None and gain > _STANDARD_ERRORS * error
        verdict = "holds" if holds else "undecided" if error is None and claim.share is None else "does not hold"
        ratio = math.nan if claim.over or not below else above / below
        return Judgement(ratio, gain, error, "not run" if math.isnan(gain) else verdict)

    def _by_seed(self, rows: Sequence[Row], score: str) -> list[list[float]]:
        """A score of all rows, for every seed that all of them have."""
        seeds = zip(*(row.runs for row in rows), strict=True)
        found = [[self._results[name].scores.get(score) for name in names if name in self._results] for names in seeds]
        whole = [[value for value in values if value is not None] for values in found]
        return [values for values in whole if len(values) == len(rows)]

    def _standard_error(self, rows: Iterable[Row], score: str) -> float | None:
        total = 0.0
        for row in rows:
            values = self.values(row, score)
            spread = stdev(values) if len(values) > 1 else self.pooled_spread(score, self._kind(row))
            if spread is None or not values:
                return None
            total += spread**2 / len(values)
        return math.sqrt(total)

    def _kind(self, row: Row) -> str | None:
        """The kind of a row's runs; None where none is finished."""
        return next((self._results[name].kind for name in row.runs if name in self._results), None)


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan


def _gain(values: Sequence[float], sign: float) -> float:
    """How much the first is better than the second; with four values, how much more than the third than the fourth."""
    first, second, *over = values
    return sign * (first - second - (over[0] - over[1] if over else 0.0))


def section(table: Table, results: Mapping[str, Result], tables: Iterable[Table], made_by: str) -> str:
    """A table with its claims and notes, in Markdown.

    Args:
        results: finished runs by name; what is missing is a dash.
        tables: all tables of the experiment.
        made_by: the command and the data.
    """
    board = Scoreboard(results, tables)
    rows = []
    for row in table.rows:
        there = sum(name in results for name in row.runs)
        label = row.label if there == len(row.runs) else f"{row.label} ({there} of {len(row.runs)} runs)"
        cells = [label, *(_cell(board.values(row, score), score) for score in table.scores)]
        rows.append([f"*{cell}*" for cell in cells] if row.context else cells)
    shown = [results[name] for row in table.rows for name in row.runs if name in results]
    parts = [
        f"**({table.letter}) {table.title}.** {_origin(made_by, shown)}",
        _markdown(["", *(heading(score) for score in table.scores)], rows),
    ]
    if table.claims:
        claims = [_claim_cells(claim, board.judge(table, claim)) for claim in table.claims]
        parts.append(_markdown(["claim", "score", "paper", "ratio, here", "difference", "here it"], claims))
    return "\n\n".join([*parts, *table.notes]) + "\n"


def heading(score: str) -> str:
    """The heading of a score's column; a corruption's is its name."""
    return _HEADINGS.get(score) or score.removeprefix(f"{VEHICLE}_").replace("_", " ")


def _origin(made_by: str, results: Sequence[Result]) -> str:
    """One phrase per thing that the numbers depend on."""
    frames = sorted({int(result.scores["frames"]) for result in results if "frames" in result.scores})
    seeds = sorted({result.seed for result in results if result.seed is not None})
    commits = list(dict.fromkeys(result.commit for result in results if result.commit))
    machines = list(dict.fromkeys(result.machine for result in results if result.machine))
    said = [made_by]
    if frames:
        said.append(f"scored on {', '.join(map(str, frames))} key frames of its validation split")
    if seeds:
        said.append(f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}")
    if commits:
        said.append(f"{'commit' if len(commits) == 1 else 'commits'} {', '.join(commits)}")
    if machines:
        said.append(" or ".join(machines))
    return "; ".join(said) + "."


def _cell(values: Sequence[float], score: str) -> str:
    if not values:
        return _DASH
    digits = _digits(score)
    return f"{fmean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def _claim_cells(claim: Claim, judged: Judgement) -> list[str]:
    digits = _digits(claim.score)
    difference = _DASH if math.isnan(judged.gain) else f"{judged.gain:+.{digits}f}"
    if judged.error is not None:
        difference += f" ± {judged.error:.{digits}f}"
    return [
        claim.text if claim.share is None else f"{claim.text} (at least {100 * claim.share:g} %)",
        heading(claim.score),
        claim.paper or _DASH,
        _DASH if math.isnan(judged.ratio) else f"{judged.ratio:.2f}",
        difference,
        judged.verdict,
    ]


def _digits(score: str) -> int:
    return 3 if score == STEP else 2


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| --- |" + " ---: |" * (len(columns) - 1), *("| " + " | ".join(row) + " |" for row in rows)]
    return "\n".join(["| " + " | ".join(columns) + " |", *lines])


def write_between_markers(path: Path, name: str, text: str) -> None:
    """Replaces what stands between `<!-- name: begin -->` and `<!-- name: end -->` in a Markdown file.

    A file without these markers gets them, with the text between them, at its end; a missing file is made.

    Raises:
        DataError: one marker is missing, stands twice, or the end stands before the beginning.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    document = path.read_text(encoding="utf-8") if path.exists() else ""
    block = f"{begin}\n{text.strip()}\n{end}"
    counts = document.count(begin), document.count(end)
    if counts == (0, 0):
        document = f"{document.rstrip()}\n\n{block}\n".lstrip()
    elif counts == (1, 1) and document.index(begin) < document.index(end):
        before, _, rest = document.partition(begin)
        document = before + block + rest.partition(end)[2]
    else:
        raise DataError(
            f"{path}: expected {begin!r} once and {end!r} once after it, found {counts[0]} and {counts[1]}; mend the "
            "markers, or remove them to have the part appended"
        )
    write_whole(path, document)
