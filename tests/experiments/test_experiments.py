"""The experiments on occlift itself: the tutorial's commands, and runs of every kind at the smallest size."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

import easyocc
import occfeat
from occfeat import SHARES, STARTS, occfeat_plan
from occlift.evaluation.by_scene import DRAWS
from occlift.training.corrupt import CORRUPTIONS
from runner import Conductor, Plan
from runs import Result
from tables import ALL_VEHICLES, RAYS, VEHICLE, Row, Table

TUTORIAL = (Path(__file__).resolve().parents[2] / "docs/tutorial.md").read_text(encoding="utf-8")


def conducted(plan: Plan, *names: str, jobs: int = 1) -> dict[str, Result]:
    """Results of some runs of a plan, and of what they need."""
    rows = tuple(Row(label=name, runs=(name,)) for name in names)
    plan = replace(plan, tables=(Table(letter="a", title="Some", scores=(), rows=rows),))
    conductor = Conductor(plan, jobs=jobs)
    conductor.conduct()
    assert not conductor.failed
    return plan.results()


@pytest.mark.parametrize(("plan", "letters"), [(easyocc.easyocc_plan, "abcdefg"), (occfeat.occfeat_plan, "abcde")])
def test_every_run_exists_once_and_is_shown_with_its_seeds(plan: object, letters: str, tmp_path: Path) -> None:
    assert callable(plan)
    made = plan("small", tmp_path)
    identities = [str(made.runs.identity(name)) for name in made.runs]
    assert len(set(identities)) == len(identities)
    assert [table.letter for table in made.tables] == list(letters)
    for table in made.tables:
        labels = [row.label for row in table.rows]
        assert len(set(labels)) == len(labels)
        assert {name for row in table.rows for name in row.runs} <= made.runs.keys()
        assert {label for claim in table.claims for label in (claim.row, claim.than, *claim.over)} <= set(labels)
    full = plan("full", tmp_path)
    assert all(len(row.runs) == 3 for table in full.tables for row in table.rows if not row.context)


def test_networks_are_trained_on_the_labels_that_their_rows_name(tmp_path: Path) -> None:
    plan = easyocc.easyocc_plan("small", tmp_path)
    configs = {}
    for row in (row for table in plan.tables if table.letter in "bf" for row in table.rows):
        (need,) = {need for name in row.runs for need in plan.runs[name].needs}
        call = plan.runs[need].call
        assert call is not None
        configs[row.label] = call.keywords["config"]
        for name in row.runs:
            last = plan.runs[name].train or plan.runs[name].call
            assert last is not None
            assert last.keywords["labels"] == call.keywords["labels"]
    found = {(c.decision.fusion, c.window, c.frames, c.outliers, c.outside) for c in configs.values()}
    assert found == {
        ("surface", "centred", 13, "keep", "drop"), ("votes", "centred", 13, "keep", "drop"),
        ("votes", "centred", 1, "keep", "drop"), ("votes", "centred", 5, "keep", "drop"),
        ("votes", "past", 14, "keep", "drop"), ("votes", "past", 14, "drop", "clamp"),
    }  # fmt: skip
    assert all((config.decision.fusion == "surface") == ("surfaces" in label) for label, config in configs.items())
    assert all(
        (config.window == "past") == ("before" in label or "clamped" in label) for label, config in configs.items()
    )
    (rules,) = (table for table in plan.tables if table.letter == "f")
    rows = [row for row in rules.rows if not row.context]
    assert [len(row.runs) for row in rows] == [5, 5, 3, 3], "what renders takes three times as long"


def test_one_pretraining_serves_all_shares_of_a_seed(tmp_path: Path) -> None:
    runs = occfeat_plan("small", tmp_path).runs
    for start in STARTS:
        for share in SHARES:
            run = runs[f"simple_bev-{start}-{round(100 * share)}-s1"]
            assert run.needs == (("data",) if start == "none" else (f"simple_bev-pretrain-{start}-s1",))
            assert run.train is not None
            assert run.train.keywords["config"].label_seed == 1


def test_the_commands_of_the_tutorial_are_commands(
    tmp_path: Path, small_town: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    section = TUTORIAL.split("\n## The paper's tables\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("python experiments/")]
    assert len(lines) == 5
    for line in lines:
        line = line.replace("$NUSCENES", str(small_town)).replace("$OCC3D", str(small_town))
        _, script, *arguments = shlex.split(line, comments=True)
        experiment, first = {
            "experiments/easyocc.py": (easyocc.main, "easyocc-s0"),
            "experiments/occfeat.py": (occfeat.main, "simple_bev-none-1-s0"),
        }[script]
        assert experiment([*arguments, "--list"]) == 0
        assert first in capsys.readouterr().out


def test_labels_need_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert easyocc.main(["--labels", "labels", "--out", str(tmp_path)]) == 1
    assert "--root" in capsys.readouterr().err


def test_runs_of_easyocc_leave_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    names = ("prior", "labels-13-score", "easyocc-s0", "rendering-pseudo-s0")
    found = conducted(easyocc.easyocc_plan("smoke", tmp_path), *names, jobs=2)
    assert all(0 <= found[name].scores[RAYS] <= 100 for name in names)
    assert found["easyocc-s0"].scores["step_seconds"] > 0
    # Of a single scene every draw is the whole.
    for name in names:
        assert found[name].draws[RAYS] == pytest.approx([found[name].scores[RAYS]] * DRAWS, abs=1e-4)
    assert not (tmp_path / "easyocc-s0/predictions").exists()


def test_runs_of_occfeat_leave_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    names = ("simple_bev-both-labels-100-s0", "simple_bev-none-100-s0", "simple_bev-none-100-s0-corrupted")
    found = conducted(occfeat_plan("smoke", tmp_path), *names, jobs=2)
    assert all(0 <= found[name].scores[score] <= 100 for name in names for score in (VEHICLE, ALL_VEHICLES))
    assert len(found[names[0]].draws[VEHICLE]) == DRAWS
    assert all(math.isfinite(found[names[2]].scores[f"{VEHICLE}_{name}"]) for name in CORRUPTIONS)
    assert (tmp_path / "features").is_dir()
