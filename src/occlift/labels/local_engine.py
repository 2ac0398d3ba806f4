"""Labels by several processes of this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

import numba

from occlift.errors import ConfigError, OccliftError
from occlift.labels.crew import Lost, Ready, Reply, work
from occlift.labels.engine import Engine, LabelJob, LabelTask
from occlift.labels.scene import Outcome
from occlift.runtime.devices import gpus_in_turn
from occlift.runtime.interrupts import interrupts_kept_from_children
from occlift.runtime.processes import GUARD, UNGUARDED, end_where_unguarded, end_with_caller

if TYPE_CHECKING:
    _Pipe = connection.Connection[Any, Any]
else:
    # No generic at run time, where tests check what annotations say.
    _Pipe = connection.Connection


def local_engine(workers: int, *, retries: int = 3) -> Engine:
    """Worker processes on this machine, each with teachers of its own, its share of the cores for compiled kernels, and
    one of the GPUs that this process sees, in turn.

    Args:
        retries: how many workers in a row may die over one label before its scene is left out.

    The engine raises ConfigError where the program that asks for workers would start them from within each of them.
    """
    end_where_unguarded()

    def run(job: LabelJob, scenes: Sequence[Sequence[LabelTask]]) -> Generator[Outcome, None, None]:
        yield from work(_Processes(job, workers), job, scenes, workers=workers, retries=retries)

    return run


class _Processes:
    """A `Crew` of processes, with a pipe to each: one that is killed takes nothing with it that others need."""

    def __init__(self, job: LabelJob, workers: int) -> None:
        self._job = job.packed()
        # numba fills its configuration when it is imported; get_num_threads() would start the threads of this process.
        cores: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
        self._threads = max(1, cores // workers)
        # Whoever names a GPU by its number means this one.
        options = (*job.config.semantics_options.items(), *job.config.depth_options.items())
        named = any(name == "device" and ":" in value for name, value in options)
        self._gpus = () if named else gpus_in_turn()
        self._members: dict[int, tuple[BaseProcess, _Pipe]] = {}

    def start(self, slot: int) -> None:
        # Not forked: the libraries that run kernels in parallel do not survive it.
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        gpu = self._gpus[slot % len(self._gpus)] if self._gpus else None
        process = context.Process(target=_serve, args=(self._job, theirs, self._threads, gpu), daemon=True)
        # Interrupting is for the run; it ends its workers.
        with interrupts_kept_from_children():
            process.start()
        # With the last copy on this side gone, the pipe ends when the worker does.
        theirs.close()
        self._members[slot] = process, ours

    def ask(self, slot: int, task: LabelTask) -> None:
        with suppress(OSError):
            self._members[slot][1].send(task)

    def replies(self) -> Iterator[tuple[int, Reply]]:
        slots = {ours: slot for slot, (_, ours) in self._members.items()}
        for ours in connection.wait(list(slots)):
            slot = slots[ours]  # type: ignore[index]
            try:
                yield slot, self._members[slot][1].recv()
            # EOFError between two messages, OSError in the middle of one.
            except (EOFError, OSError):
                code = self._reap(slot)
                yield slot, ConfigError(GUARD) if code == UNGUARDED else Lost(_how_it_ended(code))

    def close(self) -> None:
        for process, _ in self._members.values():
            process.terminate()
        for slot in list(self._members):
            self._reap(slot)

    def _reap(self, slot: int) -> int:
        """Waits for the end of a worker, and gives its exit status."""
        process, ours = self._members.pop(slot)
        process.join()
        ours.close()
        code = process.exitcode
        assert code is not None, process
        process.close()
        return code


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"it ended with status {code}; what it said stands above"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"it was ended by {name}" + (", as the system does when memory runs out" if name == "SIGKILL" else "")


def _serve(job: LabelJob, theirs: _Pipe, threads: int, gpu: str | None) -> None:
    """The life of a worker, on one GPU if there are any."""
    if gpu is not None:
        # Before anything asks CUDA; onnxruntime, which knows nothing of torch's devices, obeys it too.
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    numba.set_num_threads(threads)
    # Nobody waits for the labels of a run that was killed, and its workers may hold a GPU.
    end_with_caller()
    try:
        with job.worker() as make:
            theirs.send(Ready())
            while True:
                theirs.send(make(theirs.recv()))
    except OccliftError as error:
        with suppress(OSError):
            theirs.send(error)
    except (EOFError, BrokenPipeError):
        # The run has ended.
        return
