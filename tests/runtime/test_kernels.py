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


_KERNEL = """
import sys
import numpy as np
from occlift.metrics.occupancy import histogram
volume = np.zeros((200, 200, 16), np.uint8)
print(int(histogram(truth=volume, prediction=volume).sum()))
"""


def read_only(folder: Path) -> list[str]:
    """The beginning of a command line that runs the rest of it with a folder that nobody can write, not even root."""
    bind = f"mount --bind '{folder}' '{folder}' && mount -o remount,bind,ro '{folder}'"
    for rights in ("-m", "-rm"):
        if (
            shutil.which("unshare")
            and not subprocess.run(["unshare", rights, "sh", "-c", bind], capture_output=True, check=False).returncode
        ):
            return ["unshare", rights, "sh", "-c", f'{bind} && exec "$@"', "sh"]
    pytest.skip("this machine lets nobody mount a folder read-only (`unshare -rm`)")


def test_a_package_and_a_home_that_cannot_be_written_need_no_cache(tmp_path: Path) -> None:
    """Before, numba refused to import them."""
    package = tmp_path / "site/occlift"
    shutil.copytree(Path(occlift.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {name: value for name, value in os.environ.items() if name not in ("XDG_CACHE_HOME", "PYTHONPATH")}
    run = subprocess.run(
        [*read_only(package), sys.executable, "-c", _KERNEL], cwd=tmp_path, capture_output=True, text=True, timeout=240,
        env={**environment, "HOME": f"{os.devnull}/home", "PYTHONPATH": str(package.parent)}, check=False,
    )  # fmt: skip
    assert run.stdout == "640000\n", run.stderr


def test_without_a_home_no_folder_called_tilde_is_made(tmp_path: Path) -> None:
    """As for a user who is a number and nothing else; such have neither HOME nor a line in /etc/passwd."""
    package = tmp_path / "site/occlift"
    shutil.copytree(Path(occlift.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    nobody = "import pwd\ndef unknown(_): raise KeyError\npwd.getpwuid = unknown\n"
    kept = {name: value for name, value in os.environ.items() if name not in ("XDG_CACHE_HOME", "HOME")}
    (tmp_path / "here").mkdir()
    run = subprocess.run(
        [*read_only(package), sys.executable, "-c", nobody + _KERNEL], cwd=tmp_path / "here", capture_output=True,
        text=True, timeout=240, env={**kept, "PYTHONPATH": str(package.parent)}, check=False,
    )  # fmt: skip
    assert run.stdout == "640000\n", run.stderr
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize("spoil", ["directory", "damaged"])
def test_a_cache_that_cannot_be_used_stops_nobody(spoil: str, tmp_path: Path) -> None:
    """Damaged by a power cut, or on a disk that is full."""
    program = (
        "from occlift.runtime.kernels import njit\n@njit\ndef twice(x: float) -> float:\n    return 2 * x\n"
        "print(twice(2.0))\n"
    )
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, "-c", "import program"]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    for _ in range(2):
        run = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert (run.stdout, run.stderr) == ("4.0\n", "")
        for path in [path for path in (tmp_path / "cache").rglob("*.nb?") if path.is_file()]:
            path.unlink()
            if spoil == "damaged":
                path.write_bytes(b"")
            else:
                path.mkdir()
