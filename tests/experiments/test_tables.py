"""Tables from results by hand, and the text between markers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from occlift.errors import DataError
from runs import Result
from tables import MASKED, MEMORY, RAYS, STEP, Claim, Row, Scoreboard, Table, section, write_between_markers

SCORES = {"A-s0": 10, "A-s1": 12, "A-s2": 14, "B-s0": 20, "B-s1": 20, "B-s2": 26, "C-s0": 25}
"""mIoU of the results by hand. A: mean 12, spread 2. B: mean 22, spread √12. Pooled: √((2·4 + 2·12)/4) = √8."""


def results(*, without: tuple[str, ...] = (), kinds: dict[str, str] | None = None) -> dict[str, Result]:
    """A step of A takes 1 s, of B and C 0.25 s."""
    return {
        name: Result(
            kind=(kinds or {}).get(name[0], "train_easyocc"), seed=int(name[-1]), seconds=60.0, commit="abc",
            scores={MASKED: score, "frames": 1, STEP: 1.0 if name[0] == "A" else 0.25, MEMORY: 1.5},
            machine="a machine, torch 2.6",
        )
        for name, score in SCORES.items() if name not in without
    }  # fmt: skip


def table(*claims: Claim) -> Table:
    rows = tuple(Row(label=letter, runs=tuple(n for n in SCORES if n[0] == letter)) for letter in "ABC")
    scores = (MASKED, RAYS, STEP, MEMORY)
    return Table(letter="a", title="By hand", scores=scores, rows=rows, claims=claims, notes=("A note.",))


def test_claims_are_judged_by_the_spread_over_the_seeds() -> None:
    claims = (
        Claim("B beats A", MASKED, "B", "A"),
        Claim("A beats B", MASKED, "A", "B"),
        Claim("C beats B", MASKED, "C", "B"),
        Claim("A reaches half of B", MASKED, "A", "B", share=0.5),
        Claim("A reaches 60 % of B", MASKED, "A", "B", share=0.6),
        Claim("B is faster", STEP, "B", "A"),
        Claim("B adds more to A than A to C", MASKED, "B", "A", over=("A", "C")),
    )
    made = table(*claims)
    board = Scoreboard(results(), [made])
    assert board.pooled_spread(MASKED, "train_easyocc") == pytest.approx(8**0.5)
    judged = [board.judge(made, claim) for claim in claims]
    refuted = "does not hold"
    assert [j.verdict for j in judged] == ["holds", refuted, refuted, "holds", refuted, "holds", "holds"]
    assert [j.ratio for j in judged[:-1]] == pytest.approx([22 / 12, 12 / 22, 25 / 22, 12 / 22, 12 / 22, 4.0])
    assert math.isnan(judged[-1].ratio)
    assert [j.gain for j in judged] == pytest.approx([10, -10, 3, -10, -10, 0.75, 10 - (12 - 25)])
    # √(4/3 + 12/3); C has one seed and borrows the pooled spread: √(8/1 + 12/3).
    assert judged[0].error == pytest.approx((16 / 3) ** 0.5)
    assert judged[2].error == pytest.approx(12**0.5)
    assert judged[-1].error == pytest.approx((12 / 3 + 4 / 3 + 4 / 3 + 8) ** 0.5)


def test_pairs_are_judged_by_the_differences_of_their_seeds() -> None:
    claims = (
        Claim("B beats A", MASKED, "B", "A", paired=True),
        Claim("B is faster", STEP, "B", "A", paired=True),
        Claim("B adds more to A than A to B", MASKED, "B", "A", over=("A", "B"), paired=True),
    )
    made = table(*claims)
    judged = [Scoreboard(results(), [made]).judge(made, claim) for claim in claims]
    # 20 − 10, 20 − 12, 26 − 14: mean 10, spread 2; half as much without pairs: √(16/3).
    assert [j.gain for j in judged] == pytest.approx([10, 0.75, 20])
    assert judged[0].error == pytest.approx(2 / 3**0.5)
    assert judged[2].error == pytest.approx(4 / 3**0.5)
    assert [j.verdict for j in judged] == ["holds"] * 3
    # A seed that one of them lacks is left out of both: 20 − 10, 20 − 12. One pair says nothing of its error.
    for without, gain, verdict in ((("A-s2",), 9, "holds"), (("A-s2", "B-s1"), 10, "undecided")):
        found = Scoreboard(results(without=without), [made]).judge(made, claims[0])
        assert (found.gain, found.verdict) == (pytest.approx(gain), verdict)


def test_one_seed_borrows_the_spread_of_its_own_kind() -> None:
    claim = Claim("C beats A", MASKED, "C", "A")
    made = table(claim)
    board = Scoreboard(results(kinds={"A": "train_rendering"}), [made])
    assert board.pooled_spread(MASKED, "train_rendering") == pytest.approx(2.0)
    assert board.pooled_spread(MASKED, "train_easyocc") == pytest.approx(12**0.5)
    assert board.judge(made, claim).error == pytest.approx((12 + 4 / 3) ** 0.5)


def test_without_several_seeds_anywhere_nothing_is_decided() -> None:
    claim = Claim("B beats A", MASKED, "B", "A")
    made = table(claim)
    single = results(without=("A-s1", "A-s2", "B-s1", "B-s2"))
    assert Scoreboard(single, [made]).judge(made, claim).verdict == "undecided"
    assert Scoreboard({}, [made]).judge(made, claim).verdict == "not run"


def test_a_table_is_made_of_results_alone() -> None:
    made = table(Claim("B beats A", MASKED, "B", "A", paper="1.45"))
    text = section(made, results(without=("A-s2",)), [made], "`the command`: a town")
    # A has the seeds 10 and 12: mean 11, spread √2. 22/11 = 2. √(2/2 + 12/3) = √5.
    assert "| A (2 of 3 runs) | 11.00 ± 1.41 | – | 1.000 ± 0.000 |" in text
    assert "| B | 22.00 ± 3.46 |" in text
    assert "| C | 25.00 | – | 0.250 | 1.50 |" in text
    assert "| B beats A | mIoU 17, camera mask | 1.45 | 2.00 | +11.00 ± 2.24 | holds |" in text
    assert "`the command`: a town; scored on 1 key frames" in text
    assert "seeds 0, 1, 2; commit abc; a machine, torch 2.6." in text
    assert text.endswith("A note.\n")


def test_markers_keep_what_stands_around_them(tmp_path: Path) -> None:
    path = tmp_path / "docs/results.md"
    write_between_markers(path, "x a", "first")
    assert path.read_text() == "<!-- x a: begin -->\nfirst\n<!-- x a: end -->\n"
    path.write_text(f"# Results\n\n{path.read_text()}\nan honest sentence\n")
    write_between_markers(path, "x b", "other")
    write_between_markers(path, "x a", "second\n")
    assert path.read_text() == (
        "# Results\n\n<!-- x a: begin -->\nsecond\n<!-- x a: end -->\n\nan honest sentence\n\n"
        "<!-- x b: begin -->\nother\n<!-- x b: end -->\n"
    )
    for broken in ("<!-- x a: begin -->", "<!-- x a: end --> <!-- x a: begin -->", "<!-- x a: end -->"):
        path.write_text(broken)
        with pytest.raises(DataError, match="markers"):
            write_between_markers(path, "x a", "third")
        assert path.read_text() == broken
