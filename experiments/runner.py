"""Does the runs of an experiment that are missing, several at a time if asked, and prints its tables.

Every run is a process of its own (`perform`): the peak memory of a process never falls, and a run that fails, or is
killed, must not take the others with it.
"""

from __future__ import annotations

import argparse
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from calls import usable_cores
from occlift.errors import ConfigError, OccliftError
from perform import TIME_OVER
from runs import Result, Run, Runs, claim, read_losses, read_result, write_whole
from tables import READING, Table, section, write_between_markers

_GRACE_S: Final = 60.0
"""How much longer than its time a process may take before it is ended: a step, or a scene, is finished first."""

_SHORTEST_S: Final = 30.0
"""With less time than this nothing is begun."""

_MIN_MINUTES: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The runs of an experiment, and the tables that show them.

    Attributes:
        name: name of the experiment.
        size: size at which it is done.
        data: the data set in a few words, for the reader of the tables.
        reading: how to read the scores, a few words more.
    """

    name: str
    size: str
    data: str
    reading: str
    runs: Runs
    tables: tuple[Table, ...]

    def shown(self) -> list[str]:
        """Names of the runs whose results the tables show."""
        return list(dict.fromkeys(name for table in self.tables for row in table.rows for name in row.runs))

    def result(self, name: str, *, begin: bool = False) -> Result | None:
        """The result of a run; None if it is not finished.

        Args:
            begin: whether the folder is made if it is missing.

        Raises:
            ConfigError: the folder holds a run of another configuration.
        """
        claim(self.runs.out / name, self.runs.identity(name), write=begin)
        return read_result(self.runs.out / name)

    def results(self) -> dict[str, Result]:
        """Results of the finished runs that the tables show, by name."""
        found = {name: self.result(name) for name in self.shown()}
        return {name: result for name, result in found.items() if result is not None}


class Conductor:
    """Does the runs of a plan that are not finished.

    Args:
        ends_at: when to end, as `time.time` counts; what is unfinished goes on with the next call. Infinite: no limit.
        jobs: number of runs at a time; they share the cores evenly.
        report: receives a line about each run.

    Attributes:
        failed: reasons by name of the run; runs that need a failed one are among them.
        remaining: names of the runs for which the time was too short.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        ends_at: float = math.inf,
        jobs: int = 1,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._plan, self._ends_at, self._jobs, self._report = plan, ends_at, jobs, report
        self.failed: dict[str, str] = {}
        self.remaining: list[str] = []
        self._processes: set[subprocess.Popen[bytes]] = set()

    def conduct(self) -> None:
        """Does what the tables need, what is needed before what needs it.

        Raises:
            ConfigError: a folder holds a run of another configuration, or another call works in the folder.
        """
        plan, runs, shown = self._plan, self._plan.runs, self._plan.shown()
        finished = {name for name in runs.needed_for(shown) if plan.result(name)}
        # What only prepares others is needed only by runs that are missing: results may come from another machine.
        needed = runs.needed_for(name for name in shown if name not in finished)
        if waiting := [runs[name] for name in needed if name not in finished]:
            runs.out.mkdir(parents=True, exist_ok=True)
            try:
                with FileLock(runs.out / ".lock", timeout=0):
                    # Seed by seed: where the time ends early, all rows have as many.
                    self._do_all(sorted(waiting, key=lambda run: run.seed or 0))
            except Timeout:
                raise ConfigError(f"{runs.out}: another call works here; wait until it has ended, or end it") from None

    def _do_all(self, waiting: list[Run]) -> None:
        active: dict[Future[bool], tuple[Run, float]] = {}
        with ThreadPoolExecutor(self._jobs) as pool:
            try:
                while waiting or active:
                    unfinished = {run.name for run in waiting} | {run.name for run, _ in active.values()}
                    for run in tuple(waiting):
                        if missing := [need for need in run.needs if need in self.failed]:
                            self.failed[run.name] = f"it needs {missing[0]}"
                        elif not set(run.needs).isdisjoint(self.remaining):
                            self.remaining.append(run.name)
                        elif len(active) < self._jobs and unfinished.isdisjoint(run.needs):
                            active[pool.submit(self._do, run)] = (run, time.monotonic())
                        else:
                            continue
                        waiting.remove(run)
                    for future in wait(active, return_when=FIRST_COMPLETED).done:
                        run, started = active.pop(future)
                        try:
                            if future.result():
                                self._report(f"{run.name}: {(time.monotonic() - started) / 60:.1f} min")
                            else:
                                self.remaining.append(run.name)
                        except OccliftError as error:
                            self.failed[run.name] = str(error)
                            self._report(f"{run.name}: FAILED: {error}")
            except BaseException:
                # The threads only wait for these.
                for process in tuple(self._processes):
                    _end(process)
                raise

    def _do(self, run: Run) -> bool:
        """Starts processes until a run is finished or the time is over; true if it is finished."""
        while self._ends_at - time.time() > _SHORTEST_S:
            self._plan.result(run.name, begin=True)
            if not self._call(run):
                return False
            if self._plan.result(run.name) is not None:
                return True
        return False

    def _call(self, run: Run) -> bool:
        """Does a run, or a part of it, in a process; false if its time is over.

        Raises:
            OccliftError: the process failed.
        """
        folder = self._plan.runs.out / run.name
        log, environment = folder / "log.txt", dict(os.environ)
        if self._jobs > 1:
            threads = str(max(1, usable_cores() // self._jobs))
            environment |= {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
        command = [sys.executable, str(Path(__file__).with_name("perform.py"))]
        with log.open("ab") as file:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=file, stderr=file, env=environment, start_new_session=True
            )
        self._processes.add(process)
        assert process.stdin is not None, "opened as a pipe"
        try:
            # Left open: its end tells the process that this one is gone.
            process.stdin.write(pickle.dumps((run, folder, self._ends_at)))
            process.stdin.flush()
            left = self._ends_at - time.time()
            status = process.wait(None if math.isinf(left) else max(0.0, left) + _GRACE_S)
        except subprocess.TimeoutExpired:
            return False
        finally:
            _end(process)
            self._processes.discard(process)
        if status < 0:
            cause = ", as the system does when memory runs out" if status == -signal.SIGKILL else ""
            raise OccliftError(f"its process was ended by signal {-status}{cause}; see {log}")
        if status not in (0, TIME_OVER):
            raise OccliftError(f"{log.read_text(errors='replace').strip().rpartition(chr(10))[2]} ({log})")
        return status == 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills a run's process and its group, because it may have processes of its own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        # What was not written yet can no longer be.
        with suppress(BrokenPipeError):
            process.stdin.close()


def status(plan: Plan) -> list[str]:
    """A line for every run that the tables need: how far it is, and the minutes that it took.

    Raises:
        ConfigError: a folder holds a run of another configuration.
    """
    lines = [f"{'run':40} {'state':9} {'steps':>13} {'minutes':>8}"]
    for name in plan.runs.needed_for(plan.shown()):
        result, folder, steps = plan.result(name), plan.runs.out / name, plan.runs[name].steps
        done = steps if result else max((step for step, _ in read_losses(folder, "loss")), default=0)
        state = "finished" if result else "begun" if folder.is_dir() else "waiting"
        minutes = f"{result.seconds / 60:.1f}" if result else ""
        lines.append(f"{name:40} {state:9} {f'{done} of {steps}' if steps else '':>13} {minutes:>8}")
    return lines


def make_parser(name: str, description: str) -> argparse.ArgumentParser:
    """The options that all experiments have."""
    parser = argparse.ArgumentParser(description=description, epilog="Finished runs are kept; run it again to go on.")
    parser.set_defaults(name=name)
    add = parser.add_argument
    size = "small: two cores, two hours; full: a GPU; smoke: shows that everything runs (default: small)"
    add("--size", choices=("smoke", "small", "full"), default="small", help=size)
    add("--only", nargs="+", default=(), metavar="LETTER", help="tables to make (default: all)")
    add("--out", type=Path, help=f"folder of the runs (default: runs/{name}-SIZE)")
    add("--minutes", type=float, help="time limit: end after about so many minutes, with exit status 75")
    add("--jobs", type=int, default=1, help="number of runs at a time, which share the cores (default: 1)")
    add(
        "--write",
        type=Path,
        help="Markdown file to put the tables into, between `<!-- NAME SIZE LETTER: ... -->` lines",
    )
    add("--list", action="store_true", help="show the runs and how far they are, and do nothing")
    return parser


def run_experiment(options: argparse.Namespace, make_plan: Callable[[Path], Plan]) -> int:
    """Does what the options ask for; returns the exit status.

    Args:
        make_plan: makes the plan of a folder.
    """
    try:
        return _run(make_plan(options.out or Path("runs") / f"{options.name}-{options.size}"), options)
    except OccliftError as error:
        print(f"{options.name}: {error}", file=sys.stderr)
        return 1


def _run(plan: Plan, options: argparse.Namespace) -> int:
    minutes, jobs, letters = options.minutes, options.jobs, [table.letter for table in plan.tables]
    if not set(options.only) <= set(letters):
        raise ConfigError(f"--only {' '.join(options.only)}: the tables are {' '.join(letters)}")
    plan = replace(plan, tables=tuple(table for table in plan.tables if table.letter in (options.only or letters)))
    if minutes is not None and minutes < _MIN_MINUTES:
        raise ConfigError(f"--minutes {minutes:g} is too short for anything; give at least {_MIN_MINUTES:g}")
    if jobs < 1:
        raise ConfigError(f"--jobs {jobs}: give at least 1")
    if options.list:
        print("\n".join(status(plan)))
        return 0
    ends_at = time.time() + 60 * (math.inf if minutes is None else minutes)
    conductor = Conductor(plan, ends_at=ends_at, jobs=jobs, report=lambda line: print(line, flush=True))
    conductor.conduct()
    results = plan.results()
    given = "".join(f" --{name} {name.upper()}" for name in ("root", "labels", "truth") if getattr(options, name, None))
    command = f"python experiments/{plan.name}.py --size {plan.size}{given}" + (f" --jobs {jobs}" if jobs > 1 else "")
    texts = {
        table.letter: section(table, results, f"`{command} --only {table.letter}`: {plan.data}")
        for table in plan.tables
    }
    texts["reading"] = f"{plan.reading} {READING}\n"
    text = "\n".join(texts.values())
    print(f"\n{text}")
    write_whole(plan.runs.out / "tables.md", text)
    if options.write:
        for name, part in texts.items():
            write_between_markers(options.write, f"{plan.name} {plan.size} {name}", part)
    print(f"{len(results)} runs finished; tables: {plan.runs.out / 'tables.md'}")
    if failed := conductor.failed:
        raise OccliftError(f"{len(failed)} runs failed ({', '.join(failed)}); the same command tries them again")
    if remaining := conductor.remaining:
        print(f"time is over, {len(remaining)} runs are left: run the same command again", file=sys.stderr)
        return TIME_OVER
    return 0
