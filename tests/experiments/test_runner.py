"""The runner of experiments on calls that take no time: kept, resumed, in time, several at a time, failures."""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import fake_calls
import pytest

import runner
from occlift.errors import ConfigError
from perform import TIME_OVER, steps_in_time
from runner import Conductor, Plan, make_parser, run_experiment, status
from runs import Runs, read_losses
from tables import RAYS, Row, Table

HERE = Path(__file__).resolve().parent
EXPERIMENTS = HERE.parents[1] / "experiments"


@pytest.fixture(autouse=True)
def _processes_find_the_fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def training(out: Path, name: str = "network-s0", *, steps: int = 40, **options: Any) -> Runs:
    """A network that needs `data`."""
    config = fake_calls.Config(seed=1, optimizer=fake_calls.Schedule(steps=steps))
    runs = Runs(out)
    runs.add("data", call=partial(fake_calls.prepare, path=out / "data/made"))
    runs.add(
        name, ("data",), partial(fake_calls.train, config=config, **options),
        partial(fake_calls.score, checkpoint=out / name / "training/last.ckpt"),
    )  # fmt: skip
    return runs


def plan_of(runs: Runs, *shown: str) -> Plan:
    rows = tuple(Row(label=name, runs=(name,)) for name in shown or [list(runs)[-1]])
    table = Table(letter="a", title="By hand", scores=(RAYS,), rows=rows)
    return Plan(name="fake", size="smoke", data="no data", reading="Read it.", runs=runs, tables=(table,))


def conduct(plan: Plan, **options: Any) -> Conductor:
    conductor = Conductor(plan, **options)
    conductor.conduct()
    return conductor


def command(plan: Plan, *arguments: str) -> int:
    options = make_parser("fake", "").parse_args([*arguments, "--out", str(plan.runs.out)])
    return run_experiment(options, lambda out: plan)


def test_a_run_is_done_once_and_its_result_serves_without_what_it_needed(tmp_path: Path) -> None:
    plan = plan_of(training(tmp_path))
    assert [line.split()[1] for line in status(plan)[1:]] == ["waiting", "waiting"]
    assert not list(tmp_path.iterdir())
    done = conduct(plan)
    assert not done.failed
    assert not done.remaining
    result = plan.results()["network-s0"]
    assert (result.kind, result.seed, result.scores["frames"], result.scores["ray_iou_17"]) == ("train", 1, 3, 821)
    assert result.scores["step_seconds"] == 0.5
    assert 0.01 < result.scores["peak_memory"] < 10
    assert "iou_none" not in result.scores
    assert [" ".join(line.split()[:5]) for line in status(plan)[2:]] == ["network-s0 finished 40 of 40"]

    (tmp_path / "data/result.json").unlink()
    conduct(plan)
    assert (tmp_path / "data/made").read_text() == "called\n"


def test_a_folder_of_another_configuration_is_refused(tmp_path: Path) -> None:
    conduct(plan_of(training(tmp_path)))
    other = plan_of(training(tmp_path, steps=41))
    for call in (status, conduct):
        with pytest.raises(ConfigError, match=r"network-s0.*another configuration"):
            call(other)
    # What it needs is part of what it is.
    runs = training(tmp_path)
    needed = Runs(tmp_path)
    needed.add("data", call=partial(fake_calls.prepare, path=tmp_path / "data/other"))
    needed.add("network-s0", ("data",), runs["network-s0"].train, runs["network-s0"].call)
    (tmp_path / "data/run.json").unlink()
    (tmp_path / "data/result.json").unlink()
    with pytest.raises(ConfigError, match=r"network-s0.*other data"):
        conduct(plan_of(needed))


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at the processes in /proc")
def test_a_call_that_is_killed_ends_its_run_which_the_next_call_resumes(tmp_path: Path) -> None:
    out = tmp_path / "killed"
    runs = training(out, step_s=0.1)
    (tmp_path / "plan").write_bytes(pickle.dumps(plan_of(runs)))
    code = "import pickle, sys, runner; runner.Conductor(pickle.load(open(sys.argv[1], 'rb'))).conduct()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(EXPERIMENTS), os.environ["PYTHONPATH"]])}
    end = time.monotonic() + 120
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "plan")], env=environment) as first:
        while len(read_losses(out / "network-s0", "loss")) < 5:
            assert time.monotonic() < end, "no step"
            assert first.poll() is None
            time.sleep(0.01)
        children = [
            path.parent
            for path in Path("/proc").glob("[0-9]*/stat")
            if f") S {first.pid} " in _text(path) or f") R {first.pid} " in _text(path)
        ]
        assert children
        os.kill(first.pid, signal.SIGKILL)
    while any(child.exists() for child in children):
        assert time.monotonic() < end, "the run's process goes on without anybody waiting for it"
        time.sleep(0.01)
    assert not (out / "network-s0/result.json").exists()
    assert "begun" in status(plan_of(runs))[-1]

    conduct(plan_of(runs))
    (call,) = [json.loads(line) for line in (out / "network-s0/calls.jsonl").read_text().splitlines()]
    assert 4 <= call["first"] < call["last"] == 40
    assert (out / "data/made").read_text() == "called\n"
    # As if it had not been killed.
    assert plan_of(runs).results()["network-s0"].scores["ray_iou_17"] == 821
    assert [step for step, _ in read_losses(out / "network-s0", "loss")] == list(range(1, 41))


def test_a_call_ends_in_time_and_the_next_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(training(tmp_path))
    # Too short to begin; too short to score; long enough.
    done = conduct(plan, ends_at=time.time() + 29)
    assert done.remaining == ["data", "network-s0"]
    assert not (tmp_path / "data").exists()
    monkeypatch.setattr(runner, "_SHORTEST_S", 0.0)
    done = conduct(plan, ends_at=time.time() + 55)
    assert done.remaining == ["network-s0"]
    calls = [json.loads(line) for line in (tmp_path / "network-s0/calls.jsonl").read_text().splitlines()]
    assert [(call["first"], call["last"]) for call in calls] == [(0, 20), (20, 40)]
    assert not conduct(plan, ends_at=time.time() + 600).remaining
    assert plan.results()["network-s0"].scores["ray_iou_17"] == 821


def test_a_run_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_SHORTEST_S", 0.0)
    monkeypatch.setattr(runner, "_GRACE_S", 0.0)
    runs = Runs(tmp_path)
    runs.add("slow", call=partial(fake_calls.sleep, seconds=100))
    started = time.monotonic()
    assert conduct(plan_of(runs), ends_at=time.time() + 2).remaining == ["slow"]
    assert time.monotonic() - started < 50


def test_a_call_ends_at_the_step_that_fits() -> None:
    assert steps_in_time(100, 500, 0.5, math.inf) == 500
    assert steps_in_time(100, 500, 0.5, 60.0) == 220
    assert steps_in_time(100, 500, 0.5, 600.0) == 500
    assert steps_in_time(100, 500, 0.5, -1.0) == 100
    assert steps_in_time(0, 500, None, 60.0) == 20


def test_two_jobs_are_done_at_the_same_time(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    left, right = tmp_path / "left-was-here", tmp_path / "right-was-here"
    runs.add("left", call=partial(fake_calls.meet, here=left, there=right))
    runs.add("right", call=partial(fake_calls.meet, here=right, there=left))
    assert not conduct(plan_of(runs, "left", "right"), jobs=2).failed


def test_a_run_that_fails_leaves_the_others_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = training(tmp_path / "out")
    runs.add("bad", call=partial(fake_calls.fail, text="no such luck"))
    runs.add("worse", ("bad",), call=partial(fake_calls.sleep, seconds=0))
    plan, document = plan_of(runs, "bad", "worse", "network-s0"), tmp_path / "results.md"
    assert command(plan, "--write", str(document)) == 1
    said = capsys.readouterr()
    assert "bad: FAILED: ValueError: no such luck" in said.out
    assert "2 runs failed (bad, worse)" in said.err
    assert "Traceback" in (tmp_path / "out/bad/log.txt").read_text()
    text = document.read_text()
    assert text.startswith("<!-- fake smoke a: begin -->\n**(a) By hand.** `python experiments/fake.py --size smoke")
    assert "| bad (0 of 1 runs) | – |" in text
    assert "| network-s0 | 821.00 |" in text
    assert "<!-- fake smoke reading: begin -->\nRead it. ±" in text
    assert text.split("begin -->\n", 1)[1].split("\n<!--", 1)[0] in (tmp_path / "out/tables.md").read_text()


def test_options_that_ask_for_too_little_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(training(tmp_path))
    for arguments, text in ((["--jobs", "0"], "--jobs 0"), (["--minutes", "1"], "too short"), (["--only", "z"], "z")):
        assert command(plan, *arguments) == 1
        assert text in capsys.readouterr().err
    assert command(plan, "--list") == 0
    assert "network-s0" in capsys.readouterr().out


def test_time_that_is_over_is_an_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_SHORTEST_S", math.inf)
    assert command(plan_of(training(tmp_path)), "--minutes", "5") == TIME_OVER
    assert "2 runs are left" in capsys.readouterr().err


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
