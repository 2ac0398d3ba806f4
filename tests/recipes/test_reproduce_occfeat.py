"""`occlift reproduce occfeat`: which runs there are, and one of every kind, done in this process."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from occlift.errors import ConfigError
from occlift.recipes.reproduce.execute import FEATURES_NAME, Job, perform
from occlift.recipes.reproduce.occfeat import STARTS, occfeat_plan
from occlift.recipes.reproduce.occfeat_runs import SHARES
from occlift.recipes.reproduce.plan import Corrupted, Finetuning, Place, Plan, Pretraining
from occlift.recipes.reproduce.record import Result, finished_result, read_calls
from occlift.recipes.reproduce.render import sections
from occlift.recipes.reproduce.scores import VEHICLE, corrupted
from occlift.training.bev import LABELLED_NAME, FinetuneConfig
from occlift.training.corrupt import CORRUPTIONS


def test_every_share_has_every_start_and_three_seeds() -> None:
    plan = occfeat_plan("small", Place(out=Path("nowhere")))
    simple, former, corruptions, rates, longer = plan.tables
    blind, *rows = simple.rows
    assert blind.context
    assert len(blind.runs) == 1
    assert [row.label for row in rows] == [
        f"{round(100 * share)} %: {start}" for share in SHARES for start in STARTS.values()
    ]
    assert len(former.rows) == 2 * len(SHARES)
    three = (simple, former, corruptions, rates)
    assert all(len(row.runs) == 3 for table in three for row in table.rows if not row.context)
    # Two at a time (--jobs 2) do 1.35 times as much in an hour.
    assert sum(run.minutes for run in plan.runs) / 1.35 < 150
    assert all(run.minutes <= 10 for run in plan.runs)
    digests = [plan.digest(run.name) for run in plan.runs]
    assert len(set(digests)) == len(digests)
    by_name = {run.name: run for run in plan.runs}
    # One pretraining serves all shares of a seed, and the same labels are used whatever a network began with.
    for start in STARTS:
        runs = [by_name[f"simple_bev-{start}-{share}-s1"] for share in (1, 10, 100)]
        assert all(isinstance(run, Finetuning) for run in runs)
        assert {run.start for run in runs if isinstance(run, Finetuning)} == {
            None if start == "none" else f"simple_bev-pretrain-{start}-s1"
        }
        assert [run.config.label_seed for run in runs if isinstance(run, Finetuning)] == [1, 1, 1]
    without_lidar = by_name["simple_bev-pretrain-both-labels-s0"]
    assert isinstance(without_lidar, Pretraining)
    assert (without_lidar.config.occupancy, without_lidar.frames) == ("labels", 13)
    # At the rate of the others it is the same run.
    assert set(rates.rows[2].runs) == {f"simple_bev-none-1-s{seed}" for seed in range(3)}
    slower = by_name[rates.rows[4].runs[0]]
    assert isinstance(slower, Finetuning)
    assert slower.config.optimizer.learning_rate == FinetuneConfig.demo().optimizer.learning_rate / 2
    # At first, the runs of table (a).
    assert longer.rows[1].runs == ("simple_bev-both-100-s0",)
    long, short = (by_name[longer.rows[row].runs[0]] for row in (3, 1))
    assert isinstance(long, Finetuning)
    assert isinstance(short, Finetuning)
    assert long.start == short.start
    assert long.config.optimizer.steps == 3 * short.config.optimizer.steps == 2400
    assert {run.network for run in plan.needed_for(corruptions.rows[1].runs) if isinstance(run, Corrupted)} == {
        f"simple_bev-both-100-s{seed}" for seed in range(3)
    }


def test_tables_are_of_a_town(small_town: Path) -> None:
    with pytest.raises(ConfigError, match="occlift pretrain"):
        occfeat_plan("smoke", Place(out=Path("nowhere"), root=small_town))


def test_one_run_of_every_kind(tmp_path: Path) -> None:
    place = Place(out=tmp_path)
    plan = occfeat_plan("smoke", place, steps=2)
    without = "simple_bev-none-1-s0"
    network = "simple_bev-both-labels-100-s0"
    for name in ("data", "labels-13", "simple_bev-pretrain-both-labels-s0"):
        assert _performed(plan, place, name).bev is None
    assert (tmp_path / FEATURES_NAME).is_dir()
    results = {name: _performed(plan, place, name) for name in (without, network)}
    (call,) = read_calls(place.run(network))
    assert (call.first_step, call.last_step) == (0, 2)
    assert (place.run(network) / "training" / LABELLED_NAME).exists()
    for result in results.values():
        assert result.bev is not None
        assert 0 <= result.bev[VEHICLE] <= 100
    (table,) = sections(plan, results, ("a",), {"a": "occlift reproduce occfeat"})
    assert "| 100 %: both, labels instead of lidar |" in table.markdown()

    _performed(plan, place, "simple_bev-none-100-s0")
    scores = _performed(plan, place, "simple_bev-none-100-s0-corrupted").bev
    assert scores is not None
    assert all(math.isfinite(scores[corrupted(name)]) for name in CORRUPTIONS)


def _performed(plan: Plan, place: Place, name: str) -> Result:
    (run,) = [run for run in plan.runs if run.name == name]
    assert perform(Job(run=run, digest=plan.digest(name), place=place, ends_at=None))
    result = finished_result(plan, place, run)
    assert result is not None
    return result
