"""Who may write into a folder of labels, a run, a town: one run at a time, and no worker of a run that is gone.

A run that is killed leaves workers behind that notice only after a while. So a run holds `.locks/run.lock`, and each
of its workers a lock of its own beside it; the operating system gives a lock back when its process dies, however it
dies. A new run takes the first, writes its name to `.locks/run`, and waits until nobody holds one of the others. A
worker takes its lock first and then reads whose run it is. So either the new run sees the worker's lock and waits for
it, or the worker sees the new name and leaves.

Where a file system knows no locks nothing is held, and a warning says so.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from occlift.errors import OccliftError
from occlift.runtime.files import disk_full_said, replacing, sweep
from occlift.runtime.processes import end_where_unguarded

LOCKS_NAME: Final = ".locks"
WORKER_LOCKS: Final = "worker-*.lock"
"""Their names hold the machine and the process: `worker-<host>-<pid>.lock`."""

_RUN: Final = "run"
_PATIENCE_S: Final = 60.0
"""How long a run waits for the workers of a run that is gone; they need as long as one call into compiled code."""

_DEPARTURE_S: Final = 10.0
"""How long a run waits at its end for workers of its own."""

_NO_LOCKS: Final = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK})

_log = logging.getLogger(__name__)


class AnotherRun(OccliftError):
    """The folder belongs to another run."""


@contextmanager
def sole_run(folder: Path, *, patience_s: float = _PATIENCE_S) -> Iterator[str]:
    """Holds a folder for one run, and gives the run's name, for `worker_of`.

    Args:
        patience_s: how long to wait for workers of a run that is gone.

    Raises:
        AnotherRun: another run holds the folder, or workers of an earlier run do not end.
        OSError: the folder cannot be written.
    """
    # A worker that runs its own program again would be told of another run, which is the one that started it.
    end_where_unguarded()
    locks = folder / LOCKS_NAME
    locks.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            _hold(held, locks / "run.lock", timeout_s=0)
            if not (locks / "run.lock").exists():
                # Another run removed it with its last breath, and this lock is of a file that nobody else will find.
                locks.mkdir(exist_ok=True)
                _hold(held, locks / "run.lock", timeout_s=0)
        except Timeout:
            raise AnotherRun(
                f"{folder}: another run is writing here ({_holder(locks)}); wait until it has ended, or end it"
            ) from None
        sweep(locks)
        name = secrets.token_hex(8)
        with replacing(locks / _RUN) as file:
            file.write(f"{name} process {os.getpid()} on {socket.gethostname()}".encode())
        _outlive_workers(locks, patience_s)
        try:
            yield name
        finally:
            (locks / _RUN).unlink(missing_ok=True)
            # Workers that were told to end need not have ended yet. One that hangs is the next run's business.
            with suppress(AnotherRun):
                _outlive_workers(locks, _DEPARTURE_S)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Holds a folder as `sole_run` does, sweeps away what killed runs left there, and says a full disk as a sentence.

    Raises:
        AnotherRun: another run holds the folder.
        DiskFull: the disk is full.
        OSError: the folder cannot be written.
    """
    with disk_full_said(folder), sole_run(folder):
        sweep(folder)
        try:
            yield
        finally:
            # Nobody shares the work, as workers do that of labels: data sets and predictions stay free of locks.
            with suppress(OSError):
                for path in (folder / LOCKS_NAME).iterdir():
                    path.unlink()
                (folder / LOCKS_NAME).rmdir()


@contextmanager
def worker_of(folder: Path, run: str) -> Iterator[None]:
    """Holds the lock of a worker; as long as it is held, no other run begins to write into the folder.

    Args:
        run: what `sole_run` gave.

    Raises:
        AnotherRun: this run is over.
    """
    locks = folder / LOCKS_NAME
    path = locks / f"worker-{socket.gethostname()}-{os.getpid()}.lock"
    with ExitStack() as held:
        try:
            _hold(held, path, timeout_s=0)
            current = (locks / _RUN).read_text(encoding="utf-8").partition(" ")[0]
        except (Timeout, FileNotFoundError):
            current = ""
        if current != run:
            raise AnotherRun(f"{folder}: the run that this worker belongs to is over")
        yield


def _outlive_workers(locks: Path, patience_s: float) -> None:
    """Waits until the workers of an earlier run have ended, and removes their locks."""
    for path in sorted(locks.glob(WORKER_LOCKS)):
        who = path.stem.removeprefix("worker-")
        with ExitStack() as held:
            try:
                try:
                    _hold(held, path, timeout_s=0)
                except Timeout:
                    _log.info("waiting for a worker to end (%s)", who)
                    _hold(held, path, timeout_s=patience_s)
            except Timeout:
                raise AnotherRun(
                    f"{locks.parent}: a worker of an earlier run still writes here (machine and process: {who}); end "
                    "it, then run the same command again"
                ) from None
        path.unlink(missing_ok=True)


def _hold(held: ExitStack, path: Path, *, timeout_s: float) -> None:
    # Not of a thread: an actor's methods need not all run in one.
    lock = FileLock(path, thread_local=False)
    try:
        held.enter_context(lock.acquire(timeout=timeout_s))
    except NotImplementedError:
        _log.warning("%s: this file system knows no locks; see to it that only one run writes here", path.parent)
    except OSError as error:
        if isinstance(error, Timeout) or error.errno not in _NO_LOCKS:
            raise
        _log.warning("%s: this file system knows no locks; see to it that only one run writes here", path.parent)


def _holder(locks: Path) -> str:
    try:
        return (locks / _RUN).read_text(encoding="utf-8").partition(" ")[2]
    except FileNotFoundError:
        return "it has just begun"
