"""Processes that read ahead, and what they say when they cannot."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

_PROGRAM = """
import os, signal, sys
from dataclasses import dataclass
from functools import partial
import torch
from torch.utils.data import DataLoader, Dataset
from occlift.errors import DataError
from occlift.runtime.npz import MissingArray
from occlift.training.loaders import _share, worker_errors_said

@dataclass
class Batch:
    images: torch.Tensor

class Frames(Dataset):
    def __len__(self):
        return 6
    def __getitem__(self, index):
        if sys.argv[1] == "data" and index == 3:
            raise DataError("frame.jpg: cut off; copy it again")
        if sys.argv[1] == "array" and index == 3:
            raise MissingArray("a.npz: has no array b", "b")
        if sys.argv[1] == "killed" and index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if sys.argv[1] == "ours" and index == 3:
            raise ValueError("our own mistake")
        return Batch(torch.ones(1_000_000))

loader = DataLoader(Frames(), batch_size=1, num_workers=2, collate_fn=partial(_share, lambda samples: samples[0]))
try:
    with worker_errors_said():
        for batch in loader:
            pass
    print("read")
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


def run(what: str, *before: str) -> str:
    found = subprocess.run(
        [*before, sys.executable, "-c", _PROGRAM, what], capture_output=True, text=True, timeout=120, check=True
    )
    return found.stdout


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nothing", "read\n"),
        ("data", "DataError: frame.jpg: cut off; copy it again\n"),
        ("array", "OccliftError: a.npz: has no array b\n"),
    ],
)
def test_errors_of_workers_are_said_as_without_workers(what: str, said: str) -> None:
    assert run(what) == said


def test_a_worker_that_is_killed_is_said_with_the_remedy() -> None:
    said = run("killed")
    assert said.startswith("ProcessFailed: a process that reads ahead ended: DataLoader worker (pid")
    assert "use fewer --workers" in said
    assert "Traceback" not in said


def test_our_own_mistakes_keep_their_stack_trace() -> None:
    assert run("ours").startswith("ValueError: Caught ValueError in DataLoader worker process")


def test_too_little_shared_memory_is_said_with_how_much_there_is() -> None:
    """64 MB is what containers have. Before, the training stood still."""
    mount = "mount -t tmpfs -o size=5m tmpfs /dev/shm"
    for rights in ("-m", "-rm"):
        if (
            shutil.which("unshare")
            and not subprocess.run(["unshare", rights, "sh", "-c", mount], capture_output=True, check=False).returncode
        ):
            said = run("nothing", "unshare", rights, "sh", "-c", f'{mount} && exec "$@"', "sh")
            assert said.startswith("ConfigError: there is no shared memory left (/dev/shm: ")
            assert "of 5 MB are free) for the key frames that workers read ahead: use fewer --workers" in said
            return
    pytest.skip("this machine lets nobody mount a small /dev/shm (`unshare -rm`)")
