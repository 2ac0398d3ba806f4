"""Shares of the processors, and memory that is used again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

_THREADS = """
import numba
from occlift.runtime.threads import limit_kernel_threads
limit_kernel_threads({wanted})
print(numba.get_num_threads())
"""


@pytest.mark.parametrize(("wanted", "allowed", "expected"), [(8, 1, 1), (1, 2, 1), (2, 3, 2)])
def test_a_share_of_the_cores_is_no_more_than_the_environment_allows(wanted: int, allowed: int, expected: int) -> None:
    """numba refuses to run on more threads than NUMBA_NUM_THREADS says, which on a cluster may be few."""
    run = subprocess.run(
        [sys.executable, "-c", _THREADS.format(wanted=wanted)], env=os.environ | {"NUMBA_NUM_THREADS": str(allowed)},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert int(run.stdout) == expected


_BESIDE_TORCH = """
import numpy as np, torch
from occlift.label_space import NUM_CLASSES
from occlift.runtime.threads import launch_kernel_threads, torch_threads_kept
from occlift.metrics.occupancy import histogram
torch.set_num_threads({threads})
volume = np.zeros((200, 200, 16), np.uint8)
{before}
    histogram(truth=volume, prediction=volume)
print(torch.get_num_threads())
"""


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("before", ["launch_kernel_threads()\nif True:", "with torch_threads_kept():"])
def test_kernels_leave_torch_its_threads(threads: int, before: str) -> None:
    """Whatever the number of cores is, one of both numbers of threads is not it."""
    code = _BESIDE_TORCH.format(threads=threads, before=before)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert int(run.stdout) == threads


_FREED = """
import torch
from pathlib import Path
from occlift.runtime.allocator import keep_freed_memory
def resident_pages():
    return int(Path("/proc/self/statm").read_text().split()[1])
{keep}
tensors = [torch.ones(16 << 20, dtype=torch.uint8) for _ in range(8)]
before = resident_pages()
del tensors
print(before - resident_pages())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of another C library is left alone")
@pytest.mark.parametrize(("keep", "is_kept"), [("", False), ("keep_freed_memory()", True)])
def test_freed_memory_is_kept_if_asked_for(keep: str, is_kept: bool) -> None:
    """128 MB of tensors, in pages of 4 kB."""
    run = subprocess.run(
        [sys.executable, "-c", _FREED.format(keep=keep)], capture_output=True, text=True, timeout=120, check=True
    )
    assert (int(run.stdout) < 1000) == is_kept
