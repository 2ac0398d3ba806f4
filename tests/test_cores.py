"""Shares of the processors."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_THREADS = """
import numba
from occlift.cores import limit_kernel_threads
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
from occlift.classes import NUM_CLASSES
from occlift.cores import launch_kernel_threads_beside_torch
from occlift.metrics.occupancy import histogram
torch.set_num_threads({threads})
launch_kernel_threads_beside_torch()
volume = np.zeros((200, 200, 16), np.uint8)
histogram(volume, volume)
print(torch.get_num_threads())
"""


@pytest.mark.parametrize("threads", [1, 3])
def test_kernels_leave_torch_its_threads(threads: int) -> None:
    """Whatever the number of cores is, one of both numbers is not it."""
    run = subprocess.run(
        [sys.executable, "-c", _BESIDE_TORCH.format(threads=threads)], capture_output=True, text=True, timeout=120,
        check=True,
    )  # fmt: skip
    assert int(run.stdout) == threads
