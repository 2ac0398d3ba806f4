"""Tables of results over several seeds: means and spreads, whether claims hold, Markdown.

*Spread*: sample standard deviation over the seeds, s = √(Σ(x − mean)² / (n − 1)); and, where results have them, that of
the mean over draws of the scored scenes with replacement (bootstrap): what other scenes of the kind might have said.

*A difference* is that of the means, with its 95 % interval of Student's t. Its error is √(s_A²/n_A + s_B²/n_B), its
degrees of freedom are Welch's: ν = (Σ s_i²/n_i)² / Σ (s_i²/n_i)²/(n_i − 1). Where the runs of A and B are pairs (the
same seed draws the same labels for both), the error is that of the mean of the seeds' own differences, s_(A−B)/√n, and
ν = n − 1: what the choice of labels does to both alike is no doubt about which is better. What was not trained (a
prior) has no spread over seeds. Of a single seed nothing follows.

*A claim that A is better than B holds* if the difference is significant: its two-sided p, corrected for the number of
claims that the table tests (Holm, 1979), is at most 5 %, and A is better. *It does not hold* if B is, as significantly;
otherwise it is *undecided*. A claim that A reaches a share of B tests A − share · B.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

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

_LEVEL: Final = 0.05
_DASH: Final = "–"

READING: Final = (
    "±: sample standard deviation over the seeds; behind a stroke, standard deviation over the scenes, drawn 400 times "
    "with replacement. Of a difference: its 95 % interval over the seeds (Student's t, Welch's degrees of freedom), "
    "and over the scenes. *Holds*: significant at 5 % after Holm's correction for the number of claims that the table "
    "tests, which stands below it; *does not hold*: the opposite is; *undecided*: neither. Ratios of costs say how "
    "many times less. A step: median, from a batch in memory to updated weights. Peak: of the training process, "
    "resident; on a GPU, of tensors there."
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
        margin: half of the 95 % interval of the gain; None where no spread over seeds is known.
        over_scenes: 95 % interval of the gain over draws of the scenes; None where they are not known.
        verdict: `holds`, `does not hold`, `undecided`, `one seed: undecided` or `not run`.
    """

    ratio: float
    gain: float
    margin: float | None
    over_scenes: tuple[float, float] | None
    verdict: str


class _Estimate(NamedTuple):
    """A weighted sum of means, its standard error and its degrees of freedom."""

    value: float
    error: float
    freedom: float

    @property
    def margin(self) -> float:
        """Half of the 95 % interval."""
        return float(student.ppf(1 - _LEVEL / 2, self.freedom)) * self.error if self.error else 0.0

    @property
    def p(self) -> float:
        """Two-sided probability of a value as far from 0 if there is no difference."""
        if not self.error:
            return 1.0 if self.value == 0 else 0.0
        return 2 * float(student.sf(abs(self.value) / self.error, self.freedom))


class Scoreboard:
    """The numbers of all rows.

    Args:
        results: finished runs by name.
    """

    def __init__(self, results: Mapping[str, Result]) -> None:
        self._results = results

    def values(self, row: Row, score: str) -> list[float]:
        """A score of every finished run of a row that has it."""
        found = [self._results[name].scores for name in row.runs if name in self._results]
        return [scores[score] for scores in found if score in scores]

    def draws(self, row: Row, score: str) -> NDArray[np.float64] | None:
        """A score under every draw of the scenes, the mean over the seeds; None where a run has none."""
        found = [self._results[name].draws.get(score) for name in row.runs if name in self._results]
        whole = [draws for draws in found if draws is not None]
        if not whole or len(whole) < len(found) or len({len(draws) for draws in whole}) > 1:
            return None
        return np.mean(whole, axis=0)

    def judge(self, table: Table) -> list[Judgement]:
        """Checks the claims of a table, all together."""
        tested = [self._estimate(table, claim, claim.share or 1.0) for claim in table.claims]
        decided = iter(_holm([estimate.p for estimate in tested if estimate]))
        found = []
        for claim, estimate in zip(table.claims, tested, strict=True):
            rows, weights = _contrast(table, claim)
            means = [_mean(self.values(row, claim.score)) for row in rows]
            pairs = self._by_seed(rows, claim.score) if claim.paired else [means]
            gain = _mean([float(np.dot(weights, values)) for values in pairs])
            shown = self._estimate(table, claim)
            if estimate is None:
                verdict = "not run" if math.isnan(gain) else "one seed: undecided"
            else:
                significant = next(decided) <= _LEVEL
                verdict = "undecided" if not significant else "holds" if estimate.value > 0 else "does not hold"
            above, below = means[:2] if claim.score not in _COSTS else means[1::-1]
            found.append(
                Judgement(
                    ratio=math.nan if claim.over or not below else above / below,
                    gain=shown.value if shown else gain,
                    margin=shown.margin if shown else None,
                    over_scenes=self._over_scenes(rows, weights, claim.score),
                    verdict=verdict,
                )
            )
        return found

    def _estimate(self, table: Table, claim: Claim, share: float = 1.0) -> _Estimate | None:
        """What a claim compares; None where a row has no run, or no spread over seeds is known."""
        rows, weights = _contrast(table, claim, share)
        if claim.paired:
            gains = [float(np.dot(weights, values)) for values in self._by_seed(rows, claim.score)]
            if len(gains) < 2:
                return None
            return _Estimate(fmean(gains), stdev(gains) / math.sqrt(len(gains)), len(gains) - 1)
        value, variances, freedoms = 0.0, [], []
        for row, weight in zip(rows, weights, strict=True):
            values = self.values(row, claim.score)
            if not values or (len(values) == 1 and not self._is_fixed(row)):
                return None
            value += weight * fmean(values)
            if len(values) > 1:
                variances.append(weight**2 * stdev(values) ** 2 / len(values))
                freedoms.append(len(values) - 1)
        if not variances:
            return None
        squares = sum(variance**2 / freedom for variance, freedom in zip(variances, freedoms, strict=True))
        freedom = sum(variances) ** 2 / squares if squares else float(min(freedoms))
        return _Estimate(value, math.sqrt(sum(variances)), freedom)

    def _over_scenes(self, rows: Sequence[Row], weights: Sequence[float], score: str) -> tuple[float, float] | None:
        draws = [self.draws(row, score) for row in rows]
        known = [one for one in draws if one is not None]
        if len(known) < len(draws) or len({len(one) for one in known}) > 1:
            return None
        lower, upper = np.percentile(np.dot(weights, known), [100 * _LEVEL / 2, 100 * (1 - _LEVEL / 2)])
        return float(lower), float(upper)

    def _is_fixed(self, row: Row) -> bool:
        """Whether nothing of a row was trained, so that another seed would say the same."""
        return all(self._results[name].seed is None for name in row.runs)

    def _by_seed(self, rows: Sequence[Row], score: str) -> list[list[float]]:
        """A score of all rows, for every seed that all of them have."""
        seeds = zip(*(row.runs for row in rows), strict=True)
        found = [[self._results[name].scores.get(score) for name in names if name in self._results] for names in seeds]
        whole = [[value for value in values if value is not None] for values in found]
        return [values for values in whole if len(values) == len(rows)]


def _contrast(table: Table, claim: Claim, share: float = 1.0) -> tuple[list[Row], list[float]]:
    """The rows that a claim compares, and with which weights: what is better is positive."""
    by_label = {row.label: row for row in table.rows}
    sign = -1.0 if claim.score in _COSTS else 1.0
    weights = [sign, -sign * share, -sign, sign]
    labels = (claim.row, claim.than, *claim.over)
    return [by_label[label] for label in labels], weights[: len(labels)]


def _holm(p: Sequence[float]) -> list[float]:
    """p corrected for their number (Holm, 1979): the k-th smallest of m times m − k + 1, and none below one before."""
    corrected, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = largest
    return corrected


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan


def section(table: Table, results: Mapping[str, Result], made_by: str) -> str:
    """A table with its claims and notes, in Markdown.

    Args:
        results: finished runs by name; what is missing is a dash.
        made_by: the command and the data.
    """
    board = Scoreboard(results)
    rows = []
    for row in table.rows:
        there = sum(name in results for name in row.runs)
        label = row.label if there == len(row.runs) else f"{row.label} ({there} of {len(row.runs)} runs)"
        cells = [label, *(_cell(board.values(row, score), board.draws(row, score), score) for score in table.scores)]
        rows.append([f"*{cell}*" for cell in cells] if row.context else cells)
    shown = [results[name] for row in table.rows for name in row.runs if name in results]
    parts = [
        f"**({table.letter}) {table.title}.** {_origin(made_by, shown)}",
        _markdown(["", *(heading(score) for score in table.scores)], rows),
    ]
    if table.claims:
        judged = board.judge(table)
        columns = ["claim", "score", "paper", "ratio, here", "difference, 95 %", "over scenes, 95 %", "here it"]
        claims = [_claim_cells(claim, one) for claim, one in zip(table.claims, judged, strict=True)]
        if not any(one.over_scenes for one in judged):
            for cells in (columns, *claims):
                del cells[5]
        parts.append(_markdown(columns, claims))
        tested = sum(one.margin is not None for one in judged)
        parts.append(f"{tested} of {len(judged)} claims are tested.")
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


def _cell(values: Sequence[float], draws: NDArray[np.float64] | None, score: str) -> str:
    if not values:
        return _DASH
    digits = _digits(score)
    over_seeds = f"{stdev(values):.{digits}f}" if len(values) > 1 else None
    over_scenes = None if draws is None else f"{draws.std(ddof=1):.{digits}f}"
    if over_seeds is None and over_scenes is None:
        return f"{fmean(values):.{digits}f}"
    spread = over_seeds if over_scenes is None else f"{over_seeds or _DASH} / {over_scenes}"
    return f"{fmean(values):.{digits}f} ± {spread}"


def _claim_cells(claim: Claim, judged: Judgement) -> list[str]:
    digits = _digits(claim.score)
    difference = _DASH if math.isnan(judged.gain) else f"{judged.gain:+.{digits}f}"
    if judged.margin is not None:
        difference += f" ± {judged.margin:.{digits}f}"
    scenes = judged.over_scenes
    return [
        claim.text if claim.share is None else f"{claim.text} (at least {100 * claim.share:g} %)",
        heading(claim.score),
        claim.paper or _DASH,
        _DASH if math.isnan(judged.ratio) else f"{judged.ratio:.2f}",
        difference,
        _DASH if scenes is None else f"{scenes[0]:+.{digits}f} to {scenes[1]:+.{digits}f}",
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
