"""How many processors this process may use, and how many its kernels take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def usable_cores() -> int:
    """Cores that this process may run on: those of its affinity mask where the system has one, else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_forked: list[bool] = []

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _forked.append(True))


def was_forked() -> bool:
    """Whether this process is a copy of one that had imported this: numba's threads must not be started in it."""
    return bool(_forked)


def kernel_threads() -> int:
    """On how many threads a parallel kernel runs here."""
    import numba

    return 1 if was_forked() else numba.get_num_threads()


def limit_kernel_threads(threads: int) -> None:
    """Lets numba's kernels in this process run on so many threads, or on fewer where NUMBA_NUM_THREADS allows fewer."""
    import numba

    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]


@contextmanager
def torch_threads_kept() -> Iterator[None]:
    """Wherever numba's kernels may start their threads inside, torch has as many afterwards as before.

    Both count their threads in the same OpenMP runtime, and numba sets it to all cores when its first parallel kernel
    runs. In the middle of a training torch's sums would be in another order from there on, other than in a run that was
    resumed behind that place; and a limit such as OMP_NUM_THREADS would end.
    """
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def launch_kernel_threads() -> None:
    """Starts the threads of numba's kernels, as many as torch has; processes forked behind this can run none."""
    import torch

    with torch_threads_kept():
        limit_kernel_threads(torch.get_num_threads())
