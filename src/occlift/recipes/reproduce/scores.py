"""From results to numbers: means and spreads over seeds, ratios, and whether a claim holds.

*Spread*: the sample standard deviation over the seeds, s = √(Σ(x − mean)² / (n − 1)).

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
from statistics import fmean, stdev
from typing import Final, Literal

from occlift.recipes.reproduce.plan import Claim, Row, TablePlan
from occlift.recipes.reproduce.record import Result
from occlift.training.corrupt import CORRUPTIONS

IOU: Final = "iou_camera"
MASKED: Final = "miou_17_camera_absent_skipped"
UNMASKED_IOU: Final = "iou_none"
UNMASKED: Final = "miou_17_none_absent_skipped"
RAYS: Final = "ray_iou"
VEHICLE: Final = "bev_iou_vehicle_filtered"
ALL_VEHICLES: Final = "bev_iou_vehicle_unfiltered"
STEP: Final = "step_seconds"
MEMORY: Final = "peak_memory"


def corrupted(corruption: str) -> str:
    """The name of the vehicle IoU, filtered, under a corruption: the mean over its strengths."""
    return f"{VEHICLE}_{corruption}"


SCORES: Final = {
    IOU: "IoU, camera mask",
    MASKED: "mIoU 17, camera mask",
    UNMASKED_IOU: "IoU, no mask",
    UNMASKED: "mIoU 17, no mask",
    RAYS: "RayIoU",
    VEHICLE: "vehicle IoU, filtered",
    ALL_VEHICLES: "vehicle IoU, all",
    **{corrupted(name): name.replace("_", " ") for name in CORRUPTIONS},
    STEP: "s per step",
    MEMORY: "peak GB",
}
"""Every number that a table may show: its name in a result, and the heading of its column."""

_COSTS: Final = frozenset({STEP, MEMORY})
"""Less is better."""

_STANDARD_ERRORS: Final = 2.0

Verdict = Literal["holds", "does not hold", "undecided", "not run"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A score over the seeds.

    Attributes:
        values: of the seeds that are finished and have this score.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """NaN without values."""
        return fmean(self.values) if self.values else math.nan

    @property
    def spread(self) -> float | None:
        """Sample standard deviation; None for fewer than two values."""
        return stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A claim beside its numbers.

    Attributes:
        ratio: row over what it is compared with; of costs the other way round. NaN where one of them is missing or 0,
            or gains are compared.
        gain: difference of the means, positive if the row is better, or of two such differences; NaN where one is
            missing.
        standard_error: of the gain; None where no spread is known.
    """

    claim: Claim
    ratio: float
    gain: float
    standard_error: float | None
    verdict: Verdict


class Scoreboard:
    """The numbers of all rows of all tables.

    Args:
        results: of the finished runs, by name.
        tables: whose rows lend their spread to rows with a single seed.
    """

    def __init__(self, results: Mapping[str, Result], tables: Iterable[TablePlan]) -> None:
        self._results = results
        # A row that several tables show counts once.
        self._rows = {row.runs: row for table in tables for row in table.rows if not row.context}.values()

    def measured(self, row: Row, score: str) -> Measured:
        """A score of a row over its finished runs."""
        found = [_value(self._results[name], score) for name in row.runs if name in self._results]
        return Measured(values=tuple(value for value in found if value is not None))

    def pooled_spread(self, score: str, kind: str | None) -> float | None:
        """Of all rows of a kind that have several seeds, together; None if there are none."""
        rows = [self.measured(row, score) for row in self._rows if self._kind(row) == kind]
        squares = sum((len(row.values) - 1) * row.spread**2 for row in rows if row.spread is not None)
        freedom = sum(len(row.values) - 1 for row in rows if row.spread is not None)
        return math.sqrt(squares / freedom) if freedom else None

    def judge(self, table: TablePlan, claim: Claim) -> Judged:
        """Whether a claim of a table holds."""
        by_label = {row.label: row for row in table.rows}
        rows = [by_label[label] for label in (claim.row, claim.than, *claim.over)]
        compared = [self.measured(row, claim.score) for row in rows]
        better, other = compared[:2]
        cost = claim.score in _COSTS
        above, below = (other.mean, better.mean) if cost else (better.mean, other.mean)
        gain = above - below
        if claim.over:
            gain -= compared[2].mean - compared[3].mean
        ratio = math.nan if claim.over or not below else above / below
        if claim.paired:
            gains = self._gains_by_seed(rows, claim.score, cost=cost)
            gain = fmean(gains) if gains else math.nan
            error = stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else None
        else:
            error = self._standard_error(rows, claim.score)
        verdict: Verdict
        if math.isnan(gain):
            verdict = "not run"
        elif claim.share is not None:
            verdict = "holds" if above >= claim.share * below else "does not hold"
        elif error is None:
            verdict = "undecided"
        else:
            verdict = "holds" if gain > _STANDARD_ERRORS * error else "does not hold"
        return Judged(claim=claim, ratio=ratio, gain=gain, standard_error=error, verdict=verdict)

    def _gains_by_seed(self, compared: Sequence[Row], score: str, *, cost: bool) -> list[float]:
        """What each seed gains, of those whose runs are finished in all rows."""
        gains = []
        for names in zip(*(row.runs for row in compared), strict=True):
            values = [_value(self._results[name], score) for name in names if name in self._results]
            found = [value for value in values if value is not None]
            if len(found) == len(names):
                first, second, *over = found
                gain = first - second - (over[0] - over[1] if over else 0.0)
                gains.append(-gain if cost else gain)
        return gains

    def _standard_error(self, compared: Iterable[Row], score: str) -> float | None:
        total = 0.0
        for row in compared:
            measured = self.measured(row, score)
            spread = self.pooled_spread(score, self._kind(row)) if measured.spread is None else measured.spread
            if spread is None or not measured.values:
                return None
            total += spread**2 / len(measured.values)
        return math.sqrt(total)

    def _kind(self, row: Row) -> str | None:
        """What was trained; None where nothing is finished."""
        kinds = [self._results[name].settings.get("kind") for name in row.runs if name in self._results]
        return kinds[0] if kinds else None


def _value(result: Result, score: str) -> float | None:
    """A score as tables show it: per cent, seconds, GB; None where the run has none."""
    if score == STEP:
        return result.step_seconds
    if score == MEMORY:
        # What is scarce: an accelerator's memory where there is one.
        peak = result.peak_device_bytes or result.peak_memory_bytes
        return None if peak is None else peak / 1e9
    named = result.evaluation.named() if result.evaluation is not None else result.bev or {}
    value = named.get(score, math.nan)
    return None if math.isnan(value) else value
