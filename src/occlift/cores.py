"""How many processors this process may use, and how many its kernels take."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Cores that this process may run on: those of its affinity mask where the system has one, else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def limit_kernel_threads(threads: int) -> None:
    """Lets numba's kernels in this process run on so many threads, or on fewer where NUMBA_NUM_THREADS allows fewer."""
    import numba

    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
