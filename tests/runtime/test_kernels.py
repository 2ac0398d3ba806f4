"""Compiled functions in processes and on machines that make it hard for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import occlift

_WORKERS = """
import multiprocessing, sys
import numpy as np
import torch
from occlift.metrics.occupancy import histogram

truth = np.random.default_rng(0).integers(0, 18, (200, 200, 16)).astype(np.uint8)
prediction = np.roll(truth, 1, axis=1)

class Counted(torch.utils.data.Dataset):
    def __len__(self):
        return 3
    def __getitem__(self, index):
        return torch.from_numpy(histogram(truth=truth, prediction=prediction))

if __name__ == "__main__":
    expected = torch.from_numpy(histogram(truth=truth, prediction=prediction))
    context = multiprocessing.get_context("fork")
    loader = torch.utils.data.DataLoader(Counted(), num_workers=2, batch_size=None, multiprocessing_context=context)
    counted = list(loader)
    print(len(counted), all(torch.equal(one, expected) for one in counted))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forked workers on this system")
def test_parallel_kernels_run_in_forked_workers_of_a_process_that_ran_them_before(tmp_path: Path) -> None:
    """Before, GNU's OpenMP ended the workers, and other kinds of threads left them hanging."""
    (tmp_path / "program.py").write_text(_WORKERS)
    run = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert run.stdout == "3 True\n", run.stderr
