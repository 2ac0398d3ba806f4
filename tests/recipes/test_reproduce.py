"""`occlift reproduce`: tables from results by hand, and the smallest reproduction, killed and run again."""

from __future__ import annotations

import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from occlift.cli import main
from occlift.cli.reproduce import reproduce
from occlift.errors import ConfigError, DataError, OccliftError
from occlift.evaluation.occupancy import Evaluation
from occlift.metrics.occupancy import OccupancyCounts
from occlift.recipes.reproduce.conduct import conduct, status
from occlift.recipes.reproduce.document import write_between_markers
from occlift.recipes.reproduce.easyocc import easyocc_plan
from occlift.recipes.reproduce.execute import steps_in_time
from occlift.recipes.reproduce.plan import Claim, MakeTown, OccupancyTraining, Place, Plan, Row, TablePlan
from occlift.recipes.reproduce.record import Result, finished_result, read_calls
from occlift.recipes.reproduce.render import reading, sections
from occlift.recipes.reproduce.scores import (
    IOU,
    MASKED,
    MEMORY,
    RAYS,
    STEP,
    UNMASKED,
    UNMASKED_IOU,
    Scoreboard,
)
from occlift.town.config import TownConfig
from occlift.training.occupancy import TrainConfig

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")

SCORES = {"A-s0": 10, "A-s1": 12, "A-s2": 14, "B-s0": 20, "B-s1": 20, "B-s2": 26, "C-s0": 25}
"""mIoU of the results by hand. A: mean 12, spread 2. B: mean 22, spread √12. Pooled: √((2·4 + 2·12)/4) = √8."""


def evaluation_of(score: int) -> Evaluation:
    """Truth holds 100 voxels of class 0, of which `score` are found: IoU and mIoU are `score` per cent."""
    h = np.zeros((18, 18), np.int64)
    h[0, 0], h[0, 17] = score, 100 - score
    counts = OccupancyCounts(histograms={"camera": h, "none": h})
    return Evaluation(predictions="p", truth="t", tokens=("token",), counts=counts)


def plan_by_hand(claims: tuple[Claim, ...] = (), steps: int = 4) -> Plan:
    config = TrainConfig()
    config = replace(config, optimizer=replace(config.optimizer, steps=steps))
    trainings = tuple(
        OccupancyTraining(name=name, needs=("data",), config=replace(config, seed=int(name[-1])), frames=13)
        for name in SCORES
    )
    rows = tuple(Row(label=letter, runs=tuple(n for n in SCORES if n[0] == letter)) for letter in "ABC")
    table = TablePlan(
        letter="a",
        title="By hand",
        scores=(IOU, MASKED, UNMASKED_IOU, UNMASKED, RAYS, STEP, MEMORY),
        rows=rows,
        claims=claims,
        notes=("A note.",),
    )
    town = MakeTown(name="data", config=TownConfig())
    return Plan(
        recipe="easyocc", size="small", data="a town", reading="Per cent.", runs=(town, *trainings), tables=(table,)
    )


def write_results(plan: Plan, place: Place, *, leave_out: tuple[str, ...] = ()) -> dict[str, Result]:
    """As runs would have left them; a step of A takes 1 s, of B and C 0.25 s."""
    results = {}
    for name, score in SCORES.items():
        if name not in leave_out:
            results[name] = Result(
                name=name, digest=plan.digest(name), settings=plan.run(name).settings(), steps=4, seconds=60.0,
                evaluation=evaluation_of(score), step_seconds=1.0 if name[0] == "A" else 0.25,
                peak_memory_bytes=1_500_000_000, commit="abc", facts={"processor": "a machine", "torch": "2.6"},
            )  # fmt: skip
            results[name].write(place.run(name))
    return results


def read_results(plan: Plan, place: Place) -> dict[str, Result]:
    found = {name: finished_result(plan, place, plan.run(name)) for name in SCORES}
    return {name: result for name, result in found.items() if result is not None}


def test_claims_are_judged_by_the_spread_over_the_seeds(tmp_path: Path) -> None:
    claims = (
        Claim(text="B beats A", score=MASKED, row="B", than="A", paper="1.45"),
        Claim(text="A beats B", score=MASKED, row="A", than="B"),
        Claim(text="C beats B", score=MASKED, row="C", than="B"),
        Claim(text="A reaches half of B", score=MASKED, row="A", than="B", share=0.5),
        Claim(text="A reaches 60 % of B", score=MASKED, row="A", than="B", share=0.6),
        Claim(text="B is faster", score=STEP, row="B", than="A"),
        Claim(text="B adds more to A than A to C", score=MASKED, row="B", than="A", over=("A", "C")),
    )
    plan, place = plan_by_hand(claims), Place(out=tmp_path)
    write_results(plan, place)
    board = Scoreboard(read_results(plan, place), plan.tables)
    assert board.pooled_spread(MASKED, "easyocc") == pytest.approx(8**0.5)
    judged = [board.judge(plan.tables[0], claim) for claim in claims]
    refuted = "does not hold"
    assert [j.verdict for j in judged] == ["holds", refuted, refuted, "holds", refuted, "holds", "holds"]
    assert [j.ratio for j in judged[:-1]] == pytest.approx([22 / 12, 12 / 22, 25 / 22, 12 / 22, 12 / 22, 4.0])
    assert math.isnan(judged[-1].ratio)
    assert [j.gain for j in judged] == pytest.approx([10, -10, 3, -10, -10, 0.75, 10 - (12 - 25)])
    # √(4/3 + 12/3); C has one seed and borrows the pooled spread: √(8/1 + 12/3).
    assert judged[0].standard_error == pytest.approx((16 / 3) ** 0.5)
    assert judged[2].standard_error == pytest.approx(12**0.5)
    assert judged[-1].standard_error == pytest.approx((12 / 3 + 4 / 3 + 4 / 3 + 8) ** 0.5)


def test_pairs_are_judged_by_the_differences_of_their_seeds(tmp_path: Path) -> None:
    claims = (
        Claim(text="B beats A", score=MASKED, row="B", than="A", paired=True),
        Claim(text="B is faster", score=STEP, row="B", than="A", paired=True),
        Claim(text="B adds more to A than A to B", score=MASKED, row="B", than="A", over=("A", "B"), paired=True),
    )
    plan, place = plan_by_hand(claims), Place(out=tmp_path)
    write_results(plan, place)
    judged = [Scoreboard(read_results(plan, place), plan.tables).judge(plan.tables[0], claim) for claim in claims]
    # 20 − 10, 20 − 12, 26 − 14: mean 10, spread 2; half as much without pairs: √(16/3).
    assert [j.gain for j in judged] == pytest.approx([10, 0.75, 20])
    assert judged[0].standard_error == pytest.approx(2 / 3**0.5)
    assert judged[2].standard_error == pytest.approx(4 / 3**0.5)
    assert [j.verdict for j in judged] == ["holds"] * 3
    # A seed that one of them lacks is left out of both: 20 − 10, 20 − 12. One pair says nothing of its error.
    for left_out, gain, verdict in ((("A-s2",), 9, "holds"), (("A-s2", "B-s1"), 10, "undecided")):
        other = Place(out=tmp_path / left_out[-1])
        write_results(plan, other, leave_out=left_out)
        found = Scoreboard(read_results(plan, other), plan.tables).judge(plan.tables[0], claims[0])
        assert (found.gain, found.verdict) == (pytest.approx(gain), verdict)


def test_one_seed_borrows_the_spread_of_its_own_kind(tmp_path: Path) -> None:
    claim = Claim(text="C beats A", score=MASKED, row="C", than="A")
    plan = plan_by_hand((claim,))
    results = write_results(plan, Place(out=tmp_path))
    for name in ("A-s0", "A-s1", "A-s2"):
        results[name] = replace(results[name], settings={**results[name].settings, "kind": "rendering"})
    board = Scoreboard(results, plan.tables)
    assert board.pooled_spread(MASKED, "rendering") == pytest.approx(2.0)
    assert board.pooled_spread(MASKED, "easyocc") == pytest.approx(12**0.5)
    assert board.judge(plan.tables[0], claim).standard_error == pytest.approx((12 + 4 / 3) ** 0.5)


def test_without_several_seeds_anywhere_nothing_is_decided(tmp_path: Path) -> None:
    claim = Claim(text="B beats A", score=MASKED, row="B", than="A")
    plan, place = plan_by_hand((claim,)), Place(out=tmp_path)
    write_results(plan, place, leave_out=("A-s1", "A-s2", "B-s1", "B-s2"))
    board = Scoreboard(read_results(plan, place), plan.tables)
    assert board.judge(plan.tables[0], claim).verdict == "undecided"
    write_results(plan, place)
    empty = Scoreboard({}, plan.tables).judge(plan.tables[0], claim)
    assert empty.verdict == "not run"


def test_a_table_is_made_of_result_files_alone(tmp_path: Path) -> None:
    claim = Claim(text="B beats A", score=MASKED, row="B", than="A", paper="1.45")
    plan, place = plan_by_hand((claim,)), Place(out=tmp_path)
    write_results(plan, place, leave_out=("A-s2",))
    (section,) = sections(plan, read_results(plan, place), (), {"a": "occlift reproduce"})
    text = section.markdown()
    # A has the seeds 10 and 12: mean 11, spread √2. 22/11 = 2. √(2/2 + 12/3) = √5.
    assert "| A (2 of 3 runs) | 11.00 ± 1.41 | 11.00 ± 1.41 | 11.00 ± 1.41 | 11.00 ± 1.41 | – | 1.000 ± 0.000 |" in text
    assert "| B | 22.00 ± 3.46 |" in text
    assert "| C | 25.00 | 25.00 | 25.00 | 25.00 | – | 0.250 | 1.50 |" in text
    assert "| B beats A | mIoU 17, camera mask | 1.45 | 2.00 | +11.00 ± 2.24 | holds |" in text
    assert "`occlift reproduce`: a town; scored on 1 key frames" in text
    assert "seeds 0, 1, 2; commit abc; a machine, torch 2.6." in text
    assert text.rstrip().endswith("A note.")
    assert reading(plan).startswith("Per cent. ±")


def test_a_result_of_another_configuration_is_refused(tmp_path: Path) -> None:
    place = Place(out=tmp_path)
    write_results(plan_by_hand(), place)
    other = plan_by_hand(steps=5)
    assert read_results(other, place) == {}
    for call in (status, conduct):
        with pytest.raises(ConfigError, match=r"A-s0.*another configuration"):
            call(other, place, ())


def test_finished_runs_need_no_data_set(tmp_path: Path) -> None:
    plan, place = plan_by_hand(), Place(out=tmp_path)
    write_results(plan, place)
    done = conduct(plan, place, ())
    assert done.finished.keys() == SCORES.keys()
    assert not done.failed
    assert not place.data().exists()


def test_every_run_of_easyocc_exists_once_and_serves_all_its_tables() -> None:
    plan = easyocc_plan("small", Place(out=Path("nowhere")))
    shown = {table.letter: {name for row in table.rows for name in row.runs} for table in plan.tables}
    assert list(shown) == ["a", "b", "c", "d", "e"]
    assert all("easyocc-s0" in names for names in shown.values())
    assert {"easyocc-s0", "easyocc-s1", "easyocc-s2", "rendering-s2", "rendering-pseudo-s2"} <= shown["a"]
    # One seed in the others; each run differs from every other.
    assert not {name for letter in "bcde" for name in shown[letter] if name.endswith(("-s1", "-s2"))}
    digests = [plan.digest(run.name) for run in plan.runs]
    assert len(set(digests)) == len(digests)
    assert {run.name for run in plan.needed_for(["easyocc-s0"])} == {"data", "labels-13", "easyocc-s0"}
    assert sum(run.minutes for run in plan.runs) < 150
    assert all(run.minutes <= 10 for run in plan.runs)
    full = easyocc_plan("full", Place(out=Path("nowhere")))
    assert all(len(row.runs) == 3 for table in full.tables for row in table.rows if not row.context)


def test_labels_that_are_not_there_are_missed_only_by_the_tables_that_show_them(
    tmp_path: Path, small_town: Path
) -> None:
    (tmp_path / "labels/scene/token").mkdir(parents=True)
    (tmp_path / "labels/scene/token/labels.npz").touch()
    plan = easyocc_plan("smoke", place := Place(out=tmp_path, root=small_town, label_folders=str(tmp_path / "labels")))
    assert [entry.state for entry in status(plan, place, "e")] == ["given", "given", "waiting", "waiting"]
    with pytest.raises(ConfigError, match=r"labels of 1 key frames.*\{frames\}.*--only"):
        conduct(plan, place, "b")
    with pytest.raises(ConfigError, match="--root"):
        easyocc_plan("smoke", Place(out=tmp_path, label_folders="labels"))


def test_a_call_ends_at_the_step_that_fits() -> None:
    assert steps_in_time(100, 500, step_s=0.5, seconds=None) == 500
    assert steps_in_time(100, 500, step_s=0.5, seconds=60.0) == 220
    assert steps_in_time(100, 500, step_s=0.5, seconds=600.0) == 500
    assert steps_in_time(100, 500, step_s=0.5, seconds=-1.0) == 100
    assert steps_in_time(0, 500, step_s=None, seconds=60.0) == 20
    with pytest.raises(ConfigError, match="--jobs 0"):
        conduct(plan_by_hand(), Place(out=Path("nowhere")), (), jobs=0)
    with pytest.raises(ConfigError, match="too short"):
        conduct(plan_by_hand(), Place(out=Path("nowhere")), (), minutes=1.0)


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


STEPS = 6


def _command(out: Path, *options: str) -> list[str]:
    command = [sys.executable, "-m", "occlift", "reproduce", "easyocc", "--size", "smoke", "--only", "e"]
    return [*command, "--steps", str(STEPS), "--out", str(out), *options]


def _processes_in(group: set[int]) -> set[int]:
    return {pid for pid in group if Path(f"/proc/{pid}").exists()}


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at the processes in /proc")
def test_a_reproduction_is_killed_goes_on_and_outlives_a_run_that_fails(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Threads that wait for one another crawl where other tests run beside.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out, document = tmp_path / "out", tmp_path / "results.md"
    runs = out / "runs"
    checkpoint = runs / "easyocc-s0/training/last.ckpt"
    with subprocess.Popen(_command(out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as first:
        end = time.monotonic() + 240
        while not checkpoint.exists():
            assert time.monotonic() < end, "no checkpoint"
            assert first.poll() is None, first.stderr and first.stderr.read().decode()
            time.sleep(0.01)
        children = {
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/stat")
            if f") S {first.pid} " in _text(path) or f") R {first.pid} " in _text(path)
        }
        os.kill(first.pid, signal.SIGKILL)
    assert not (runs / "easyocc-s0/result.json").exists()
    while _processes_in(children):
        assert time.monotonic() < end, "the run's process goes on without anybody waiting for it"
        time.sleep(0.05)
    before = {name: (runs / name / "result.json").stat().st_mtime_ns for name in ("data", "labels-13")}

    # Both at once: what was begun, and what was not.
    command = _command(out, "--write", str(document), "--jobs", "2")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {name: (runs / name / "result.json").stat().st_mtime_ns for name in before} == before
    (resumed,) = read_calls(runs / "easyocc-s0")
    assert 1 <= resumed.first_step < resumed.last_step == STEPS
    (whole,) = read_calls(runs / "easyocc-unknown-free-s0")
    assert (whole.first_step, whole.last_step) == (0, STEPS)
    losses = (runs / "easyocc-s0/training/losses.csv").read_text(encoding="utf-8")
    assert re.findall(r"^(\d+),loss,", losses, flags=re.MULTILINE) == [str(step) for step in range(1, STEPS + 1)]
    # Nothing that only other tables show.
    assert {path.name for path in runs.iterdir()} == {"data", "labels-13", "easyocc-s0", "easyocc-unknown-free-s0"}
    text = document.read_text(encoding="utf-8")
    assert text.startswith("<!-- reproduce easyocc smoke reading: begin -->\nScores: per cent")
    assert "<!-- reproduce easyocc smoke e: begin -->\n**(e) " in text
    table = text.split("smoke e: begin -->\n", 1)[1].split("\n<!--", 1)[0]
    assert table in (out / "tables.md").read_text(encoding="utf-8")

    (runs / "easyocc-s0/result.json").unlink()
    checkpoint.write_bytes(b"half a checkpoint")
    (runs / "easyocc-unknown-free-s0/result.json").unlink()
    capfd.readouterr()
    with pytest.raises(OccliftError, match=r"1 runs failed \(easyocc-s0\)"):
        reproduce("easyocc", size="smoke", only=("e",), steps=STEPS, out=out)
    said = capfd.readouterr()
    assert "easyocc-s0: FAILED" in said.out
    assert "not a readable checkpoint" in said.out
    assert "Traceback" not in said.err
    # The others went on; this one had only to be scored again.
    assert (runs / "easyocc-unknown-free-s0/result.json").exists()
    assert len(read_calls(runs / "easyocc-unknown-free-s0")) == 1
    assert "(0 of 1 runs)" in (out / "tables.md").read_text(encoding="utf-8")


def test_the_commands_of_readme_are_commands(
    tmp_path: Path, small_town: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    section = README.split("\n## The paper's tables\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("occlift reproduce ")]
    assert len(lines) == 5
    for line in lines:
        line = line.replace("$NUSCENES", str(small_town)).replace("$OCC3D", str(small_town))
        first = "easyocc-s0" if " easyocc " in line else "simple_bev-none-1-s0"
        monkeypatch.setattr(sys, "argv", [*shlex.split(line, comments=True), "--list"])
        main()
        assert first in capsys.readouterr().out


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
