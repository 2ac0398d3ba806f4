"""The runs that are missing, one after the other or a few at a time, each in a process of its own.

A process of its own, because the peak memory of a process never falls, and because a run that fails, or is killed,
must not take the others with it. One reproduction at a time works in a folder; when it is killed, the process of its
run ends too. Everything written is there whole or not at all, so the next call goes on with what is missing.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.context import SpawnProcess
from threading import Thread
from typing import Any, Final, Literal

from occlift.errors import ConfigError, OccliftError
from occlift.labels.folder_lock import sole_run, worker_of
from occlift.labels.manifest import MANIFEST_NAME
from occlift.recipes.reproduce.execute import Job, perform
from occlift.recipes.reproduce.plan import Given, MakeLabels, MakeTown, Place, Plan, Run, Training
from occlift.recipes.reproduce.record import Result, claim, finished_result, steps_logged
from occlift.runtime.progress import shown_progress
from occlift.runtime.threads import limit_kernel_threads, usable_cores

_GRACE_S: Final = 60.0
"""How much longer than its time a process may take before it is ended: a step, or a scene, is finished first."""

_SHORTEST_S: Final = 30.0
"""With less time than this nothing is begun."""

MIN_MINUTES: Final = 2.0

State = Literal["given", "finished", "begun", "waiting"]


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How far a run is.

    Attributes:
        steps: done, and of the whole schedule; None where nothing is trained.
        minutes_left: about, on the machine that the size is meant for.
    """

    run: Run
    state: State
    steps: tuple[int, int] | None
    minutes_left: float


@dataclass(frozen=True, kw_only=True)
class Conducted:
    """What a call did.

    Attributes:
        finished: results of all runs that the tables show, by name, those of earlier calls included.
        failed: name → why; runs that need a failed one are among them.
        remaining: runs for which the time was too short.
    """

    finished: dict[str, Result]
    failed: dict[str, str]
    remaining: tuple[str, ...]


def status(plan: Plan, place: Place, letters: Sequence[str]) -> tuple[RunStatus, ...]:
    """How far the runs of some tables are, in the order in which they are done.

    Raises:
        ConfigError: a folder holds a run of another configuration.
        DataError: a record is damaged.
    """
    found = []
    for run in plan.needed_for([run.name for run in plan.runs_of(letters)]):
        claim(plan, place, run, write=False)
        steps = None
        if isinstance(run, Given):
            state: State = "given"
        elif _is_done(plan, place, run):
            state = "finished"
        else:
            state = "begun" if place.run(run.name).is_dir() else "waiting"
        left = run.minutes if state in ("begun", "waiting") else 0.0
        if isinstance(run, Training):
            whole = run.optimizer.steps
            steps = (whole if state == "finished" else steps_logged(place, run), whole)
            left *= 1 - steps[0] / whole
        found.append(RunStatus(run=run, state=state, steps=steps, minutes_left=left))
    return tuple(found)


def conduct(
    plan: Plan,
    place: Place,
    letters: Sequence[str],
    *,
    minutes: float | None = None,
    jobs: int = 1,
    progress: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> Conducted:
    """Does the runs that some tables need and that are not finished.

    Args:
        letters: of the tables; all if there are none.
        minutes: after about so many the call ends, whatever is unfinished goes on with the next; None: no end.
        jobs: how many runs are done at a time; they share the cores evenly. What a step takes is then measured beside
            the others, and sums may round otherwise than with all cores.
        progress: the processes draw how far they are, if there is one at a time.
        report: told in a line what became of each run.

    Raises:
        ConfigError: a folder holds a run of another configuration, labels that are needed are not given, `minutes` is
            too short for anything, or `jobs` is not positive.
        AnotherRun: another call works in this folder.
        DataError: a record is damaged.
    """
    if minutes is not None and minutes < MIN_MINUTES:
        raise ConfigError(f"--minutes {minutes:g} is too short for anything; give at least {MIN_MINUTES:g}")
    if jobs < 1:
        raise ConfigError(f"--jobs {jobs}: give at least 1")
    ends_at = None if minutes is None else time.time() + 60 * minutes
    shown = plan.runs_of(letters)
    for run in plan.needed_for([run.name for run in shown]):
        claim(plan, place, run, write=False)
    todo = [run for run in shown if not _is_done(plan, place, run)]
    for run in plan.needed_for([run.name for run in todo]):
        if isinstance(run, Given) and run.missing:
            raise ConfigError(f"{run.missing}, or leave out the tables that need them with --only")
    failed: dict[str, str] = {}
    remaining: list[str] = []
    if todo:
        with sole_run(place.out) as owner:
            # What only prepares is looked at only if a run needs it: results may come from another machine.
            needed = plan.needed_for([run.name for run in todo])
            work = _Work(plan=plan, place=place, owner=owner, ends_at=ends_at, jobs=jobs, progress=progress)
            failed, remaining = work.done([run for run in needed if not _is_done(plan, place, run)], report)
    results = {run.name: finished_result(plan, place, run) for run in shown}
    return Conducted(
        finished={name: result for name, result in results.items() if result is not None},
        failed=failed,
        remaining=tuple(remaining),
    )


def _is_done(plan: Plan, place: Place, run: Run) -> bool:
    """Whether nothing is left to do; what others read must lie there, not only the note that it was made."""
    if isinstance(run, Given):
        return True
    if finished_result(plan, place, run) is None:
        return False
    if isinstance(run, MakeTown):
        return place.truth_folder().is_dir()
    if isinstance(run, MakeLabels):
        return (place.labels(run.config.frames) / MANIFEST_NAME).exists()
    return True


@dataclass(frozen=True, kw_only=True)
class _Work:
    """Runs that are worked off in one folder."""

    plan: Plan
    place: Place
    owner: str
    ends_at: float | None
    jobs: int
    progress: bool

    def done(self, runs: Sequence[Run], report: Callable[[str], None]) -> tuple[dict[str, str], list[str]]:
        """Does the runs, what is needed before what needs it.

        Returns:
            Those that failed, by name with the reason, and those for which the time was too short.
        """
        failed: dict[str, str] = {}
        remaining: list[str] = []
        waiting = list(runs)
        under_way: dict[Future[bool], tuple[Run, float]] = {}
        processes: set[SpawnProcess] = set()
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                while waiting or under_way:
                    unfinished = {run.name for run in waiting} | {run.name for run, _ in under_way.values()}
                    for run in tuple(waiting):
                        if missing := [need for need in run.needs if need in failed]:
                            failed[run.name] = f"it needs {missing[0]}"
                        elif any(need in remaining for need in run.needs):
                            remaining.append(run.name)
                        elif len(under_way) < self.jobs and unfinished.isdisjoint(run.needs):
                            under_way[pool.submit(self._in_processes, run, processes)] = (run, time.monotonic())
                        else:
                            continue
                        waiting.remove(run)
                    for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                        run, started = under_way.pop(future)
                        try:
                            finished = future.result()
                        except OccliftError as error:
                            failed[run.name] = str(error)
                            report(f"{run.name}: FAILED: {error}")
                            continue
                        if finished:
                            report(f"{run.name}: {(time.monotonic() - started) / 60:.1f} min")
                        else:
                            remaining.append(run.name)
            except BaseException:
                # The threads only wait for these.
                for process in tuple(processes):
                    _end(process)
                raise
        return failed, remaining

    def _in_processes(self, run: Run, processes: set[SpawnProcess]) -> bool:
        """Does a run call by call until it is finished or the time is over; true if it is finished."""
        job = Job(run=run, digest=self.plan.digest(run.name), place=self.place, ends_at=self.ends_at)
        while (left := job.seconds_left()) is None or left > _SHORTEST_S:
            claim(self.plan, self.place, run, write=True)
            answer = self._in_process(job, processes)
            if answer is not False:
                return answer is True
        return False

    def _in_process(self, job: Job, processes: set[SpawnProcess]) -> bool | None:
        """One call: whether the run is finished, None if it was ended because its time was long over.

        Args:
            processes: holds the process while it lives.

        Raises:
            OccliftError: it failed.
        """
        # Not forked: the libraries that run kernels in parallel do not survive it.
        context = get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        threads = max(1, usable_cores() // self.jobs) if self.jobs > 1 else None
        arguments = (job, self.owner, theirs, self.progress and self.jobs == 1, threads)
        process = context.Process(target=_serve, args=arguments)
        process.start()
        theirs.close()
        processes.add(process)
        try:
            left = job.seconds_left()
            process.join(None if left is None else max(0.0, left) + _GRACE_S)
            if process.exitcode is None:
                return None
            answer: Any = ours.recv() if ours.poll() else None
        except EOFError:
            answer = None
        finally:
            _end(process)
            process.join()
            processes.discard(process)
            ours.close()
        if isinstance(answer, OccliftError):
            raise answer
        if answer is None:
            raise OccliftError(_how_it_ended(process.exitcode))
        return bool(answer)


def _end(process: SpawnProcess) -> None:
    """Kills a run's process and its group, because it may have processes of its own."""
    pid = process.pid
    assert pid is not None, process
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    # It may not have had the time to found a group.
    process.kill()


def _how_it_ended(code: int | None) -> str:
    if code is None or code >= 0:
        return f"its process ended with status {code}; what it said stands above"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"its process was ended by {name}" + (
        ", as the system does when memory runs out" if name == "SIGKILL" else ""
    )


def _serve(job: Job, owner: str, theirs: connection.Connection[Any, Any], progress: bool, threads: int | None) -> None:
    """The life of a process that does a run; `threads`: of its kernels, None for one per core."""
    os.setpgrp()
    Thread(target=_die_with_parent, daemon=True).start()
    if threads is not None:
        import torch

        limit_kernel_threads(threads)
        torch.set_num_threads(threads)
    try:
        with worker_of(job.place.out, owner), shown_progress() if progress else nullcontext():
            theirs.send(perform(job))
    except OccliftError as error:
        # Not the error itself: its class need not survive the way through a pipe.
        theirs.send(OccliftError(str(error)))


def _die_with_parent() -> None:
    """Nobody waits for the run of a call that was killed, and the next call wants to go on with it."""
    parent = parent_process()
    assert parent is not None, "a run's process is started by a call"
    parent.join()
    os.killpg(0, signal.SIGKILL)
