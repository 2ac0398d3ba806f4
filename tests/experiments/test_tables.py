"""Tables from results by hand, and the text between markers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from occlift.errors import DataError
from runs import Result
from tables import MASKED, MEMORY, RAYS, STEP, Claim, Row, Scoreboard, Table, _holm, section, write_between_markers

SCORES = {"A-s0": 10, "A-s1": 12, "A-s2": 14, "B-s0": 20, "B-s1": 20, "B-s2": 26, "C-s0": 25}
"""mIoU of the results by hand. A: mean 12, spread 2. B: mean 22, spread √12."""


def results(*, without: tuple[str, ...] = (), draws: bool = False) -> dict[str, Result]:
    """A step of A takes 1 s, of B and C 0.25 s. Under draws of the scenes A's scores are 1 lower, equal, 1 higher."""
    return {
        name: Result(
            kind="train_easyocc", seed=int(name[-1]), seconds=60.0, commit="abc",
            scores={MASKED: score, "frames": 1, STEP: 1.0 if name[0] == "A" else 0.25, MEMORY: 1.5},
            machine="a machine, torch 2.6",
            draws={MASKED: [score - 1, score, score + 1] if name[0] == "A" else [score - 3, score, score + 3]}
            if draws else {},
        )
        for name, score in SCORES.items() if name not in without
    }  # fmt: skip


def table(*claims: Claim) -> Table:
    rows = tuple(Row(label=letter, runs=tuple(n for n in SCORES if n[0] == letter)) for letter in "ABC")
    scores = (MASKED, RAYS, STEP, MEMORY)
    return Table(letter="a", title="By hand", scores=scores, rows=rows, claims=claims, notes=("A note.",))


def test_claims_are_judged_by_students_t() -> None:
    claims = (
        Claim("B beats A", MASKED, "B", "A"),
        Claim("C beats B", MASKED, "C", "B"),
        Claim("A reaches half of B", MASKED, "A", "B", share=0.5),
        Claim("B is faster", STEP, "B", "A"),
        Claim("B adds more to A than A to B", MASKED, "B", "A", over=("A", "B")),
    )
    made = table(*claims)
    judged = Scoreboard(results()).judge(made)
    assert [j.ratio for j in judged[:-1]] == pytest.approx([22 / 12, 25 / 22, 12 / 22, 4.0])
    assert math.isnan(judged[-1].ratio)
    assert [j.gain for j in judged] == pytest.approx([10, 3, -10, 0.75, 20])
    # √(4/3 + 12/3) = 2.31 with (16/3)² / ((4/3)²/2 + 4²/2) = 3.2 degrees of freedom, whose t is 3.07.
    assert judged[0].margin == pytest.approx(3.07 * (16 / 3) ** 0.5, rel=2e-3)
    assert judged[1].margin is None
    # p: 0.020, none (one seed), 0.56 of 12 − 11, 0, and 0.0009 with an error of √(2·4/3 + 2·12/3).
    assert [j.verdict for j in judged] == ["holds", "one seed: undecided", "undecided", "holds", "holds"]
    # Two standard errors would have been enough; so would be 5 % without regard to the number of claims.
    again = Scoreboard(results()).judge(table(*(claims[i] for i in (0, 2, 2, 2))))
    assert [j.verdict for j in again] == ["undecided"] * 4
    assert Scoreboard(results()).judge(table(claims[0]))[0].verdict == "holds"
    (worse,) = Scoreboard(results()).judge(table(Claim("A beats B", MASKED, "A", "B")))
    assert (worse.verdict, worse.gain) == ("does not hold", pytest.approx(-10))


def test_p_is_corrected_after_holm() -> None:
    assert _holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert _holm([0.6, 0.9]) == [1.0, 1.0]
    assert _holm([]) == []


def test_pairs_are_judged_by_the_differences_of_their_seeds() -> None:
    claims = (
        Claim("B beats A", MASKED, "B", "A", paired=True),
        Claim("B is faster", STEP, "B", "A", paired=True),
        Claim("B adds more to A than A to B", MASKED, "B", "A", over=("A", "B"), paired=True),
    )
    judged = Scoreboard(results()).judge(table(*claims))
    # 20 − 10, 20 − 12, 26 − 14: mean 10, spread 2; t of two degrees of freedom: 4.303.
    assert [j.gain for j in judged] == pytest.approx([10, 0.75, 20])
    assert judged[0].margin == pytest.approx(4.303 * 2 / 3**0.5, rel=1e-3)
    assert judged[2].margin == pytest.approx(4.303 * 4 / 3**0.5, rel=1e-3)
    assert [j.verdict for j in judged] == ["holds"] * 3
    # A seed that one of them lacks is left out of both: 20 − 10, 20 − 12. One pair says nothing of its error.
    for without, gain, verdict in ((("A-s2",), 9, "undecided"), (("A-s2", "B-s1"), 10, "one seed: undecided")):
        (found,) = Scoreboard(results(without=without)).judge(table(claims[0]))
        assert (found.gain, found.verdict) == (pytest.approx(gain), verdict)


def test_what_was_not_trained_has_no_spread() -> None:
    found = results()
    found["C-s0"] = replace(found["C-s0"], seed=None, scores={MASKED: 10.0})
    (judged,) = Scoreboard(found).judge(table(Claim("B beats the prior", MASKED, "B", "C")))
    assert judged.margin == pytest.approx(4.303 * 2, rel=1e-3)
    assert judged.verdict == "holds"


def test_of_single_seeds_nothing_follows() -> None:
    claim = Claim("B beats A", MASKED, "B", "A")
    single = results(without=("A-s1", "A-s2", "B-s1", "B-s2"))
    assert Scoreboard(single).judge(table(claim))[0].verdict == "one seed: undecided"
    assert Scoreboard({}).judge(table(claim))[0].verdict == "not run"


def test_a_table_is_made_of_results_alone() -> None:
    made = table(Claim("B beats A", MASKED, "B", "A", paper="1.45"), Claim("C beats A", MASKED, "C", "A"))
    text = section(made, results(without=("A-s2",)), "`the command`: a town")
    # A has the seeds 10 and 12: mean 11, spread √2. 22/11 = 2. √(2/2 + 12/3) = √5, t of 2.78 degrees of freedom.
    assert "| A (2 of 3 runs) | 11.00 ± 1.41 | – | 1.000 ± 0.000 |" in text
    assert "| B | 22.00 ± 3.46 |" in text
    assert "| C | 25.00 | – | 0.250 | 1.50 |" in text
    assert "| B beats A | mIoU 17, camera mask | 1.45 | 2.00 | +11.00 ± 7.45 | holds |" in text
    assert "| C beats A | mIoU 17, camera mask | – | 2.27 | +14.00 | one seed: undecided |" in text
    assert "1 of 2 claims are tested." in text
    assert "over scenes" not in text
    assert "`the command`: a town; scored on 1 key frames" in text
    assert "seeds 0, 1, 2; commit abc; a machine, torch 2.6." in text
    assert text.endswith("A note.\n")


def test_the_spread_over_scenes_stands_beside_that_over_seeds() -> None:
    made = table(Claim("B beats A", MASKED, "B", "A"))
    text = section(made, results(draws=True), "`the command`: a town")
    assert "| A | 12.00 ± 2.00 / 1.00 |" in text
    assert "| C | 25.00 ± – / 3.00 |" in text
    # The same draws for both: 22 − 12 with −2, 0, 2 on it.
    assert "| B beats A | mIoU 17, camera mask | – | 1.83 | +10.00 ± 7.10 | +8.10 to +11.90 | holds |" in text
    found = results(draws=True)
    found["A-s0"] = replace(found["A-s0"], draws={})
    text = section(made, found, "`the command`: a town")
    assert "| A | 12.00 ± 2.00 |" in text
    assert "over scenes" not in text


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
