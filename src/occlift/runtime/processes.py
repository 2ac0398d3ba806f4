"""One function in several processes: on many things, or together, as processes that train do.

Lightning's own way to start processes is to run the same command line again. That is right for `occlift train` and
wrong for everybody who trains from a program, a notebook or a test: their program would start again. Here
every process is a fresh interpreter that is handed the pickled function; the caller waits.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, current_process, get_context, parent_process
from pathlib import Path
from typing import Any, Final, TypeVar

from occlift.errors import ConfigError, OccliftError
from occlift.runtime.interrupts import interrupts_kept_from_children
from occlift.runtime.progress import is_shown, shown_progress
from occlift.runtime.threads import limit_kernel_threads

Result = TypeVar("Result")

_GRACE_S: Final = 10.0
"""How long the others may take to end by themselves after one has failed."""


class ProcessFailed(OccliftError):
    """A process ended without an answer."""


def run_in_processes(function: Callable[[], Result], count: int) -> Result:
    """Calls a function once in each of `count` new processes and returns what it returned in the first.

    Each process finds MASTER_ADDR, MASTER_PORT, WORLD_SIZE, RANK and LOCAL_RANK in its environment, as those of
    torchrun do. All end when one fails, and when the caller ends, however it ends.

    Args:
        function: without arguments, of a module that can be imported by name: a `functools.partial` has its own.

    Raises:
        ConfigError: an argument of the function cannot be pickled.
        OccliftError: what a process raised, of the type that it raised.
        ProcessFailed: a process died, or raised something else (its stack trace was printed).
    """
    with tempfile.TemporaryDirectory(prefix="occlift-") as folder, contextlib.ExitStack() as stack:
        try:
            order = pickle.dumps((function, folder, is_shown()))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"other processes need what they train on, and it cannot be pickled ({error}): define the data set's "
                "class in a module that can be imported, without open files, or train on one device"
            ) from error
        port = _free_port()
        processes = [
            stack.enter_context(_process(rank, environment=_environment(rank, count, port))) for rank in range(count)
        ]
        for process in processes:
            assert process.stdin is not None, "opened as a pipe"
            # Left open: its end tells the process that the caller is gone.
            process.stdin.write(order)
            process.stdin.flush()
        _wait(processes)
        _raise_failures(Path(folder), processes)
        return pickle.loads((Path(folder) / "result").read_bytes())


UNGUARDED: Final = 78
"""Exit status of a process that found itself starting processes."""

GUARD: Final = (
    "every worker runs the program that starts it, and would start workers again: put what your program does, the call "
    "with workers among it, under `if __name__ == '__main__':`, or use workers=1"
)


def end_where_unguarded() -> None:
    """Ends a worker that runs the program that it is started from, and has come to the place that started it."""
    if getattr(current_process(), "_inheriting", False):
        os._exit(UNGUARDED)


def in_processes(
    function: Callable[..., Result], arguments: Sequence[tuple[Any, ...]], *, workers: int, threads: int
) -> Iterator[Result]:
    """What a function answers to each tuple of arguments, in the order in which the answers come.

    When the iterator is closed, fails, or is interrupted, the processes are ended at once, in the middle of their work.

    Args:
        function: of a module that can be imported by name.
        workers: processes. They are fresh ones: forking one that has started numba's threads is not safe.
        threads: of compiled kernels, for each.

    Raises:
        ConfigError: the program that calls this would start the processes from within each of them.
        ProcessFailed: a process died.
    """
    end_where_unguarded()
    others = set(active_children())
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(threads,))
    try:
        with interrupts_kept_from_children():
            futures = [pool.submit(function, *given) for given in arguments]
        started = set(active_children()) - others
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        if any(process.exitcode == UNGUARDED for process in started):
            raise ConfigError(GUARD) from None
        raise ProcessFailed(
            "a process died, often for lack of memory; what is finished is kept. Run the same command again, with "
            "fewer workers if memory ran out"
        ) from error
    except BaseException:
        for process in set(active_children()) - others:
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(threads: int) -> None:
    limit_kernel_threads(threads)
    end_with_caller()


def end_with_caller() -> None:
    """Ends this process as soon as the one that started it is gone, however that ended.

    That one started it by `multiprocessing`, or holds the other end of its standard input, a pipe.
    """
    parent = parent_process()
    wait = _read_to_the_end if parent is None else parent.join

    def watch() -> None:
        wait()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _read_to_the_end() -> None:
    # Not through sys.stdin: an interpreter that ends while a thread holds its lock aborts.
    while os.read(0, 1 << 16):
        pass


@contextlib.contextmanager
def _process(rank: int, *, environment: Mapping[str, str]) -> Any:
    with interrupts_kept_from_children():
        process = subprocess.Popen([sys.executable, "-m", __name__], stdin=subprocess.PIPE, env=environment)
    with process:
        try:
            yield process
        finally:
            process.kill()


def _environment(rank: int, count: int, port: int) -> dict[str, str]:
    threads = max(1, (os.cpu_count() or 1) // count)
    return {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(processes: list[subprocess.Popen[bytes]]) -> None:
    """Until all have ended, or one has failed and the others had their time."""
    deadline = float("inf")
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        if deadline == float("inf") and any(process.poll() for process in processes):
            deadline = time.monotonic() + _GRACE_S
        time.sleep(0.05)


def _raise_failures(folder: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    for error in sorted(folder.glob("error-*")):
        raise pickle.loads(error.read_bytes())
    for rank, process in enumerate(processes):
        code = process.poll()
        if code is not None and code < 0:
            raise ProcessFailed(
                f"process {rank} of {len(processes)} was ended by signal {-code} (9: often for lack of memory); resume "
                "from the last checkpoint"
            )
        if code:
            raise ProcessFailed(f"process {rank} of {len(processes)} ended with status {code}; see its message above")


def _serve() -> int:
    """What a started process does."""
    rank = int(os.environ["RANK"])
    function, folder, shown = pickle.load(sys.stdin.buffer)
    end_with_caller()
    try:
        with shown_progress() if shown and rank == 0 else contextlib.nullcontext():
            result = function()
    except OccliftError as error:
        (Path(folder) / f"error-{rank}").write_bytes(pickle.dumps(error))
        return 1
    if rank == 0:
        (Path(folder) / "result").write_bytes(pickle.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(_serve())
