"""Workers that die: what is tried again, what is given up, and who may write meanwhile."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from filelock import FileLock
from label_runs import QUICK, contents, labels_in, one_worker_killed, wait_until

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.errors import DataError, OccliftError
from occlift.labels.crew import Lost, Ready, Reply, work
from occlift.labels.engine import LabelJob, LabelTask
from occlift.labels.generate import generate_labels
from occlift.labels.local_engine import local_engine
from occlift.labels.scene import Outcome
from occlift.runtime import folder_lock
from occlift.runtime.folder_lock import LOCKS_NAME, WORKER_LOCKS, AnotherRun, sole_run, worker_of
from occlift.scenes.dataset import KeyFrameList


class ScriptedCrew:
    """Workers that live in a script: what each says when it starts, and when it is asked for a label.

    Attributes:
        asked: (slot, token), in order.
        starts: how many workers were started in a slot.
    """

    def __init__(self, on_task: Callable[[int, str, int], Reply | None], on_start: Callable[[int], Reply]) -> None:
        self._on_task, self._on_start = on_task, on_start
        self._waiting: list[tuple[int, Reply]] = []
        self.asked: list[tuple[int, str]] = []
        self.starts: Counter[int] = Counter()
        self.closed = False

    def start(self, slot: int) -> None:
        self.starts[slot] += 1
        self._waiting.append((slot, self._on_start(slot)))

    def ask(self, slot: int, task: LabelTask) -> None:
        self.asked.append((slot, task.token))
        times = sum(token == task.token for _, token in self.asked)
        self._waiting.append((slot, self._on_task(slot, task.token, times) or _made(task)))

    def replies(self) -> Iterator[tuple[int, Reply]]:
        assert self._waiting, "the run waits for workers that have nothing to do"
        yield self._waiting.pop(0)

    def close(self) -> None:
        self.closed = True


def _made(task: LabelTask) -> Outcome:
    return Outcome(scene=task.scene, token=task.token)


def _scenes(*sizes: int) -> list[list[LabelTask]]:
    """a0, a1, ... of the scene a; b0, ... of the scene b."""
    return [
        [LabelTask(scene=name, position=position, token=f"{name}{position}") for position in range(size)]
        for name, size in zip("abcdefgh", sizes, strict=False)
    ]


def _work(
    tmp_path: Path,
    sizes: tuple[int, ...],
    on_task: Callable[[int, str, int], Reply | None] = lambda slot, token, times: None,
    on_start: Callable[[int], Reply] = lambda slot: Ready(),
    *,
    workers: int = 2,
    retries: int = 2,
) -> tuple[ScriptedCrew, list[str], str]:
    """(the crew, tokens in the order in which they were made, the error in the end)."""
    crew = ScriptedCrew(on_task, on_start)
    job = LabelJob(data=KeyFrameList([]), out=tmp_path, config=QUICK, run="")
    made: list[str] = []
    error = ""
    try:
        for outcome in work(crew, job, _scenes(*sizes), workers=workers, retries=retries):
            made.append(outcome.token)
    except OccliftError as caught:
        error = str(caught)
    assert crew.closed
    return crew, made, error


def test_a_scene_is_one_workers_and_in_time_order(tmp_path: Path) -> None:
    crew, made, error = _work(tmp_path, (3, 2, 2))
    assert error == ""
    assert sorted(made) == ["a0", "a1", "a2", "b0", "b1", "c0", "c1"]
    of_scene = {scene: [(slot, token) for slot, token in crew.asked if token[0] == scene] for scene in "abc"}
    for asked in of_scene.values():
        assert len({slot for slot, _ in asked}) == 1
        assert [token for _, token in asked] == sorted(token for _, token in asked)
    assert crew.starts == {0: 1, 1: 1}


def test_no_more_workers_than_scenes(tmp_path: Path) -> None:
    crew, made, _ = _work(tmp_path, (2,), workers=5)
    assert made == ["a0", "a1"]
    assert crew.starts == {0: 1}


def test_what_a_dead_worker_did_not_finish_is_made_by_another(tmp_path: Path) -> None:
    left_behind = tmp_path / "a/a1/.labels.npz.1.ab.tmp"
    left_behind.parent.mkdir(parents=True)
    left_behind.touch()
    crew, made, error = _work(
        tmp_path, (3, 3), lambda slot, token, times: Lost("killed") if (token, times) == ("a1", 1) else None
    )
    assert error == ""
    assert sorted(made) == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert [token for _, token in crew.asked].count("a0") == 1
    assert not left_behind.exists()


def test_every_label_may_cost_some_workers(tmp_path: Path) -> None:
    """Deaths count in a row: a night may lose any number of workers."""
    crew, made, error = _work(
        tmp_path, (4, 1), lambda slot, token, times: Lost("killed") if token[0] == "a" and times <= 2 else None
    )
    assert error == ""
    assert sorted(made) == ["a0", "a1", "a2", "a3", "b0"]
    assert len(crew.asked) == 4 * 3 + 1


def test_a_scene_that_always_kills_is_left_out_and_named_after_all_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crew, made, error = _work(
        tmp_path, (3, 3, 3), lambda slot, token, times: Lost("status 139") if token == "b1" else None
    )
    assert sorted(made) == ["a0", "a1", "a2", "b0", "c0", "c1", "c2"]
    assert [token for _, token in crew.asked].count("b1") == 3
    assert "the workers that made b died 3 times in a row (status 139); what is finished is kept" in error
    assert caplog.messages == ["a worker was lost at b b1: status 139"] * 3


def test_workers_that_cannot_be_started(tmp_path: Path) -> None:
    crew, made, error = _work(tmp_path, (3, 3, 3), on_start=lambda slot: Lost("status 1"))
    assert made == []
    assert crew.starts == {0: 3, 1: 3}
    assert "no worker could be started: status 1" in error
    # One place where it does not work, such as a GPU that is taken: the other does everything.
    crew, made, error = _work(tmp_path, (3, 3, 3), on_start=lambda slot: Lost("") if slot else Ready())
    assert error == ""
    assert len(made) == 9
    assert crew.starts == {0: 1, 1: 3}


def test_an_error_that_the_user_must_mend_ends_the_run(tmp_path: Path) -> None:
    crew, made, error = _work(tmp_path, (3, 3), on_start=lambda slot: DataError("no such folder"))
    assert (made, error, crew.asked) == ([], "no such folder", [])
    _, made, error = _work(
        tmp_path, (3,), lambda slot, token, times: OccliftError("the disk is full") if token == "a2" else None
    )
    assert (made, error) == (["a0", "a1"], "the disk is full")


# Processes


def test_a_worker_that_is_killed_costs_nothing(
    small_town: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = NuScenes.open(small_town)
    generate_labels(data, tmp_path / "whole", QUICK)
    with one_worker_killed(tmp_path / "labels") as killed:
        run = generate_labels(data, tmp_path / "labels", QUICK, workers=2)
    assert len(killed) == 1
    assert (run.done, run.failed) == (8, {})
    assert contents(tmp_path / "labels") == contents(tmp_path / "whole")
    (message,) = caplog.messages
    assert message.startswith("a worker was lost at town-0005-000")
    assert message.endswith("it was ended by SIGKILL, as the system does when memory runs out")


def test_a_worker_that_fails_in_a_way_nobody_foresaw(
    small_town: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A folder stands where a label should be written: its scene is left out, the other is made."""
    data = NuScenes.open(small_town)
    scene, other = data.scenes()
    token = data.key_frame_tokens(scene)[2]
    generate_labels(data, tmp_path, QUICK, scenes=[])  # or the folder would hold something else
    in_the_way = tmp_path / scene / token / "incomplete.json"
    (in_the_way / "full").mkdir(parents=True)
    with pytest.raises(OccliftError, match=rf"{scene} died 2 times in a row \(it ended with status 1; what it said"):
        generate_labels(data, tmp_path, QUICK, engine=local_engine(2, retries=1))
    assert {path.parent.name for path in labels_in(tmp_path)} >= set(data.key_frame_tokens(other))
    assert capfd.readouterr().err.count("Error") >= 2
    (in_the_way / "full").rmdir()
    in_the_way.rmdir()
    assert generate_labels(data, tmp_path, QUICK, workers=2).failed == {}
    assert len(labels_in(tmp_path)) == 8


SLOW_RUN = """
import sys, time
from pathlib import Path

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.labels.config import LabelConfig
from occlift.labels.generate import generate_labels
from occlift.teachers.registry import DEPTH_TEACHERS, TeacherEntry
from occlift.town.config import TownConfig

class Slow:
    settings = {}
    def depth(self, frame):
        Path(sys.argv[2], f"looks-{frame.scene}").touch()
        time.sleep(3600)

# Workers import this file too.
DEPTH_TEACHERS["slow"] = TeacherEntry(
    config=TownConfig, build=lambda config, context: Slow(), summary="", needs="", missing=lambda config: None
)
if __name__ == "__main__":
    generate_labels(
        NuScenes.open(Path(sys.argv[1])), Path(sys.argv[2]),
        LabelConfig(semantics="oracle:perfect", depth="slow"), workers=2,
    )
"""


def test_workers_of_a_run_that_was_killed_end_by_themselves(small_town: Path, tmp_path: Path) -> None:
    """In the middle of whatever they do: here a teacher that takes an hour."""
    (tmp_path / "run.py").write_text(SLOW_RUN)
    out = tmp_path / "labels"
    run = subprocess.Popen([sys.executable, tmp_path / "run.py", small_town, out])
    wait_until(lambda: len(list(out.glob("looks-*"))) == 2, "two workers at work")
    run.kill()
    run.wait()
    locks = [FileLock(path) for path in (out / LOCKS_NAME).glob(WORKER_LOCKS)]
    assert len(locks) == 2
    for lock in locks:
        with lock.acquire(timeout=20):
            pass


# Locks


def test_one_run_at_a_time(small_town: Path, tmp_path: Path) -> None:
    data = NuScenes.open(small_town)
    with sole_run(tmp_path / "labels"):
        with pytest.raises(AnotherRun, match=rf"labels: another run is writing here \(process {os.getpid()} on "):
            generate_labels(data, tmp_path / "labels", QUICK)
        with pytest.raises(AnotherRun, match="labels: another run"):
            generate_labels(data, tmp_path / "other", QUICK, keep_maps=tmp_path / "labels")
    assert labels_in(tmp_path) == []
    assert generate_labels(data, tmp_path / "labels", QUICK, scenes=data.scenes()[:1]).done == 4


def test_a_run_waits_for_the_workers_of_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "_DEPARTURE_S", 0.0)
    with ExitStack() as worker:
        with sole_run(tmp_path) as name:
            worker.enter_context(worker_of(tmp_path, name))
        still_there = rf"a worker of an earlier run still writes here .*-{os.getpid()}\)"
        with pytest.raises(AnotherRun, match=still_there), sole_run(tmp_path, patience_s=0.1):
            pytest.fail("two runs at once")
    with sole_run(tmp_path, patience_s=0.1):
        pass
    assert [path.name for path in (tmp_path / LOCKS_NAME).iterdir()] == ["run.lock"]


def test_a_worker_that_comes_too_late_leaves(tmp_path: Path) -> None:
    with sole_run(tmp_path) as old, worker_of(tmp_path, old):
        pass
    with pytest.raises(AnotherRun, match="is over"):
        worker_of(tmp_path, old).__enter__()
    with sole_run(tmp_path), pytest.raises(AnotherRun, match="is over"):
        worker_of(tmp_path, old).__enter__()


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: FileLock, timeout: float) -> None:
        raise NotImplementedError

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with caplog.at_level(logging.WARNING), sole_run(tmp_path) as name, worker_of(tmp_path, name):
        pass
    assert "knows no locks" in caplog.messages[0]
