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
